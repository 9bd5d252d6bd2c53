//! `cargo xtask test`: every check and every test.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{build, libs, mutate, packages, progress::step, wheels};

/// The programs whose own counters the end-to-end tests compare with, those
/// that make the traffic, and those that build programs.
const PROGRAMS: [&str; 17] = [
    "binutils",
    "curl",
    "docker.io",
    "gcc",
    "libc6-dev",
    "libnet-ssleay-perl",
    "libssl-dev",
    "nginx-light",
    "openssl",
    "perl",
    "postgresql",
    "prometheus",
    "python3",
    "python3-pip",
    "ruby",
    "util-linux",
    "xz-utils",
];

/// What the end-to-end tests play with, of the builds of `cargo xtask libs`.
const BUILDS: [&str; 4] = ["1.1.1w-gcc12-O2", "3.2.1-gcc12-O2", "3.5.5-gcc12-O2", "4.0.3-gcc12-O2"];

pub(crate) fn run(filter: Option<&str>, long: bool) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the end-to-end tests load real BPF programs: run this as root (sudo -E)");
    }
    packages::install("the end-to-end tests", &PROGRAMS)?;
    let toolchain = build::bpf()?;
    if filter.is_none() {
        lints(&toolchain)?;
        let units = ["test", "--release", "--workspace", "--lib", "--bins"];
        shown("unit tests", &mut build::cargo(&units))?;
        eprintln!("==> libraries that lie");
        mutate::run(None, None, &[])?;
    }
    wheels::install()?;
    libs::ensure(&BUILDS)?;
    libs::relatives::ensure_for_tests()?;
    let mut end_to_end = build::cargo(&["test", "--release", "--package", "probe-user"]);
    end_to_end.args(["--test", "e2e", "--"]).args(filter);
    shown("end-to-end tests", &mut end_to_end)?;
    if !long {
        eprintln!("`cargo xtask test --long` also runs a million contexts");
        return Ok(());
    }
    // Alone, one after the other: they measure memory.
    let mut alone = build::cargo(&["test", "--release", "--package", "probe-user"]);
    alone.args(["--test", "e2e", "--"]).args(filter).args(["--ignored", "--test-threads", "1"]);
    shown("end-to-end tests that take long", &mut alone)
}

fn lints(toolchain: &crate::toolchain::BpfToolchain) -> anyhow::Result<()> {
    step("formatting", &mut build::cargo(&["fmt", "--all", "--check"]))?;
    let mut bpf_format = Command::new("cargo");
    bpf_format.current_dir(crate::root().join("probe-ebpf")).args(["fmt", "--check"]);
    step("formatting of the BPF crate", &mut bpf_format)?;
    let clippy = ["clippy", "--release", "--workspace", "--all-targets", "--", "-Dwarnings"];
    step("lints", &mut build::cargo(&clippy))?;
    toolchain.install_clippy()?;
    let mut bpf_clippy = toolchain.cargo("clippy");
    step("lints of the BPF crate", bpf_clippy.args(["--", "-Dwarnings"]))
}

/// Runs a command whose output is what people want to see.
fn shown(label: &str, command: &mut Command) -> anyhow::Result<()> {
    eprintln!("==> {label}");
    let status = command.status().with_context(|| format!("cannot run the {label}"))?;
    if !status.success() {
        bail!("{label}: failed ({status})");
    }
    Ok(())
}
