//! Servers and clients that nobody wrote for this: nginx under curl,
//! and `openssl s_server -www`, which tells its counters on a page.

use std::{
    collections::HashMap,
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    agent::{Agent, Plan},
    compare::{Expect, assert_equal},
    eventually, free_port,
    oracle::Told,
    private_copy, spawn,
    tls::Certificates,
};

const WORKERS: usize = 4;

pub(crate) struct Nginx {
    child: Child,
    exe: PathBuf,
    pub(crate) port: u16,
    directory: TempDir,
    /// How many workers it has.
    count: usize,
}

impl Nginx {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// With the libraries of a directory, or with the system's.
    pub(crate) fn start_with(libraries: Option<&Path>) -> Self {
        Self::with_workers(libraries, WORKERS)
    }

    pub(crate) fn with_workers(libraries: Option<&Path>, workers: usize) -> Self {
        let (directory, exe) = private_copy("/usr/sbin/nginx");
        let port = free_port();
        let certificates = Certificates::get();
        let (certificate, key) = (certificates.certificate.display(), certificates.key.display());
        let server = |name: &str| {
            format!(
                "server {{ listen 127.0.0.1:{port} ssl reuseport; server_name {name};
                   ssl_certificate {certificate}; ssl_certificate_key {key};
                   ssl_session_cache shared:{name}:1m; return 200 ok; }}\n"
            )
            .replace(" reuseport", if name == "localhost" { " reuseport" } else { "" })
        };
        let root = directory.path().display();
        let config = format!(
            "daemon off; worker_processes {workers}; pid {root}/pid; error_log stderr;
             user root;
             events {{ worker_connections 256; }}
             http {{ log_format reuse '$ssl_server_name $ssl_session_reused';
               access_log {root}/access.log reuse; keepalive_timeout 0;
               client_body_temp_path {root}/a; proxy_temp_path {root}/b; fastcgi_temp_path {root}/c;
               uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
               {}{}{} }}",
            server("localhost"),
            server("a.test"),
            server("b.test"),
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, config).expect("a configuration");
        let mut command = Command::new(&exe);
        command.arg("-c").arg(&file).arg("-p").arg(directory.path());
        command.envs(libraries.map(|directory| ("LD_LIBRARY_PATH", directory)));
        let nginx = Self { child: spawn(command), exe, port, directory, count: workers };
        eventually("nginx listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        nginx
    }

    /// A line for each request: the name asked for, and `r` or `.`.
    fn access_log(&self) -> String {
        let log = self.directory.path().join("access.log");
        fs::read_to_string(log).expect("nginx writes a log")
    }

    pub(crate) fn exe(&self) -> &Path {
        &self.exe
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Pids of the workers.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        fs::read_to_string(path)
            .expect("nginx runs")
            .split_whitespace()
            .map(|pid| pid.parse().expect("a pid"))
            .collect()
    }

    /// Asks for new workers, and waits until they have replaced the old ones.
    pub(crate) fn reload(&self) {
        let old = self.workers();
        self.signal(Signal::SIGHUP);
        eventually("new workers replace the old ones", || {
            let now = self.workers();
            (now.len() == self.count && now.iter().all(|pid| !old.contains(pid))).then_some(())
        });
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("nginx runs");
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Requests by several curls at once, each on a connection of its own; a curl
/// offers the sessions that it got before.
pub(crate) fn requests(port: u16, name: &str, count: usize) {
    const CURLS: usize = 4;
    let certificate = Certificates::get().certificate.display().to_string();
    let resolve = format!("{name}:{port}:127.0.0.1");
    let url = format!("https://{name}:{port}/[1-{}]", count / CURLS);
    let args = [
        "-sS",
        "--http1.1",
        "-H",
        "Connection: close",
        "--cacert",
        &certificate,
        "--resolve",
        &resolve,
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{num_connects}\n",
        &url,
    ];
    let texts = thread::scope(|scope| {
        let curls: Vec<_> = (0..CURLS).map(|_| scope.spawn(|| run("curl", &args))).collect();
        curls.into_iter().map(|curl| curl.join().expect("curl ran").stdout).collect::<Vec<_>>()
    });
    let text = String::from_utf8_lossy(&texts.concat()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), count);
    assert!(lines.iter().all(|line| *line == "200 1"), "{text}");
}

pub(crate) fn sum(contexts: &[Value], name: &str) -> i64 {
    contexts.iter().map(|c| c["stats"][name].as_i64().expect("it is known")).sum()
}

fn workers_sum_up(plan: Plan) {
    let agent = Agent::shared(plan);
    let nginx = Nginx::start();
    agent.wait_until_attached();
    requests(nginx.port, "localhost", 1000);
    requests(nginx.port, "a.test", 600);
    requests(nginx.port, "b.test", 400);
    let workers = nginx.workers();
    assert_eq!(workers.len(), WORKERS);
    let contexts: Vec<Value> = workers.iter().flat_map(|pid| agent.contexts_of(*pid)).collect();
    assert_eq!(sum(&contexts, "accept_good"), 2000, "{contexts:#?}");
    // 3.0 moves `accept` along when SNI changes the context.
    assert_eq!(sum(&contexts, "accept"), 2000);
    // nginx says of each request whether its session was reused.
    let reused = nginx.access_log().lines().filter(|line| line.ends_with(" r")).count();
    assert!(reused > 0, "curl resumes");
    assert_eq!(sum(&contexts, "hits"), reused as i64);
    let by_context = contexts.iter().fold(HashMap::new(), |mut sums: HashMap<&str, i64>, c| {
        let ctx = c["ctx"].as_str().expect("an address");
        *sums.entry(ctx).or_default() += c["stats"]["accept_good"].as_i64().expect("known");
        sums
    });
    let mut by_context: Vec<i64> = by_context.into_values().filter(|sum| *sum > 0).collect();
    by_context.sort_unstable();
    assert_eq!(by_context, [400, 600, 1000], "one context a server_name, at one address each");
}

#[test]
fn four_workers_sum_up_to_the_requests() {
    workers_sum_up(Plan::Auto);
}

#[test]
fn four_workers_sum_up_to_the_requests_with_births() {
    workers_sum_up(Plan::Births);
}

#[test]
fn four_workers_sum_up_to_the_requests_with_entry_probes() {
    workers_sum_up(Plan::Entry);
}

/// Totals go on counting workers that are gone.
#[test]
fn totals_survive_a_reload() {
    let agent = Agent::start(&[]);
    let nginx = Nginx::start();
    agent.wait_until_attached();
    let series = format!("openssl_sess_accept_good_total{{exe=\"{}\"}}", nginx.exe.display());
    requests(nginx.port, "a.test", 400);
    nginx.reload();
    requests(nginx.port, "b.test", 300);
    assert_eq!(agent.metric(&series), Some(700.0));
}

/// The page of `s_server -www`: `  12 server accepts (SSL_accept())`, and so on.
fn told_by_page(page: &str, ctx: &str) -> Told {
    let names = [
        ("number", "items in the session cache"),
        ("connect", "client connects (SSL_connect())"),
        ("connect_renegotiate", "client renegotiates (SSL_connect())"),
        ("connect_good", "client connects that finished"),
        ("accept", "server accepts (SSL_accept())"),
        ("accept_renegotiate", "server renegotiates (SSL_accept())"),
        ("accept_good", "server accepts that finished"),
        ("hits", "session cache hits"),
        ("misses", "session cache misses"),
        ("timeouts", "session cache timeouts"),
        ("cb_hits", "callback cache hits"),
    ];
    let value = |text: &str| -> Value {
        let line = page.lines().find(|line| line.contains(text));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok());
        number.unwrap_or_else(|| panic!("no {text} in {page}")).into()
    };
    let mut stats: serde_json::Map<_, _> =
        names.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect();
    // "   0 cache full overflows (128 allowed)"
    stats.insert("cache_full".to_owned(), value("cache full overflows"));
    Told { scenario: "s_server".to_owned(), ctx: ctx.to_owned(), stats }
}

fn s_server(plan: Plan, options: &[&str], client_options: &[&str]) {
    let agent = Agent::shared(plan);
    let certificates = Certificates::get();
    let port = free_port();
    let mut command = Command::new("openssl");
    command
        .args(["s_server", "-www", "-quiet", "-accept", &format!("127.0.0.1:{port}"), "-cert"])
        .arg(&certificates.certificate)
        .arg("-key")
        .arg(&certificates.key)
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut server = spawn(command);
    eventually("s_server listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    agent.wait_until_attached();
    // Five reconnects with the session of the first connection.
    let address = format!("127.0.0.1:{port}");
    let mut client = Command::new("openssl");
    client.args(["s_client", "-reconnect", "-connect", &address]).args(client_options);
    let client = client.stdin(Stdio::null()).output().expect("openssl runs");
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
    let url = format!("https://{address}/");
    let page = run("curl", &["-sSk", &url]);
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    // The page was written during the connection that fetched it, which has
    // changed no counter since; its session may have left the cache when it ended.
    let contexts = eventually("the server's context", || {
        let contexts = agent.contexts_of(server.id());
        (!contexts.is_empty()).then_some(contexts)
    });
    assert_eq!(contexts.len(), 1, "{contexts:#?}");
    let told = told_by_page(&page, contexts[0]["ctx"].as_str().expect("an address"));
    assert!(told.stats["accept_good"].as_i64() >= Some(7), "{told:?}");
    assert_equal(agent, server.id(), std::slice::from_ref(&told), Expect::Live);
    server.kill().expect("it runs");
    let _ = server.wait();
    assert_equal(agent, server.id(), &[told], Expect::Exited);
}

#[test]
fn s_server_says_the_same() {
    s_server(Plan::Auto, &["-tls1_2", "-no_ticket"], &["-tls1_2"]);
    s_server(Plan::Auto, &["-tls1_2"], &["-tls1_2"]);
    s_server(Plan::Auto, &["-tls1_3"], &["-tls1_3"]);
    s_server(Plan::Auto, &["-tls1_3", "-no_ticket"], &["-tls1_3"]);
}

#[test]
fn s_server_says_the_same_with_births() {
    s_server(Plan::Births, &["-tls1_2", "-no_ticket"], &["-tls1_2"]);
    s_server(Plan::Births, &["-tls1_3"], &["-tls1_3"]);
}

#[test]
fn s_server_says_the_same_with_entry_probes() {
    s_server(Plan::Entry, &["-tls1_2", "-no_ticket"], &["-tls1_2"]);
    s_server(Plan::Entry, &["-tls1_3"], &["-tls1_3"]);
}
