//! Libraries that began as copies of OpenSSL: what they count is exact, to the
//! end of a context and of a process; what they do not count is a gap, and never
//! a zero.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    SSLSESS,
    agent::{Agent, Plan},
    compare::{Expect, assert_equal},
    eventually,
    oracle::{ORACLES, Oracle, Told},
};

/// The twelve values, by the names of the manual page.
const ALL: [&str; 12] = [
    "number",
    "connect",
    "connect_good",
    "connect_renegotiate",
    "accept",
    "accept_good",
    "accept_renegotiate",
    "hits",
    "cb_hits",
    "misses",
    "timeouts",
    "cache_full",
];

/// A library, and what it does not count.
struct Relative {
    family: &'static str,
    version: Option<&'static str>,
    /// A build of `cargo xtask libs`.
    build: &'static str,
    uncounted: fn(&str) -> bool,
}

const AWS_LC: Relative = Relative {
    family: "AWS-LC",
    version: Some("1.69.0"),
    build: "awslc-1.69.0-gcc12-O3",
    uncounted: |name| name == "accept_renegotiate",
};

const BORINGSSL: Relative = Relative {
    family: "BoringSSL",
    version: None,
    build: "boringssl-4.22.0-gcc12-O3",
    uncounted: |name| name != "number",
};

impl Relative {
    fn file(&self, name: &str) -> PathBuf {
        // target/release/sslsess
        let target = Path::new(SSLSESS).ancestors().nth(2).expect("a directory above");
        let file = target.join("libs/out").join(self.build).join(name);
        assert!(file.exists(), "{} is not there: `cargo xtask libs`", file.display());
        file.canonicalize().expect("it exists")
    }

    fn counted(&self) -> Vec<&'static str> {
        ALL.into_iter().filter(|name| !(self.uncounted)(name)).collect()
    }

    /// A program with this library, which the agent observes.
    fn oracle(&self, agent: &Agent) -> Oracle {
        let mut command = Command::new("/usr/bin/python3");
        command
            .arg(format!("{ORACLES}/relative.py"))
            .env("LIBSSL", self.file("libssl.so"))
            .env("LIBCRYPTO", self.file("libcrypto.so"))
            .env("VALUES", self.counted().join(" "));
        let oracle = Oracle::start_command(command);
        let series = "sslsess_probes{build_id=".to_owned();
        let library = format!("library=\"{}\"", self.file("libssl.so").display());
        eventually("the agent attaches to the library", || {
            let metrics = agent.get("/metrics");
            let mut probes = metrics.lines().filter(|line| line.starts_with(&series));
            probes.any(|line| line.contains(&library)).then_some(())
        });
        oracle
    }

    /// What is not counted is `null` in every context, a gap of the process says
    /// so, and there is no series of it.
    fn assert_gaps(&self, agent: &Agent, pid: u32) {
        let contexts = agent.contexts_of(pid);
        assert!(!contexts.is_empty(), "no contexts of {pid}");
        for context in &contexts {
            assert_eq!(context["library"]["family"], self.family);
            assert_eq!(context["library"]["version"].as_str(), self.version);
            for name in ALL {
                let value = &context["stats"][name];
                assert_eq!(value.is_null(), (self.uncounted)(name), "{name} is {value}");
            }
        }
        // The probes may be there for another test's process: the agent says what
        // it does not know of this one when it has looked at it.
        let reasons: BTreeSet<String> = eventually("the agent looks at the process", || {
            let snapshot = agent.snapshot();
            let gaps = snapshot["gaps"].as_array().expect("an array of gaps");
            let of_process = gaps.iter().filter(|gap| gap["pid"] == pid);
            let reasons: BTreeSet<String> =
                of_process.filter_map(|gap| Some(gap["reason"].as_str()?.to_owned())).collect();
            (!reasons.is_empty()).then_some(reasons)
        });
        let metrics = agent.get("/metrics");
        let pid = format!("pid=\"{pid}\"");
        for name in ALL {
            let reason = format!(
                "{name}: {} does not count it: SSL_CTX_sess_{name}(arg0) always returns 0",
                self.family
            );
            let series = format!("openssl_ctx_sess_{name}{{");
            let shown = metrics.lines().any(|l| l.starts_with(&series) && l.contains(&pid));
            assert_eq!(reasons.contains(&reason), (self.uncounted)(name), "{reason}: {reasons:?}");
            assert_eq!(shown, !(self.uncounted)(name), "series of {name}");
        }
    }

    fn explained(&self) -> Value {
        let output = Command::new(SSLSESS)
            .args(["explain", "--json"])
            .arg(self.file("libssl.so"))
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

#[derive(Clone, Copy)]
enum Ending {
    Freed,
    Exit,
    Sigkill,
}

fn play(relative: &Relative, ending: Ending) {
    let agent = Agent::shared(Plan::Auto);
    let mut oracle = relative.oracle(agent);
    let pid = oracle.pid();
    for scenario in oracle.scenarios() {
        oracle.ask(&format!("run {scenario}"));
    }
    let told = oracle.told();
    assert_equal(agent, pid, &told, Expect::Live);
    relative.assert_gaps(agent, pid);
    let used: Vec<Told> = told.into_iter().filter(|told| !told.is_unused()).collect();
    for name in relative.counted() {
        assert!(used.iter().any(|told| told.stats[name] != 0), "{name} was never counted");
    }
    match ending {
        Ending::Freed => {
            oracle.ask("free");
            assert_equal(agent, pid, &used, Expect::Freed);
        }
        Ending::Exit => {
            oracle.tell("exit");
            assert!(oracle.wait().success());
            assert_equal(agent, pid, &used, Expect::Exited);
        }
        Ending::Sigkill => {
            oracle.signal(Signal::SIGKILL);
            assert!(!oracle.wait().success());
            assert_equal(agent, pid, &used, Expect::Exited);
        }
    }
}

#[test]
fn aws_lc_freed() {
    play(&AWS_LC, Ending::Freed);
}

#[test]
fn aws_lc_exit() {
    play(&AWS_LC, Ending::Exit);
}

#[test]
fn aws_lc_sigkill() {
    play(&AWS_LC, Ending::Sigkill);
}

#[test]
fn boringssl_freed() {
    play(&BORINGSSL, Ending::Freed);
}

#[test]
fn boringssl_exit() {
    play(&BORINGSSL, Ending::Exit);
}

#[test]
fn boringssl_sigkill() {
    play(&BORINGSSL, Ending::Sigkill);
}

/// Offsets are known of what is counted, and of nothing else.
#[test]
fn relatives_are_explained() {
    for relative in [AWS_LC, BORINGSSL] {
        let explained = relative.explained();
        assert_eq!(explained["family"], relative.family);
        for name in ALL.into_iter().filter(|name| *name != "number") {
            let offset = &explained["layout"][name];
            assert_eq!(offset.is_null(), (relative.uncounted)(name), "{name}: {offset}");
        }
        for name in ["references", "sessions", "num_items", "ssl_to_ctx"] {
            assert!(explained["layout"][name].is_u64(), "{name}: {}", explained["layout"]);
        }
        let kinds: Vec<&str> = explained["probes"]
            .as_array()
            .expect("an array of probes")
            .iter()
            .filter_map(|probe| probe["kind"].as_str())
            .collect();
        assert!(kinds.contains(&"entry") && kinds.contains(&"death"), "{kinds:?}");
    }
}
