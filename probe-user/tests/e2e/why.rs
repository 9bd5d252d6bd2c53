//! `show --why` in real situations: what it says, and that it says no more.

use std::process::{Child, Command, Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    support::{
        SSLSESS,
        oracle::{ORACLES, Oracle, Told},
        spawn,
    },
    verbs::wait_until_watched,
};

/// `show --why`, watching.
struct Show(Child);

impl Show {
    /// Watches some processes; returns when its probes are in place.
    fn start(pids: &[u32], options: &[&str]) -> Self {
        let mut command = Command::new(SSLSESS);
        command.args(["show", "--why", "--for", "1000s"]).args(options);
        for pid in pids {
            command.args(["--pid", &pid.to_string()]);
        }
        command.stdout(Stdio::piped());
        let show = spawn(command);
        wait_until_watched(show.id(), pids[0]);
        Self(show)
    }

    /// Ends it, and returns what it printed.
    fn end(self) -> String {
        let pid = Pid::from_raw(self.0.id().cast_signed());
        kill(pid, Signal::SIGINT).expect("it runs");
        let output = self.0.wait_with_output().expect("it prints");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

/// Python, with the situations.
fn situations() -> Oracle {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(format!("{ORACLES}/why.py"));
    Oracle::start_command(command)
}

/// What was found of a context.
struct Found<'v>(&'v Value);

impl<'v> Found<'v> {
    /// Of the context that did most of what was done in a scenario, as a server
    /// (`accept`) or as a client (`connect`).
    fn of(shown: &'v Value, told: &[Told], scenario: &str, role: &str) -> Self {
        let told: Vec<&str> = told
            .iter()
            .filter(|told| told.scenario == scenario)
            .map(|told| told.ctx.as_str())
            .collect();
        let contexts = shown["contexts"].as_array().expect("an array of contexts");
        let found = contexts
            .iter()
            .filter(|seen| told.iter().any(|ctx| seen["ctx"] == *ctx))
            .filter(|seen| seen["stats"][role].as_i64() > Some(0))
            .max_by_key(|seen| seen["stats"]["misses"].as_i64());
        Self(found.unwrap_or_else(|| panic!("{scenario}: no {role} in {shown:#}")))
    }

    fn findings(&self) -> &'v [Value] {
        self.0["why"].as_array().expect("an array of findings")
    }

    /// The kinds that were found, each with its certainty.
    fn kinds(&self) -> Vec<(&'v str, &'v str)> {
        let text = |value: &'v Value| value.as_str().expect("text");
        self.findings().iter().map(|f| (text(&f["kind"]), text(&f["certainty"]))).collect()
    }

    /// The kinds that were found, and when each is so.
    fn whens(&self) -> Vec<(&'v str, &'v str)> {
        let text = |value: &'v Value| value.as_str().expect("text");
        self.findings().iter().map(|f| (text(&f["kind"]), text(&f["when"]))).collect()
    }

    /// What it counted while it was watched.
    fn counted(&self, counter: &str) -> i64 {
        let counted = &self.0["watched"]["counted"][counter];
        counted.as_i64().unwrap_or_else(|| panic!("no {counter} in {:#}", self.0["watched"]))
    }

    /// The summary of a kind.
    fn summary(&self, kind: &str) -> &'v str {
        let finding = self.findings().iter().find(|finding| finding["kind"] == kind);
        finding.and_then(|finding| finding["summary"].as_str()).unwrap_or_default()
    }

    /// The evidence of a kind, all of it.
    fn evidence(&self, kind: &str) -> String {
        let finding = self.findings().iter().find(|finding| finding["kind"] == kind);
        let finding = finding.unwrap_or_else(|| panic!("no {kind} in {:#}", self.0["why"]));
        finding["evidence"].to_string()
    }
}

#[test]
fn each_situation_has_its_reason() {
    let mut python = situations();
    let show = Show::start(&[python.pid()], &["--json"]);
    for scenario in python.scenarios() {
        python.ask(&format!("run {scenario}"));
    }
    let told = python.told();
    let shown: Value = serde_json::from_str(&show.end()).expect("JSON");
    let of = |scenario: &str, role: &str| Found::of(&shown, &told, scenario, role);
    let (certain, likely, possible) = ("certain", "likely", "possible");

    assert_eq!(of("works", "accept").kinds(), [("works", certain)]);
    assert_eq!(of("works", "connect").kinds(), [("works", certain)]);

    let off = of("cache_off", "accept");
    assert_eq!(off.kinds(), [("none", certain), ("cache-off", certain)]);
    assert!(off.evidence("cache-off").contains("session cache mode 0x0: off"));
    assert!(off.evidence("cache-off").contains("with SSL_OP_NO_TICKET"));

    let tiny = of("tiny_cache", "accept");
    let expected =
        [("none", certain), ("cache-too-small", likely), ("made-up-session-ids", possible)];
    assert_eq!(tiny.kinds(), expected);
    let evidence = tiny.evidence("cache-too-small");
    assert!(evidence.contains("session cache size 2") && evidence.contains("misses = 4"));
    assert_eq!(
        of("tiny_cache", "connect").kinds(),
        [("none", certain), ("never-offered", certain), ("refused-by-server", certain)]
    );

    let short = of("short_timeout", "accept");
    assert_eq!(short.kinds(), [("none", certain), ("expired", certain)]);
    let evidence = short.evidence("expired");
    assert!(evidence.contains("timeouts = 3") && evidence.contains("timeout 1 s"), "{evidence}");

    let none = of("no_tickets", "accept");
    assert_eq!(none.kinds(), [("none", certain), ("no-tickets", likely)]);

    let unnamed = of("no_session_id_context", "accept");
    assert_eq!(unnamed.kinds(), [("none", certain), ("no-session-id-context", certain)]);
    assert!(unnamed.evidence("no-session-id-context").contains("3 handshakes were started"));

    let new = of("never_offered", "accept");
    assert_eq!(new.kinds(), [("none", certain), ("never-offered", likely)]);
    let client = of("never_offered", "connect");
    assert_eq!(client.kinds(), [("none", certain), ("never-offered", certain)]);

    // A miss in every handshake, and no session was ever offered.
    let made_up = of("made_up_session_ids", "accept");
    assert_eq!(made_up.kinds(), [("none", certain), ("made-up-session-ids", possible)]);
    assert!(made_up.evidence("made-up-session-ids").contains("misses = 5"));

    let restarted = of("restarted", "accept");
    assert_eq!(restarted.kinds(), [("none", certain), ("unknown-sessions", likely)]);
}

#[test]
fn workers_that_share_nothing_are_named() {
    let mut python = situations();
    let workers: Vec<u32> =
        serde_json::from_value(python.ask("workers 2")["workers"].clone()).expect("pids");
    let show = Show::start(&workers, &["--json"]);
    python.ask("visit 6");
    let shown: Value = serde_json::from_str(&show.end()).expect("JSON");
    let contexts = shown["contexts"].as_array().expect("an array of contexts");
    assert_eq!(contexts.len(), 2, "{shown:#}");
    for (worker, other) in [(workers[0], workers[1]), (workers[1], workers[0])] {
        let seen = contexts.iter().find(|seen| seen["pid"] == worker).expect("it served");
        let found = Found(seen);
        assert_eq!(
            found.kinds(),
            [("none", "certain"), ("not-shared", "likely"), ("made-up-session-ids", "possible")]
        );
        let evidence = found.evidence("not-shared");
        assert!(evidence.contains(&format!("of one family: {other}\"")), "{evidence}");
    }
}

/// For people: the outcome, the settings, the reasons with their cures.
#[test]
fn reasons_are_printed() {
    let mut python = situations();
    let show = Show::start(&[python.pid()], &[]);
    python.ask("run cache_off");
    let text = show.end();
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "Resumption does not happen: none of 6 finished handshakes.",
        "settings cache off, size 20480",
        "certain Tickets are off, and the session cache is off",
        "change: SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER)",
    ] {
        assert!(words.contains(part), "{part} in:\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 130), "{text}");
}

/// What a program did before anybody watched, and while it was watched.
fn before_and_while(before: &str, during: &str) -> (Value, Vec<Told>, Vec<Told>) {
    let mut python = situations();
    python.ask(before);
    let earlier = python.told();
    let show = Show::start(&[python.pid()], &["--json"]);
    python.ask(during);
    let later = python.told();
    (serde_json::from_str(&show.end()).expect("JSON"), earlier, later)
}

/// What was counted while it was watched is what the program says it is. The
/// start of a handshake is what a context is first seen by: it was before.
fn compare(found: &Found<'_>, earlier: &[Told], later: &[Told], first: &str) {
    let of = |told: &[Told], name: &str| {
        let told = told.iter().find(|told| found.0["ctx"] == told.ctx).expect("it is told of");
        told.stats[name].as_i64().expect("a number")
    };
    for name in later[0].stats.keys().filter(|name| *name != "number") {
        let moved = of(later, name) - of(earlier, name);
        let moved = moved - i64::from(name == first);
        assert_eq!(found.counted(name), moved, "{name} of {:#}", found.0);
    }
}

#[test]
fn what_stopped_before_it_was_watched_is_past() {
    let (shown, earlier, later) = before_and_while("crowd 8", "stay 12");
    let server = Found::of(&shown, &later, "small", "accept");
    compare(&server, &earlier, &later, "accept");
    assert_eq!(
        server.whens(),
        [("works", "now"), ("unknown-sessions", "past"), ("cache-too-small", "past")]
    );
    assert!(server.0["stats"]["cache_full"].as_i64() > Some(5), "{:#}", server.0);
    assert_eq!((server.counted("cache_full"), server.counted("hits")), (0, 12));
    let past = server.summary("cache-too-small");
    assert!(past.starts_with("Not now, but before: "), "{past}");
    let evidence = server.evidence("cache-too-small");
    assert!(
        evidence.contains("cache_full +0, misses +0 (meanwhile hits +12, accept_good +12)"),
        "{evidence}"
    );
    let works = server.summary("works");
    assert!(works.contains("watched, resumption works: 12 of 12 finished"), "{works}");
    assert!(works.contains("Since the context was made, resumption is low: 12 of 27"), "{works}");
}

#[test]
fn what_goes_on_while_it_is_watched_is_now() {
    let (shown, earlier, later) = before_and_while("crowd 8", "crowd 8");
    for (role, expected) in [
        ("accept", &[("none", "now"), ("unknown-sessions", "now"), ("cache-too-small", "now")][..]),
        ("connect", &[("none", "now"), ("never-offered", "now"), ("refused-by-server", "now")][..]),
    ] {
        let found = Found::of(&shown, &later, "small", role);
        compare(&found, &earlier, &later, role);
        assert_eq!(found.whens(), expected);
    }
    let server = Found::of(&shown, &later, "small", "accept");
    let (grown, all) = (server.counted("cache_full"), &server.0["stats"]["cache_full"]);
    assert!(grown > 5 && all.as_i64() > Some(grown + 5), "{:#}", server.0);
    let evidence = server.evidence("cache-too-small");
    assert!(evidence.contains(&format!("watched: cache_full +{grown}, misses +6")), "{evidence}");
    assert!(
        evidence.contains(&format!("since the context was made: cache_full = {all}, misses = 12")),
        "{evidence}"
    );
    let summary = server.summary("cache-too-small");
    assert!(summary.starts_with(&format!("Now: {grown} sessions were thrown out")), "{summary}");
}

/// Another reason than before: that one comes first.
#[test]
fn what_is_so_now_comes_before_what_is_past() {
    let (shown, earlier, later) = before_and_while("crowd 8", "strangers 12");
    let server = Found::of(&shown, &later, "small", "accept");
    compare(&server, &earlier, &later, "accept");
    // Sessions are thrown out still, and nobody misses them.
    assert_eq!(
        server.whens(),
        [("none", "now"), ("cache-too-small", "now"), ("unknown-sessions", "past")]
    );
    let client = Found::of(&shown, &later, "small", "connect");
    compare(&client, &earlier, &later, "connect");
    assert_eq!(
        client.whens(),
        [("none", "now"), ("never-offered", "now"), ("refused-by-server", "past")]
    );
}

/// A servername callback: the share of each context is wrong, and that of the
/// process is right, of both times.
#[test]
fn where_names_choose_the_context_the_sums_are_told() {
    let (shown, _, later) = before_and_while("names 5", "names 12");
    let contexts = shown["contexts"].as_array().expect("an array of contexts");
    let mut servers = 0;
    for seen in contexts.iter().filter(|seen| seen["stats"]["connect"] == 0) {
        let found = Found(seen);
        let told = later.iter().find(|told| seen["ctx"] == told.ctx).expect("it is told of");
        assert_eq!(found.whens(), [("moved-by-sni", "since-made")], "{}: {seen:#}", told.scenario);
        let evidence = found.evidence("moved-by-sni");
        assert!(evidence.contains("process: hits = 17, accept_good = 18"), "{evidence}");
        assert!(evidence.contains("look at it: hits +12, accept_good +12"), "{evidence}");
        servers += 1;
    }
    assert_eq!(servers, 2);
}

/// For people.
#[test]
fn what_is_past_is_printed_as_such() {
    let mut python = situations();
    python.ask("crowd 8");
    let show = Show::start(&[python.pid()], &[]);
    python.ask("stay 12");
    let text = show.end();
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "likely Not now, but before: ",
        "past because: in the ",
        "cache_full +0, misses +0 (meanwhile hits +12, accept_good +12); since the context was made:",
    ] {
        assert!(words.contains(part), "{part} in:\n{text}");
    }
}
