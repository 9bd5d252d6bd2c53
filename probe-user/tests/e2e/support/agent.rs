//! A running agent, as its users see it: a process and its HTTP side.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::LazyLock,
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{SSLSESS, eventually, spawn};

/// Which probes there are: every test of values runs with the first and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Auto,
    /// Where contexts are made.
    Births,
    /// Where handshakes start, and where they are complete.
    Handshakes,
    /// Behind every increment.
    All,
    Entry,
}

pub(crate) struct Agent {
    child: Child,
    url: String,
}

static AUTO: LazyLock<Agent> = LazyLock::new(|| Agent::start(&["--probe-plan", "auto"]));
static BIRTHS: LazyLock<Agent> = LazyLock::new(|| Agent::start(&["--probe-points", "births"]));
static HANDSHAKES: LazyLock<Agent> =
    LazyLock::new(|| Agent::start(&["--probe-points", "handshakes"]));
static ALL: LazyLock<Agent> = LazyLock::new(|| Agent::start(&["--probe-points", "all"]));
static ENTRY: LazyLock<Agent> = LazyLock::new(|| Agent::start(&["--probe-plan", "entry"]));

impl Agent {
    /// An agent that all tests share; it ends with the tests.
    pub(crate) fn shared(plan: Plan) -> &'static Self {
        match plan {
            Plan::Auto => &AUTO,
            Plan::Births => &BIRTHS,
            Plan::Handshakes => &HANDSHAKES,
            Plan::All => &ALL,
            Plan::Entry => &ENTRY,
        }
    }

    /// An agent of one's own, listening and loaded.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_by(Command::new(SSLSESS), args)
    }

    /// Where the kernel does not tell what is mapped: the agent does not get to
    /// know which processors there are.
    pub(crate) fn start_without_events() -> Self {
        let mut command = Command::new("unshare");
        let script = "mount --bind /dev/null /sys/devices/system/cpu/online && exec \"$0\" \"$@\"";
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, SSLSESS]);
        Self::start_by(command, &[])
    }

    /// Which does not wait for the other tests: where a program does not wait for it.
    pub(crate) fn start_first() -> Self {
        let mut command = Command::new("nice");
        command.args(["-n", "-20", SSLSESS]);
        Self::start_by(command, &[])
    }

    fn start_by(mut command: Command, args: &[&str]) -> Self {
        command
            .args(["serve", "--web.listen-address", "127.0.0.1:0"])
            .args(args)
            .env("SSLSESS_LOG", "info")
            .stderr(Stdio::piped());
        let mut child = spawn(command);
        let mut log = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let url = loop {
            let line = log.next().expect("the agent says where it listens").expect("UTF-8");
            if let Some((_, url)) = line.split_once("listening on ") {
                break url.trim().to_owned();
            }
            eprintln!("agent: {line}");
        };
        // The rest of its log is shown with the tests' output.
        thread::spawn(move || {
            for line in log.map_while(Result::ok) {
                eprintln!("agent: {line}");
            }
        });
        Self { child, url }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let url = format!("{}{path}", self.url);
        ureq::get(&url)
            .call()
            .and_then(|mut answer| answer.body_mut().with_config().limit(1 << 30).read_to_string())
            .unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// The JSON contract's object.
    pub(crate) fn snapshot(&self) -> Value {
        serde_json::from_str(&self.get("/api/v1/contexts")).expect("the API answers with JSON")
    }

    /// The contexts of one process, of any state.
    pub(crate) fn contexts_of(&self, pid: u32) -> Vec<Value> {
        let snapshot = self.snapshot();
        let contexts = snapshot["contexts"].as_array().expect("an array of contexts");
        contexts.iter().filter(|context| context["pid"] == pid).cloned().collect()
    }

    /// One value of `/metrics`, by its whole name with labels.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let text = self.get("/metrics");
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Waits until the probes of the system's library are in place. Some process
    /// must map it; other libraries, which other tests bring, do not count.
    pub(crate) fn wait_until_attached(&self) {
        eventually("the agent attaches to the system's libssl", || {
            let metrics = self.get("/metrics");
            let probes = metrics.lines().filter(|line| line.starts_with("sslsess_probes{"));
            probes.into_iter().any(|line| line.contains("library=\"/usr/lib")).then_some(())
        });
    }

    /// Waits until the probes of this library are in place. Some process must
    /// map it.
    pub(crate) fn wait_until_attached_to(&self, library: &Path) {
        let label = format!("library=\"{}\"", library.display());
        eventually(&format!("the agent attaches to {}", library.display()), || {
            let metrics = self.get("/metrics");
            let mut probes = metrics.lines().filter(|line| line.starts_with("sslsess_probes{"));
            probes.any(|line| line.contains(&label)).then_some(())
        });
    }

    /// The number of probes of each library that is attached under this path.
    pub(crate) fn probes_under(&self, directory: &Path) -> Vec<u64> {
        let label = format!("library=\"{}", directory.display());
        let metrics = self.get("/metrics");
        let probes = metrics.lines().filter(|line| line.starts_with("sslsess_probes{"));
        probes
            .filter(|line| line.contains(&label))
            .map(|line| line.rsplit_once(' ').and_then(|(_, n)| n.parse().ok()).expect("a number"))
            .collect()
    }

    /// Asks the agent to end, and waits; says whether it ended well.
    pub(crate) fn stop(mut self, signal: Signal) -> bool {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("the agent runs");
        self.child.wait().expect("it is our child").success()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
