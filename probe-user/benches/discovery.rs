//! What it costs to know what 5,000 processes map: the first look at all of them,
//! and every second after it. `cargo xtask bench` builds and runs it, as root.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
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
    let agent = watch_agent();
    println!(
        "{:>18.2}%  of a processor: the whole agent, and whatever else happened here",
        agent * 100.0
    );
    if worked <= FIRST && share <= SHARE { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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

/// The share of a processor that a running agent takes.
fn watch_agent() -> f64 {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_sslsess"))
        .args(["serve", "--web.listen-address", "127.0.0.1:0"])
        .env("SSLSESS_LOG", "info")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the agent runs");
    let started = Instant::now();
    let mut log = BufReader::new(agent.stderr.take().expect("it is piped")).lines();
    let listens = |line: std::io::Result<String>| line.is_ok_and(|l| l.contains("listening on "));
    assert!(log.by_ref().any(listens), "the agent needs root");
    println!("{:>9} {:>9}  until the agent listens", ms(started.elapsed()), "");
    let (before, at) = (processor_time_of(&agent), Instant::now());
    thread::sleep(WATCHED);
    let share = (processor_time_of(&agent) - before) / at.elapsed().as_secs_f64();
    let _ = agent.kill();
    let _ = agent.wait();
    share
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
