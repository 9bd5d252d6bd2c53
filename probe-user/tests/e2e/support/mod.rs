//! What the tests stand on.

pub(crate) mod agent;
pub(crate) mod churn;
pub(crate) mod compare;
pub(crate) mod docker;
pub(crate) mod libraries;
pub(crate) mod oracle;
pub(crate) mod play;
pub(crate) mod postgres;
pub(crate) mod root;
pub(crate) mod tls;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::sys::{prctl, signal::Signal};
use tempfile::TempDir;

/// The binary under test.
pub(crate) const SSLSESS: &str = env!("CARGO_BIN_EXE_sslsess");

/// Long enough for anything that happens at all; nothing is measured with it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until something is so.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for this: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A copy of a program, at a path that no other test runs: its totals are of
/// this test alone.
pub(crate) fn private_copy(program: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory for a program");
    let name = Path::new(program).file_name().expect("a program's path");
    let copy = directory.path().join(name);
    // Not by this process: whatever another test's thread forks at this moment
    // would hold the copy open for writing, and it could not be executed.
    let copied = Command::new("cp").arg(program).arg(&copy).status().expect("cp runs");
    assert!(copied.success(), "{program}: {copied}");
    (directory, copy)
}

/// Where `cargo xtask` puts what it builds and installs.
pub(crate) fn target() -> &'static Path {
    let ours = Path::new(env!("CARGO_TARGET_TMPDIR"));
    ours.parent().expect("it is a directory of the target directory")
}

/// The one file in a directory of which the name begins so.
pub(crate) fn file_in(directory: &Path, beginning: &str) -> PathBuf {
    let entries = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}: run cargo xtask test", directory.display()));
    let found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| !path.is_symlink())
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(beginning)))
        .collect();
    match found.as_slice() {
        // As the kernel shows it.
        [file] => file.canonicalize().expect("it is there"),
        _ => panic!("one {beginning}* in {}: {found:?}", directory.display()),
    }
}

/// Runs a program that must do well; what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A port that nobody listens on at the moment.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Starts a process that ends with this one, however this one ends.
///
/// The kernel's "parent died" signal is about the thread that forked, and tests
/// run on threads that end: so one thread that never does starts them all.
pub(crate) fn spawn(mut command: Command) -> Child {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: std::sync::LazyLock<mpsc::Sender<Job>> = std::sync::LazyLock::new(|| {
        let (jobs, inbox) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        jobs
    });
    use std::os::unix::process::CommandExt as _;
    // SAFETY: prctl is async-signal-safe, and nothing else is called.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
    }
    let name = command.get_program().to_owned();
    let (reply, child) = mpsc::channel();
    SPAWNER.send((command, reply)).expect("the spawner never ends");
    let child = child.recv().expect("the spawner answers");
    child.unwrap_or_else(|error| panic!("cannot run {}: {error}", name.display()))
}
