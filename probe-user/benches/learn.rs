//! How long it takes to learn a library: reading it and its libcrypto, and all
//! that [`Image::learn`] does. `cargo xtask bench` builds and runs it.
//!
//! Time is taken twice: as it passes, and as the processor works. On a machine
//! that has nothing else to do they are the same.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use sslsess::image::{Companion, Elf, Image, PlanOptions, companion};

/// What learning may take (median): a shared library, or an executable with
/// OpenSSL in it.
const LIBRARY: Duration = Duration::from_millis(30);
const EXECUTABLE: Duration = Duration::from_millis(300);

/// Files that are larger are executables with much else in them.
const LARGE: u64 = 32 << 20;

/// How often each is learnt.
const TIMES: usize = 21;

fn main() -> ExitCode {
    // cargo adds options of its own.
    let files: Vec<PathBuf> =
        env::args_os().skip(1).map(PathBuf::from).filter(|file| file.is_file()).collect();
    if files.is_empty() {
        eprintln!("name the libraries to learn: cargo bench --bench learn -- FILE...");
        return ExitCode::FAILURE;
    }
    println!("{:>9} {:>9} {:>9} {:>9}  library", "median", "least", "processor", "at most");
    let within: Vec<bool> = files.iter().map(|file| measure(file)).collect();
    if within.contains(&false) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Learns a file again and again; says whether the median is within the limit.
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
    passed.sort_unstable();
    worked.sort_unstable();
    let (median, work) = (passed[TIMES / 2], worked[TIMES / 2]);
    let verdict = if median <= limit {
        ""
    } else if work <= limit {
        " (over, but the processor had other things to do)"
    } else {
        " OVER"
    };
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    println!(
        "{:>9} {:>9} {:>9} {:>9}  {}{verdict}",
        ms(median),
        ms(passed[0]),
        ms(work),
        ms(limit),
        file.display()
    );
    work <= limit
}

fn learn(file: &Path) -> Result<(), String> {
    let elf = Elf::open(file).map_err(|error| error.to_string())?;
    let name = companion::libcrypto_name(&elf).unwrap_or("libcrypto").to_owned();
    let libcrypto = companion::find_beside(file, &name);
    let companion = match &libcrypto {
        Some(Ok(elf)) => Companion::Found(elf),
        Some(Err(error)) => Companion::Unreadable(name, error.to_string()),
        None => Companion::Missing(name),
    };
    let image = Image::learn(file.to_path_buf(), &elf, &companion, PlanOptions::default());
    if image.learnt.evidence.is_empty() {
        return Err("nothing was learnt of it".to_owned());
    }
    Ok(())
}

/// What the processor has worked for this process.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
