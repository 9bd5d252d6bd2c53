//! Handshakes have probes until all contexts are known that are older than the probes,
//! and then none.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
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

    fn libssl(&self) -> PathBuf {
        self.0.path().join("libssl.so.3")
    }

    fn probes(&self, agent: &Agent) -> Option<u64> {
        probes(agent, &self.libssl())
    }

    fn wait_until_settled(&self, agent: &Agent) {
        wait_until_settled(agent, &self.libssl());
    }
}

/// How many probes a library has.
fn probes(agent: &Agent, libssl: &Path) -> Option<u64> {
    let snapshot = agent.snapshot();
    let path = libssl.display().to_string();
    let targets = snapshot["targets"].as_array().expect("an array");
    let mut of_it = targets.iter().filter(|target| target["library"]["path"] == path);
    of_it.find_map(|target| target["probes"].as_u64())
}

/// Why handshakes keep the probes of a library, because of one process; waits for it, and
/// then it is so until the process is gone.
fn why_not_settled(agent: &Agent, libssl: &Path, pid: u32) -> String {
    eventually("not all of its contexts can be known", || {
        let targets = agent.snapshot()["targets"].take();
        let path = libssl.display().to_string();
        let mut of_it = targets.as_array()?.iter().filter(|t| t["library"]["path"] == path);
        let unsettled = of_it.find_map(|target| target["unsettled"].as_array())?;
        let reason = unsettled.iter().find(|it| it["pid"] == pid)?["reason"].as_str()?;
        (reason != "it is being looked into").then(|| reason.to_owned())
    })
}

fn wait_until_settled(agent: &Agent, libssl: &Path) {
    eventually("it is settled", || (probes(agent, libssl) == Some(LASTING)).then_some(()));
}

/// A program with a libssl that no other test has.
fn churn() -> (TempDir, Program) {
    let directory = tempfile::tempdir().expect("a directory");
    let Built { libssl, libcrypto, .. } = Built::built("3.5.5-gcc12-O2");
    let copy = |file: &Path| {
        let copy = directory.path().join(file.file_name().expect("a file"));
        fs::copy(file, &copy).expect("it can be copied");
        copy
    };
    let library = Built { libssl: copy(&libssl), libcrypto: copy(&libcrypto) };
    (directory, Program::with(library))
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
    let why = why_not_settled(&agent, &library.libssl(), unclear.pid());
    assert!(why.contains("the hash of sessions at"), "{why}");
    assert_eq!(agent.contexts_of(unclear.pid()).len() + 1, unclear.told().len());
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

/// What is in memory that nobody may read is seen when it is used. Memory that may only
/// not be written to is looked at like any other.
#[test]
fn what_cannot_be_read_keeps_the_probes_in_handshakes() {
    let (_directory, program) = churn();
    let mut hidden = program.start();
    let mut constant = program.start();
    for (of, protection) in [(&mut hidden, "from-reading"), (&mut constant, "from-writing")] {
        for command in ["arena", "keep 3 10", &format!("protect {protection}")] {
            of.ask(command);
        }
    }
    let agent = Agent::start(&[]);
    eventually("what can be read is known", || {
        (agent.contexts_of(constant.pid()).len() == 3).then_some(())
    });
    assert_equal(&agent, constant.pid(), &told(&constant.ask("stats")), Expect::Live);
    let why = why_not_settled(&agent, program.libssl(), hidden.pid());
    assert!(why.contains("cannot be read; if a context is there, it is shown when it"), "{why}");
    assert!(agent.contexts_of(hidden.pid()).is_empty());
    hidden.ask("protect nothing");
    hidden.ask("use 1");
    assert_equal(&agent, hidden.pid(), &told(&hidden.ask("stats")), Expect::Live);
    assert!(probes(&agent, program.libssl()) > Some(LASTING));
    hidden.signal(Signal::SIGKILL);
    assert!(!hidden.wait().success());
    wait_until_settled(&agent, program.libssl());
    // Nobody sees any more what a context counts that cannot be read.
    constant.ask("protect nothing");
    constant.ask("use 1");
    constant.ask("protect from-reading");
    let unread = agent.contexts_of(constant.pid());
    assert_eq!(unread.len(), 3);
    for context in unread {
        let stats = context["stats"].as_object().expect("an object of values");
        assert!(stats.len() == 12 && stats.values().all(Value::is_null), "{context:#}");
    }
    constant.ask("protect nothing");
    assert_equal(&agent, constant.pid(), &told(&constant.ask("stats")), Expect::Live);
}

/// Of a child that is gone before the agent gets to look, what its parent had from before
/// is known by the parent.
#[test]
fn children_of_what_was_found_are_known_without_a_look() {
    let (_directory, program) = churn();
    let mut parent = program.start();
    parent.ask("keep 3 10");
    let agent = Agent::start(&[]);
    wait_until_settled(&agent, program.libssl());
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
