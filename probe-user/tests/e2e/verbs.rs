//! The verbs, as a person uses them.

use std::{
    collections::HashSet,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;

use crate::support::{
    SSLSESS,
    agent::{Agent, Plan},
    compare::{Expect, assert_equal},
    eventually,
    oracle::{Language, Oracle},
    spawn,
};

fn output(args: &[&str]) -> String {
    let output = Command::new(SSLSESS).args(args).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&output(args)).expect("JSON")
}

/// Lines of a kind in what the kernel says of a process's file descriptors.
fn fdinfo(pid: u32, key: &str) -> Vec<String> {
    let directory = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("it runs");
    directory
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .filter_map(|text| Some(text.lines().find_map(|l| l.strip_prefix(key))?.trim().to_owned()))
        .collect()
}

/// Probes that a process has attached: one by one, or all of a file in one link.
fn probes_of(pid: u32) -> usize {
    let one_by_one = fdinfo(pid, "link_type:").iter().filter(|kind| *kind == "perf").count();
    let in_links = fdinfo(pid, "uprobe_cnt:");
    one_by_one + in_links.iter().filter_map(|count| count.parse::<usize>().ok()).sum::<usize>()
}

/// Waits until a `show` of a process has its probes.
pub(crate) fn wait_until_watched(show: u32, pid: u32) {
    // It does not stay long enough to find out what goes.
    let options = ["explain", "--json", "--probe-points", "starts", "--pid", &pid.to_string()];
    let explained = json(&options);
    let probes = explained[0]["probes"].as_array().expect("an array");
    let places: HashSet<_> =
        probes.iter().map(|p| (p["offset"].as_u64(), p["context"].as_str())).collect();
    eventually("show has its probes", || (probes_of(show) == places.len()).then_some(()));
}

/// What `show --json` prints of a process that did something while it watched.
pub(crate) fn shown_while(pid: u32, act: impl FnOnce()) -> Value {
    let mut command = Command::new(SSLSESS);
    command.args(["show", "--json", "--for", "1000s", "--pid", &pid.to_string()]);
    command.stdout(Stdio::piped());
    let show = spawn(command);
    wait_until_watched(show.id(), pid);
    act();
    let show_pid = Pid::from_raw(show.id().cast_signed());
    nix::sys::signal::kill(show_pid, Signal::SIGINT).expect("it runs");
    let output = show.wait_with_output().expect("it prints");
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn show_prints_what_was_used_while_it_watched() {
    let mut oracle = Oracle::start(Language::Python);
    let snapshot = shown_while(oracle.pid(), || {
        oracle.ask("run tls12_session_ids");
    });
    let told = oracle.told();
    let contexts = snapshot["contexts"].as_array().expect("an array of contexts");
    assert_eq!(contexts.len(), 2, "{snapshot:#}");
    for told in told {
        let seen = contexts.iter().find(|seen| seen["ctx"] == told.ctx).expect("it was used");
        for (name, value) in told.stats {
            assert_eq!(seen["stats"][&name], value, "{name}");
        }
    }
}

#[test]
fn explain_keeps_its_contract() {
    let mut oracle = Oracle::start(Language::Perl);
    oracle.ask("stats");
    let of_process = json(&["explain", "--json", "--pid", &oracle.pid().to_string()]);
    let of_process = of_process.as_array().expect("an array for a process");
    assert_eq!(of_process.len(), 1);
    let file = of_process[0]["file"].as_str().expect("a path");
    let of_file = json(&["explain", "--json", file]);
    assert_eq!(&of_file, &of_process[0], "a file and its mapping say the same");
    assert_eq!(of_file["arch"], "x86_64");
    assert_eq!(of_file["gaps"], Value::Array(Vec::new()));
    let layout = of_file["layout"].as_object().expect("an object");
    assert_eq!(layout.len(), 16);
    assert!(layout.values().all(Value::is_u64), "{layout:?}");
    let probes = of_file["probes"].as_array().expect("an array");
    let of_kind = |kind: &str| probes.iter().filter(|probe| probe["kind"] == kind).count();
    assert_eq!((of_kind("increment"), of_kind("switch")), (4, 1));
    assert_eq!((of_kind("birth"), of_kind("death")), (1, 1));
    let lasting = probes.iter().filter(|probe| probe["until_known"] == false);
    let lasting: Vec<_> = lasting.map(|probe| &probe["kind"]).collect();
    assert_eq!(lasting, ["birth", "death"]);
    assert!(probes.iter().all(|probe| probe["class"] == "emulated"));
    for probe in probes {
        let text = probe["instruction"].as_str().expect("a text");
        let kind = match text.split(' ').next() {
            Some("nop") => "nop",
            Some("jmp") => "jmp",
            Some("call") => "call",
            Some("push") => "push",
            Some(name) if name.starts_with('j') => "jcc",
            _ => "stepped",
        };
        assert_eq!(probe["instruction_class"], kind, "{text}");
        assert!(probe["cost"].as_f64().expect("measured") < 2.0, "{text}");
    }
    let all = json(&["explain", "--json", "--probe-points", "all", file]);
    let all = all["probes"].as_array().expect("an array");
    let of_kind = |kind: &str| all.iter().filter(|probe| probe["kind"] == kind).count();
    assert_eq!((of_kind("increment"), of_kind("switch"), of_kind("death")), (15, 0, 1));
    let entry = json(&["explain", "--json", "--probe-plan", "entry", file]);
    let kinds: Vec<_> =
        entry["probes"].as_array().expect("an array").iter().map(|p| &p["kind"]).collect();
    assert_eq!(kinds, ["birth", "death", "entry", "entry"]);
    assert!(output(&["explain", file]).contains("Layout: 16 of 16 fields"));
}

#[test]
fn check_says_that_it_works_here() {
    let report = json(&["check", "--json"]);
    assert_eq!(report["ok"], true, "{report:#}");
    assert!(output(&["check"]).contains("sslsess works here."));
}

#[test]
fn the_page_leads_to_the_rest() {
    let agent = Agent::shared(Plan::Auto);
    let page = agent.get("/");
    for path in ["/metrics", "/api/v1/contexts"] {
        assert!(page.contains(&format!("href=\"{path}\"")), "{page}");
        assert!(!agent.get(path).is_empty());
    }
}

#[test]
fn top_asks_a_running_agent() {
    let agent = Agent::shared(Plan::Auto);
    let mut oracle = Oracle::start(Language::Ruby);
    agent.wait_until_attached();
    oracle.ask("run tls12_tickets");
    let pid = oracle.pid().to_string();
    let table = output(&["top", "--agent", agent.url(), "--pid", &pid, "--for", "300ms"]);
    let lines = table.lines().filter(|line| line.trim_start().starts_with(&pid)).count();
    assert!(lines >= 2, "two contexts at least once: {table}");
}

/// Contexts that are older than it, and that nobody uses.
#[test]
fn top_finds_what_was_there_before_it() {
    let mut oracle = Oracle::start(Language::Python);
    oracle.ask("run tls13_tickets");
    let (pid, told) = (oracle.pid().to_string(), oracle.told());
    let mut top = Command::new(SSLSESS)
        .args(["top", "--pid", &pid, "--interval", "200ms", "--for", "120s"])
        // However busy this machine is.
        .args(["--scan-limit", "60s"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let lines = BufReader::new(top.stdout.take().expect("it is piped")).lines();
    let mut missing: HashSet<&str> = told.iter().map(|told| told.ctx.as_str()).collect();
    for line in lines.map_while(Result::ok) {
        missing.retain(|context| !line.contains(context));
        if missing.is_empty() {
            break;
        }
    }
    top.kill().and_then(|()| top.wait()).expect("it is our child");
    assert!(missing.is_empty(), "{missing:?}");
}

/// Stopped by a service manager or by Ctrl-C, it takes its probes with it, however
/// they are attached.
#[test]
fn an_agent_that_is_stopped_leaves_nothing() {
    let mut oracle = Oracle::start(Language::Python);
    let ways =
        [("auto", Signal::SIGTERM), ("auto", Signal::SIGINT), ("one-by-one", Signal::SIGTERM)];
    for (links, signal) in ways {
        let agent = Agent::start(&["--probe-links", links]);
        agent.wait_until_attached();
        oracle.ask("run tls13_tickets");
        let told = oracle.told();
        // Those of the last run; nobody uses the ones before any more.
        assert_equal(&agent, oracle.pid(), &told[told.len() - 2..], Expect::Live);
        let one_by_one = fdinfo(agent.pid(), "link_type:").iter().any(|kind| kind == "perf");
        assert_eq!(one_by_one, links == "one-by-one" || !has_multi(), "{links}");
        let programs = programs_of(agent.pid());
        assert!(programs.len() > 1 && probes_of(agent.pid()) > 1, "{programs:?}");
        assert!(agent.stop(signal), "it exits with 0");
        // The kernel frees programs a moment after their last user is gone.
        eventually("its programs are gone", || {
            let left: Vec<u32> = aya::programs::loaded_programs()
                .filter_map(Result::ok)
                .map(|program| program.id())
                .filter(|id| programs.contains(id))
                .collect();
            left.is_empty().then_some(())
        });
    }
    // And the program that was observed goes on.
    oracle.ask("run tls12_tickets");
}

/// Whether the kernel attaches many probes in one step: from 6.6 on.
fn has_multi() -> bool {
    let release = nix::sys::utsname::uname().expect("it is told").release().to_owned();
    let release = release.to_string_lossy().into_owned();
    let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(6))
}

/// Ids of the BPF programs that a process holds.
fn programs_of(pid: u32) -> Vec<u32> {
    fdinfo(pid, "prog_id:").iter().map(|id| id.parse().expect("a number")).collect()
}
