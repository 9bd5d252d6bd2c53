//! Contexts that come and go: by the million, at one address, of processes that
//! share a pid, and of processes that execute another program.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
    process::Command,
};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{
    agent::Agent,
    churn::{Program, told, total},
    compare::{Expect, assert_equal},
    eventually,
    oracle::{ORACLES, Oracle, Told},
    private_copy,
};

/// What is reported of as many fills less than half of the ring buffer: nothing of a
/// round is lost, however late the agent hears of it.
const ROUND: u64 = 8_000;

/// The resident memory of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn number(answer: &Value, name: &str) -> i64 {
    answer[name].as_i64().unwrap_or_else(|| panic!("no {name} in {answer}"))
}

/// The sums are what the program says after each round, and the agent's memory does
/// not grow. Other tests bring libraries, which the agent learns and keeps: memory
/// is compared over the rounds in which none came or went.
fn leave_no_trace(contexts: u64) -> Vec<u64> {
    let agent = Agent::start(&[]);
    let program = Program::new();
    let mut oracle = program.start();
    program.wait_until_attached(&agent);
    let (mut accept, mut made) = (0, 0);
    let mut sizes: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    while made < contexts {
        let round = ROUND.min(contexts - made);
        let answer = oracle.ask(&format!("make {round} 1"));
        made += round;
        accept += number(&answer, "accept");
        assert_eq!(program.total(&agent, "accept"), accept, "after {made} contexts");
        let files = agent.metric("sslsess_library_files");
        sizes.entry(format!("{files:?}")).or_default().push(resident(agent.pid()));
    }
    assert_eq!(accept, i64::try_from(made).expect("it fits"));
    assert_eq!(agent.metric("sslsess_losses_total{loss=\"final_overwritten\"}"), Some(0.0));
    let mut sizes = sizes.into_values().max_by_key(Vec::len).expect("there were rounds");
    sizes.drain(..sizes.len() / 10);
    // What is bounded fills up first (ended contexts, addresses, the allocator's own).
    // Something may be learnt at any moment, and that is given back: what leaks stays.
    let settled = &sizes[sizes.len() / 3..];
    let (early, late) = settled.split_at(settled.len() / 2);
    let least = |sizes: &[u64]| sizes.iter().copied().min().unwrap_or(u64::MAX);
    let (early, late) = (least(early), least(late));
    eprintln!("{made} contexts: {early} KiB when it had settled, {late} KiB at the end");
    assert!(late <= early.saturating_add(early / 10), "its memory grows: {sizes:?}");
    sizes
}

#[test]
fn a_hundred_thousand_contexts_leave_no_trace() {
    leave_no_trace(100_000);
}

/// A minute, with no other test beside it.
#[test]
#[ignore = "takes a minute; `cargo xtask test --long` runs it"]
fn a_million_contexts_leave_no_trace() {
    let sizes = leave_no_trace(1_000_000);
    let (least, most) = (sizes.iter().min().expect("some"), sizes.iter().max().expect("some"));
    eprintln!("{least} to {most} KiB");
    assert!(most * 10 <= least * 11 && *most <= 100 * 1024, "{sizes:?}");
}

/// Each context at an address is one of its own, and one series is of the newest.
#[test]
fn an_address_that_is_used_ten_thousand_times_has_ten_thousand_contexts() {
    let agent = Agent::start(&["--max-ended", "100000"]);
    let program = Program::new();
    let mut oracle = program.start();
    program.wait_until_attached(&agent);
    // An allocator that reuses an address at once is no certain thing.
    let (mut accept, mut again) = (0, 0);
    let mut first = None;
    while again < 10_000 {
        let answer = oracle.ask("make 5000 1");
        accept += number(&answer, "accept");
        let address = answer["first"].as_str().expect("an address").to_owned();
        assert_eq!(*first.get_or_insert(address.clone()), address, "another address is used");
        again += number(&answer, "again");
        assert_eq!(program.total(&agent, "accept"), accept);
    }
    let first = first.expect("there was one");
    let contexts = agent.contexts_of(oracle.pid());
    let at_first: Vec<&Value> = contexts.iter().filter(|c| c["ctx"] == first).collect();
    let generations: HashSet<u64> =
        at_first.iter().map(|c| c["generation"].as_u64().expect("a number")).collect();
    assert_eq!(generations.len() as i64, again, "each has its number");
    assert_eq!(generations.iter().max().copied(), u64::try_from(again).ok());
    for context in at_first {
        assert_eq!((&context["state"], &context["source"]), (&"freed".into(), &"final".into()));
        assert_eq!(context["stats"]["accept"], 1, "{context}");
    }
    let metrics = agent.get("/metrics");
    let series = format!(
        "openssl_ctx_sess_accept{{comm=\"churn\",ctx=\"{first}\",pid=\"{}\"}}",
        oracle.pid()
    );
    assert_eq!(metrics.lines().filter(|line| line.starts_with(&series)).count(), 1);
}

/// Processes with one pid, one after the other, with contexts at the same
/// addresses: forks of one parent.
#[test]
fn a_pid_that_is_used_again_is_another_process() {
    const LIVES: usize = 30;
    let agent = Agent::start(&[]);
    let program = Program::new();
    let mut oracle = program.start();
    program.wait_until_attached(&agent);
    // Seen once while it runs, an executable is known.
    oracle.ask("make 1 1");
    assert_eq!(program.total(&agent, "accept"), 1);
    // Nobody has it any more, and the kernel gives it to nobody for a while.
    let mut gone = Command::new("true").spawn().expect("it runs");
    gone.wait().expect("it is our child");
    let pid = gone.id();
    for _ in 0..LIVES {
        let answer = oracle.ask(&format!("child-at {pid} 3"));
        assert_eq!(answer["child"], pid);
    }
    assert_eq!(program.total(&agent, "accept"), 1 + 3 * LIVES as i64);
    let contexts = agent.contexts_of(pid);
    assert_eq!(contexts.len(), 3 * LIVES, "{contexts:#?}");
    let identities: HashSet<String> = contexts
        .iter()
        .map(|c| format!("{} {} {}", c["start_time_ticks"], c["ctx"], c["generation"]))
        .collect();
    assert_eq!(identities.len(), contexts.len(), "each has an identity of its own");
    for context in &contexts {
        assert_eq!((&context["state"], &context["source"]), (&"exited".into(), &"final".into()));
        assert_eq!(context["stats"]["accept"], 1, "{context}");
        assert_eq!(context["exe"].as_str().map(Path::new), Some(program.path.as_path()));
    }
}

/// The same process, another program with another libssl.
#[test]
fn an_exec_into_another_program_begins_anew() {
    let agent = Agent::start(&[]);
    let program = Program::new();
    let python = fs::canonicalize("/usr/bin/python3").expect("python is installed");
    let (_directory, python) = private_copy(python.to_str().expect("a path"));
    let mut command = program.environment(Command::new(&python));
    command.arg(format!("{ORACLES}/oracle.py")).env("PYTHONHOME", "/usr");
    let mut oracle = Oracle::start_command(command);
    // Its library is observed before the exec.
    let other = program.start();
    program.wait_until_attached(&agent);
    agent.wait_until_attached();
    let pid = oracle.pid();
    oracle.ask("run tls12_session_ids");
    let before = oracle.told();
    assert_equal(&agent, pid, &before, Expect::Live);
    let answer = oracle.ask(&format!("exec {}", program.path.display()));
    assert_eq!(answer["ready"], true);
    oracle.ask("make 50 1");
    oracle.ask("keep 5 2");
    assert_equal(&agent, pid, &told(&oracle.ask("stats")), Expect::Live);
    let sum = |name: &str| -> i64 {
        before.iter().map(|told| told.stats[name].as_i64().expect("it is told")).sum()
    };
    for counter in ["accept", "accept_good", "connect", "connect_good", "hits"] {
        assert_eq!(total(&agent, &python, counter), sum(counter), "{counter}");
    }
    assert_eq!(program.total(&agent, "accept"), 50 + 10);
    assert_eq!(program.total(&agent, "connect"), 0);
    let of_python = agent.contexts_of(pid);
    let of_python = of_python.iter().filter(|c| c["exe"].as_str().map(Path::new) == Some(&python));
    assert!(of_python.into_iter().all(|context| context["state"] == "freed"));
    drop(other);
}

/// The agent hears of contexts when their process executes another program already.
#[test]
fn what_was_counted_before_an_exec_is_not_the_next_programs() {
    let agent = Agent::start(&[]);
    let (first, second, unseen) = (Program::new(), Program::new(), Program::new());
    let mut oracle = first.start();
    first.wait_until_attached(&agent);
    // Seen once, an executable is known.
    oracle.ask("make 1 1");
    assert_eq!(first.total(&agent, "accept"), 1);
    let signal = |signal| kill(Pid::from_raw(agent.pid().cast_signed()), signal).expect("it runs");
    signal(Signal::SIGSTOP);
    oracle.ask(&format!("make-and-exec 10 {}", second.path.display()));
    let mut another = unseen.start();
    another.ask(&format!("make-and-exec 3 {}", second.path.display()));
    oracle.ask("make 20 1");
    signal(Signal::SIGCONT);
    assert_eq!(first.total(&agent, "accept"), 11);
    assert_eq!(second.total(&agent, "accept"), 20);
    // Of what is gone and was never seen, nobody knows the name.
    assert_eq!(unseen.total(&agent, "accept"), 0);
    let contexts = agent.contexts_of(another.pid());
    assert_eq!(contexts.len(), 3);
    assert!(contexts.iter().all(|context| context["exe"].is_null()), "{contexts:#?}");
}

/// A map that is full: what is refused is counted and said, the rest is right.
#[test]
fn what_finds_no_room_is_said() {
    const ROOM: usize = 64;
    // Other programs of the host need room, too.
    let room = ROOM.to_string();
    let agent = Agent::start(&["--max-contexts", &room]);
    let program = Program::new();
    let mut oracle = program.start();
    program.wait_until_attached(&agent);
    oracle.ask("keep 1 3");
    oracle.ask(&format!("keep {ROOM} 2"));
    let all: Vec<Told> = told(&oracle.ask("stats"));
    let seen = agent.contexts_of(oracle.pid());
    assert!((1..=ROOM).contains(&seen.len()), "{}", seen.len());
    for context in &seen {
        let told = all.iter().find(|told| context["ctx"] == told.ctx).expect("it has it");
        assert_eq!(context["stats"]["accept"], told.stats["accept"]);
    }
    let refused = agent.metric("sslsess_losses_total{loss=\"contexts_full\"}");
    assert!(refused > Some(0.0), "{refused:?}");
    let gaps = agent.snapshot()["gaps"].to_string();
    assert!(gaps.contains("raise --max-contexts"), "{gaps}");
    // The end of each is seen, with or without a record.
    oracle.ask("free");
    assert_eq!(program.total(&agent, "accept"), 3 + 2 * ROOM as i64);
}

/// An agent that does not get to run: what is lost is counted and said, and it goes
/// on rightly.
#[test]
fn what_the_agent_was_too_slow_for_is_said() {
    let agent = Agent::start(&[]);
    let program = Program::new();
    let mut oracle = program.start();
    program.wait_until_attached(&agent);
    oracle.ask("keep 1 5");
    assert_eq!(program.total(&agent, "accept"), 5);
    let signal = |signal| kill(Pid::from_raw(agent.pid().cast_signed()), signal).expect("it runs");
    signal(Signal::SIGSTOP);
    let many = number(&oracle.ask("make 100000 1"), "accept");
    signal(Signal::SIGCONT);
    let lost = eventually("the losses are counted", || {
        agent.metric("sslsess_losses_total{loss=\"final_overwritten\"}").filter(|lost| *lost > 0.0)
    });
    let gaps = agent.snapshot()["gaps"].to_string();
    assert!(gaps.contains("their last values were lost"), "{gaps}");
    // Each that was lost had counted one. (Other programs may have lost some, too.)
    let after = program.total(&agent, "accept");
    assert!(after < 5 + many && after + lost as i64 >= 5 + many, "{after} and {lost}");
    // From here on all is right again.
    oracle.ask("use 2");
    assert_equal(&agent, oracle.pid(), &told(&oracle.ask("stats")), Expect::Live);
    oracle.ask("make 100 1");
    assert_eq!(program.total(&agent, "accept"), after + 102);
}
