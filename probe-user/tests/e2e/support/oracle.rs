//! Programs that tell their own counters. Each reads commands, one a line, and
//! answers each with a line of JSON.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{spawn, tls::Certificates};

/// Where the programs are.
pub(crate) const ORACLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/oracles");

/// What a program says of one of its contexts.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Told {
    /// What was done with it.
    pub(crate) scenario: String,
    /// Its address, as the agent writes it.
    pub(crate) ctx: String,
    /// The values, by the names of the manual page.
    pub(crate) stats: Map<String, Value>,
}

impl Told {
    pub(crate) fn is_unused(&self) -> bool {
        self.stats.values().all(|value| value == 0)
    }
}

/// The languages whose bindings tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Python,
    Ruby,
    Perl,
}

pub(crate) struct Oracle {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Oracle {
    /// Starts the program; its library is loaded when this returns.
    pub(crate) fn start(language: Language) -> Self {
        let (program, script) = match language {
            Language::Python => ("/usr/bin/python3", "oracle.py"),
            Language::Ruby => ("/usr/bin/ruby", "oracle.rb"),
            Language::Perl => ("/usr/bin/perl", "oracle.pl"),
        };
        let mut command = Command::new(program);
        command.arg(format!("{ORACLES}/{script}"));
        Self::start_command(command)
    }

    /// Python, as the executable at this path.
    pub(crate) fn start_python_at(program: &Path) -> Self {
        let mut command = Command::new(program);
        command.arg(format!("{ORACLES}/oracle.py")).env("PYTHONHOME", "/usr");
        Self::start_command(command)
    }

    /// Python, with a libssl of one's own, through its C functions. Both files
    /// are one where OpenSSL is linked into it statically.
    pub(crate) fn start_native(libssl: &Path, libcrypto: &Path) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(format!("{ORACLES}/native.py"));
        command.env("LIBSSL", libssl).env("LIBCRYPTO", libcrypto);
        Self::start_command(command)
    }

    /// Starts a program that speaks the oracles' language.
    pub(crate) fn start_command(mut command: Command) -> Self {
        let certificates = Certificates::get();
        command
            .env("CERTIFICATE", &certificates.certificate)
            .env("KEY", &certificates.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = spawn(command);
        let commands = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut oracle = Self { child, commands, answers };
        let ready = oracle.answer();
        assert_eq!(ready["ready"], true, "the oracle is not ready: {ready}");
        oracle
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn answer(&mut self) -> Value {
        let line = self.answers.next().expect("the oracle answers").expect("UTF-8");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Gives a command, and waits until it is done.
    pub(crate) fn ask(&mut self, command: &str) -> Value {
        writeln!(self.commands, "{command}").expect("the oracle reads");
        let answer = self.answer();
        assert!(answer["error"].is_null(), "{command}: {}", answer["error"]);
        answer
    }

    /// The scenarios that this program can play.
    pub(crate) fn scenarios(&mut self) -> Vec<String> {
        serde_json::from_value(self.ask("scenarios")["scenarios"].clone()).expect("names")
    }

    /// What it says of all contexts that it has.
    pub(crate) fn told(&mut self) -> Vec<Told> {
        serde_json::from_value(self.ask("stats")["contexts"].clone()).expect("contexts")
    }

    /// What it says of the contexts at these addresses.
    pub(crate) fn told_of(&mut self, contexts: &[String]) -> Vec<Told> {
        let answer = self.ask(&format!("stats {}", contexts.join(" ")));
        serde_json::from_value(answer["contexts"].clone()).expect("contexts")
    }

    /// Gives a command to which no answer comes.
    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("the oracle reads");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("the oracle runs");
    }

    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("it is our child")
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
