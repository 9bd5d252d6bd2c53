//! How long a scrape takes, and how large the agent is, with 10, 1,000, 10,000 and
//! 100,000 live contexts in one process; and what the agent costs when nothing
//! happens. `cargo xtask bench` builds and runs it, as root.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use procfs::process::Process;

/// Contexts, with what a scrape may take, and how much memory the agent.
const SIZES: [(usize, Option<Duration>, Option<u64>); 4] = [
    (10, None, None),
    (1_000, None, Some(40)),
    (10_000, Some(Duration::from_millis(100)), None),
    (100_000, Some(Duration::from_secs(1)), Some(150)),
];

/// How often each is asked.
const TIMES: usize = 7;

/// The part of a processor that the agent may take while nothing happens.
const IDLE: f64 = 0.001;

/// How long it is watched then.
const WATCHED: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let directory = tempfile::tempdir().expect("a directory");
    let program = compile(directory.path());
    println!("{:>9} {:>12} {:>12} {:>12}", "contexts", "/metrics", "JSON", "memory");
    let mut within = true;
    for (count, limit, memory) in SIZES {
        let agent = Agent::start();
        let mut many = Many::start(&program, count);
        // Its libssl has its probes before it uses any.
        agent.wait_until("sslsess_probes{", "/libssl.so", 1);
        many.make();
        agent.wait_until("openssl_ctx_live{", "/many\"", count);
        let metrics = median(|| agent.get("/metrics"));
        let json = median(|| agent.get("/api/v1/contexts"));
        let resident = agent.resident() >> 20;
        println!("{count:>9} {:>12} {:>12} {resident:>8} MiB", ms(metrics), ms(json));
        within &= limit.is_none_or(|limit| metrics <= limit);
        within &= memory.is_none_or(|memory| resident <= memory);
        if count == 1_000 {
            let idle = agent.share();
            println!("{:>9} {:>11.3}%  of a processor, when nobody asks", "", idle * 100.0);
            within &= idle <= IDLE;
        }
        drop(many);
    }
    if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn compile(directory: &Path) -> PathBuf {
    let program = directory.join("many");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/programs/many.c");
    let status = Command::new("gcc")
        .args(["-O2", "-o"])
        .args([&program, &source])
        .args(["-lssl", "-lcrypto"])
        .status()
        .expect("gcc runs");
    assert!(status.success(), "{} is compiled", source.display());
    program
}

/// The program with the contexts.
struct Many {
    child: Child,
    /// It ends when this is closed.
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Many {
    fn start(program: &Path, count: usize) -> Self {
        let mut child = Command::new(program)
            .arg(count.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, stdin, stdout }
    }

    /// Has it make its contexts.
    fn make(&mut self) {
        self.stdin.write_all(b"\n").expect("it runs");
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it says when it is ready");
        assert_eq!(line, "ready\n");
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Agent {
    child: Child,
    url: String,
}

impl Agent {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sslsess"))
            .args(["serve", "--web.listen-address", "127.0.0.1:0", "--max-contexts", "131072"])
            .env("SSLSESS_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent runs");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let url = loop {
            let mut line = String::new();
            let read = log.read_line(&mut line).expect("UTF-8");
            assert!(read > 0, "the agent needs root");
            if let Some((_, url)) = line.trim().split_once("listening on ") {
                break url.to_owned();
            }
        };
        thread::spawn(move || {
            let mut rest = Vec::new();
            let _ = log.read_to_end(&mut rest);
        });
        Self { child, url }
    }

    fn get(&self, path: &str) -> String {
        let url = format!("{}{path}", self.url);
        ureq::get(&url)
            .call()
            .and_then(|mut answer| answer.body_mut().with_config().limit(1 << 30).read_to_string())
            .expect("it answers")
    }

    /// Waits until a metric with a label like this is as large.
    fn wait_until(&self, metric: &str, label: &str, least: usize) {
        let sum = |metrics: &str| -> usize {
            let lines = metrics.lines().filter(|line| line.starts_with(metric));
            let of_it = lines.filter(|line| line.contains(label));
            of_it.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
        };
        let start = Instant::now();
        while sum(&self.get("/metrics")) < least {
            assert!(start.elapsed() < Duration::from_secs(120), "{metric} reaches {least}");
        }
    }

    /// Resident memory, in bytes.
    fn resident(&self) -> u64 {
        let process = Process::new(self.child.id().cast_signed()).expect("it runs");
        process.statm().expect("it runs").resident * procfs::page_size()
    }

    /// The share of a processor that it takes.
    fn share(&self) -> f64 {
        let worked = || {
            let process = Process::new(self.child.id().cast_signed()).expect("it runs");
            // In nanoseconds; ticks are too coarse for so little.
            let threads = process.tasks().expect("it runs").flatten();
            threads.filter_map(|task| Some(task.schedstat().ok()?.sum_exec_runtime)).sum::<u64>()
        };
        let (before, at) = (worked(), Instant::now());
        thread::sleep(WATCHED);
        (worked() - before) as f64 / at.elapsed().as_nanos() as f64
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The median of the times that something takes.
fn median<T>(mut what: impl FnMut() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..TIMES)
        .map(|_| {
            let start = Instant::now();
            drop(what());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[TIMES / 2]
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
