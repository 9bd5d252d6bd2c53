//! `cargo xtask fuzz`: arbitrary bytes, to the ELF reader and to the interpreters.
//!
//! Not part of `cargo xtask test`: it needs a nightly compiler, and its verdict
//! depends on how long it runs. What it finds becomes a unit test.

mod seeds;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use crate::progress::step;

/// A release that is known to run what `fuzz/` has.
const CARGO_FUZZ: &str = "0.13.1";

/// Seconds that one input may take; it takes less than a millisecond.
const TIMEOUT: u32 = 10;

/// MiB of the whole process. What one input may have on the heap is bounded by
/// the targets' own allocator, at 64 MiB.
const MEMORY: u32 = 512;

struct Target {
    name: &'static str,
    /// Bytes of an input at most: enough for what the code distinguishes, and
    /// short enough for thousands of inputs per second.
    longest: u32,
    seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

const TARGETS: [Target; 3] = [
    Target { name: "elf", longest: 2048, seeds: seeds::elf },
    Target { name: "x86_64", longest: 256, seeds: seeds::x86_64 },
    Target { name: "aarch64", longest: 256, seeds: seeds::aarch64 },
];

/// Runs a target, or all of them one after the other.
pub(crate) fn run(target: Option<&str>, runs: u64) -> anyhow::Result<()> {
    let chosen: Vec<&Target> =
        TARGETS.iter().filter(|t| target.is_none_or(|name| name == t.name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        bail!("there is no such fuzz target: it is one of {}", names.join(", "));
    }
    let bin = cargo_fuzz()?;
    chosen.into_iter().try_for_each(|target| target.run(&bin, runs))
}

impl Target {
    fn run(&self, bin: &Path, runs: u64) -> anyhow::Result<()> {
        let directory = crate::target().join("fuzz");
        let corpus = directory.join("corpus").join(self.name);
        let found = directory.join("found").join(self.name);
        for made in [&corpus, &found] {
            fs::create_dir_all(made).with_context(|| format!("making {}", made.display()))?;
        }
        for (name, bytes) in (self.seeds)() {
            fs::write(corpus.join(name), bytes)?;
        }
        let build = ["-s", "none", "--no-trace-compares", "--target-dir"];
        step(
            &format!("building the fuzz target {}", self.name),
            cargo(bin)?.args(["fuzz", "build"]).args(build).arg(&directory).arg(self.name),
        )?;
        eprintln!("{runs} inputs for {}", self.name);
        let status = cargo(bin)?
            .args(["fuzz", "run"])
            .args(build)
            .arg(&directory)
            .arg(self.name)
            .arg(&corpus)
            .arg("--")
            .arg(format!("-runs={runs}"))
            .arg(format!("-max_len={}", self.longest))
            .arg(format!("-timeout={TIMEOUT}"))
            .arg(format!("-rss_limit_mb={MEMORY}"))
            .arg(format!("-artifact_prefix={}/", found.display()))
            .args(["-print_final_stats=1", "-reload=0", "-verbosity=1"])
            .status()
            .context("running cargo fuzz")?;
        if !status.success() {
            bail!("{}: the input that did it is in {}", self.name, found.display());
        }
        Ok(())
    }
}

/// The nightly cargo, which finds `cargo-fuzz` in a directory.
fn cargo(bin: &Path) -> anyhow::Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(bin.to_path_buf()).chain(std::env::split_paths(&path));
    let mut command = Command::new("cargo");
    command
        .current_dir(crate::root())
        .arg("+nightly")
        .env("PATH", std::env::join_paths(path)?)
        // Set for the stable compiler that runs this.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env_remove("CARGO_TARGET_DIR");
    Ok(command)
}

/// The directory with `cargo-fuzz` in it, installed if it is missing.
fn cargo_fuzz() -> anyhow::Result<PathBuf> {
    let nightly = Command::new("rustup")
        .args(["which", "--toolchain", "nightly", "rustc"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !nightly.is_ok_and(|status| status.success()) {
        bail!("fuzzing needs a nightly compiler: rustup toolchain install nightly");
    }
    let root = crate::target().join("toolchain").join(format!("cargo-fuzz-{CARGO_FUZZ}"));
    let bin = root.join("bin");
    if !bin.join("cargo-fuzz").exists() {
        step(
            "building cargo-fuzz (once)",
            Command::new("cargo")
                .args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked", "--force"])
                .arg("--root")
                .arg(&root)
                .arg("--target-dir")
                .arg(crate::target().join("toolchain/cargo-fuzz-build"))
                .env_remove("CARGO_TARGET_DIR"),
        )?;
    }
    Ok(bin)
}
