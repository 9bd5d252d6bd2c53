//! `cargo xtask libs`: builds of OpenSSL of many releases, compilers and
//! options; what is true of each; and what sslsess learns of them.

mod library;
mod link;
mod matrix;
pub(crate) mod relatives;
mod sources;
mod tree;
mod truth;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use self::{
    library::{Library, Source},
    matrix::Build,
    relatives::{RELATIVES, Relative},
    tree::Tree,
};
use crate::packages;

/// Where libraries are built and kept.
fn directory() -> PathBuf {
    crate::target().join("libs")
}

/// Held while a release is built for a processor, so that two runs do not
/// build the same.
struct Lock {
    _file: File,
}

impl Lock {
    fn take(libs: &Path, build: &Build) -> anyhow::Result<Self> {
        let name = format!("{}-{}.lock", build.version, build.arch.name());
        let path = libs.join("build").join(name);
        fs::create_dir_all(libs.join("build"))?;
        let file = File::create(&path)?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { _file: file })
    }
}

/// The directories of these builds, each with `libssl.so`, `libcrypto.so` and
/// `library.json`; builds what is missing.
///
/// # Errors
///
/// A name is not in the matrix, or its build fails.
pub(crate) fn ensure(names: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let libs = directory();
    let builds = matrix::builds()?;
    let builds: Vec<&Build> = names
        .iter()
        .map(|name| {
            let build = builds.iter().find(|build| build.name == *name);
            build.with_context(|| format!("{name}: no such build; see `cargo xtask libs --list`"))
        })
        .collect::<anyhow::Result<_>>()?;
    builds.into_iter().map(|build| ensure_one(&libs, build)).collect()
}

/// The directory of a build, which is made if it is not there, or was made in
/// another way than the matrix now says.
fn ensure_one(libs: &Path, build: &Build) -> anyhow::Result<PathBuf> {
    let out = libs.join("out").join(&build.name);
    let finished = || Library::read(&out).is_some_and(|library| library.flags == build.flags());
    if finished() {
        return Ok(out);
    }
    let _lock = Lock::take(libs, build)?;
    if finished() {
        return Ok(out);
    }
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    let mut needed = vec!["make", "perl"];
    needed.extend(build.compiler.packages(build.arch));
    packages::install(&format!("building {}", build.name), &needed)?;
    fs::create_dir_all(&out)?;
    let tree = Tree::of(libs, build).with_context(|| build.name.clone())?;
    let file = link::link(build, &tree, &out)?;
    let (truth, settings) = truth::of(&tree)?;
    let library = Library {
        name: build.name.clone(),
        version: Some(build.version.to_owned()),
        compiler: Some(build.compiler.name().to_owned()),
        flags: build.flags(),
        arch: build.arch.name().to_owned(),
        file: file.into(),
        how: Source::Offsetof,
        truth,
        settings,
    };
    library.write(&out)?;
    tree.remove()?;
    Ok(out)
}

pub(crate) fn run(filters: &[String], list: bool, no_learn: bool) -> anyhow::Result<()> {
    let builds = matrix::builds()?;
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter));
    let builds: Vec<&Build> = builds.iter().filter(|build| wanted(&build.name)).collect();
    let relatives: Vec<&Relative> =
        RELATIVES.iter().filter(|relative| wanted(&relative.name())).collect();
    if list {
        for build in builds {
            println!("{:<36} {}", build.name, build.flags());
        }
        for relative in relatives {
            println!("{:<36} {}", relative.name(), relative.flags());
        }
        return Ok(());
    }
    let libs = directory();
    let mut failed = 0;
    for build in builds {
        if let Err(error) = ensure_one(&libs, build) {
            eprintln!("{}: {error:#}", build.name);
            failed += 1;
        }
    }
    for relative in relatives {
        if let Err(error) = relative.ensure(&libs) {
            eprintln!("{}: {error:#}", relative.name());
            failed += 1;
        }
    }
    anyhow::ensure!(failed == 0, "{failed} builds failed");
    let _ = no_learn;
    Ok(())
}
