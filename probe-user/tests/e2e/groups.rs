//! Sums by what does not churn: over reloads and kills, over forks, and for as long
//! as somebody has to scrape the last values.

use std::{
    collections::{BTreeMap, HashSet},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use sslsess::{
    agent::{Agent as InProcess, AgentOptions},
    context::{
        groups::{GroupBy, Label},
        registry::Retention,
    },
    export::metrics,
    image::PlanOptions,
    kernel::LinkChoice,
    snapshot::{OVERFLOW, Snapshot},
};

use crate::{
    nginx::{Nginx, requests},
    support::{
        agent::Agent,
        churn::{Program, told, total},
        compare::{Expect, assert_equal},
        eventually,
        libraries::private_libraries,
        oracle::{Language, ORACLES, Oracle, Told},
        private_copy,
        tls::Certificates,
    },
};

/// Requests until it is time to stop, each on a connection of its own; how many
/// were answered, and how many cut off.
fn load(port: u16, stop: &AtomicBool, served: &AtomicI64, cut_off: &AtomicI64) {
    let certificate = Certificates::get().certificate.display().to_string();
    while !stop.load(Relaxed) {
        let output = Command::new("curl")
            .args(["-s", "--http1.1", "-H", "Connection: close", "--cacert", &certificate])
            .args(["--resolve", &format!("localhost:{port}:127.0.0.1"), "-o", "/dev/null"])
            .args(["-w", "%{http_code}\n", &format!("https://localhost:{port}/[1-50]")])
            .stdin(Stdio::null())
            .output()
            .expect("curl runs");
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let counter = if line == "200" { served } else { cut_off };
            counter.fetch_add(1, Relaxed);
        }
    }
}

/// The sums of an executable, by their names.
fn totals(text: &str, exe: &str) -> BTreeMap<String, i64> {
    let label = format!("_total{{exe=\"{exe}\"}} ");
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(&label)?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// Eight workers, twenty reloads, workers killed in the middle of what they do: the
/// sums are the requests that were served, but for those that were cut off, and
/// they never fall.
#[test]
fn sums_of_nginx_survive_reloads_and_kills() {
    const RELOADS: usize = 20;
    const WORKERS: usize = 8;
    let agent = Agent::start(&[]);
    let nginx = Nginx::with_workers(None, WORKERS);
    agent.wait_until_attached();
    let exe = nginx.exe().display().to_string();
    requests(nginx.port, "localhost", 40);
    assert_eq!(totals(&agent.get("/metrics"), &exe).get("openssl_sess_accept_good"), Some(&40));

    let (served, cut_off) = (AtomicI64::new(40), AtomicI64::new(0));
    let (stop, done) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let curls: Vec<_> =
            (0..3).map(|_| scope.spawn(|| load(nginx.port, &stop, &served, &cut_off))).collect();
        let scraper = scope.spawn(|| {
            let mut before = BTreeMap::new();
            while !done.load(Relaxed) {
                let now = totals(&agent.get("/metrics"), &exe);
                for (name, value) in &before {
                    assert!(now.get(name) >= Some(value), "{name}: {value}, then {now:?}");
                }
                before = now;
            }
        });
        // Somebody who is not there to ask: numbers that look random, and are the same.
        let mut random = 0x2545_f491_u64;
        for _ in 0..RELOADS {
            let before = served.load(Relaxed);
            eventually("requests are served", || {
                (served.load(Relaxed) > before + 20).then_some(())
            });
            let workers = nginx.workers();
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let victim = workers[random as usize % workers.len()];
            let _ = kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL);
            nginx.reload();
        }
        stop.store(true, Relaxed);
        curls.into_iter().for_each(|curl| curl.join().expect("curl ran"));
        done.store(true, Relaxed);
        scraper.join().expect("no sum fell");
    });
    let (served, cut_off) = (served.into_inner(), cut_off.into_inner());
    let good = totals(&agent.get("/metrics"), &exe)["openssl_sess_accept_good"];
    eprintln!("{served} requests served, {cut_off} cut off, {good} good handshakes");
    assert!((served..=served + cut_off).contains(&good));
    assert!(served > 400);
}

/// A master that makes contexts and never uses them gives its workers nothing that
/// anybody counted: whatever they have is their own, also where a servername
/// callback makes a context count first. (With a libssl that nobody else uses: what
/// others do could make the agent lose something, and then it concludes nothing.)
#[test]
fn workers_of_a_master_that_counts_nothing_count_their_own() {
    let libraries = private_libraries();
    let nginx = Nginx::start_with(Some(libraries.path()));
    let options =
        AgentOptions { pids: HashSet::from([nginx.pid()]), ..options(GroupBy::default()) };
    let mut agent = InProcess::start(options).expect("it works here");
    let exe = nginx.exe().display().to_string();
    nginx.reload();
    requests(nginx.port, "localhost", 100);
    requests(nginx.port, "a.test", 200);
    requests(nginx.port, "b.test", 300);
    let snapshot = agent.snapshot().expect("the maps can be read");
    let group = snapshot
        .groups
        .iter()
        .find(|group| group.labels[0].1.as_deref() == Some(&exe))
        .expect("its group");
    for counter in ["accept", "accept_good"] {
        let total = group.totals.iter().find(|(name, _)| *name == counter).map(|(_, value)| *value);
        assert_eq!(total, Some(600), "{counter}");
    }
    let json = serde_json::to_value(&snapshot).expect("it has a JSON form");
    for worker in nginx.workers() {
        assert_eq!(of_unknown_origin(&json, worker), None);
    }
    agent.stop();
}

/// An agent in this process.
fn options(group_by: GroupBy) -> AgentOptions {
    AgentOptions {
        pids: HashSet::new(),
        plan: PlanOptions::default(),
        links: LinkChoice::Auto,
        max_contexts: 1024,
        retention: Retention { ended: 1024, time: Duration::ZERO },
        group_by,
        scan: None,
        release_after: Duration::from_secs(60),
    }
}

fn accepts(told: &[Told]) -> i64 {
    told.iter().map(|told| told.stats["accept"].as_i64().expect("it is told")).sum()
}

/// A thousand handshakes, a fork, and both go on.
#[test]
fn a_fork_after_a_thousand_handshakes_counts_them_once() {
    let agent = Agent::start(&[]);
    let python = std::fs::canonicalize("/usr/bin/python3").expect("python is installed");
    let (_directory, python) = private_copy(python.to_str().expect("a path"));
    let mut oracle = Oracle::start_python_at(&python);
    agent.wait_until_attached();
    let answer = oracle.ask("fork 1000");
    let child = u32::try_from(answer["child"].as_u64().expect("a pid")).expect("a pid");
    let (parent_says, child_says) = (oracle.told(), told(&answer));
    assert_equal(&agent, oracle.pid(), &parent_says, Expect::Live);
    assert_equal(&agent, child, &child_says, Expect::Live);
    let good = |told: &[Told]| -> i64 {
        told.iter().filter_map(|told| told.stats["accept_good"].as_i64()).sum()
    };
    assert_eq!((good(&parent_says), good(&child_says)), (1003, 1005));
    for counter in ["accept", "accept_good", "connect", "connect_good"] {
        assert_eq!(total(&agent, &python, counter), 1008, "{counter}");
    }
    kill(Pid::from_raw(child.cast_signed()), Signal::SIGKILL).expect("it waits for this");
    assert_equal(&agent, child, &child_says, Expect::Exited);
    assert_eq!(total(&agent, &python, "accept_good"), 1008);
}

fn forked(oracle: &mut Oracle) -> u32 {
    let answer = oracle.ask("fork");
    u32::try_from(answer["child"].as_u64().expect("a pid")).expect("a pid")
}

/// How many contexts of a process are said to be of unknown origin.
fn of_unknown_origin(snapshot: &Value, pid: u32) -> Option<String> {
    let gaps = snapshot["gaps"].as_array().expect("an array of gaps");
    let gap = gaps.iter().find(|gap| {
        gap["pid"] == pid && gap["reason"].as_str().is_some_and(|r| r.contains("that was forked"))
    })?;
    Some(gap["reason"].as_str()?.split_whitespace().next()?.to_owned())
}

/// What a child had when it was first seen may be its parent's; what it is seen to
/// count is its own.
#[test]
fn a_fork_from_before_the_agent_is_counted_from_its_first_use() {
    let program = Program::new();
    let mut oracle = program.start();
    oracle.ask("keep 3 10");
    let child = forked(&mut oracle);
    let agent = Agent::start(&[]);
    program.wait_until_attached(&agent);
    oracle.ask("child use 1");
    oracle.ask("use 2");
    let (parent_says, child_says) = (told(&oracle.ask("stats")), told(&oracle.ask("child stats")));
    assert_eq!((accepts(&parent_says), accepts(&child_says)), (36, 33));
    assert_equal(&agent, oracle.pid(), &parent_says, Expect::Live);
    assert_equal(&agent, child, &child_says, Expect::Live);
    assert_eq!(program.total(&agent, "accept"), 3 * (10 + 2 + 1), "each once");
    let snapshot = agent.snapshot();
    assert_eq!(of_unknown_origin(&snapshot, child).as_deref(), Some("3"));
    assert_eq!(of_unknown_origin(&snapshot, oracle.pid()), None);
    let counted = agent.metric("sslsess_contexts_of_unknown_origin_total");
    assert!(counted >= Some(3.0), "{counted:?}");
    // What they do from here on is certain.
    oracle.ask("child use 4");
    oracle.ask("child make 100 1");
    oracle.ask("child make-clients 100 1");
    assert_eq!(program.total(&agent, "accept"), 39 + 12 + 100);
    assert_eq!(program.total(&agent, "connect"), 100);
    assert_eq!(of_unknown_origin(&agent.snapshot(), child).as_deref(), Some("3"));
}

/// The agent sees the fork, and has not seen what the parent has: it does not look.
#[test]
fn a_fork_of_an_idle_parent_is_counted_from_its_first_use() {
    let program = Program::new();
    let mut oracle = program.start();
    oracle.ask("keep 3 10");
    let agent = Agent::start(&["--probe-points", "starts"]);
    program.wait_until_attached(&agent);
    let child = forked(&mut oracle);
    oracle.ask("child use 1");
    assert_eq!(program.total(&agent, "accept"), 3);
    oracle.ask("use 1");
    assert_eq!(program.total(&agent, "accept"), 3 * (10 + 1 + 1));
    assert_equal(&agent, child, &told(&oracle.ask("child stats")), Expect::Live);
    // A fork of what is known is known.
    let known = forked(&mut oracle);
    oracle.ask("child use 5");
    assert_eq!(program.total(&agent, "accept"), 3 * (10 + 1 + 1 + 5));
    assert_eq!(of_unknown_origin(&agent.snapshot(), known), None);
}

/// The last values of a process that lived between two scrapes are in one scrape.
#[test]
fn a_short_life_is_scraped_once() {
    let agent = Agent::start(&["--retain", "0s"]);
    // Somebody has to map the library before.
    let _keeper = Oracle::start(Language::Python);
    agent.wait_until_attached();
    let certificates = Certificates::get();
    for way in ["exit", "free"] {
        let output = Command::new("/usr/bin/python3")
            .args([&format!("{ORACLES}/short.py"), way])
            .env("CERTIFICATE", &certificates.certificate)
            .env("KEY", &certificates.key)
            .output()
            .expect("python runs");
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let pid = &answer["pid"];
        // Any number of looks that are no scrapes.
        for _ in 0..2 {
            let snapshot = agent.snapshot();
            let contexts = snapshot["contexts"].as_array().expect("an array of contexts");
            assert_eq!(contexts.iter().filter(|context| context["pid"] == *pid).count(), 2);
        }
        let of_it = |text: &str| -> Vec<String> {
            let label = format!("pid=\"{pid}\"");
            text.lines().filter(|line| line.contains(&label)).map(str::to_owned).collect()
        };
        let first = of_it(&agent.get("/metrics"));
        for told in told(&answer) {
            for (name, value) in &told.stats {
                let beginning = format!("openssl_ctx_sess_{name}{{");
                let ctx = format!("ctx=\"{}\"", told.ctx);
                let end = format!(" {value}");
                let series = first
                    .iter()
                    .filter(|l| l.starts_with(&beginning) && l.contains(&ctx) && l.ends_with(&end));
                assert_eq!(series.count(), 1, "{name} of {} in {first:#?}", told.ctx);
            }
        }
        let state = if way == "exit" { "state=\"exited\"" } else { "state=\"freed\"" };
        let info = first.iter().filter(|line| line.starts_with("openssl_ctx_info{"));
        assert!(info.clone().count() == 2 && info.clone().all(|line| line.contains(state)));
        assert_eq!(of_it(&agent.get("/metrics")), [""; 0], "it was scraped");
        let snapshot = agent.snapshot();
        let contexts = snapshot["contexts"].as_array().expect("an array of contexts");
        assert!(contexts.iter().all(|context| context["pid"] != *pid), "it is not listed any more");
    }
}

/// Sums by chosen labels; what is beyond the bound is summed up together.
#[test]
fn groups_are_by_what_was_chosen_and_bounded() {
    let programs = [Program::new(), Program::new(), Program::new()];
    let mut oracles: Vec<Oracle> = programs.iter().map(Program::start).collect();
    let pids: HashSet<u32> = oracles.iter().map(Oracle::pid).collect();
    let options = |labels: &[Label], most| AgentOptions {
        pids: pids.clone(),
        ..options(GroupBy::new(labels, most))
    };
    let mut by_library =
        InProcess::start(options(&[Label::Library, Label::Comm], 10)).expect("it works here");
    let mut bounded =
        InProcess::start(options(&[Label::Exe, Label::Container], 2)).expect("it works here");
    for (accepts, oracle) in (1..).zip(&mut oracles) {
        oracle.ask(&format!("make {accepts} 1"));
        oracle.ask(&format!("keep 1 {accepts}"));
    }
    // Others may use the library as well: the sums are at least ours.
    let snapshot = by_library.snapshot().expect("the maps can be read");
    let libssl = programs[0].libssl().display().to_string();
    let ours = [("library", Some(libssl)), ("comm", Some("churn".to_owned()))];
    let group = snapshot.groups.iter().find(|group| group.labels == ours).expect("ours");
    assert!(accept(&snapshot, |labels| *labels == ours) >= 12, "{group:?}");
    assert!(group.live >= 3);
    let text = scrape(&snapshot);
    assert!(text.contains("openssl_sess_accept_total{comm=\"churn\",library="), "{text}");

    let snapshot = bounded.snapshot().expect("the maps can be read");
    assert_eq!(snapshot.groups.iter().filter(|group| !group.overflow).count(), 2);
    let beyond = snapshot.groups.iter().find(|group| group.overflow).expect("there is one");
    assert!(beyond.labels.iter().all(|(_, value)| value.as_deref() == Some(OVERFLOW)));
    // Nothing is lost: whichever has no group of its own is there.
    assert!(accept(&snapshot, |_| true) >= 12);
    assert!(snapshot.gaps.iter().any(|gap| gap.reason.contains("--max-groups")));
    assert!(snapshot.health.beyond_groups > 0);
    let json = serde_json::to_value(&snapshot).expect("it has a JSON form");
    let groups = json["groups"].as_array().expect("an array of groups");
    assert!(groups.iter().all(|group| group["exe"].is_string() && group["totals"].is_object()));
    let text = scrape(&snapshot);
    let labels = format!("{{container_id=\"{OVERFLOW}\",exe=\"{OVERFLOW}\"}}");
    assert!(text.contains(&format!("openssl_sess_accept_total{labels}")), "{text}");
    by_library.stop();
    bounded.stop();
}

type Labels = Vec<(&'static str, Option<String>)>;

fn accept(snapshot: &Snapshot, is_asked_for: impl Fn(&Labels) -> bool) -> i64 {
    let groups = snapshot.groups.iter().filter(|group| is_asked_for(&group.labels));
    let totals = groups.flat_map(|group| group.totals.iter());
    totals.filter(|(name, _)| *name == "accept").map(|(_, value)| value).sum()
}

fn scrape(snapshot: &Snapshot) -> String {
    metrics::encode(snapshot).expect("it can be written").0
}
