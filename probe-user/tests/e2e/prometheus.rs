//! A real Prometheus scrapes the agent and answers queries; promtool finds
//! nothing to say about the metrics.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{
    agent::Agent,
    eventually, free_port,
    oracle::{Language, Oracle},
    spawn,
};

#[test]
fn prometheus_answers_with_the_right_numbers() {
    let agent = Agent::start(&[]);
    let mut oracle = Oracle::start(Language::Python);
    agent.wait_until_attached();
    oracle.ask("run tls13_tickets");
    let told = oracle.told();

    let directory = tempfile::tempdir().expect("a directory for Prometheus");
    let config = directory.path().join("prometheus.yml");
    let target = agent.url().strip_prefix("http://").expect("a URL");
    let text = format!(
        "global: {{ scrape_interval: 1s }}\n\
         scrape_configs: [{{ job_name: sslsess, static_configs: [{{ targets: ['{target}'] }}] }}]\n"
    );
    fs::write(&config, text).expect("a configuration");
    let port = free_port();
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut prometheus = spawn(command);

    for told in told {
        for (name, value) in &told.stats {
            let query =
                format!("openssl_ctx_sess_{name}{{pid=\"{}\",ctx=\"{}\"}}", oracle.pid(), told.ctx);
            let answer = eventually(&format!("Prometheus knows {query}"), || ask(port, &query));
            assert_eq!(answer, value.to_string(), "{query}");
        }
    }
    prometheus.kill().expect("it runs");
    let _ = prometheus.wait();
}

/// The value that a query has, if it has one already.
fn ask(port: u16, query: &str) -> Option<String> {
    let mut answer = ureq::get(format!("http://127.0.0.1:{port}/api/v1/query"))
        .query("query", query)
        .call()
        .ok()?;
    let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string().ok()?).ok()?;
    Some(answer["data"]["result"][0]["value"][1].as_str()?.to_owned())
}

#[test]
fn promtool_has_nothing_to_say() {
    let agent = Agent::start(&["--probe-points", "handshakes"]);
    let mut oracle = Oracle::start(Language::Ruby);
    agent.wait_until_attached();
    oracle.ask("run tls13_tickets");
    let metrics = agent.get("/metrics");
    for family in ["openssl_sess_hits_total{", "openssl_ctx_handshake_duration_seconds_bucket{"] {
        assert!(metrics.contains(family), "{metrics}");
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    let mut stdin = promtool.stdin.take().expect("it is piped");
    stdin.write_all(metrics.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// A context without series of its own is counted as left out, and in the totals.
#[test]
fn series_are_bounded() {
    let agent = Agent::start(&["--max-context-series", "3"]);
    let mut oracle = Oracle::start(Language::Perl);
    agent.wait_until_attached();
    oracle.ask("run sni_switch");
    oracle.ask("run full_cache");
    let live = agent.snapshot()["contexts"]
        .as_array()
        .expect("an array of contexts")
        .iter()
        .filter(|context| context["state"] == "live")
        .count();
    let metrics = agent.get("/metrics");
    let series = metrics.lines().filter(|line| line.starts_with("openssl_ctx_info{")).count();
    assert_eq!(series, 3);
    assert_eq!(agent.metric("openssl_ctx_omitted"), Some(live as f64 - 3.0));
}
