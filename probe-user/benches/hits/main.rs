//! What a hit of a probe costs, and what probes cost the program: next to the
//! cheapest probe there is, next to what is usually attached, and next to a debugger.
//! Everything is measured in turns, in one process, in one run; what counts are
//! ratios. `cargo xtask bench` builds and runs it, as root, and names the libraries
//! whose probes are looked at.

mod code;
#[path = "../compile.rs"]
mod compile;
mod copies;
mod debugger;
mod findings;
mod handshakes;
mod increments;
#[path = "../libraries.rs"]
mod libraries;
mod made_up;
mod numbers;
mod pairs;
#[path = "../program.rs"]
mod program;
#[path = "../report.rs"]
mod report;
#[path = "../statistics.rs"]
mod statistics;

use std::process::ExitCode;

use numbers::{lines, median};
use pairs::Build;

fn main() -> ExitCode {
    let directory = tempfile::tempdir().expect("a directory");
    let builds = Build::all(&libraries::named());
    let cost = findings::report(directory.path(), &builds);
    println!();
    let undisturbed = handshakes::measure(directory.path(), cost);
    println!();
    debugger::measure(directory.path());
    if undisturbed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
