//! OpenSSL's relatives: AWS-LC and BoringSSL, from the crates that carry their
//! sources.
//!
//! Each is compiled once. Another level of optimisation is one of the C++
//! files, which are all of libssl and nothing else: libcrypto stays as it is.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, bail};

use super::{
    library::{Library, Source},
    tree::run,
};
use crate::{packages, progress::step};

/// Lets the compiler tell where the fields are.
const OFFSETS: &str = include_str!("relatives.cc");
/// The same of the hash table, which is C.
const HASH_OFFSETS: &str = include_str!("relatives.c");

/// A library, and where its sources are.
#[derive(Debug)]
struct Sources {
    /// As the names of its builds begin.
    name: &'static str,
    /// What the library calls itself; `None`: nothing.
    version: Option<&'static str>,
    package: &'static str,
    release: &'static str,
    /// Where `CMakeLists.txt` is in the package.
    root: &'static str,
    /// Where `ssl` and `crypto` are, from there.
    sources: &'static str,
    /// Where `cmake` puts libraries.
    libssl: &'static str,
    libcrypto: &'static str,
}

const AWS_LC: Sources = Sources {
    name: "awslc-1.69.0",
    version: Some("1.69.0"),
    package: "aws-lc-sys",
    release: "0.38.0",
    root: "aws-lc",
    sources: "",
    libssl: "ssl/libssl.so",
    libcrypto: "crypto/libcrypto.so",
};

/// BoringSSL has no releases: it is known by that of the package.
const BORINGSSL: Sources = Sources {
    name: "boringssl-4.22.0",
    version: None,
    package: "boring-sys",
    release: "4.22.0",
    root: "deps/boringssl",
    sources: "src",
    libssl: "libssl.so",
    libcrypto: "libcrypto.so",
};

/// What is made of the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Shared,
    /// Without `.symtab`.
    Stripped,
    /// Both in one shared object that exports everything.
    Static,
}

/// One build.
#[derive(Debug)]
pub(super) struct Relative {
    sources: &'static Sources,
    /// Of the C++ files.
    level: &'static str,
    shape: Shape,
}

/// All builds. Those that the end-to-end tests use are first of their kind.
pub(super) const RELATIVES: [Relative; 8] = [
    Relative { sources: &AWS_LC, level: "-O3", shape: Shape::Shared },
    Relative { sources: &BORINGSSL, level: "-O3", shape: Shape::Shared },
    Relative { sources: &AWS_LC, level: "-O3", shape: Shape::Stripped },
    Relative { sources: &AWS_LC, level: "-O3", shape: Shape::Static },
    Relative { sources: &BORINGSSL, level: "-O3", shape: Shape::Static },
    Relative { sources: &AWS_LC, level: "-O2", shape: Shape::Shared },
    Relative { sources: &AWS_LC, level: "-Os", shape: Shape::Shared },
    Relative { sources: &BORINGSSL, level: "-O2", shape: Shape::Shared },
];

/// Builds what the end-to-end tests use, if it is not there.
///
/// # Errors
///
/// The sources cannot be fetched, or a build fails.
pub(crate) fn ensure_for_tests() -> anyhow::Result<()> {
    let libs = super::directory();
    for relative in RELATIVES.iter().filter(|r| r.level == "-O3" && r.shape == Shape::Shared) {
        relative.ensure(&libs).with_context(|| relative.name())?;
    }
    Ok(())
}

impl Relative {
    /// `awslc-1.69.0-gcc12-O3-static`.
    pub(super) fn name(&self) -> String {
        let shape = match self.shape {
            Shape::Shared => "",
            Shape::Stripped => "-stripped",
            Shape::Static => "-static",
        };
        format!("{}-gcc12{}{shape}", self.sources.name, self.level)
    }

    pub(super) fn flags(&self) -> String {
        let shape = match self.shape {
            Shape::Shared => "",
            Shape::Stripped => " stripped",
            Shape::Static => " static, in a shared object",
        };
        format!("{}{shape}", self.level)
    }

    /// The directory of the build, which is made if it is not there.
    pub(super) fn ensure(&self, libs: &Path) -> anyhow::Result<PathBuf> {
        let out = libs.join("out").join(self.name());
        let finished = || Library::read(&out).is_some_and(|library| library.flags == self.flags());
        if finished() {
            return Ok(out);
        }
        let tree = libs.join("build").join(self.sources.name);
        fs::create_dir_all(&tree)?;
        // Two runs do not build the same.
        let lock = File::create(libs.join("build").join(format!("{}.lock", self.sources.name)))?;
        lock.lock().context("cannot lock the tree")?;
        if finished() {
            return Ok(out);
        }
        packages::install(
            &format!("building {}", self.name()),
            &["cmake", "g++-12", "gcc-12", "make", "binutils"],
        )?;
        let sources = self.sources.fetch(libs)?;
        self.compile(&sources, &tree)?;
        if out.exists() {
            fs::remove_dir_all(&out)?;
        }
        fs::create_dir_all(&out)?;
        let file = self.link(&tree, &out)?;
        let library = Library {
            name: self.name(),
            version: self.sources.version.map(str::to_owned),
            compiler: Some("gcc12".to_owned()),
            flags: self.flags(),
            arch: "x86_64".to_owned(),
            file: file.into(),
            how: Source::Offsetof,
            truth: self.sources.truth(&sources, &tree)?,
            settings: BTreeMap::new(),
        };
        library.write(&out)?;
        Ok(out)
    }

    /// Brings the tree to this level of optimisation.
    fn compile(&self, sources: &Path, tree: &Path) -> anyhow::Result<()> {
        let mut configure = Command::new("cmake");
        configure
            .current_dir(tree)
            .args(["-DCMAKE_C_COMPILER=gcc-12", "-DCMAKE_CXX_COMPILER=g++-12"])
            .args(["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DCMAKE_SKIP_RPATH=ON"])
            .arg(format!("-DCMAKE_CXX_FLAGS_RELEASE={} -DNDEBUG", self.level))
            // AWS-LC's; BoringSSL's sources in the package have none of these.
            .args(["-DBUILD_TESTING=OFF", "-DBUILD_TOOL=OFF", "-DENABLE_SOURCE_MODIFICATION=OFF"])
            .args(["-DDISABLE_GO=ON", "-DDISABLE_PERL=ON"])
            .arg(sources);
        step(&format!("configuring {}", self.name()), &mut configure)?;
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let mut make = Command::new("make");
        make.current_dir(tree).arg(format!("-j{jobs}")).args(["ssl", "crypto"]);
        // A make above this one has its own ideas about jobs.
        make.env_remove("MAKEFLAGS");
        step(&format!("building {}", self.name()), &mut make)
    }

    /// Puts what the build is made for into a directory; returns the file that
    /// has libssl in it, as a name there.
    fn link(&self, tree: &Path, out: &Path) -> anyhow::Result<&'static str> {
        if self.shape == Shape::Static {
            let mut find = Command::new("find");
            find.current_dir(tree).args([".", "-name", "*.o", "-path", "*.dir/*"]);
            let listing = String::from_utf8(find.output()?.stdout)?;
            let mut objects: Vec<&str> = listing.lines().collect();
            objects.sort_unstable();
            let mut link = Command::new("g++-12");
            link.current_dir(tree).args(["-shared", "-Wl,-Bsymbolic", "-o"]);
            link.arg(out.join("libstatic.so")).args(objects).arg("-pthread");
            run(&mut link).with_context(|| format!("cannot link {}", self.name()))?;
            return Ok("libstatic.so");
        }
        for (built, name) in
            [(self.sources.libssl, "libssl.so"), (self.sources.libcrypto, "libcrypto.so")]
        {
            let library = out.join(name);
            fs::copy(tree.join(built), &library).with_context(|| format!("no {built}"))?;
            if self.shape == Shape::Stripped {
                run(Command::new("strip").arg("-s").arg(&library))?;
            }
        }
        Ok("libssl.so")
    }
}

impl Sources {
    /// Where the sources are; fetches them if they are not there yet.
    fn fetch(&self, libs: &Path) -> anyhow::Result<PathBuf> {
        let sources = libs.join("src").join(format!("{}-{}", self.package, self.release));
        if sources.exists() {
            return Ok(sources);
        }
        let project = libs.join("src").join(format!(".fetch-{}", self.package));
        fs::create_dir_all(project.join("src"))?;
        fs::write(project.join("src/lib.rs"), "")?;
        let manifest = format!(
            "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
             [dependencies]\n{} = \"={}\"\n\n[workspace]\n",
            self.package, self.release
        );
        fs::write(project.join("Cargo.toml"), manifest)?;
        let mut vendor = Command::new("cargo");
        vendor.current_dir(&project).args(["vendor", "--quiet", "vendor"]);
        step(&format!("fetching the sources of {}", self.name), &mut vendor)?;
        let vendored = project.join("vendor").join(self.package).join(self.root);
        fs::rename(&vendored, &sources)
            .with_context(|| format!("{} has no {}", self.package, vendored.display()))?;
        fs::remove_dir_all(&project)?;
        Ok(sources)
    }

    /// The offsets, by the compiler that built the library, from the
    /// declarations that it was built from.
    fn truth(&self, sources: &Path, tree: &Path) -> anyhow::Result<BTreeMap<String, u64>> {
        let includes = sources.join(self.sources);
        let mut truth = BTreeMap::new();
        for (compiler, name, text) in
            [("g++-12", "offsets.cc", OFFSETS), ("gcc-12", "offsets.c", HASH_OFFSETS)]
        {
            fs::write(tree.join(name), text)?;
            let mut compile = Command::new(compiler);
            compile.current_dir(tree).args(["-O2", "-S", "-o", "-", "-Wno-invalid-offsetof"]);
            if compiler == "g++-12" {
                // `references_` is private.
                compile.arg("-fno-access-control");
            }
            compile.arg("-I").arg(includes.join("include")).arg("-I").arg(&includes).arg(name);
            let output = compile.output().with_context(|| format!("cannot run {compiler}"))?;
            if !output.status.success() {
                bail!("{name}: {}", String::from_utf8_lossy(&output.stderr));
            }
            truth.extend(told(&String::from_utf8(output.stdout)?)?);
        }
        anyhow::ensure!(truth.contains_key("references"), "{}: no offsets are told", self.name);
        Ok(truth)
    }
}

/// Reads the lines `@layout NAME OFFSET` in assembly.
fn told(text: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("@layout "))
        .map(|line| {
            let (name, offset) = line.split_once(' ').context("a name and an offset")?;
            Ok((name.to_owned(), offset.trim().parse()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{RELATIVES, told};

    #[test]
    fn names_are_of_one_build_each() {
        let names: BTreeSet<String> = RELATIVES.iter().map(super::Relative::name).collect();
        assert_eq!(names.len(), RELATIVES.len());
    }

    #[test]
    fn lines_among_assembly_are_read() -> anyhow::Result<()> {
        let truth = told("\tret\n#APP\n\t@layout connect 200\n@layout hits 232\n#NO_APP\n")?;
        assert_eq!(truth["connect"], 200);
        assert_eq!(truth.len(), 2);
        assert!(told("@layout connect here").is_err());
        Ok(())
    }
}
