//! What a hit of a probe costs, and what probes cost the program: next to the
//! cheapest probe there is, next to what is usually attached, and next to a debugger.
//! Everything is measured in turns, in one process, in one run; what counts are
//! ratios. `cargo xtask bench` builds and runs it, as root.

mod code;
mod debugger;
mod handshakes;
mod increments;
mod statistics;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
};

fn main() -> ExitCode {
    let directory = tempfile::tempdir().expect("a directory");
    let (cost, hits_within) = increments::measure(directory.path());
    println!();
    let pairs_within = handshakes::measure(directory.path(), cost);
    println!();
    debugger::measure(directory.path());
    if hits_within && pairs_within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Compiles one of the programs.
fn compile(directory: &Path, name: &str) -> PathBuf {
    let program = directory.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/programs/{name}.c"));
    let status = Command::new("gcc")
        .args(["-O2", "-o"])
        .args([&program, &source])
        .arg("-lcrypto")
        .status()
        .expect("gcc runs");
    assert!(status.success(), "{} is compiled", source.display());
    program
}

/// A program that is told what to do, and answers in lines.
struct Program {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    fn start(program: &Path, arguments: &[&Path]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, stdin, stdout }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("it runs");
    }

    /// The numbers in its next line; none if there are none.
    fn numbers(&mut self) -> Vec<f64> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it is ASCII");
        assert!(!line.is_empty(), "it goes on");
        line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }

    /// Those in so many lines.
    fn lines(&mut self, count: usize) -> Vec<Vec<f64>> {
        (0..count).map(|_| self.numbers()).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
