//! The state of each library that processes map is visible.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    SSLSESS,
    agent::Agent,
    eventually,
    libraries::{private_libraries, python_with},
    oracle::ORACLES,
    spawn,
};

/// What is said of the library at a path.
fn target(snapshot: &Value, library: &Path) -> Option<Value> {
    let targets = snapshot["targets"].as_array().expect("an array");
    let mut of_it = targets.iter().filter(|t| t["library"]["path"].as_str() == library.to_str());
    let found = of_it.next().cloned();
    assert!(of_it.next().is_none(), "it is there once");
    found
}

#[test]
fn observed_and_refused_libraries_are_told_with_processes_contexts_and_events() {
    let agent = Agent::start(&[]);
    let libraries = private_libraries();
    let libssl = libraries.path().join("libssl.so.3");
    let mut oracles = [python_with(libraries.path()), python_with(libraries.path())];
    agent.wait_until_attached_to(&libssl);
    let before = target(&agent.snapshot(), &libssl).expect("it is attached");
    assert_eq!(before["last_event"], Value::Null, "nobody has used it");
    oracles[0].ask("run tls13_tickets");
    let contexts = oracles[0].told().len();

    let directory = TempDir::new().expect("a directory");
    let damaged = directory.path().join("libssl.so.3");
    fs::write(&damaged, vec![0x90; 8192]).expect("it can be written");
    let mut command = Command::new("/usr/bin/python3");
    command.arg(format!("{ORACLES}/mapper.py")).arg(&damaged).stdout(Stdio::null());
    let mut mapper = spawn(command);

    let mut pids = oracles.each_ref().map(|oracle| oracle.pid());
    pids.sort_unstable();
    let refused = eventually("both are told", || {
        let snapshot = agent.snapshot();
        let observed = target(&snapshot, &libssl).expect("it is attached");
        if observed["processes"].as_array().map(Vec::len) != Some(2) {
            return None;
        }
        assert_eq!(observed["state"], "observed");
        assert_eq!(observed["reason"], Value::Null);
        assert_eq!(observed["processes"], serde_json::json!(pids));
        assert_eq!(observed["contexts"], serde_json::json!({"live": contexts, "ended": 0}));
        assert!(observed["probes"].as_u64() > Some(0));
        assert!(observed["last_event"].is_string(), "{observed}");
        target(&snapshot, &damaged)
    });
    assert_eq!(refused["state"], "refused");
    assert_eq!(refused["processes"], serde_json::json!([mapper.id()]));
    assert_eq!((&refused["probes"], &refused["last_event"]), (&Value::from(0), &Value::Null));
    let reason = refused["reason"].as_str().expect("a reason");
    assert!(reason.contains("not a readable 64-bit ELF file"), "{reason}");

    let metrics = agent.get("/metrics");
    let line = |name: &str| {
        let label = format!("library=\"{}\"", damaged.display());
        let mut lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        lines.find(|line| line.contains(&label))
    };
    let counted = line("sslsess_target_processes");
    assert!(counted.is_some_and(|line| line.ends_with(" 1")), "{counted:?}");
    let why = line("sslsess_target_refused").expect("it is refused");
    assert!(why.contains("not a readable 64-bit ELF file") && why.ends_with(" 1"), "{why}");
    assert!(agent.metric("sslsess_targets{state=\"refused\"}") >= Some(1.0));

    // As people see it, who look once.
    let pid = pids[0].to_string();
    let mapper_pid = mapper.id().to_string();
    let output = Command::new(SSLSESS)
        .args(["show", "--targets", "--pid", &pid, "--pid", &mapper_pid])
        .output()
        .expect("it runs");
    let shown = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<&str> = shown.lines().collect();
    let at = |path: &Path| {
        let line = lines.iter().position(|line| line.ends_with(&path.display().to_string()));
        line.unwrap_or_else(|| panic!("{} is not told: {shown}", path.display()))
    };
    assert!(lines[at(&libssl)].starts_with("observed"), "{shown}");
    assert_eq!(lines[at(&libssl) + 1].trim(), format!("pids: {pid}"), "{shown}");
    assert!(lines[at(&damaged)].starts_with("refused"), "{shown}");
    assert!(lines[at(&damaged) + 1].contains("is not a readable 64-bit ELF file"), "{shown}");

    mapper.kill().expect("it runs");
    let _ = mapper.wait();
}
