//! `cargo xtask build`.

use std::{path::PathBuf, process::Command};

use crate::{progress::step, toolchain::BpfToolchain};

/// Where the BPF object is built.
fn bpf_object() -> PathBuf {
    crate::target().join("bpf/bpfel-unknown-none/release/sslsess-bpf")
}

/// Builds the BPF object, and says with what.
pub(crate) fn bpf() -> anyhow::Result<BpfToolchain> {
    let toolchain = BpfToolchain::find_or_install()?;
    let label = format!("building the BPF object with {} toolchain", toolchain.name());
    step(&label, &mut toolchain.cargo("build"))?;
    Ok(toolchain)
}

/// A cargo command for the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(crate::root()).args(args).env("SSLSESS_BPF_OBJECT", bpf_object());
    command
}

/// Builds everything; returns the agent.
pub(crate) fn run() -> anyhow::Result<PathBuf> {
    bpf()?;
    step("building the agent", &mut cargo(&["build", "--release", "--package", "probe-user"]))?;
    Ok(crate::target().join("release/sslsess"))
}
