//! Contexts that are idle since before the agent came: `--scan` finds them, all
//! of them, and nothing that only looks like one.

use std::{collections::BTreeSet, process::Command};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    builds::Library,
    nginx::{Nginx, requests, sum},
    support::{
        SSLSESS,
        agent::Agent,
        churn::{Program, told},
        compare::{Expect, assert_equal},
        eventually,
        oracle::{ORACLES, Oracle, Told},
    },
};

/// Looks into a process once, and watches no longer than that takes.
fn scanned(pid: u32, args: &[&str]) -> Value {
    let pid = pid.to_string();
    // Whatever else this machine does: there is a bound on time.
    let output = Command::new("nice")
        .args(["-n", "-20", SSLSESS, "show", "--scan", "--json", "--pid", &pid])
        .args(args)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn contexts(snapshot: &Value) -> &Vec<Value> {
    snapshot["contexts"].as_array().expect("an array of contexts")
}

/// What is not known of a process. (Another test may have its own that is not.)
fn gaps(snapshot: &Value, pid: u32) -> Vec<&str> {
    let gaps = snapshot["gaps"].as_array().expect("an array of gaps").iter();
    let of_process = gaps.filter(|gap| gap["pid"].is_null() || gap["pid"] == pid);
    of_process.map(|gap| gap["reason"].as_str().expect("a reason")).collect()
}

/// Compares what was found with what the program says: the same contexts, no
/// other, with the same values.
fn assert_found(snapshot: &Value, told: &[Told]) {
    let found: BTreeSet<&str> =
        contexts(snapshot).iter().filter_map(|c| c["ctx"].as_str()).collect();
    let expected: BTreeSet<&str> = told.iter().map(|told| told.ctx.as_str()).collect();
    assert_eq!(found, expected, "{snapshot:#}");
    for told in told {
        let seen = contexts(snapshot).iter().find(|c| c["ctx"] == told.ctx).expect("it is there");
        for (name, value) in &told.stats {
            assert_eq!(seen["stats"][name], *value, "{name} of {}: {seen:#}", told.ctx);
        }
        assert_eq!((&seen["state"], &seen["source"]), (&"live".into(), &"memory".into()));
        assert_eq!(seen["generation"], 1);
        assert!(seen["settings"].is_object(), "{seen:#}");
    }
}

fn python() -> Oracle {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(format!("{ORACLES}/idle.py"));
    Oracle::start_command(command)
}

#[test]
fn idle_contexts_of_python_are_found() {
    let mut oracle = python();
    for scenario in ["tls12_session_ids", "tls13_tickets", "sni_switch", "full_cache"] {
        oracle.ask(&format!("run {scenario}"));
    }
    oracle.ask("unused 20");
    // Freed before, with the memory lying about: no trace of it is found.
    oracle.ask("run tls12_tickets");
    let freed = oracle.ask("forget tls12_tickets");
    let told = oracle.told();
    assert!(freed["freed"].as_array().is_some_and(|freed| !freed.is_empty()));
    assert!(told.iter().any(Told::is_unused) && told.iter().any(|told| !told.is_unused()));
    let snapshot = scanned(oracle.pid(), &[]);
    assert_found(&snapshot, &told);
    assert!(gaps(&snapshot, oracle.pid()).is_empty(), "{snapshot:#}");
}

/// A heap of 2 GiB that is full of what is nearly a context.
#[test]
fn no_lookalike_is_found_in_two_gibibytes() {
    let mut oracle = python();
    oracle.ask("run tls12_session_ids");
    oracle.ask("run tls13_tickets");
    oracle.ask("run not_resumed");
    oracle.ask("lookalikes tls13_tickets 2048");
    let told = oracle.told();
    // The first of the scenario was copied: which is it and which are copies, nobody can tell.
    let copied = told.iter().position(|told| told.scenario == "tls13_tickets").expect("it ran");
    let (mut told, copied) = (told.clone(), told[copied].clone());
    told.retain(|told| told.ctx != copied.ctx);
    let snapshot = scanned(oracle.pid(), &["--scan-limit", "5s"]);
    assert_found(&snapshot, &told);
    match gaps(&snapshot, oracle.pid())[..] {
        [gap] => assert!(gap.contains("the hash of sessions at"), "{gap}"),
        ref gaps => panic!("one gap, of the copies: {gaps:#?}"),
    }
    // A probe says which one it is; then nothing is open any more.
    let agent = Agent::start(&["--scan"]);
    eventually("the scan is done", || {
        (agent.contexts_of(oracle.pid()).len() == told.len()).then_some(())
    });
    oracle.ask("run tls12_tickets");
    oracle.ask("connect tls13_tickets");
    let all = oracle.told();
    assert_equal(&agent, oracle.pid(), &all, Expect::Live);
    assert!(
        gaps(&agent.snapshot(), oracle.pid())
            .iter()
            .all(|gap| !gap.contains("the hash of sessions"))
    );
}

/// With probes where contexts are made, and none in handshakes: those of before are found.
#[test]
fn contexts_of_before_and_after_are_known_by_their_births() {
    let mut oracle = python();
    oracle.ask("run tls12_session_ids");
    oracle.ask("unused 2");
    let before = oracle.told();
    let agent = Agent::start(&["--probe-points", "births"]);
    let pid = oracle.pid();
    eventually("the scan is done", || (agent.contexts_of(pid).len() == before.len()).then_some(()));
    assert_equal(&agent, pid, &before, Expect::Live);
    oracle.ask("connect tls12_session_ids");
    oracle.ask("run tls13_tickets");
    let told = oracle.told();
    assert!(told.len() > before.len());
    assert_equal(&agent, pid, &told, Expect::Live);
    assert_eq!(gaps(&agent.snapshot(), pid), [""; 0]);
    oracle.signal(Signal::SIGKILL);
    assert!(!oracle.wait().success());
    assert_equal(&agent, pid, &told, Expect::Exited);
}

/// Too little time is a gap, and then nothing is shown: it could be a copy.
#[test]
fn what_was_not_looked_at_is_a_gap() {
    let mut oracle = python();
    oracle.ask("unused 3");
    oracle.ask("lookalikes unused 256");
    let snapshot = scanned(oracle.pid(), &["--scan-limit", "1ms"]);
    assert!(contexts(&snapshot).is_empty(), "{snapshot:#}");
    match gaps(&snapshot, oracle.pid())[..] {
        [gap] => assert!(gap.contains("GiB looked at in 1ms (--scan-limit)"), "{gap}"),
        ref gaps => panic!("one gap, of the time: {gaps:#?}"),
    }
}

/// Memory that nobody may read is a gap, and then nothing else is shown either.
#[test]
fn what_cannot_be_read_is_a_gap() {
    let program = Program::new();
    let mut hidden = program.start();
    for command in ["arena", "keep 3 10", "protect from-reading"] {
        hidden.ask(command);
    }
    let snapshot = scanned(hidden.pid(), &[]);
    assert!(contexts(&snapshot).is_empty(), "{snapshot:#}");
    match gaps(&snapshot, hidden.pid())[..] {
        [gap] => assert!(gap.contains("KiB that the process wrote cannot be read"), "{gap}"),
        ref gaps => panic!("one gap, of the memory: {gaps:#?}"),
    }
    hidden.ask("protect from-writing");
    let snapshot = scanned(hidden.pid(), &[]);
    assert_found(&snapshot, &told(&hidden.ask("stats")));
    assert!(gaps(&snapshot, hidden.pid()).is_empty(), "{snapshot:#}");
}

/// A copy of a context that was freed since: what it points to is gone.
#[test]
fn a_copy_of_what_was_freed_is_not_found() {
    let mut oracle = python();
    oracle.ask("run tls12_session_ids");
    for scenario in ["tls13_tickets", "tls12_tickets"] {
        // Many, so that some of what they had is not used again at once.
        (0..10).for_each(|_| drop(oracle.ask(&format!("run {scenario}"))));
        oracle.ask(&format!("stale {scenario}"));
    }
    let told = oracle.told();
    let snapshot = scanned(oracle.pid(), &[]);
    assert_found(&snapshot, &told);
    assert!(gaps(&snapshot, oracle.pid()).is_empty(), "{snapshot:#}");
}

/// What was found lives on like any other: it counts, is forked, freed, and ends
/// with its process.
#[test]
fn what_was_found_is_followed_to_its_end() {
    let mut oracle = python();
    for command in ["late 7", "run tls12_session_ids", "run tls13_tickets", "unused 3"] {
        oracle.ask(command);
    }
    let agent = Agent::start(&["--scan"]);
    let pid = oracle.pid();
    let told = oracle.told();
    let found = |pid| {
        eventually("the contexts are found", || {
            (agent.contexts_of(pid).len() == told.len()).then_some(())
        });
    };
    found(pid);
    assert_equal(&agent, pid, &told, Expect::Live);

    // A child that uses nothing has them all.
    let child = oracle.ask("forked")["child"].as_u64().expect("a pid") as u32;
    found(child);
    assert_equal(&agent, child, &told, Expect::Live);
    let nix_child = nix::unistd::Pid::from_raw(child.cast_signed());
    nix::sys::signal::kill(nix_child, Signal::SIGKILL).expect("it waits for this");
    assert_equal(&agent, child, &told, Expect::Exited);

    oracle.ask("again");
    let told_again = oracle.told();
    assert_equal(&agent, pid, &told_again, Expect::Live);
    let (freed, kept): (Vec<Told>, Vec<Told>) = oracle
        .told()
        .into_iter()
        .partition(|t| ["unused", "tls13_tickets"].contains(&&*t.scenario));
    oracle.ask("forget unused");
    oracle.ask("forget tls13_tickets");
    assert_equal(&agent, pid, &freed, Expect::Freed);
    assert_equal(&agent, pid, &kept, Expect::Live);
    oracle.tell("exit");
    assert_equal(&agent, pid, &kept, Expect::Exited);
    assert_eq!(agent.contexts_of(pid).len(), told.len(), "each was one context all the time");
}

/// What each server of nginx has served before anybody looked.
#[test]
fn idle_contexts_of_nginx_are_found() {
    let nginx = Nginx::start();
    for (name, count) in [("localhost", 80), ("a.test", 120), ("b.test", 40)] {
        requests(nginx.port, name, count);
    }
    let workers = nginx.workers();
    let snapshots: Vec<Value> = workers.iter().map(|pid| scanned(*pid, &[])).collect();
    let found: Vec<Value> = snapshots.iter().flat_map(|s| contexts(s).clone()).collect();
    // The workers were forked before: only what they count from now on is in the sums.
    let mut told = snapshots.iter().zip(&workers).flat_map(|(told, pid)| gaps(told, *pid));
    assert!(told.all(|gap| gap.contains("that was forked")), "{snapshots:#?}");
    let place = |context: &Value| context["ctx"].as_str().map(str::to_owned);
    let places: BTreeSet<Option<String>> = found.iter().map(place).collect();
    assert_eq!((places.len(), found.len()), (3, 3 * workers.len()), "one for each server");
    let mut sums: Vec<i64> = places
        .iter()
        .map(|at| {
            let of_server = found.iter().filter(|context| place(context) == *at);
            sum(&of_server.cloned().collect::<Vec<Value>>(), "accept_good")
        })
        .collect();
    sums.sort_unstable();
    assert_eq!(sums, [40, 80, 120]);
    assert_eq!(sum(&found, "accept"), 240);
    // The master has made them, and never used them.
    let master = scanned(nginx.pid(), &[]);
    let unused = contexts(&master);
    assert_eq!(unused.len(), 3, "{master:#}");
    assert!(unused.iter().all(|c| c["stats"]["accept"] == 0 && c["source"] == "memory"));
}

/// The marks are learnt from each library, not known of one.
#[test]
fn idle_contexts_of_other_releases_are_found() {
    for build in ["1.1.1w-gcc12-O2", "3.2.1-gcc12-O2", "3.5.5-gcc12-O2", "4.0.3-gcc12-O2"] {
        let library = Library::built(build);
        let mut oracle = Oracle::start_native(&library.libssl, &library.libcrypto);
        oracle.ask("run tls12_session_ids");
        oracle.ask("run sni_switch");
        let told = oracle.told();
        assert_found(&scanned(oracle.pid(), &[]), &told);
    }
}
