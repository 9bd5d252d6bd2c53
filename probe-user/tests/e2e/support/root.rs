//! A root directory with one program that makes TLS connections: what containers
//! are made of.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{oracle::ORACLES, run, tls::Certificates};

/// Where the program is, within the root.
pub(crate) const PROGRAM: &str = "/oracle";

pub(crate) struct Root {
    directory: TempDir,
    /// The libssl, as a path within the root.
    pub(crate) libssl: PathBuf,
}

impl Root {
    /// The C oracle, copies of the libraries that it needs, and the certificate
    /// and its key at the paths that the oracle is told.
    pub(crate) fn make() -> Self {
        let directory = tempfile::tempdir().expect("a directory for a root");
        let root = directory.path();
        let program = root.join(&PROGRAM[1..]);
        let source = format!("{ORACLES}/oracle.c");
        run(Command::new("cc").args(["-O2", &source, "-lssl", "-lcrypto", "-o"]).arg(&program));
        let libraries = libraries(&program);
        let certificates = Certificates::get();
        for file in libraries.iter().chain([&certificates.certificate, &certificates.key]) {
            let copy = root.join(file.strip_prefix("/").expect("a whole path"));
            fs::create_dir_all(copy.parent().expect("it is in a directory")).expect("it is ours");
            fs::copy(file, copy).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
        for empty in ["proc", "dev"] {
            fs::create_dir_all(root.join(empty)).expect("it is ours");
        }
        let is_libssl = |path: &&PathBuf| path.to_string_lossy().contains("/libssl.so");
        let libssl = libraries.iter().find(is_libssl).expect("it is linked to libssl").clone();
        Self { directory, libssl }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// The dynamic linker, and what it loads for a program. Not below /usr: there,
/// other tests' agents would take the libssl for the system's.
fn libraries(program: &Path) -> Vec<PathBuf> {
    run(Command::new("ldd").arg(program))
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(|path| PathBuf::from(path.strip_prefix("/usr").unwrap_or(path)))
        .collect()
}
