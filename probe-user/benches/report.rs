//! What a benchmark found, one figure at a time: a line for people, and one of JSON for
//! `cargo xtask bench`, which collects them, compares them with their limits and draws.

use std::{env, fs::OpenOptions, io::Write as _};

use serde::Serialize;

/// The file that gets the lines of JSON; none are written without it.
const FILE: &str = "SSLSESS_BENCH_REPORT";

/// One thing that was measured.
#[derive(Serialize)]
pub(crate) struct Figure<'a> {
    /// What belongs together: the benchmark, or a part of it.
    pub(crate) section: &'a str,
    /// What it is, alone in its section. A series ends with the number of what it goes
    /// by: `to attach, 50 libraries`.
    pub(crate) name: &'a str,
    pub(crate) unit: &'a str,
    /// The median, if it was measured more than once.
    pub(crate) value: f64,
    /// The quartiles.
    pub(crate) spread: Option<[f64; 2]>,
    /// It is too much if it is more than this.
    pub(crate) limit: Option<f64>,
}

/// Says what was found.
pub(crate) fn figure(figure: &Figure<'_>) {
    let Figure { section, name, unit, value, spread, limit } = figure;
    let spread = spread.map(|[first, third]| format!(" ({} to {})", number(first), number(third)));
    let limit = limit.map(|limit| {
        let over = if *value > limit { ", OVER" } else { "" };
        format!("  [at most {}{over}]", number(limit))
    });
    println!(
        "{section:<10} {:>9} {unit:<7} {name}{}{}",
        number(*value),
        spread.unwrap_or_default(),
        limit.unwrap_or_default()
    );
    let Some(path) = env::var_os(FILE) else { return };
    let mut line = serde_json::to_vec(figure).expect("it is plain");
    line.push(b'\n');
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(&line)).expect("the report can be written");
}

/// With three digits that count, or what it is if it is whole.
fn number(value: f64) -> String {
    if value.fract() == 0.0 {
        return format!("{value:.0}");
    }
    let decimals = (2.0 - value.abs().log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{value:.decimals$}")
}
