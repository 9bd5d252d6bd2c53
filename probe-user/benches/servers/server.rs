//! Servers that people run, with a small answer and a P-256 certificate.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::certificate;

/// How long one may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);

/// Both in one file, as HAProxy wants them.
pub(crate) struct Certificate(PathBuf);

impl Certificate {
    pub(crate) fn make(directory: &Path) -> Self {
        let both =
            certificate::make(directory).map(|file| fs::read(file).expect("openssl made it"));
        let file = directory.join("both.pem");
        fs::write(&file, both.concat()).expect("it can be written");
        Self(file)
    }
}

/// Which one.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Sessions are in tickets, which is what it does unless told otherwise.
    Nginx,
    /// Sessions are in the cache that its workers share.
    NginxCache,
    HaProxy,
    Python,
    Node,
}

/// A server that listens.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    /// The process that answers.
    pub(crate) pid: u32,
}

impl Server {
    /// Starts one: `program` if it is not where packages put it; with these in its
    /// environment.
    pub(crate) fn start(
        directory: &Path,
        certificate: &Certificate,
        kind: Kind,
        program: Option<&Path>,
        environment: &[(&str, &Path)],
    ) -> Self {
        let port = free_port();
        let mut command = command(directory, certificate, kind, program, port);
        let child = command
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .spawn()
            .expect("it runs");
        eventually("it listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        let parent = child.id();
        let pid = match kind {
            Kind::Nginx | Kind::NginxCache => eventually("it has a worker", || first_child(parent)),
            Kind::HaProxy | Kind::Python | Kind::Node => parent,
        };
        Self { child, port, pid }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends its workers.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn command(
    directory: &Path,
    Certificate(certificate): &Certificate,
    kind: Kind,
    program: Option<&Path>,
    port: u16,
) -> Command {
    let script =
        |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/programs/{name}"));
    let configuration = |text: &str| {
        let file = directory.join(format!("{port}.conf"));
        fs::write(&file, text).expect("it can be written");
        file
    };
    match kind {
        Kind::Nginx | Kind::NginxCache => {
            let sessions = match kind {
                Kind::NginxCache => "ssl_session_tickets off; ssl_session_cache shared:all:1m;",
                _ => "",
            };
            let mut command = Command::new("/usr/sbin/nginx");
            command.arg("-p").arg(directory).arg("-c").arg(configuration(&nginx(
                directory,
                certificate,
                port,
                sessions,
            )));
            command
        }
        Kind::HaProxy => {
            let mut command = Command::new("/usr/sbin/haproxy");
            command.args(["-q", "-db", "-f"]).arg(configuration(&format!(
                "global\n nbthread 1\n\
                 defaults\n mode http\n timeout client 10s\n timeout server 10s\n \
                 timeout connect 10s\n\
                 frontend tls\n bind 127.0.0.1:{port} ssl crt {}\n \
                 http-request return status 200 content-type text/plain string ok\n",
                certificate.display()
            )));
            command
        }
        Kind::Python => {
            let mut command = Command::new("/usr/bin/python3");
            command.arg(script("server.py")).arg(port.to_string()).arg(certificate);
            command
        }
        Kind::Node => {
            let mut command = Command::new(program.expect("it is said where it is"));
            command.arg(script("server.js")).arg(port.to_string()).arg(certificate);
            command
        }
    }
}

/// It answers with `r` over a resumed session, and with `.` else. Its worker keeps to the
/// first processor.
fn nginx(directory: &Path, certificate: &Path, port: u16, sessions: &str) -> String {
    let (root, certificate) = (directory.display(), certificate.display());
    format!(
        "daemon off; worker_processes 1; worker_cpu_affinity 1; user root;
         pid {root}/{port}.pid; error_log stderr;
         events {{ worker_connections 256; }}
         http {{ access_log off; keepalive_timeout 0;
           client_body_temp_path {root}/a; proxy_temp_path {root}/b; fastcgi_temp_path {root}/c;
           uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
           server {{ listen 127.0.0.1:{port} ssl backlog=1024; ssl_protocols TLSv1.2 TLSv1.3;
             ssl_certificate {certificate}; ssl_certificate_key {certificate}; {sessions}
             return 200 $ssl_session_reused; }} }}"
    )
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("there is a port");
    listener.local_addr().expect("it is bound").port()
}

fn first_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{what}, in time");
        thread::sleep(Duration::from_millis(5));
    }
}
