//! Trees in which OpenSSL is built.
//!
//! A release is compiled once for each processor. The other builds of it are
//! copies of that tree in which the objects are compiled again that anybody
//! learns something from: all of libssl, and in libcrypto the hash table and
//! the version. That takes a twentieth of the time.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, bail, ensure};

use super::{
    matrix::{Arch, Build, Shape},
    sources,
};
use crate::progress::step;

/// Stands in a tree that is complete.
const COMPLETE: &str = ".built";

/// Parts of OpenSSL that the tests and the learner have no use for.
const WITHOUT: [(&str, &str); 4] = [
    // Since when `Configure` knows the option.
    ("1.1.1", "no-tests"),
    ("3.0", "no-module no-legacy no-cmp no-cms"),
    ("3.2", "no-apps"),
    ("3.3", "no-docs"),
];

/// A tree in which a build's objects are.
pub(super) struct Tree {
    pub(super) path: PathBuf,
    /// The sources, relative to the tree.
    pub(super) sources: PathBuf,
    /// Variables for `make`.
    variables: Vec<String>,
}

impl Tree {
    /// The tree of the plain build for this release and processor, built if
    /// it is not yet.
    fn base(libs: &Path, build: &Build) -> anyhow::Result<Self> {
        sources::get(libs, build)?;
        let tree = Self {
            path: libs.join("build").join(format!("{}-{}", build.version, build.arch.name())),
            sources: Path::new("../../src").join(build.version),
            variables: Vec::new(),
        };
        if tree.path.join(COMPLETE).exists() {
            return Ok(tree);
        }
        let name = format!("OpenSSL {} for {}", build.version, build.arch.name());
        if !tree.path.join("Makefile").exists() {
            fs::create_dir_all(&tree.path)?;
            let without = WITHOUT.iter().filter(|(since, _)| build.version >= since);
            let options = without.flat_map(|(_, options)| options.split(' '));
            let mut configure = tree.configure(build, options);
            configure.env("CC", build.compiler.command(build.arch)).env("CFLAGS", "-O2");
            step(&format!("configuring {name}"), &mut configure)?;
        }
        step(&format!("generating headers of {name}"), &mut tree.make(&["build_generated"]))?;
        tree.make_libraries(build, &name)?;
        File::create(tree.path.join(COMPLETE))?;
        Ok(tree)
    }

    /// The tree for a build: the plain one, or a copy of it with other objects.
    pub(super) fn of(libs: &Path, build: &Build) -> anyhow::Result<Self> {
        let base = Self::base(libs, build)?;
        if build.is_base() {
            return Ok(base);
        }
        let path = libs.join("build").join(&build.name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        let mut copy = Command::new("cp");
        // Times are kept, for `make` goes by them.
        copy.args(["-a", "--reflink=auto"]).args([&base.path, &path]);
        run(&mut copy)?;
        let tree = Self {
            path,
            sources: base.sources,
            variables: vec![
                format!("CC={}", build.compiler.command(build.arch)),
                format!("CFLAGS={}", build.compile_flags()),
                format!("LDFLAGS={}", build.link_flags()),
            ],
        };
        if !build.flavour.configure.is_empty() {
            tree.configure_again(build)?;
        }
        let objects = tree.forget_objects()?;
        if build.flavour.shape == Shape::StaticExecutable {
            // With code for a fixed address there can be no shared library.
            let objects: Vec<&str> = objects.lines().map(|o| o.trim_start_matches("./")).collect();
            step(&format!("building {}", build.name), &mut tree.make(&objects))?;
        } else {
            tree.make_libraries(build, &build.name)?;
        }
        Ok(tree)
    }

    fn make_libraries(&self, build: &Build, name: &str) -> anyhow::Result<()> {
        let label = format!("building {name}");
        if build.complete {
            return step(&label, &mut self.make(&["libcrypto.so", "libssl.so"]));
        }
        // What libssl needs of libcrypto is only looked for when it runs.
        let objects: &[&str] = if build.version.starts_with("1.1") {
            &["crypto/lhash/lhash.o", "crypto/cversion.o"]
        } else {
            &["crypto/lhash/libcrypto-shlib-lhash.o", "crypto/libcrypto-shlib-cversion.o"]
        };
        step(&format!("{label}, the hash table"), &mut self.make(objects))?;
        let libcrypto = format!("libcrypto.so.{}", build.interface());
        let mut link = build.compiler_command()?;
        link.current_dir(&self.path).args(build.compile_flags().split(' '));
        link.args(build.link_flags().split_whitespace()).args(["-fPIC", "-shared"]);
        link.arg(format!("-Wl,-soname,{libcrypto}")).args(["-o", &libcrypto]).args(objects);
        run(&mut link)?;
        let short = self.path.join("libcrypto.so");
        if fs::symlink_metadata(&short).is_err() {
            symlink(&libcrypto, &short)?;
        }
        // As it is, whatever its objects may be.
        step(&label, &mut self.make(&["-o", "libcrypto.so", "-o", &libcrypto, "libssl.so"]))
    }

    /// Configures the copy of a tree with other options. What stays of its
    /// objects must look as if it had been compiled after that.
    fn configure_again(&self, build: &Build) -> anyhow::Result<()> {
        let known = fs::read_to_string(self.path.join(&self.sources).join("Configure"))?;
        let known = |option: &&str| {
            let name = option.trim_start_matches("no-").trim_start_matches("enable-");
            known.contains(&format!("\"{name}\""))
        };
        let options = build.flavour.configure.iter().copied().filter(known);
        let without = WITHOUT.iter().filter(|(since, _)| build.version >= since);
        let options = options.chain(without.flat_map(|(_, options)| options.split(' ')));
        let mut configure = self.configure(build, options);
        configure.env("CC", build.compiler.command(build.arch)).env("CFLAGS", "-O2");
        step(&format!("configuring {}", build.name), &mut configure)?;
        let generate = &mut self.make(&["build_generated"]);
        step(&format!("generating headers of {}", build.name), generate)?;
        let touch = ["-name", "*.[oa]", "-exec", "touch", "{}", "+"];
        run(Command::new("find").current_dir(&self.path).arg(".").args(touch))
    }

    /// Deletes what is to be compiled again; says what that was, one a line.
    fn forget_objects(&self) -> anyhow::Result<String> {
        let objects = "( -path ./ssl/* -o -name *libssl-* -o -name *lhash.o -o -name *cversion.o ) \
                       -name *.o -print -delete";
        let mut find = Command::new("find");
        let output =
            find.current_dir(&self.path).arg(".").args(objects.split_whitespace()).output()?;
        ensure!(output.status.success(), "find: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn configure<'a>(&self, build: &Build, options: impl Iterator<Item = &'a str>) -> Command {
        let mut configure = Command::new("perl");
        let target = format!("linux-{}", build.arch.name());
        configure.current_dir(&self.path).arg(self.sources.join("Configure")).arg(target);
        configure.arg("shared").args(options);
        if build.arch != Arch::X86_64 {
            for (variable, tool) in [("AR", "ar"), ("RANLIB", "ranlib")] {
                configure.env(variable, build.arch.tool(tool));
            }
        }
        configure
    }

    fn make(&self, targets: &[&str]) -> Command {
        let mut make = Command::new("make");
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        make.current_dir(&self.path).arg(format!("-j{jobs}"));
        make.args(&self.variables).args(targets);
        // A make above this one has its own ideas about jobs.
        make.env_remove("MAKEFLAGS");
        make
    }

    /// The command that compiles `ssl/ssl_lib.c`, up to where it says what is
    /// compiled: what anybody needs who wants to compile a file as libssl's
    /// files were. To be given to a shell in the tree.
    pub(super) fn compile_command(&self) -> anyhow::Result<String> {
        let source = self.sources.join("ssl/ssl_lib.c");
        let objects = ["ssl/libssl-shlib-ssl_lib.o", "ssl/ssl_lib.o"];
        let object = objects.iter().find(|object| self.path.join(object).exists());
        let object = object.with_context(|| format!("no ssl_lib.o in {}", self.path.display()))?;
        // Says what it would do if that file had changed.
        let output = self.make(&["-n", "-W"]).arg(&source).arg(object).output()?;
        let text = String::from_utf8(output.stdout)?;
        let end = format!("-c -o {object}");
        let line = text.lines().find(|line| line.contains(&end));
        let line = line.with_context(|| format!("make does not compile {object}"))?;
        let (command, _) = line.split_once(" -MMD").unwrap_or((line, ""));
        Ok(command.to_owned())
    }

    /// Deletes a copy; the plain trees stay, others are made from them.
    pub(super) fn remove(self) -> anyhow::Result<()> {
        if self.variables.is_empty() {
            return Ok(());
        }
        fs::remove_dir_all(&self.path)
            .with_context(|| format!("cannot remove {}", self.path.display()))
    }

    /// The files of the tree whose path relative to it, as text, is wanted.
    pub(super) fn files(&self, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<PathBuf>> {
        let mut find = Command::new("find");
        let output = find.current_dir(&self.path).args([".", "-type", "f"]).output()?;
        let listing = String::from_utf8(output.stdout)?;
        let paths = listing.lines().map(|line| line.trim_start_matches("./"));
        let mut paths: Vec<PathBuf> =
            paths.filter(|path| wanted(path)).map(PathBuf::from).collect();
        paths.sort();
        Ok(paths)
    }
}

/// Runs a command that says nothing if all is well.
pub(super) fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
