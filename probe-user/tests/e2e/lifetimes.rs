//! Processes that begin before the agent, are short, fork, or exec.

use std::process::Command;

use serde_json::Value;

use crate::support::{
    agent::{Agent, Plan},
    compare::{Expect, assert_equal},
    eventually,
    libraries::{private_libraries, python_with, replace},
    oracle::{Language, ORACLES, Oracle, Told},
    private_copy,
    tls::Certificates,
};

/// What was counted before the agent came is there, once the context is used.
fn late_attach(plan: &str) {
    let mut oracle = Oracle::start(Language::Python);
    oracle.ask("late 1000");
    let agent = Agent::start(&["--probe-plan", plan, "--probe-points", "starts"]);
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
        assert_eq!(seen["source"], "final");
        for (name, value) in told.stats {
            assert_eq!(seen["stats"][&name], value, "{name} of {}", told.ctx);
        }
    }
}

/// What another thread counts after the last look before an exec, nobody sees unless
/// a probe does: then nothing is shown.
#[test]
fn an_exec_beside_a_thread_leaves_a_gap_or_what_the_probes_saw() {
    unread_at_the_end("exec_beside_a_thread sleep 1000", "freed");
}

/// The memory of a process may be unreadable as it ends: it is not shown then, unless
/// every change had a probe.
#[test]
fn memory_that_cannot_be_read_at_the_end_is_a_gap_or_what_the_probes_saw() {
    unread_at_the_end("hide_and_die", "exited");
}

fn unread_at_the_end(command: &str, state: &str) {
    let (starts, all) = (Agent::shared(Plan::Auto), Agent::shared(Plan::All));
    let mut oracle = Oracle::start(Language::Python);
    starts.wait_until_attached();
    all.wait_until_attached();
    oracle.ask("run tls12_session_ids");
    let told = oracle.told();
    let pid = oracle.pid();
    assert_equal(starts, pid, &told, Expect::Live);
    oracle.tell(command);
    let ended = |agent: &Agent| {
        eventually("the contexts end", || {
            let contexts = agent.contexts_of(pid);
            contexts.iter().all(|context| context["state"] == state).then_some(contexts)
        })
    };
    let unread = ended(starts);
    assert_eq!(unread.len(), 2);
    for seen in unread {
        let stats = seen["stats"].as_object().expect("an object");
        assert!(stats.values().all(Value::is_null), "{seen:#}");
    }
    let snapshot = starts.snapshot();
    let gaps = snapshot["gaps"].as_array().expect("an array of gaps");
    let of_it = gaps.iter().filter(|gap| gap["pid"] == pid);
    let reasons: Vec<&str> = of_it.filter_map(|gap| gap["reason"].as_str()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("--probe-points all")), "{reasons:?}");
    let mirrored = ended(all);
    for told in told {
        let seen = mirrored.iter().find(|seen| seen["ctx"] == told.ctx).expect("it is kept");
        assert_eq!(seen["source"], "probe");
        for counter in told.stats.iter().filter(|(name, _)| *name != "number") {
            assert_eq!(seen["stats"][counter.0], *counter.1, "{} of {}", counter.0, told.ctx);
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

/// Contexts come and go, at addresses that are used again, while they are being
/// read: whatever is shown is a value that the context had.
#[test]
fn contexts_that_die_while_they_are_read_show_no_wrong_value() {
    const PAIRS: usize = 400;
    let agent = Agent::start(&[]);
    let mut oracle = Oracle::start(Language::Python);
    agent.wait_until_attached();
    oracle.tell(&format!("churn {PAIRS}"));
    let pid = oracle.pid();
    let ended = eventually("all contexts end", || {
        let contexts = agent.contexts_of(pid);
        for context in &contexts {
            let value = |name: &str| context["stats"][name].as_i64().expect("it is known");
            let (connect, accept) = (value("connect"), value("accept"));
            let good = value("connect_good") + value("accept_good");
            assert!(
                connect.min(accept) == 0 && (0..=3).contains(&connect.max(accept)),
                "{context}"
            );
            assert!((0..=connect.max(accept)).contains(&good), "{context}");
            assert!((0..=2).contains(&value("hits")), "{context}");
            assert!((0..=2).contains(&value("number")), "{context}");
            for never in ["misses", "timeouts", "cache_full", "cb_hits", "accept_renegotiate"] {
                assert_eq!(value(never), 0, "{never}: {context}");
            }
            if context["state"] == "freed" {
                assert_eq!((good, value("hits")), (3, 2), "{context}");
                assert_eq!(context["source"], "final", "{context}");
            }
        }
        let ended = contexts.iter().filter(|context| context["state"] == "freed").count();
        (ended == 2 * PAIRS).then_some(contexts)
    });
    let again = ended.iter().filter(|context| context["generation"].as_u64() > Some(1)).count();
    assert!(again > 0, "no address was used again");
    let identities: std::collections::HashSet<_> =
        ended.iter().map(|c| (c["ctx"].to_string(), c["generation"].as_u64())).collect();
    assert_eq!(identities.len(), 2 * PAIRS, "each is a context of its own");
}

/// The main thread is a zombie, the others shake hands.
#[test]
fn a_main_thread_that_ends_first_ends_nothing() {
    let agent = Agent::shared(Plan::Auto);
    let mut oracle = Oracle::start(Language::Python);
    agent.wait_until_attached();
    let pid = oracle.pid();
    oracle.ask("late 3");
    oracle.tell("abandon");
    eventually("the main thread has ended", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        stat.rsplit(')').next()?.trim_start().starts_with('Z').then_some(())
    });
    oracle.ask("again");
    assert_equal(agent, pid, &oracle.told(), Expect::Live);
    // The agent has looked for processes that are gone by now, more than once:
    // each exec makes it.
    for _ in 0..3 {
        let output = Command::new("openssl").arg("version").output().expect("openssl runs");
        assert!(output.status.success());
        oracle.ask("again");
        let told = oracle.told();
        assert_equal(agent, pid, &told, Expect::Live);
        assert_eq!(agent.contexts_of(pid).len(), told.len(), "no context began anew");
    }
    let told = oracle.told();
    oracle.signal(nix::sys::signal::Signal::SIGKILL);
    oracle.wait();
    assert_equal(agent, pid, &told, Expect::Exited);
}

/// An upgrade replaces the library on disk; who runs the old one goes on with it.
#[test]
fn a_library_that_is_replaced_is_observed_once() {
    let agent = Agent::start(&[]);
    let directory = private_libraries();
    let start = || python_with(directory.path());
    // Seen as soon as it is used after its library was found.
    let observed = |oracle: &mut Oracle| {
        oracle.ask("late 2");
        eventually("its library is observed", || {
            oracle.ask("again");
            (!agent.contexts_of(oracle.pid()).is_empty()).then_some(())
        });
    };
    let mut old = start();
    observed(&mut old);
    replace(&directory.path().join("libssl.so.3"));
    let mut new = start();
    observed(&mut new);
    for oracle in [&mut old, &mut new] {
        oracle.ask("late 5");
        let told = oracle.told();
        assert_equal(&agent, oracle.pid(), &told, Expect::Live);
        oracle.ask("free");
        let used: Vec<_> = told.into_iter().filter(|told| !told.is_unused()).collect();
        assert_equal(&agent, oracle.pid(), &used, Expect::Freed);
        assert_eq!(agent.contexts_of(oracle.pid()).len(), used.len(), "each ended once");
    }
}
