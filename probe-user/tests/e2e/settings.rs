//! The settings of contexts, against what the programs themselves say of them.

use serde_json::Value;

use crate::support::{
    SSLSESS,
    agent::{Agent, Plan},
    eventually,
    oracle::{Language, Oracle},
};

/// Compares every setting that a program tells; says how many those were.
fn compare(agent: &Agent, oracle: &mut Oracle) -> usize {
    let told = oracle.ask("settings");
    let contexts = agent.contexts_of(oracle.pid());
    let mut compared = 0;
    for told in told["contexts"].as_array().expect("an array of contexts") {
        let seen = contexts.iter().find(|c| c["ctx"] == told["ctx"] && c["state"] == "live");
        let seen = seen.unwrap_or_else(|| panic!("{told} is not there"));
        for (name, value) in told["settings"].as_object().expect("an object of settings") {
            assert_eq!(&seen["settings"][name], value, "{name} of {told}: {seen:#}");
            compared += 1;
        }
    }
    compared
}

fn every_setting(language: Language, settings: std::ops::RangeInclusive<usize>) {
    let agent = Agent::shared(Plan::Auto);
    let mut oracle = Oracle::start(language);
    agent.wait_until_attached();
    oracle.ask("varied 1000");
    let compared = compare(agent, &mut oracle);
    // Four servers and four clients.
    assert!((8 * settings.start()..=8 * settings.end()).contains(&compared), "{compared}");
}

#[test]
fn settings_are_what_python_says() {
    every_setting(Language::Python, 11..=11);
}

#[test]
fn settings_are_what_perl_says() {
    every_setting(Language::Perl, 8..=8);
}

#[test]
fn settings_are_what_ruby_says() {
    // Some only where they were set.
    every_setting(Language::Ruby, 6..=8);
}

/// Each look reads them again; an end leaves them as they were.
#[test]
fn settings_are_read_again_and_kept_at_the_end() {
    let agent = Agent::shared(Plan::Auto);
    let mut oracle = Oracle::start(Language::Python);
    let pid = oracle.pid();
    agent.wait_until_attached();
    oracle.ask("varied 1000");
    let timeouts = |contexts: &[Value]| -> Vec<u64> {
        let servers = contexts.iter().filter(|c| c["stats"]["accept"] == 1);
        let mut timeouts: Vec<u64> =
            servers.map(|c| c["settings"]["timeout"].as_u64().expect("known")).collect();
        timeouts.sort_unstable();
        timeouts
    };
    assert_eq!(timeouts(&agent.contexts_of(pid)), [1001, 1002, 1003, 1004]);
    oracle.ask("lengthen 5000");
    assert_eq!(timeouts(&agent.contexts_of(pid)), [6001, 6002, 6003, 6004]);
    oracle.ask("free");
    let ended = eventually("all contexts are freed", || {
        let contexts = agent.contexts_of(pid);
        contexts.iter().all(|c| c["state"] == "freed").then_some(contexts)
    });
    assert_eq!(timeouts(&ended), [6001, 6002, 6003, 6004]);
}

#[test]
fn settings_are_metrics() {
    let agent = Agent::shared(Plan::Auto);
    let mut oracle = Oracle::start(Language::Python);
    agent.wait_until_attached();
    oracle.ask("varied 1000");
    let told = oracle.ask("settings");
    let told = told["contexts"].as_array().expect("an array of contexts");
    let ctx = told
        .iter()
        .find(|told| told["scenario"] == "varied 2" && told["settings"]["timeout"] == 1002)
        .and_then(|told| told["ctx"].as_str())
        .expect("the server of the second pair");
    let labels = format!("{{comm=\"python3\",ctx=\"{ctx}\",pid=\"{}\"}}", oracle.pid());
    for (name, value) in [
        ("openssl_ctx_session_timeout_seconds", 1002.0),
        ("openssl_ctx_session_cache_size", 2000.0),
        ("openssl_ctx_num_tickets", 2.0),
    ] {
        assert_eq!(agent.metric(&format!("{name}{labels}")), Some(value), "{name}");
    }
    let metrics = agent.get("/metrics");
    let info = metrics
        .lines()
        .find(|line| {
            line.starts_with("openssl_ctx_info{")
                && line.contains(ctx)
                && line.contains(&format!("pid=\"{}\"", oracle.pid()))
        })
        .expect("it has a series");
    for label in [
        "cache_mode=\"client,server\"",
        "tickets=\"no\"",
        "min_protocol=\"TLSv1.2\"",
        "max_protocol=\"TLSv1.2\"",
        "external_cache=\"no\"",
    ] {
        assert!(info.contains(label), "{label} in {info}");
    }
}

/// Every setting of the system's library is known, with what says so.
#[test]
fn explain_names_every_setting() {
    let mut oracle = Oracle::start(Language::Perl);
    oracle.ask("stats");
    let output = std::process::Command::new(SSLSESS)
        .args(["explain", "--json", "--pid", &oracle.pid().to_string()])
        .output()
        .expect("it runs");
    let explained: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let settings = explained[0]["settings"].as_object().expect("an object");
    assert_eq!(settings.len(), 12);
    for (name, place) in settings {
        assert!(place["offset"].is_u64() && place["width"].is_u64(), "{name}: {place}");
    }
    let evidence = explained[0]["settings_evidence"].as_array().expect("an array");
    assert_eq!(evidence.len(), 12);
}
