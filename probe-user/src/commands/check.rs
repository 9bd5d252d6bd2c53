//! `sslsess check`: will it work here, and if not, what to do.

use std::{collections::HashSet, fmt::Write as _, process::ExitCode};

use serde::Serialize;

use super::{print, print_json};
use crate::{
    cli::CheckArgs,
    host::Discovery,
    preflight::{self, Check, Outcome},
    selftest,
};

#[derive(Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut checks = preflight::checks();
    if checks.iter().all(|check| check.outcome != Outcome::Failed) {
        checks.push(probe());
        checks.push(libraries());
    }
    let ok = checks.iter().all(|check| check.outcome != Outcome::Failed);
    let report = Report { ok, checks };
    if args.json {
        print_json(&report)?;
    } else {
        print(&text(&report))?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The whole way once, with a probe in this very process.
fn probe() -> Check {
    let (outcome, found) = match selftest::run() {
        Ok(()) => {
            (Outcome::Ok, "a probe in this process reported what is in its memory".to_owned())
        }
        Err(error) => (Outcome::Failed, format!("{error:#}")),
    };
    let cure = (outcome != Outcome::Ok).then_some("see the message; SSLSESS_LOG=debug says more");
    Check { name: "a probe", outcome, found, cure }
}

fn libraries() -> Check {
    let news = Discovery::default().scan();
    let libraries = || news.looks.iter().flat_map(|look| &look.libraries);
    let processes: HashSet<u32> = libraries().map(|library| library.pid).collect();
    let files: HashSet<_> = libraries().map(|library| library.libssl.stamp.id).collect();
    let found = format!(
        "{} processes map {} libssl files; {} could not be looked at",
        processes.len(),
        files.len(),
        news.looks.iter().map(|look| look.gaps.len()).sum::<usize>()
    );
    Check { name: "libraries", outcome: Outcome::Ok, found, cure: None }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let outcome = match check.outcome {
            Outcome::Ok => "ok     ",
            Outcome::Warning => "warning",
            Outcome::Failed => "FAILED ",
        };
        let _ = writeln!(text, "{outcome}  {:<24}  {}", check.name, check.found);
        if let Some(cure) = check.cure {
            let _ = writeln!(text, "         {:<24}  -> {cure}", "");
        }
    }
    let verdict = if report.ok { "sslsess works here." } else { "sslsess does not work here." };
    let _ = writeln!(text, "{verdict}");
    text
}
