//! Handshakes have probes until all contexts are known that are older than the probes,
//! and then none.

use std::{fs, path::Path, process::Command};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    builds::Library as Built,
    support::{
        agent::Agent,
        churn::{Program, told},
        compare::{Expect, assert_equal},
        eventually,
        oracle::{ORACLES, Oracle, Told},
    },
};

/// Where Debian has its libraries.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// Those that last: where contexts are made, and where they end.
const LASTING: u64 = 2;

/// A libssl that no other test has.
struct Library(TempDir);

impl Library {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["libssl.so.3", "libcrypto.so.3"] {
            let copy = directory.path().join(name);
            fs::copy(format!("{LIBRARIES}/{name}"), copy).expect("it can be copied");
        }
        Self(directory)
    }

    fn python(&self) -> Oracle {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(format!("{ORACLES}/idle.py")).env("LD_LIBRARY_PATH", self.0.path());
        Oracle::start_command(command)
    }

    /// How many probes it has.
    fn probes(&self, agent: &Agent) -> Option<u64> {
        let snapshot = agent.snapshot();
        let path = self.0.path().join("libssl.so.3").display().to_string();
        let targets = snapshot["targets"].as_array().expect("an array");
        let mut of_it = targets.iter().filter(|target| target["library"]["path"] == path);
        of_it.find_map(|target| target["probes"].as_u64())
    }

    fn wait_until_settled(&self, agent: &Agent) {
        eventually("it is settled", || (self.probes(agent) == Some(LASTING)).then_some(()));
    }
}

#[test]
fn what_is_older_and_what_is_younger_is_exact_without_a_probe_in_handshakes() {
    let library = Library::new();
    let mut old = library.python();
    for scenario in ["tls12_session_ids", "tls13_tickets"] {
        old.ask(&format!("run {scenario}"));
    }
    old.ask("unused 3");
    let agent = Agent::start(&[]);
    library.wait_until_settled(&agent);
    assert_equal(&agent, old.pid(), &old.told(), Expect::Live);
    old.ask("connect tls12_session_ids");
    for scenario in ["tls12_tickets", "sni_switch", "full_cache"] {
        old.ask(&format!("run {scenario}"));
    }
    let mut young = library.python();
    for scenario in young.scenarios() {
        young.ask(&format!("run {scenario}"));
    }
    let (old_told, young_told) = (old.told(), young.told());
    assert_equal(&agent, old.pid(), &old_told, Expect::Live);
    assert_equal(&agent, young.pid(), &young_told, Expect::Live);
    assert_eq!(library.probes(&agent), Some(LASTING));
    for (oracle, told) in [(old, old_told), (young, young_told)] {
        let pid = oracle.pid();
        oracle.signal(Signal::SIGKILL);
        assert!(!oracle.wait().success());
        assert_equal(&agent, pid, &told, Expect::Exited);
    }
}

/// Nobody can tell one context from its copies: what handshakes show stays, until the
/// process is gone.
#[test]
fn where_not_all_is_found_handshakes_keep_their_probes() {
    let library = Library::new();
    let mut unclear = library.python();
    unclear.ask("run tls13_tickets");
    unclear.ask("lookalikes tls13_tickets 1");
    let mut clear = library.python();
    clear.ask("run tls12_session_ids");
    let agent = Agent::start(&[]);
    eventually("the clear one is known", || {
        (agent.contexts_of(clear.pid()).len() == clear.told().len()).then_some(())
    });
    eventually("of the other, what can be known", || {
        let found = agent.contexts_of(unclear.pid()).len();
        (found + 1 == unclear.told().len()).then_some(())
    });
    assert!(library.probes(&agent) > Some(LASTING));
    unclear.ask("connect tls13_tickets");
    assert_equal(&agent, unclear.pid(), &unclear.told(), Expect::Live);
    assert!(library.probes(&agent) > Some(LASTING));
    unclear.signal(Signal::SIGKILL);
    assert!(!unclear.wait().success());
    library.wait_until_settled(&agent);
    clear.ask("connect tls12_session_ids");
    assert_equal(&agent, clear.pid(), &clear.told(), Expect::Live);
}

/// Of a child that is gone before the agent gets to look, what its parent had from before
/// is known by the parent.
#[test]
fn children_of_what_was_found_are_known_without_a_look() {
    let directory = tempfile::tempdir().expect("a directory");
    let Built { libssl, libcrypto, .. } = Built::built("3.5.5-gcc12-O2");
    let copy = |file: &Path| {
        let copy = directory.path().join(file.file_name().expect("a file"));
        fs::copy(file, &copy).expect("it can be copied");
        copy
    };
    let library = Built { libssl: copy(&libssl), libcrypto: copy(&libcrypto) };
    let path = library.libssl.display().to_string();
    let program = Program::with(library);
    let mut parent = program.start();
    parent.ask("keep 3 10");
    let agent = Agent::start(&[]);
    eventually("it is settled", || {
        let targets = agent.snapshot()["targets"].take();
        let mut of_it =
            targets.as_array()?.iter().filter(|target| target["library"]["path"] == path);
        of_it.any(|target| target["probes"] == LASTING).then_some(())
    });
    assert_equal(&agent, parent.pid(), &told(&parent.ask("stats")), Expect::Live);
    let agent_pid = Pid::from_raw(agent.pid().cast_signed());
    kill(agent_pid, Signal::SIGSTOP).expect("it runs");
    let child = parent.ask("fork")["child"].as_u64().expect("a pid") as u32;
    parent.ask("child use 1");
    let child_says = told(&parent.ask("child stats"));
    kill(Pid::from_raw(child.cast_signed()), Signal::SIGKILL).expect("it runs");
    // Its parent takes its end in, and the kernel reports it.
    eventually("it has ended", || {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        (status.is_empty() || status.contains("State:\tZ")).then_some(())
    });
    kill(agent_pid, Signal::SIGCONT).expect("it is there");
    assert_equal(&agent, child, &child_says, Expect::Exited);
    assert_equal(&agent, parent.pid(), &told(&parent.ask("stats")), Expect::Live);
}

/// A child has what its parent had, though nobody has used it.
#[test]
fn children_of_what_is_known_are_known() {
    let library = Library::new();
    let mut parent = library.python();
    parent.ask("run tls12_session_ids");
    let agent = Agent::start(&[]);
    library.wait_until_settled(&agent);
    let answer = parent.ask("fork 20");
    let child = u32::try_from(answer["child"].as_u64().expect("a pid")).expect("a pid");
    let child_says: Vec<Told> =
        serde_json::from_value(answer["contexts"].clone()).expect("contexts");
    assert_equal(&agent, parent.pid(), &parent.told(), Expect::Live);
    assert_equal(&agent, child, &child_says, Expect::Live);
    kill(Pid::from_raw(child.cast_signed()), Signal::SIGKILL).expect("it waits for this");
}
