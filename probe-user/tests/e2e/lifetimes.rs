//! Processes that begin before the agent, are short, fork, or exec.

use std::process::Command;

use serde_json::Value;

use crate::support::{
    agent::{Agent, Plan},
    compare::{Expect, assert_equal},
    eventually,
    oracle::{Language, ORACLES, Oracle, Told},
    private_copy,
    tls::Certificates,
};

/// What was counted before the agent came is there, once the context is used.
fn late_attach(plan: &str) {
    let mut oracle = Oracle::start(Language::Python);
    oracle.ask("late 1000");
    let agent = Agent::start(&["--probe-plan", plan]);
    agent.wait_until_attached();
    assert!(agent.contexts_of(oracle.pid()).is_empty(), "nothing was used yet");
    oracle.ask("again");
    let told = oracle.told();
    let handshakes = told.iter().map(|told| told.stats["accept_good"].as_i64()).max();
    assert_eq!(handshakes, Some(Some(1001)));
    assert_equal(&agent, oracle.pid(), &told, Expect::Live);
}

#[test]
fn late_attach_shows_all_that_was_counted() {
    late_attach("auto");
}

#[test]
fn late_attach_shows_all_that_was_counted_with_entry_probes() {
    late_attach("entry");
}

/// A context that the agent never saw used is seen when it dies.
#[test]
fn a_context_that_is_only_freed_shows_its_values() {
    let mut oracle = Oracle::start(Language::Python);
    oracle.ask("late 10");
    let agent = Agent::start(&[]);
    agent.wait_until_attached();
    let told = oracle.told();
    oracle.ask("free");
    assert_equal(&agent, oracle.pid(), &told, Expect::Freed);
}

fn parse(answer: &Value) -> Vec<Told> {
    serde_json::from_value(answer["contexts"].clone()).expect("contexts")
}

/// Each process shows what it says itself; the sum counts what happened once.
#[test]
fn a_fork_begins_with_its_parents_counts() {
    let agent = Agent::start(&[]);
    let python = std::fs::canonicalize("/usr/bin/python3").expect("python is installed");
    let (_directory, python) = private_copy(python.to_str().expect("a path"));
    let mut oracle = Oracle::start_python_at(&python);
    agent.wait_until_attached();
    let answer = oracle.ask("fork 20");
    let child = u32::try_from(answer["child"].as_u64().expect("a pid")).expect("a pid");
    let (parent_says, child_says) = (oracle.told(), parse(&answer));
    assert_equal(&agent, oracle.pid(), &parent_says, Expect::Live);
    assert_equal(&agent, child, &child_says, Expect::Live);
    let sum = |told: &[Told]| -> i64 {
        told.iter().filter_map(|told| told.stats["accept_good"].as_i64()).sum()
    };
    assert_eq!((sum(&parent_says), sum(&child_says)), (23, 25));
    let series = format!("openssl_sess_accept_good_total{{exe=\"{}\"}}", python.display());
    assert_eq!(agent.metric(&series), Some(28.0), "20 before the fork, 3 and 5 after it");
    let child = nix::unistd::Pid::from_raw(child.cast_signed());
    nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).expect("it waits for this");
}

/// Exec ends all contexts of a process; the last values stay.
#[test]
fn an_exec_ends_all_contexts() {
    let agent = Agent::shared(Plan::Auto);
    let mut oracle = Oracle::start(Language::Python);
    agent.wait_until_attached();
    oracle.ask("run tls12_session_ids");
    let told = oracle.told();
    let pid = oracle.pid();
    assert_equal(agent, pid, &told, Expect::Live);
    oracle.tell("exec sleep 1000");
    let contexts = eventually("the contexts end", || {
        let contexts = agent.contexts_of(pid);
        contexts.iter().all(|context| context["state"] == "freed").then_some(contexts)
    });
    for told in told {
        let seen = contexts.iter().find(|seen| seen["ctx"] == told.ctx).expect("it is kept");
        assert_eq!(seen["source"], "probe");
        for (name, value) in told.stats {
            assert_eq!(seen["stats"][&name], value, "{name} of {}", told.ctx);
        }
    }
}

/// 200 processes, one after the other, each gone as soon as it is done.
#[test]
fn short_lived_processes_are_all_counted() {
    let agent = Agent::shared(Plan::Auto);
    // Somebody has to map the library before the first of them.
    let _keeper = Oracle::start(Language::Python);
    agent.wait_until_attached();
    let certificates = Certificates::get();
    let script = format!("{ORACLES}/short.py");
    for round in 0..200 {
        let output = Command::new("/usr/bin/python3")
            .args([script.as_str(), if round % 2 == 0 { "free" } else { "exit" }])
            .env("CERTIFICATE", &certificates.certificate)
            .env("KEY", &certificates.key)
            .output()
            .expect("python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let pid = u32::try_from(answer["pid"].as_u64().expect("a pid")).expect("a pid");
        let expect = if round % 2 == 0 { Expect::Freed } else { Expect::Exited };
        assert_equal(agent, pid, &parse(&answer), expect);
    }
}
