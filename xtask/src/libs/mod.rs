//! `cargo xtask libs`: builds of OpenSSL of many releases, compilers and
//! options; what is true of each; and what sslsess learns of them.

mod compare;
mod library;
mod link;
mod matrix;
pub(crate) mod relatives;
mod sources;
mod table;
mod tree;
mod truth;
mod wheels;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use self::{
    compare::{Compared, Difference, compare},
    library::{Library, Source},
    matrix::Build,
    relatives::{RELATIVES, Relative},
    tree::Tree,
    wheels::{WHEELS, Wheel},
};
use crate::{build, packages};

/// Where libraries are built and kept.
fn directory() -> PathBuf {
    crate::target().join("libs")
}

/// Where the finished ones are: a directory for each.
pub(crate) fn built() -> PathBuf {
    directory().join("out")
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
    let truth = truth::of(&tree)?;
    let library = Library {
        name: build.name.clone(),
        version: Some(build.version.to_owned()),
        compiler: Some(build.compiler.name().to_owned()),
        flags: build.flags(),
        arch: build.arch.name().to_owned(),
        file: file.into(),
        how: Source::Offsetof,
        truth: truth.layout,
        settings: truth.settings,
    };
    library.write(&out)?;
    tree.remove()?;
    Ok(out)
}

/// Builds or downloads what is missing, lets sslsess learn it all, compares,
/// and writes the table.
///
/// # Errors
///
/// Something could not be made, or sslsess learnt something that is not true.
pub(crate) fn run(filters: &[String], list: bool, no_learn: bool) -> anyhow::Result<()> {
    let mut builds = matrix::builds()?;
    let names: Vec<String> = builds.iter().map(|build| build.name.clone()).collect();
    let names: Vec<String> =
        names.into_iter().chain(RELATIVES.iter().map(Relative::name)).collect();
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|f| matches(f, name, &names));
    builds.retain(|build| wanted(&build.name));
    let relatives: Vec<&Relative> =
        RELATIVES.iter().filter(|relative| wanted(&relative.name())).collect();
    let wheels: Vec<&Wheel> = WHEELS.iter().filter(|wheel| wanted(&wheel.name())).collect();
    if list {
        for build in builds {
            println!("{:<48} {}", build.name, build.flags());
        }
        for relative in relatives {
            println!("{:<48} {}", relative.name(), relative.flags());
        }
        for wheel in wheels {
            println!("{:<48} {}", wheel.name(), wheel.flags());
        }
        return Ok(());
    }
    let count = builds.len() + relatives.len() + wheels.len();
    anyhow::ensure!(count > 0, "no library has such a name");
    let libs = directory();
    let mut failed = 0;
    let mut directories = Vec::new();
    let builds = builds.iter().map(|build| (build.name.clone(), ensure_one(&libs, build)));
    let relatives = relatives.iter().map(|relative| (relative.name(), relative.ensure(&libs)));
    let wheels = wheels.iter().map(|wheel| (wheel.name(), wheel.ensure(&libs)));
    for (name, made) in builds.chain(relatives).chain(wheels) {
        match made {
            Ok(directory) => directories.push(directory),
            Err(error) => {
                eprintln!("{name}: {error:#}");
                failed += 1;
            }
        }
    }
    if !no_learn {
        learn(&directories, filters.is_empty() && failed == 0)?;
    }
    anyhow::ensure!(failed == 0, "{failed} libraries could not be made");
    Ok(())
}

/// A filter that is the name of a build means that one, and not those whose
/// names begin with it.
fn matches(filter: &str, name: &str, names: &[String]) -> bool {
    if names.iter().any(|known| known == filter) { name == filter } else { name.contains(filter) }
}

/// Compares all, and writes the table if it is true.
fn learn(directories: &[PathBuf], write_table: bool) -> anyhow::Result<()> {
    let agent = build::run()?;
    let rows: Vec<Compared> =
        directories.iter().map(|directory| compare(&agent, directory)).collect::<Result<_, _>>()?;
    let mut wrong = 0;
    for row in &rows {
        for Difference { field, learnt, truth } in &row.differences {
            eprintln!("{}: {field}: learnt {learnt}, true is {truth}", row.library.name);
            wrong += 1;
        }
    }
    let gaps: usize = rows.iter().map(|row| row.explanation.gaps.len()).sum();
    eprintln!("{} libraries: {wrong} differences, {gaps} gaps", rows.len());
    anyhow::ensure!(wrong == 0, "what was learnt of libraries is not true");
    if write_table { table::write(&rows) } else { Ok(()) }
}
