//! A real PostgreSQL with TLS, on loopback, not as root.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::{free_port, spawn, tls::Certificates};

/// The user `nobody`: the server refuses to run as root.
const NOBODY: u32 = 65534;

/// How often another port is tried, if somebody takes one before the server does.
const TRIES: usize = 5;

pub(crate) struct Postgres {
    server: Child,
    port: u16,
    _directory: TempDir,
}

impl Postgres {
    /// Makes a cluster and starts its server; it accepts connections when this
    /// returns.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory for a cluster");
        let everybody = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), everybody).expect("it is ours");
        let certificates = Certificates::get();
        let certificate = of_nobody(directory.path(), &certificates.certificate);
        let key = of_nobody(directory.path(), &certificates.key);
        let data = directory.path().join("data");
        fs::create_dir(&data).expect("a directory for data");
        chown(&data, Some(NOBODY), Some(NOBODY)).expect("we are root");
        let mut initdb = as_nobody("initdb");
        initdb.args(["--username=test", "--auth=trust", "--no-locale", "--encoding=UTF8"]);
        initdb.args(["--no-sync", "--no-instructions", "--pgdata"]).arg(&data);
        let output = initdb.output().expect("initdb runs");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let started = (0..TRIES).find_map(|_| {
            let port = free_port();
            let mut command = as_nobody("postgres");
            command.arg("-D").arg(&data);
            let settings = [
                format!("port={port}"),
                format!("ssl_cert_file={}", certificate.display()),
                format!("ssl_key_file={}", key.display()),
                "ssl=on".to_owned(),
                "listen_addresses=127.0.0.1".to_owned(),
                "unix_socket_directories=".to_owned(),
                "dynamic_shared_memory_type=mmap".to_owned(),
                "logging_collector=off".to_owned(),
                "fsync=off".to_owned(),
                "authentication_timeout=600".to_owned(),
            ];
            for setting in settings {
                command.args(["-c", &setting]);
            }
            command.stderr(Stdio::piped());
            Some((wait_until_ready(spawn(command))?, port))
        });
        let (server, port) = started.expect("postgres starts; it says above why not");
        Self { server, port, _directory: directory }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, with its children.
        let _ = kill(Pid::from_raw(self.server.id().cast_signed()), Signal::SIGQUIT);
        let _ = self.server.wait();
    }
}

/// A copy of a file that the server can read, and others cannot.
fn of_nobody(directory: &Path, file: &Path) -> PathBuf {
    let copy = directory.join(file.file_name().expect("a file"));
    fs::copy(file, &copy).expect("it can be copied");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).expect("it is ours");
    chown(&copy, Some(NOBODY), Some(NOBODY)).expect("we are root");
    copy
}

/// A program of PostgreSQL. It ends with its parent, which a change of user
/// would make the kernel forget.
fn as_nobody(program: &str) -> Command {
    let releases = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let newest = releases.map(|entry| entry.expect("it can be listed").path()).max();
    let program = newest.expect("PostgreSQL is installed").join("bin").join(program);
    let mut command = Command::new("setpriv");
    let nobody = NOBODY.to_string();
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Waits for the line that says so; `None`: the server ended before it.
fn wait_until_ready(mut server: Child) -> Option<Child> {
    let mut log = BufReader::new(server.stderr.take().expect("it is piped")).lines();
    let ready = log.by_ref().map_while(Result::ok).any(|line| {
        eprintln!("postgres: {line}");
        line.contains("ready to accept connections")
    });
    if !ready {
        let _ = server.wait();
        return None;
    }
    // Nobody reads the rest, but it must be read for the server to go on.
    thread::spawn(move || log.map_while(Result::ok).for_each(drop));
    Some(server)
}
