//! What it costs to know what 5,000 processes map: the first look at all of them,
//! and every second after it; and how long it takes until a library that one of
//! them loads has its probes. `cargo xtask bench` builds and runs it, as root.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use procfs::process::Process;
use sslsess::host::{
    Discovery,
    discovery::{ROUND, TICK},
};

/// Processes that sleep.
const PROCESSES: usize = 5000;

/// What the first look may take, of the processor's time.
const FIRST: Duration = Duration::from_secs(1);

/// The part of a processor that the agent may take while nothing happens.
const SHARE: f64 = 0.005;

/// How long the agent is watched.
const WATCHED: Duration = Duration::from_secs(60);

/// How long it may take from the request to load a library until it has its probes.
const LATENCY: Duration = Duration::from_millis(100);

/// Libraries that are loaded one after the other, each a file that nobody had.
const LOADS: usize = 21;

/// Debian's.
const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

/// Loads what it is told to.
const LOADER: &str = "
import ctypes, sys
for line in sys.stdin:
    ctypes.CDLL(line.strip())
";

/// Forks children that wait for its end.
const PARENT: &str = "
import os, sys, json, socket, ctypes, decimal
end, mine = os.pipe()
for _ in range(int(sys.argv[1])):
    if not os.fork():
        os.close(mine)
        os.read(end, 1)
        os._exit(0)
print(len(open('/proc/self/maps').readlines()), flush=True)
sys.stdin.read()
";

fn main() -> ExitCode {
    let crowd = Crowd::gather();
    println!("{PROCESSES} processes sleep; each has {} mappings", crowd.mappings);
    let mut discovery = Discovery::default();
    let (first, worked) = measured(|| drop(discovery.scan()));
    println!("{:>9} {:>9}  the first look at all", ms(first), ms(worked));
    let (passed, again) = measured(|| drop(discovery.scan()));
    println!("{:>9} {:>9}  another", ms(passed), ms(again));
    let (passed, listing) = measured(|| {
        // A process that has begun since makes it list them.
        let child = Command::new("/bin/true").status();
        child.expect("it is everywhere");
        drop(discovery.newcomers());
    });
    println!("{:>9} {:>9}  a listing, and starting a process", ms(passed), ms(listing));
    let ticks = (ROUND.as_secs_f64() / TICK.as_secs_f64()) as u32;
    let looks = discovery.looks();
    let (_, round) = measured(|| (0..ticks).for_each(|_| drop(discovery.round(ROUND))));
    let looks = discovery.looks() - looks;
    println!("{:>19}  a round, in {ticks} ticks; it met {looks} processes", ms(round));
    let share = round.as_secs_f64() / ROUND.as_secs_f64();
    println!("{:>18.2}%  of a processor, that is", share * 100.0);
    let agent = Agent::start();
    let whole = agent.share();
    println!(
        "{:>18.2}%  of a processor: the whole agent, and whatever else happened here",
        whole * 100.0
    );
    let latencies = agent.latencies();
    let (median, most) = (latencies[LOADS / 2], latencies[LOADS - 1]);
    println!(
        "{:>9} {:>9}  from loading a new library to its probes: median, most",
        ms(median),
        ms(most)
    );
    let within = worked <= FIRST && share <= SHARE && median <= LATENCY;
    if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The sleeping processes.
struct Crowd {
    parent: Child,
    /// Ends them all when it is closed.
    _stdin: ChildStdin,
    mappings: usize,
}

impl Crowd {
    fn gather() -> Self {
        let mut parent = Command::new("/usr/bin/python3")
            .args(["-c", PARENT, &PROCESSES.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python runs");
        let mut line = String::new();
        let stdout = parent.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it forks them");
        let mappings = line.trim().parse().expect("a number");
        Self { _stdin: parent.stdin.take().expect("it is piped"), parent, mappings }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.parent.kill();
        let _ = self.parent.wait();
    }
}

/// A running agent.
struct Agent {
    child: Child,
    /// The lines of its log, each with the time at which it came.
    log: Receiver<(Instant, String)>,
}

impl Agent {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sslsess"))
            .args(["serve", "--web.listen-address", "127.0.0.1:0"])
            .env("SSLSESS_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent runs");
        let started = Instant::now();
        let (sender, log) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        let agent = Self { child, log };
        let listens = agent.wait_for("listening on ").expect("the agent needs root");
        println!("{:>9} {:>9}  until the agent listens", ms(listens - started), "");
        agent
    }

    /// When it says something; `None`: it has ended.
    fn wait_for(&self, what: &str) -> Option<Instant> {
        let said = self.log.iter().find(|(_, line)| line.contains(what));
        said.map(|(at, _)| at)
    }

    /// The share of a processor that it takes.
    fn share(&self) -> f64 {
        let (before, at) = (processor_time_of(&self.child), Instant::now());
        thread::sleep(WATCHED);
        (processor_time_of(&self.child) - before) / at.elapsed().as_secs_f64()
    }

    /// The times that pass from the request to load a library that nobody has to the
    /// agent's word that it is observed: the shortest first.
    fn latencies(&self) -> Vec<Duration> {
        let directory = tempfile::tempdir().expect("a directory");
        let mut loader = Command::new("/usr/bin/python3")
            .args(["-c", LOADER])
            .stdin(Stdio::piped())
            .spawn()
            .expect("python runs");
        let mut requests = loader.stdin.take().expect("it is piped");
        let mut latencies: Vec<Duration> = (0..LOADS)
            .map(|n| {
                let library = directory.path().join(n.to_string()).join("libssl.so.3");
                copy(&library);
                let asked = Instant::now();
                writeln!(requests, "{}", library.display()).expect("it runs");
                let observed = self.wait_for(&format!("library={} ", library.display()));
                observed.expect("the agent runs") - asked
            })
            .collect();
        drop(requests);
        let _ = loader.wait();
        latencies.sort_unstable();
        latencies
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Puts a copy of the system's libssl there.
fn copy(to: &Path) {
    fs::create_dir_all(to.parent().expect("a directory")).expect("it can be made");
    fs::copy(LIBSSL, to).expect("the system has a libssl");
}

/// Seconds that the processor has worked for a process.
fn processor_time_of(child: &Child) -> f64 {
    let stat = Process::new(child.id().cast_signed()).and_then(|process| process.stat());
    let stat = stat.expect("it runs");
    (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
}

/// Time that passed, and that the processor worked for this process.
fn measured(what: impl FnOnce()) -> (Duration, Duration) {
    let (start, before) = (Instant::now(), processor_time());
    what();
    (start.elapsed(), processor_time().saturating_sub(before))
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
