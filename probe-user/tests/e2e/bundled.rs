//! psycopg2 from a Python wheel, with the libssl in the wheel, talking TLS to a
//! real PostgreSQL.

use std::process::Command;

use serde_json::Value;

use crate::support::{
    agent::{Agent, Plan},
    compare::{Expect, assert_equal},
    eventually, file_in,
    oracle::{ORACLES, Oracle, Told},
    postgres::Postgres,
    target,
};

/// libpq has a context of its own for each connection.
const CONNECTIONS: usize = 6;

fn talk_to_postgres(wheel: &str, plan: Plan) {
    let agent = Agent::shared(plan);
    let server = Postgres::start();
    let wheel = target().join("wheels").join(wheel);
    let libssl = file_in(&wheel.join("psycopg2_binary.libs"), "libssl-");
    let mut command = Command::new("/usr/bin/python3");
    command.arg(format!("{ORACLES}/postgres.py"));
    command.env("PYTHONPATH", &wheel);
    command.env("LIBSSL", &libssl).env("PORT", server.port().to_string());
    let mut oracle = Oracle::start_command(command);
    let pid = oracle.pid();
    agent.wait_until_attached_to(&libssl);
    oracle.ask(&format!("connect {CONNECTIONS}"));

    let contexts = agent.contexts_of(pid);
    assert_eq!(contexts.len(), CONNECTIONS, "{contexts:#?}");
    for context in &contexts {
        assert_eq!(context["library"]["path"], libssl.to_str().expect("a path"), "{context:#}");
    }
    let addresses: Vec<String> =
        contexts.iter().map(|c| c["ctx"].as_str().expect("an address").to_owned()).collect();
    let told = oracle.told_of(&addresses);
    for told in &told {
        assert_one_connection(told);
    }
    assert_equal(agent, pid, &told, Expect::Live);

    // Some are freed, and the others end with the process.
    let closed = CONNECTIONS / 2;
    oracle.ask(&format!("close {closed}"));
    let (freed, live) = eventually("the closed connections' contexts are freed", || {
        let contexts = agent.contexts_of(pid);
        let is_live =
            |told: &Told| contexts.iter().any(|c| c["ctx"] == told.ctx && c["state"] == "live");
        let (live, freed): (Vec<Told>, Vec<Told>) = told.iter().cloned().partition(is_live);
        (freed.len() == closed).then_some((freed, live))
    });
    assert_equal(agent, pid, &freed, Expect::Freed);
    assert_equal(agent, pid, &live, Expect::Live);
    oracle.tell("exit");
    assert!(oracle.wait().success());
    assert_equal(agent, pid, &live, Expect::Exited);
    assert_equal(agent, pid, &freed, Expect::Freed);
}

/// A client that connected once, and nothing else.
fn assert_one_connection(told: &Told) {
    for (name, value) in &told.stats {
        let expected = i64::from(matches!(name.as_str(), "connect" | "connect_good"));
        assert_eq!(*value, Value::from(expected), "{name} of {told:?}");
    }
}

/// OpenSSL 3.5 in the wheel.
#[test]
fn psycopg2_current() {
    talk_to_postgres("psycopg2-current", Plan::Auto);
}

#[test]
fn psycopg2_current_with_entry_probes() {
    talk_to_postgres("psycopg2-current", Plan::Entry);
}

/// OpenSSL 1.1.1 in the wheel.
#[test]
fn psycopg2_old() {
    talk_to_postgres("psycopg2-old", Plan::Auto);
}

#[test]
fn psycopg2_old_with_entry_probes() {
    talk_to_postgres("psycopg2-old", Plan::Entry);
}
