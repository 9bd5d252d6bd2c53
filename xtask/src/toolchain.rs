//! Finds, or installs, a toolchain that can build the BPF object.
//!
//! Two are known: a rustup nightly with `rust-src` and a `bpf-linker`, as most
//! aya projects use; and Debian's own packages, which carry a compiler, the
//! sources of its library and its LLVM in matching versions. What is built for
//! it goes under `target/toolchain`, not into anybody's home.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use crate::{packages, progress::step};

/// Of these, bpf-linker builds against the LLVM that this compiler has.
const DEBIAN_PACKAGES: [&str; 7] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
];

/// The LLVM of Debian's compiler above.
const DEBIAN_LLVM: u32 = 22;

/// A release that is known to link what that compiler makes.
const BPF_LINKER: &str = "0.13.0";

/// What builds the BPF object.
pub(crate) struct BpfToolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    linker: PathBuf,
    /// Whether it is a stable compiler that has to be told to be an unstable one.
    bootstrap: bool,
    name: &'static str,
}

impl BpfToolchain {
    /// Finds one; installs Debian's if there is none.
    pub(crate) fn find_or_install() -> anyhow::Result<Self> {
        if let Some(toolchain) = Self::rustup_nightly() {
            return Ok(toolchain);
        }
        packages::install("the BPF object", &DEBIAN_PACKAGES).context(
            "no toolchain can build the BPF object. Either `rustup toolchain install nightly \
             --component rust-src` and `cargo install bpf-linker`, or Debian's packages",
        )?;
        let rustc = PathBuf::from("/usr/bin/rustc");
        let llvm = llvm_of(&rustc).context("/usr/bin/rustc does not say which LLVM it has")?;
        if llvm != DEBIAN_LLVM {
            bail!("/usr/bin/rustc has LLVM {llvm}, not the {DEBIAN_LLVM} of Debian's rustc-web");
        }
        let linker = debian_linker()?;
        Ok(Self {
            cargo: "/usr/bin/cargo".into(),
            rustc,
            linker,
            bootstrap: true,
            name: "Debian's",
        })
    }

    fn rustup_nightly() -> Option<Self> {
        let which = |program: &str| -> Option<PathBuf> {
            let mut command = Command::new("rustup");
            command.args(["which", "--toolchain", "nightly", program]);
            Some(PathBuf::from(output(&mut command)?))
        };
        let rustc = which("rustc")?;
        let sysroot = PathBuf::from(output(Command::new(&rustc).args(["--print", "sysroot"]))?);
        if !sysroot.join("lib/rustlib/src/rust/library/core").exists() {
            return None;
        }
        output(Command::new("bpf-linker").arg("--version"))?;
        let cargo = which("cargo")?;
        let linker = "bpf-linker".into();
        Some(Self { cargo, rustc, linker, bootstrap: false, name: "rustup's nightly" })
    }

    /// A cargo command for the BPF crate.
    pub(crate) fn cargo(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.cargo);
        let flags = [
            "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            format!("-Clinker={}", self.linker.display()),
        ];
        command
            .current_dir(crate::root().join("probe-ebpf"))
            .args([verb, "--release", "-Zbuild-std=core", "--target", "bpfel-unknown-none"])
            .arg("--target-dir")
            .arg(crate::target().join("bpf"))
            .env("RUSTC", &self.rustc)
            .env("AYA_BPF_TARGET_ARCH", "x86_64")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .env_remove("CARGO_TARGET_DIR");
        if self.bootstrap {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        // `cargo clippy` looks for its other half in PATH: this compiler's.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = self.cargo.parent().map(Path::to_path_buf);
        let path = own.into_iter().chain(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(path) {
            command.env("PATH", path);
        }
        command
    }

    /// Makes `clippy` work with this toolchain.
    pub(crate) fn install_clippy(&self) -> anyhow::Result<()> {
        if self.bootstrap {
            packages::install("lints of the BPF object", &["rust-web-clippy"])?;
        }
        Ok(())
    }

    /// What it is, for people.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }
}

/// bpf-linker, built against Debian's LLVM.
fn debian_linker() -> anyhow::Result<PathBuf> {
    let root = crate::target().join("toolchain").join(format!("bpf-linker-{BPF_LINKER}"));
    let linker = root.join("bin/bpf-linker");
    if works(&linker) {
        return Ok(linker);
    }
    step(
        "building bpf-linker (once)",
        Command::new("cargo")
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"])
            .args(["--no-default-features", "--features", &format!("llvm-{DEBIAN_LLVM}")])
            .arg("--root")
            .arg(&root)
            .arg("--target-dir")
            .arg(crate::target().join("toolchain/bpf-linker-build"))
            .env("LLVM_PREFIX", format!("/usr/lib/llvm-{DEBIAN_LLVM}"))
            .env_remove("CARGO_TARGET_DIR"),
    )?;
    Ok(linker)
}

fn works(program: &Path) -> bool {
    output(Command::new(program).arg("--version")).is_some()
}

fn llvm_of(rustc: &Path) -> Option<u32> {
    let text = output(Command::new(rustc).arg("-vV"))?;
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// What a command prints, if it succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
