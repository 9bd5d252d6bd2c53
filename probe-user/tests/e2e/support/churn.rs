//! A program that makes contexts by the thousand, with a libssl that it is told.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    agent::Agent,
    oracle::{ORACLES, Oracle, Told},
    private_copy, run,
};
use crate::builds::Library;

/// The program, at a path of its own, and the library that it uses.
pub(crate) struct Program {
    _directory: TempDir,
    pub(crate) path: PathBuf,
    library: Library,
}

impl Program {
    /// With OpenSSL 1.1.1, which makes a context five times as fast as later ones do.
    pub(crate) fn new() -> Self {
        Self::with(Library::built("1.1.1w-gcc12-O2"))
    }

    pub(crate) fn with(library: Library) -> Self {
        static BUILT: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
            let directory = tempfile::tempdir().expect("a directory for a program");
            let program = directory.path().join("churn");
            let source = format!("{ORACLES}/churn.c");
            run(Command::new("cc").args(["-O2", &source, "-o"]).arg(&program));
            (directory, program)
        });
        let (directory, path) = private_copy(BUILT.1.to_str().expect("a path"));
        Self { _directory: directory, path, library }
    }

    /// Starts it; its library is loaded when this returns.
    pub(crate) fn start(&self) -> Oracle {
        Oracle::start_command(self.environment(Command::new(&self.path)))
    }

    /// Tells a command where the library is.
    pub(crate) fn environment(&self, mut command: Command) -> Command {
        command.env("LIBSSL", &self.library.libssl).env("LIBCRYPTO", &self.library.libcrypto);
        command
    }

    pub(crate) fn wait_until_attached(&self, agent: &Agent) {
        agent.wait_until_attached_to(&self.library.libssl);
    }

    pub(crate) fn libssl(&self) -> &Path {
        &self.library.libssl
    }

    /// A sum of this program.
    pub(crate) fn total(&self, agent: &Agent, counter: &str) -> i64 {
        total(agent, &self.path, counter)
    }
}

/// A sum of an executable; 0 if there is none.
pub(crate) fn total(agent: &Agent, exe: &Path, counter: &str) -> i64 {
    let series = format!("openssl_sess_{counter}_total{{exe=\"{}\"}}", exe.display());
    agent.metric(&series).unwrap_or(0.0) as i64
}

/// What a program's answer says of its contexts.
pub(crate) fn told(answer: &Value) -> Vec<Told> {
    serde_json::from_value(answer["contexts"].clone()).expect("contexts")
}
