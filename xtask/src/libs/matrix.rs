//! The matrix: which builds of OpenSSL there are, and how each is made.

use std::process::Command;

use anyhow::{Context as _, bail};

/// A release of OpenSSL, and the release of the crate `openssl-src` that
/// carries its sources.
pub(super) struct Release {
    pub(super) version: &'static str,
    pub(super) source: &'static str,
    /// Whether its libraries are to run, here. If not, its libcrypto has only
    /// what something is learnt from, for that is built in a tenth of the time.
    runs: bool,
}

/// What is built, oldest first. A new release is a line here, and its rows in
/// [`ROWS`].
const RELEASES: [Release; 10] = [
    Release { version: "1.1.1k", source: "111.15.0", runs: false },
    Release { version: "1.1.1w", source: "111.28.2", runs: true },
    Release { version: "3.0.8", source: "300.0.13", runs: true },
    Release { version: "3.1.4", source: "300.1.6", runs: false },
    Release { version: "3.2.1", source: "300.2.3", runs: true },
    Release { version: "3.3.2", source: "300.3.2", runs: false },
    Release { version: "3.4.1", source: "300.4.2", runs: false },
    Release { version: "3.5.5", source: "300.5.5", runs: true },
    Release { version: "3.6.3", source: "300.6.1", runs: false },
    Release { version: "4.0.3", source: "400.0.2", runs: true },
];

/// Names of builds without their release and compiler: a level of
/// optimisation, and perhaps a flavour of [`FLAVOURS`].
struct Rows {
    versions: &'static str,
    arch: Arch,
    compiler: Compiler,
    builds: &'static str,
}

/// All builds. What is slow to come by is first: one plain build of each release.
const ROWS: [Rows; 15] = [
    rows("1.1.1w 3.2.1 3.5.5 4.0.3 3.0.8 3.6.3 3.4.1 3.3.2 3.1.4 1.1.1k", X86_64, Gcc12, "O2"),
    rows("3.5.5", X86_64, Gcc12, "O0 O1 O3 Os O2-lto O3-lto O2-noplt O2-nojumptables O2-zeroregs"),
    rows("3.5.5", X86_64, Gcc12, "O2-retpoline O2-cet O2-protector O2-hardened O2-framepointer"),
    rows("3.5.5", X86_64, Gcc12, "O2-locked O2-stripped O2-relr O2-v3 O2-sections O2-nounwind"),
    rows("3.5.5", X86_64, Gcc12, "O2-minimal O2-maximal O2-static O2-static-exe O2-static-local"),
    rows("4.0.3 1.1.1w 3.0.8", X86_64, Gcc12, "O0 O1 O3 Os O2-lto O2-nojumptables O2-retpoline"),
    rows(
        "4.0.3 1.1.1w 3.0.8",
        X86_64,
        Gcc12,
        "O2-cet O2-protector O2-locked O2-stripped O2-static-exe",
    ),
    rows("3.2.1 3.6.3", X86_64, Gcc12, "O0 O3 Os"),
    rows("3.5.5 1.1.1w 3.0.8 4.0.3", X86_64, Gcc11, "O2 Os"),
    rows(
        "3.5.5",
        X86_64,
        Clang22,
        "O0 O1 O2 O3 Os Oz O2-lto O2-thinlto O2-nojumptables O2-retpoline",
    ),
    rows("3.5.5", X86_64, Clang22, "O2-cet O2-protector O2-static-exe O2-locked"),
    rows("1.1.1w 3.0.8 3.2.1 4.0.3", X86_64, Clang22, "O0 O2 O3"),
    rows("3.5.5 1.1.1w 3.0.8 4.0.3 3.2.1", Aarch64, Gcc12, "O2 Os O0 O3 O2-lse O2-inlineatomics"),
    rows("3.5.5", Aarch64, Gcc12, "O1 O2-lto O2-bti O2-nojumptables O2-protector O2-stripped"),
    rows("3.5.5 1.1.1w 4.0.3", Aarch64, Clang22, "O2 Os O2-lse"),
];

const fn rows(
    versions: &'static str,
    arch: Arch,
    compiler: Compiler,
    builds: &'static str,
) -> Rows {
    Rows { versions, arch, compiler, builds }
}

/// A processor that OpenSSL is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arch {
    X86_64,
    Aarch64,
}
use Arch::{Aarch64, X86_64};

impl Arch {
    /// As in the names of tools and of OpenSSL's targets, and in `explain`.
    pub(super) fn name(self) -> &'static str {
        match self {
            X86_64 => "x86_64",
            Aarch64 => "aarch64",
        }
    }

    /// A tool of binutils that reads this processor's files.
    pub(super) fn tool(self, tool: &str) -> String {
        match self {
            X86_64 => tool.to_owned(),
            Aarch64 => format!("aarch64-linux-gnu-{tool}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compiler {
    Gcc11,
    Gcc12,
    Clang22,
}
use Compiler::{Clang22, Gcc11, Gcc12};

impl Compiler {
    pub(super) fn name(self) -> &'static str {
        match self {
            Gcc11 => "gcc11",
            Gcc12 => "gcc12",
            Clang22 => "clang22",
        }
    }

    /// What is called, for this processor.
    pub(super) fn command(self, arch: Arch) -> &'static str {
        match (self, arch) {
            (Gcc11, X86_64) => "gcc-11",
            (Gcc11, Aarch64) => "aarch64-linux-gnu-gcc-11",
            (Gcc12, X86_64) => "gcc-12",
            (Gcc12, Aarch64) => "aarch64-linux-gnu-gcc-12",
            (Clang22, X86_64) => "clang-22",
            (Clang22, Aarch64) => "clang-22 --target=aarch64-linux-gnu",
        }
    }

    /// What it needs to link. OpenSSL's version scripts name functions that a
    /// configuration may not have, which lld takes for a mistake.
    fn link_flags(self) -> &'static [&'static str] {
        match self {
            Gcc11 | Gcc12 => &[],
            Clang22 => &["-fuse-ld=lld", "-Wl,--undefined-version"],
        }
    }

    /// The packages that have it.
    pub(super) fn packages(self, arch: Arch) -> &'static [&'static str] {
        match (self, arch) {
            (Gcc11, X86_64) => &["gcc-11"],
            (Gcc12, X86_64) => &["gcc-12"],
            (Clang22, X86_64) => &["clang-22", "lld-22"],
            (Gcc11, Aarch64) => &["gcc-11-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
            (Gcc12, Aarch64) => &["gcc-12-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
            (Clang22, Aarch64) => {
                &["clang-22", "lld-22", "gcc-12-aarch64-linux-gnu", "libc6-dev-arm64-cross"]
            }
        }
    }
}

/// What is made of the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `libssl.so` and `libcrypto.so`, as `make` links them.
    Shared,
    /// The same without `.symtab`, as distributions install them.
    Stripped,
    /// Both in one shared object that exports everything.
    StaticShared,
    /// Both in a program at a fixed address that exports everything, as Node is.
    StaticExecutable,
    /// Both in a shared object that exports a function of its own only, and
    /// has `.symtab`, as librdkafka in confluent-kafka's wheels.
    StaticLocal,
}

/// What is special about a build, beside its level of optimisation.
#[derive(Debug)]
pub(super) struct Flavour {
    name: &'static str,
    gcc: &'static [&'static str],
    clang: &'static [&'static str],
    /// For the linker, with both compilers.
    link: &'static [&'static str],
    /// Options of `Configure`.
    pub(super) configure: &'static [&'static str],
    pub(super) shape: Shape,
}

const PLAIN: Flavour =
    Flavour { name: "", gcc: &[], clang: &[], link: &[], configure: &[], shape: Shape::Shared };

/// A flavour whose flags both compilers know.
const fn flags(name: &'static str, both: &'static [&'static str]) -> Flavour {
    Flavour { name, gcc: both, clang: both, ..PLAIN }
}

const FLAVOURS: [Flavour; 25] = [
    PLAIN,
    Flavour { name: "lto", gcc: &["-flto=auto"], clang: &["-flto"], ..PLAIN },
    flags("thinlto", &["-flto=thin"]),
    flags("noplt", &["-fno-plt"]),
    flags("nojumptables", &["-fno-jump-tables"]),
    flags("zeroregs", &["-fzero-call-used-regs=all"]),
    Flavour {
        name: "retpoline",
        gcc: &["-mindirect-branch=thunk", "-mfunction-return=thunk", "-mindirect-branch-register"],
        clang: &["-mretpoline"],
        ..PLAIN
    },
    Flavour { link: &["-Wl,-z,ibt"], ..flags("cet", &["-fcf-protection=full"]) },
    flags("protector", &["-fstack-protector-all"]),
    Flavour {
        link: &["-Wl,-z,relro", "-Wl,-z,now"],
        ..flags(
            "hardened",
            &[
                "-fstack-protector-strong",
                "-fstack-clash-protection",
                "-fcf-protection",
                "-D_FORTIFY_SOURCE=2",
            ],
        )
    },
    flags("framepointer", &["-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer"]),
    // Without atomics, counters are added to under a lock since 3.0, and
    // plainly before (`include/internal/tsan_assist.h`).
    flags("locked", &["-D__STDC_NO_ATOMICS__", "-U__ATOMIC_RELAXED"]),
    Flavour { name: "stripped", shape: Shape::Stripped, ..PLAIN },
    Flavour { name: "relr", link: &["-Wl,-z,pack-relative-relocs"], ..PLAIN },
    flags("v3", &["-march=x86-64-v3"]),
    Flavour { link: &["-Wl,--gc-sections"], ..flags("sections", &["-ffunction-sections"]) },
    flags("nounwind", &["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"]),
    Flavour {
        name: "minimal",
        configure: &[
            "no-quic",
            "no-engine",
            "no-srp",
            "no-psk",
            "no-ct",
            "no-srtp",
            "no-nextprotoneg",
            "no-ech",
        ],
        ..PLAIN
    },
    Flavour {
        name: "maximal",
        configure: &["enable-ssl3", "enable-ssl3-method", "enable-ktls", "enable-ssl-trace"],
        ..PLAIN
    },
    Flavour { name: "static", shape: Shape::StaticShared, ..PLAIN },
    Flavour { shape: Shape::StaticExecutable, ..flags("static-exe", &["-fno-pic"]) },
    Flavour { name: "static-local", shape: Shape::StaticLocal, ..PLAIN },
    flags("lse", &["-march=armv8.1-a"]),
    flags("inlineatomics", &["-mno-outline-atomics"]),
    flags("bti", &["-mbranch-protection=standard"]),
];

/// One build.
#[derive(Debug)]
pub(super) struct Build {
    /// `3.5.5-gcc12-O2-cet`; `3.5.5-aarch64-gcc12-O2`.
    pub(super) name: String,
    pub(super) version: &'static str,
    /// The release of `openssl-src`.
    pub(super) source: &'static str,
    /// Whether the whole of libcrypto is built.
    pub(super) complete: bool,
    pub(super) arch: Arch,
    pub(super) compiler: Compiler,
    /// A level of optimisation: `-O2`.
    level: String,
    pub(super) flavour: &'static Flavour,
}

impl Build {
    fn new(rows: &Rows, version: &str, build: &str) -> anyhow::Result<Self> {
        let release = RELEASES
            .iter()
            .find(|release| release.version == version)
            .with_context(|| format!("{version} is not among the releases"))?;
        let (level, flavour) = build.split_once('-').unwrap_or((build, ""));
        let flavour = FLAVOURS
            .iter()
            .find(|known| known.name == flavour)
            .with_context(|| format!("{flavour} is not among the flavours"))?;
        let arch = match rows.arch {
            X86_64 => String::new(),
            arch @ Aarch64 => format!("-{}", arch.name()),
        };
        Ok(Self {
            name: format!("{version}{arch}-{}-{build}", rows.compiler.name()),
            version: release.version,
            source: release.source,
            complete: release.runs && rows.arch == X86_64,
            arch: rows.arch,
            compiler: rows.compiler,
            level: format!("-{level}"),
            flavour,
        })
    }

    /// The build that others of its release and processor are made from, being
    /// what it is but for some objects.
    pub(super) fn is_base(&self) -> bool {
        self.compiler == Gcc12 && self.level == "-O2" && self.flavour.name.is_empty()
    }

    /// For the compiler.
    pub(super) fn compile_flags(&self) -> String {
        let flavour = match self.compiler {
            Gcc11 | Gcc12 => self.flavour.gcc,
            Clang22 => self.flavour.clang,
        };
        [&[self.level.as_str()], flavour].concat().join(" ")
    }

    /// For the compiler when it links.
    pub(super) fn link_flags(&self) -> String {
        [self.compiler.link_flags(), self.flavour.link].concat().join(" ")
    }

    /// What is called to compile or link.
    pub(super) fn compiler_command(&self) -> anyhow::Result<Command> {
        let mut words = self.compiler.command(self.arch).split(' ');
        let mut command = Command::new(words.next().context("a compiler has a name")?);
        command.args(words);
        Ok(command)
    }

    /// The version of the interface, which is in the libraries' names.
    pub(super) fn interface(&self) -> &'static str {
        match self.version.split('.').next() {
            Some("1") => "1.1",
            Some("3") => "3",
            _ => "4",
        }
    }

    /// Everything that a person would want to know of how it was made.
    pub(super) fn flags(&self) -> String {
        let shape = match self.flavour.shape {
            Shape::Shared => "",
            Shape::Stripped => "stripped",
            Shape::StaticShared => "static, in a shared object",
            Shape::StaticExecutable => "static, in a program at a fixed address",
            Shape::StaticLocal => "static, not exported",
        };
        let configure = self.flavour.configure.join(" ");
        let parts = [self.compile_flags(), self.link_flags(), configure, shape.to_owned()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// All builds of the matrix.
///
/// # Errors
///
/// The matrix names a release or flavour that it does not describe, or a build
/// twice.
pub(super) fn builds() -> anyhow::Result<Vec<Build>> {
    let mut builds: Vec<Build> = Vec::new();
    for rows in &ROWS {
        for version in rows.versions.split(' ') {
            for build in rows.builds.split(' ') {
                let build = Build::new(rows, version, build)?;
                if builds.iter().any(|known| known.name == build.name) {
                    bail!("{} is in the matrix twice", build.name);
                }
                builds.push(build);
            }
        }
    }
    Ok(builds)
}

#[cfg(test)]
mod tests {
    use super::{Arch, builds};

    #[test]
    fn the_matrix_is_consistent() -> anyhow::Result<()> {
        let builds = builds()?;
        for live in ["1.1.1w", "3.2.1", "3.5.5", "4.0.3"] {
            let name = format!("{live}-gcc12-O2");
            assert!(builds.iter().any(|build| build.name == name && build.is_base()), "{name}");
        }
        assert!(builds.iter().any(|build| build.arch == Arch::Aarch64));
        // What a build is made from is itself in the matrix.
        for build in &builds {
            let base = builds.iter().any(|base| {
                base.is_base() && base.version == build.version && base.arch == build.arch
            });
            assert!(base, "{} has no base", build.name);
        }
        Ok(())
    }
}
