//! Debian's packages: which are missing, and how they are installed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use crate::progress::step;

/// Asked by maintainer scripts before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing of these packages.
pub(crate) fn install(what_for: &str, packages: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    let Some(apt) = privileged("apt-get") else {
        bail!("{what_for} needs packages that are missing; as root, run: {by_hand}");
    };
    // Tests start the servers that they need; the packages shall not.
    let _held = Services::hold();
    let apt = |args: &[&str]| {
        let mut command = Command::new(&apt[0]);
        command.args(&apt[1..]).args(args).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    step("updating Debian's package lists", &mut apt(&["update", "-q"]))?;
    let mut args = vec!["install", "-q", "-y", "--no-install-recommends"];
    args.extend(&missing);
    step(&format!("installing Debian packages for {what_for}"), &mut apt(&args))
        .with_context(|| format!("install them by hand: {by_hand}"))
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f=${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

/// A program as root: as it is, or through sudo where that asks nothing.
fn privileged(program: &str) -> Option<Vec<String>> {
    Command::new(program).arg("--version").output().ok()?;
    if nix::unistd::geteuid().is_root() {
        return Some(vec![program.to_owned()]);
    }
    let sudo = Command::new("sudo").args(["-n", "true"]).output().ok()?;
    sudo.status.success().then(|| vec!["sudo".to_owned(), "-n".to_owned(), program.to_owned()])
}

/// While this lives, packages that are installed start no services.
struct Services;

impl Services {
    /// `None` where somebody has decided already, or it is not ours to decide.
    fn hold() -> Option<Self> {
        if Path::new(POLICY).exists() {
            return None;
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").ok()?;
        let held = Self;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).ok()?;
        Some(held)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        let _ = fs::remove_file(POLICY);
    }
}
