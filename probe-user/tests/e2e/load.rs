//! Many handshakes at once.

use crate::support::{
    agent::{Agent, Plan},
    compare::{Expect, assert_equal},
    oracle::{Language, Oracle},
};

fn eight_threads(plan: Plan) {
    let agent = Agent::shared(plan);
    let mut oracle = Oracle::start(Language::Python);
    agent.wait_until_attached();
    oracle.ask("threads 8 2000");
    let told = oracle.told();
    let most = told.iter().filter_map(|told| told.stats["accept_good"].as_i64()).max();
    assert_eq!(most, Some(16_000), "all threads share one server context");
    assert_equal(agent, oracle.pid(), &told, Expect::Live);
    let used: Vec<_> = told.into_iter().filter(|told| !told.is_unused()).collect();
    oracle.tell("exit");
    let pid = oracle.pid();
    assert!(oracle.wait().success());
    assert_equal(agent, pid, &used, Expect::Exited);
}

#[test]
fn eight_threads_of_2000_handshakes() {
    eight_threads(Plan::Auto);
}

#[test]
fn eight_threads_of_2000_handshakes_with_births() {
    eight_threads(Plan::Births);
}

#[test]
fn eight_threads_of_2000_handshakes_with_entry_probes() {
    eight_threads(Plan::Entry);
}
