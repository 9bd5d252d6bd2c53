//! Everything that a developer does with this repository, one verb each.

mod bench;
mod build;
mod demo;
mod fuzz;
mod libs;
mod mutate;
mod packages;
mod progress;
mod test;
mod toolchain;
mod wheels;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};

/// Builds, tests and shows sslsess.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measure what sslsess costs: target/bench/report.txt, report.json, and pictures.
    Bench(bench::Args),
    /// Build everything in release mode; the agent is then target/release/sslsess.
    Build,
    /// Build everything, start a small TLS workload on loopback, and watch it live.
    Demo {
        /// End after this time; without it, at Ctrl-C.
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        run_for: Option<Duration>,
        /// Leave the agent and the workload running, with /metrics, until Ctrl-C.
        #[arg(long)]
        keep: bool,
    },
    /// Build libraries of OpenSSL in many releases and ways, learn each, and
    /// compare with the truth; writes docs/libraries.md.
    Libs(libs::Args),
    /// Run every check and every test: formatting, lints, unit tests, end to end.
    Test {
        /// Only the end-to-end tests whose names contain this.
        #[arg(value_name = "FILTER")]
        filter: Option<String>,
        /// Those, too, that take a minute or more: a million contexts.
        #[arg(long)]
        long: bool,
    },
    /// Give arbitrary bytes to the ELF reader and to the interpreters (needs a nightly compiler).
    Fuzz {
        /// Only this target: elf, x86_64 or aarch64.
        target: Option<String>,
        /// Inputs per target.
        #[arg(long, default_value_t = 10_000_000)]
        runs: u64,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Bench(args) => bench::run(&args),
        Verb::Build => build::run().map(|agent| eprintln!("built {}", agent.display())),
        Verb::Demo { run_for, keep } => demo::run(run_for, keep),
        Verb::Libs(args) => libs::run(&args),
        Verb::Fuzz { target, runs } => fuzz::run(target.as_deref(), runs),
        Verb::Test { filter, long } => test::run(filter.as_deref(), long),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where everything that is built or installed goes.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
