//! How long it takes to learn a library: reading it and its libcrypto, and all
//! that `Image::learn` does. `cargo xtask bench` builds and runs it.
//!
//! Time is taken twice: as it passes, and as the processor works. On a machine
//! that has nothing else to do they are the same.

#[path = "libraries.rs"]
mod libraries;
#[path = "report.rs"]
mod report;
#[path = "statistics.rs"]
mod statistics;

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};

use libraries::{label, learn};
use report::{Figure, figure};
use statistics::quartiles;

/// Milliseconds that the processor may work (median) to learn a shared library, or an
/// executable with OpenSSL in it.
const LIBRARY: f64 = 30.0;
const EXECUTABLE: f64 = 300.0;

/// Files that are larger are executables with much else in them.
const LARGE: u64 = 32 << 20;

/// How often each is learnt.
const TIMES: usize = 21;

fn main() -> ExitCode {
    let files = libraries::named();
    if files.is_empty() {
        eprintln!("name the libraries to learn: cargo bench --bench learn -- FILE...");
        return ExitCode::FAILURE;
    }
    // Each is tried, also behind one that cannot be learnt.
    let learnt: Vec<bool> = files.iter().map(|file| measure(file)).collect();
    if learnt.contains(&false) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Learns a file again and again; says whether it can be learnt.
fn measure(file: &Path) -> bool {
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let limit = if size > LARGE { EXECUTABLE } else { LIBRARY };
    let mut passed = Vec::new();
    let mut worked = Vec::new();
    for _ in 0..TIMES {
        let (start, worked_before) = (Instant::now(), processor_time());
        if let Err(why) = learn(file) {
            println!("{}: {why}", file.display());
            return false;
        }
        passed.push(start.elapsed());
        worked.push(processor_time().saturating_sub(worked_before));
    }
    let label = label(file);
    // The time that passes, passes for others too.
    for (times, name, limit) in [(worked, "processor", Some(limit)), (passed, "passed", None)] {
        let ms = times.into_iter().map(|time| time.as_secs_f64() * 1000.0);
        let [first, value, third] = quartiles(ms);
        let (section, spread) = ("learn", Some([first, third]));
        let name = format!("{label}: {name}");
        figure(&Figure { section, name: &name, unit: "ms", value, spread, limit });
    }
    true
}

/// What the processor has worked for this process.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
