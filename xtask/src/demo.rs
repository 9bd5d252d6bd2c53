//! `cargo xtask demo`: a small TLS workload on loopback, and the agent that
//! watches it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

use crate::{build, packages, progress::step};

const WORKLOAD: &str = include_str!("demo/workload.py");
const AGENT: &str = "127.0.0.1:10160";

pub(crate) fn run(run_for: Option<Duration>, keep: bool) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the agent loads BPF programs: run this as root (sudo -E cargo xtask demo)");
    }
    packages::install("the demo's workload", &["openssl", "python3"])?;
    let sslsess = build::run()?;
    let scratch = crate::target().join("demo");
    certificate(&scratch)?;

    // From here on Ctrl-C ends the table, and then what was started here ends
    // in good order; the table's process gets the signal itself.
    let ctrl_c = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    let unblocked = ctrl_c.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;

    let agent = Started::new("agent", agent(&sslsess, &unblocked))?;
    let workload = Started::new("workload", workload(&scratch, &unblocked))?;
    wait_for_agent()?;
    let table = table(&sslsess, run_for, &unblocked).status().context("cannot run the table")?;
    if keep {
        println!("\nThe workload goes on. Ctrl-C ends it.");
        println!("  http://{AGENT}/metrics");
        println!("  http://{AGENT}/api/v1/contexts");
        ctrl_c.wait()?;
    }
    drop(workload);
    drop(agent);
    if !table.success() {
        bail!("the table ended with {table}");
    }
    Ok(())
}

fn certificate(scratch: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(scratch)?;
    let file = scratch.join("certificate.pem");
    if file.exists() {
        return Ok(());
    }
    step(
        "making a certificate",
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "3650", "-subj", "/CN=localhost", "-keyout"])
            .arg(scratch.join("key.pem"))
            .arg("-out")
            .arg(file),
    )
}

fn agent(sslsess: &Path, unblocked: &SigSet) -> Command {
    let mut command = Command::new(sslsess);
    command.args(["serve", "--web.listen-address", AGENT]);
    own_session(&mut command, unblocked);
    command
}

fn workload(scratch: &Path, unblocked: &SigSet) -> Command {
    let mut command = Command::new("python3");
    command.arg("-c").arg(WORKLOAD).current_dir(scratch);
    own_session(&mut command, unblocked);
    command
}

fn table(sslsess: &Path, run_for: Option<Duration>, unblocked: &SigSet) -> Command {
    let mut command = Command::new(sslsess);
    command.args(["top", "--agent", &format!("http://{AGENT}")]);
    if let Some(run_for) = run_for {
        command.args(["--for", &humantime::format_duration(run_for).to_string()]);
    }
    let unblocked = *unblocked;
    on_start(&mut command, move || unblocked.thread_set_mask());
    command
}

/// Out of the terminal's reach: it is ended by us, after the table.
fn own_session(command: &mut Command, unblocked: &SigSet) {
    let unblocked = *unblocked;
    on_start(command, move || {
        nix::unistd::setsid()?;
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
        unblocked.thread_set_mask()
    });
}

fn on_start(command: &mut Command, act: impl Fn() -> nix::Result<()> + Send + Sync + 'static) {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: only system calls are made between fork and exec: setsid, prctl
    // and sigprocmask, which are async-signal-safe; nothing is allocated.
    unsafe { command.pre_exec(move || act().map_err(Into::into)) };
}

/// A process that is ended with this.
struct Started(Child);

impl Started {
    fn new(name: &str, mut command: Command) -> anyhow::Result<Self> {
        let log = crate::target().join("demo").join(format!("{name}.log"));
        let out = fs::File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        let mut started = Self(child);
        thread::sleep(Duration::from_millis(300));
        if let Some(status) = started.0.try_wait()? {
            bail!("the {name} ended with {status}: {}", last_line(&log));
        }
        Ok(started)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn last_line(log: &PathBuf) -> String {
    let Ok(file) = fs::File::open(log) else { return String::new() };
    BufReader::new(file).lines().map_while(Result::ok).last().unwrap_or_default()
}

fn wait_for_agent() -> anyhow::Result<()> {
    let started = Instant::now();
    while std::net::TcpStream::connect(AGENT).is_err() {
        if started.elapsed() > Duration::from_secs(20) {
            let log = crate::target().join("demo/agent.log");
            bail!("the agent does not listen on {AGENT}: {}", last_line(&log));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
