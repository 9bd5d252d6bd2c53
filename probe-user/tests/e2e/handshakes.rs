//! How long handshakes take, against the program's own clock and counters.

use serde_json::Value;

use crate::{
    builds::Library,
    support::{
        agent::{Agent, Plan},
        compare::{Expect, assert_equal},
        eventually,
        oracle::{Language, Oracle},
    },
};

/// What is said of one side, over all contexts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Side {
    complete: u64,
    sum_ns: u64,
    unfinished: u64,
    abandoned: u64,
}

fn side(contexts: &[Value], name: &str) -> Side {
    let mut all = Side::default();
    for of_it in contexts.iter().map(|context| &context["handshakes"][name]) {
        if of_it.is_null() {
            continue;
        }
        let number = |name: &str| of_it[name].as_u64().expect("a number");
        let buckets = of_it["buckets"].as_array().expect("an array");
        all.complete += buckets.iter().map(|b| b["count"].as_u64().expect("a number")).sum::<u64>();
        all.sum_ns += number("sum_ns");
        all.unfinished += number("unfinished");
        all.abandoned += number("abandoned");
    }
    all
}

/// A counter, over all contexts.
fn counted(contexts: &[Value], name: &str) -> u64 {
    contexts.iter().map(|context| context["stats"][name].as_u64().expect("it is known")).sum()
}

/// No handshake was faster than the pause in its midst, nor slower than the program
/// says; and those that took long are where such belong.
#[test]
fn they_take_as_long_as_the_program_says() {
    let agent = Agent::shared(Plan::Handshakes);
    let mut oracle = Oracle::start(Language::Python);
    agent.wait_until_attached();
    let took = oracle.ask("slow 12 11");
    let contexts = agent.contexts_of(oracle.pid());
    for name in ["client", "server"] {
        let seen = side(&contexts, name);
        assert_eq!((seen.complete, seen.unfinished, seen.abandoned), (12, 0, 0), "{name}");
        let range = took["least"].as_u64().expect("a number")..=took["most"].as_u64().expect("one");
        assert!(range.contains(&seen.sum_ns), "{name}: {} of {range:?}", seen.sum_ns);
        let fast = contexts.iter().flat_map(|context| {
            let buckets = context["handshakes"][name]["buckets"].as_array();
            buckets.into_iter().flatten().filter(|b| b["up_to_ns"].as_u64() <= Some(10_000_000))
        });
        let fast: u64 = fast
            .filter(|bucket| !bucket["up_to_ns"].is_null())
            .map(|bucket| bucket["count"].as_u64().expect("a number"))
            .sum();
        assert_eq!(fast, 0, "{name}: {contexts:#?}");
    }
    let series = "openssl_ctx_handshake_duration_seconds_count{";
    let of_it = format!("pid=\"{}\"", oracle.pid());
    let metrics = agent.get("/metrics");
    let counts: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with(series) && line.contains(&of_it))
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    assert_eq!(counts, ["12", "12"]);
}

/// Those that are not complete are counted, until they are, or nobody can complete
/// them any more.
#[test]
fn those_that_are_not_complete_are_counted() {
    let agent = Agent::shared(Plan::Handshakes);
    let mut oracle = Oracle::start(Language::Python);
    agent.wait_until_attached();
    oracle.ask("begin 9");
    let states = |contexts: &[Value]| {
        ["client", "server"].map(|name| {
            let seen = side(contexts, name);
            (seen.complete, seen.unfinished, seen.abandoned)
        })
    };
    assert_eq!(states(&agent.contexts_of(oracle.pid())), [(0, 9, 0); 2]);
    oracle.ask("complete 4");
    let contexts = agent.contexts_of(oracle.pid());
    assert_eq!(states(&contexts), [(4, 5, 0); 2]);
    let oldest = |context: &Value, name: &str| context["handshakes"][name]["oldest_ns"].as_u64();
    let server = contexts.iter().find_map(|context| oldest(context, "server"));
    assert!(server.is_some_and(|oldest| oldest > 0), "{contexts:#?}");
    // Their contexts end, and with them everything that could have been complete.
    oracle.ask("free");
    let ended = eventually("they are given up", || {
        let contexts = agent.contexts_of(oracle.pid());
        contexts.iter().all(|context| context["state"] == "freed").then_some(contexts)
    });
    let _ = ended;
    assert_eq!(states(&agent.contexts_of(oracle.pid())), [(4, 0, 5); 2]);
}

/// Each handshake that a counter says has started is complete, unfinished, or given up;
/// and each that a counter calls good has its time.
fn check(contexts: &[Value]) -> [Side; 2] {
    let sides = ["client", "server"].map(|name| side(contexts, name));
    let good = ["connect_good", "accept_good"].map(|name| counted(contexts, name));
    let started = ["connect", "accept"].map(|name| counted(contexts, name));
    assert_eq!(sides.each_ref().map(|side| side.complete), good, "{contexts:#?}");
    let all = sides.each_ref().map(|side| side.complete + side.unfinished + side.abandoned);
    assert_eq!(all, started, "{sides:#?}");
    sides
}

/// Whatever happens to handshakes.
#[test]
fn none_is_missing_and_none_is_there_twice() {
    let agent = Agent::shared(Plan::Handshakes);
    let mut oracle = Oracle::start(Language::Python);
    agent.wait_until_attached();
    for scenario in oracle.scenarios() {
        oracle.ask(&format!("run {scenario}"));
    }
    oracle.ask("threads 4 50");
    let told = oracle.told();
    assert_equal(agent, oracle.pid(), &told, Expect::Live);
    let sides = check(&agent.contexts_of(oracle.pid()));
    assert!(sides.iter().all(|side| side.complete > 100), "{sides:#?}");
    oracle.tell("exit");
    let pid = oracle.pid();
    assert!(oracle.wait().success());
    eventually("they have ended", || {
        let contexts = agent.contexts_of(pid);
        contexts.iter().all(|context| context["state"] == "exited").then_some(())
    });
    let sides = check(&agent.contexts_of(pid));
    assert!(sides.iter().all(|side| side.unfinished == 0), "{sides:#?}");
}

/// With releases from 1.1.1 to 4.0. (Renegotiations are not timed.)
#[test]
fn none_is_missing_with_other_releases() {
    let agent = Agent::shared(Plan::Handshakes);
    for build in ["1.1.1w-gcc12-O2", "3.2.1-gcc12-O2", "3.5.5-gcc12-O2", "4.0.3-gcc12-O2"] {
        let Library { libssl, libcrypto } = Library::built(build);
        let mut oracle = Oracle::start_native(&libssl, &libcrypto);
        agent.wait_until_attached_to(&libssl);
        for scenario in oracle.scenarios().iter().filter(|scenario| *scenario != "renegotiation") {
            oracle.ask(&format!("run {scenario}"));
        }
        assert_equal(agent, oracle.pid(), &oracle.told(), Expect::Live);
        let sides = check(&agent.contexts_of(oracle.pid()));
        assert!(sides.iter().all(|side| side.complete > 20), "{build}: {sides:#?}");
    }
}
