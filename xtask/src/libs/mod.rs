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
use crate::{build, mutate, packages};

/// Where libraries are built and kept.
fn directory() -> PathBuf {
    crate::target().join("libs")
}

/// Where the finished ones are: a directory for each.
fn built() -> PathBuf {
    directory().join("out")
}

/// What has libssl in it, of each library that was built for a processor.
pub(crate) fn finished(arch: &str) -> Vec<PathBuf> {
    let Ok(directories) = fs::read_dir(built()) else { return Vec::new() };
    let mut found: Vec<PathBuf> = directories
        .flatten()
        .filter_map(|directory| {
            let directory = directory.path();
            let library = Library::read(&directory).filter(|library| library.arch == arch)?;
            Some(directory.join(library.file))
        })
        .collect();
    found.sort_unstable();
    found
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

/// The directories of these libraries: of a build, with `libssl.so`, `libcrypto.so` and
/// `library.json`; builds what is missing.
///
/// # Errors
///
/// There is no library of such a name, or its build fails.
pub(crate) fn ensure(names: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let libs = directory();
    let rows = Row::all()?;
    names
        .iter()
        .map(|name| {
            let row = rows.iter().find(|row| row.name() == *name);
            let row = row.with_context(|| {
                format!("{name}: no such library; see `cargo xtask libs --list`")
            })?;
            row.ensure(&libs)
        })
        .collect()
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

/// What `cargo xtask libs` is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those whose names contain one of these; the table is then not written.
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Only list them.
    #[arg(long)]
    list: bool,
    /// Only build what is missing.
    #[arg(long, conflicts_with = "built")]
    no_learn: bool,
    /// Only those that are there already; the table says which are not.
    #[arg(long)]
    built: bool,
    /// Learn with this agent, instead of with one that is built now.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Change those that are built in many ways, N of each kind, and learn
    /// each: none may be believed wrongly.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "24")]
    mutate: Option<usize>,
}

/// A library that can be had.
enum Row {
    Build(Build),
    Relative(&'static Relative),
    Wheel(&'static Wheel),
}

impl Row {
    /// All of them, in the order of the table.
    fn all() -> anyhow::Result<Vec<Self>> {
        let builds = matrix::builds()?.into_iter().map(Self::Build);
        let others = RELATIVES.iter().map(Self::Relative).chain(WHEELS.iter().map(Self::Wheel));
        Ok(builds.chain(others).collect())
    }

    fn name(&self) -> String {
        match self {
            Self::Build(build) => build.name.clone(),
            Self::Relative(relative) => relative.name(),
            Self::Wheel(wheel) => wheel.name(),
        }
    }

    fn flags(&self) -> String {
        match self {
            Self::Build(build) => build.flags(),
            Self::Relative(relative) => relative.flags(),
            Self::Wheel(wheel) => wheel.flags(),
        }
    }

    /// Where it is once it is made.
    fn directory(&self, libs: &Path) -> PathBuf {
        let kind = if matches!(self, Self::Wheel(_)) { "wheels" } else { "out" };
        libs.join(kind).join(self.name())
    }

    fn ensure(&self, libs: &Path) -> anyhow::Result<PathBuf> {
        match self {
            Self::Build(build) => ensure_one(libs, build),
            Self::Relative(relative) => relative.ensure(libs),
            Self::Wheel(wheel) => wheel.ensure(libs),
        }
    }
}

/// Builds or downloads what is missing, lets sslsess learn it all, compares,
/// and writes the table.
///
/// # Errors
///
/// Something could not be made, or sslsess learnt something that is not true.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.mutate.is_some() {
        return [built(), directory().join("wheels")]
            .iter()
            .filter(|libraries| libraries.exists())
            .try_for_each(|libraries| mutate::run(Some(libraries), args.mutate, &args.filters));
    }
    let mut rows = Row::all()?;
    let names: Vec<String> = rows.iter().map(Row::name).collect();
    let filters = &args.filters;
    let wanted = |row: &Row| filters.iter().any(|filter| matches(filter, &row.name(), &names));
    rows.retain(|row| filters.is_empty() || wanted(row));
    anyhow::ensure!(!rows.is_empty(), "no library has such a name");
    if args.list {
        for row in rows {
            println!("{:<52} {}", row.name(), row.flags());
        }
        return Ok(());
    }
    let libs = directory();
    let mut directories = Vec::new();
    let mut missing = Vec::new();
    for row in &rows {
        let directory = row.directory(&libs);
        if args.built && Library::read(&directory).is_some() {
            directories.push(directory);
        } else if args.built {
            missing.push(row.name());
        } else {
            match ensure(&[&row.name()]) {
                Ok(made) => directories.extend(made),
                Err(error) => {
                    eprintln!("{}: {error:#}", row.name());
                    missing.push(row.name());
                }
            }
        }
    }
    if !args.no_learn {
        let compared = learn(args.agent.clone(), &directories)?;
        if filters.is_empty() && (args.built || missing.is_empty()) {
            table::write(&compared, &missing)?;
        }
    }
    anyhow::ensure!(args.built || missing.is_empty(), "could not be made: {}", missing.join(", "));
    Ok(())
}

/// A filter that is the name of a build means that one, and not those whose
/// names begin with it.
fn matches(filter: &str, name: &str, names: &[String]) -> bool {
    if names.iter().any(|known| known == filter) { name == filter } else { name.contains(filter) }
}

/// What sslsess learns of each, all of which must be true.
fn learn(agent: Option<PathBuf>, directories: &[PathBuf]) -> anyhow::Result<Vec<Compared>> {
    let agent = agent.map_or_else(build::run, Ok)?;
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
    Ok(rows)
}
