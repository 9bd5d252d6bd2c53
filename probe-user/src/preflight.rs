//! Will it work here? Each refusal says what to do.

use std::{fs, io};

use nix::sys::utsname::uname;
use procfs::process::Process;
use serde::Serialize;

use crate::kernel::btf;

/// Kernel 5.15: probe cookies (5.15), walks over a map (5.13), ring buffers (5.8).
const MIN_KERNEL: (u32, u32) = (5, 15);

/// The initial pid namespace (include/linux/proc_ns.h, `PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Fine.
    Ok,
    /// It works, but less well.
    Warning,
    /// It does not work.
    Failed,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub cure: Option<&'static str>,
}

impl Check {
    fn new(name: &'static str, outcome: Outcome, found: String, cure: &'static str) -> Self {
        Self { name, outcome, found, cure: (outcome != Outcome::Ok).then_some(cure) }
    }
}

/// Everything that can be looked at without asking the kernel to load anything.
#[must_use]
pub fn checks() -> Vec<Check> {
    vec![
        capabilities(),
        kernel_version(),
        type_information(),
        uprobes(),
        lockdown(),
        pid_namespace(),
        memory_access(),
    ]
}

/// Refuses to start where it cannot work, and says what to do.
///
/// # Errors
///
/// With every check that failed.
pub fn require() -> anyhow::Result<()> {
    let failed: Vec<String> = checks()
        .into_iter()
        .filter(|check| check.outcome == Outcome::Failed)
        .map(|check| {
            format!("{}: {} -- {}", check.name, check.found, check.cure.unwrap_or_default())
        })
        .collect();
    anyhow::ensure!(failed.is_empty(), "cannot work here:\n  {}", failed.join("\n  "));
    Ok(())
}

fn effective_capabilities() -> Option<u64> {
    Some(Process::myself().ok()?.status().ok()?.capeff)
}

/// Since the fix of CVE-2025-38466, uprobes through perf events need
/// CAP_SYS_ADMIN; CAP_BPF and CAP_PERFMON are not enough.
fn capabilities() -> Check {
    let root = nix::unistd::geteuid().is_root();
    let capable = effective_capabilities().is_some_and(|caps| caps & CAP_SYS_ADMIN != 0);
    let (outcome, found) = match (root, capable) {
        (_, true) => (Outcome::Ok, "CAP_SYS_ADMIN".to_owned()),
        (true, false) => (Outcome::Failed, "root without CAP_SYS_ADMIN".to_owned()),
        (false, false) => (Outcome::Failed, "not root, and without CAP_SYS_ADMIN".to_owned()),
    };
    let cure = "run it as root, for example with sudo (in a container: --privileged --pid=host)";
    Check::new("privileges", outcome, found, cure)
}

fn kernel_version() -> Check {
    let release = uname().map(|name| name.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    let outcome = match parse_version(&release) {
        Some(version) if version < MIN_KERNEL => Outcome::Failed,
        Some(_) => Outcome::Ok,
        None => Outcome::Warning,
    };
    Check::new("kernel", outcome, format!("Linux {release}"), "it takes Linux 5.15 or later")
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn type_information() -> Check {
    let (outcome, found) = match fs::metadata(btf::VMLINUX) {
        Ok(_) => (Outcome::Ok, btf::VMLINUX.to_owned()),
        Err(error) => (Outcome::Failed, format!("{}: {error}", btf::VMLINUX)),
    };
    let cure = "it takes a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions build them; \
                is /sys mounted?";
    Check::new("kernel type information", outcome, found, cure)
}

fn uprobes() -> Check {
    const PMU: &str = "/sys/bus/event_source/devices/uprobe/type";
    let (outcome, found) = match fs::metadata(PMU) {
        Ok(_) => (Outcome::Ok, PMU.to_owned()),
        Err(error) => (Outcome::Failed, format!("{PMU}: {error}")),
    };
    Check::new("uprobes", outcome, found, "it takes a kernel with CONFIG_UPROBES=y and perf events")
}

/// `confidentiality` refuses what BPF programs read.
fn lockdown() -> Check {
    let mode = match fs::read_to_string("/sys/kernel/security/lockdown") {
        Ok(modes) => modes
            .split_whitespace()
            .find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'))
            .unwrap_or("unknown")
            .to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "not built in".to_owned(),
        Err(error) => format!("unknown ({error})"),
    };
    let outcome = if mode == "confidentiality" { Outcome::Failed } else { Outcome::Ok };
    let cure = "boot with lockdown=integrity, or without";
    Check::new("lockdown", outcome, mode, cure)
}

/// The kernel half sees pids of the initial namespace; so must the agent.
fn pid_namespace() -> Check {
    let (outcome, found) = match fs::read_link("/proc/self/ns/pid") {
        Ok(namespace) => {
            let namespace = namespace.to_string_lossy().into_owned();
            let initial = namespace == INITIAL_PID_NAMESPACE;
            (if initial { Outcome::Ok } else { Outcome::Failed }, namespace)
        }
        Err(error) => (Outcome::Failed, format!("/proc/self/ns/pid: {error}")),
    };
    let cure =
        "run it in the host's pid namespace (in a container: --pid=host), with /proc mounted";
    Check::new("pid namespace", outcome, found, cure)
}

fn memory_access() -> Check {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let capable = effective_capabilities().is_some_and(|caps| caps & CAP_SYS_PTRACE != 0);
    let (outcome, found) = match (scope.trim(), capable) {
        ("3", _) => (Outcome::Warning, "refused by kernel.yama.ptrace_scope=3".to_owned()),
        (_, false) => (Outcome::Warning, "no CAP_SYS_PTRACE".to_owned()),
        (_, true) => (Outcome::Ok, "CAP_SYS_PTRACE".to_owned()),
    };
    let cure = "values of live contexts are then those of the last probe, not of this moment";
    Check::new("memory of processes", outcome, found, cure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_all_kinds_have_a_version() {
        assert_eq!(parse_version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(parse_version("5.15.0-1-amd64"), Some((5, 15)));
        assert_eq!(parse_version("6.1"), Some((6, 1)));
        assert_eq!(parse_version("next"), None);
    }

    #[test]
    fn a_check_that_is_fine_needs_no_cure() {
        assert_eq!(Check::new("x", Outcome::Ok, String::new(), "do it").cure, None);
        assert_eq!(Check::new("x", Outcome::Failed, String::new(), "do it").cure, Some("do it"));
    }
}
