//! What it costs to know what 5,000 processes map: the first look at all of them,
//! and every second after it; and how long it takes until a library that one of
//! them loads has its probes. `cargo xtask bench` builds and runs it, as root.

#[path = "agent.rs"]
mod agent;
#[path = "program.rs"]
mod program;
#[path = "report.rs"]
mod report;
#[path = "statistics.rs"]
mod statistics;

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use sslsess::host::{
    Discovery,
    discovery::{ROUND, TICK},
};

use agent::Agent;
use program::Program;
use report::{Figure, figure};
use statistics::quartiles;

/// Processes that sleep.
const PROCESSES: usize = 5000;

/// Milliseconds of the processor that the first look may take.
const FIRST: f64 = 1000.0;

/// The percent of a processor that the rounds of looks may take.
const SHARE: f64 = 0.5;

/// How long the agent is watched.
const WATCHED: Duration = Duration::from_secs(60);

/// Milliseconds from the request to load a library until it has its probes (median).
const LATENCY: f64 = 100.0;

/// Libraries that are loaded one after the other, each a file that nobody had.
const LOADS: usize = 21;

const PYTHON: &str = "/usr/bin/python3";

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

fn main() {
    let mut crowd = Program::start(Path::new(PYTHON), &["-c", PARENT, &PROCESSES.to_string()]);
    println!("{PROCESSES} processes sleep; each has {} mappings", crowd.line());
    let mut discovery = Discovery::default();
    took("the first look at all", measured(|| drop(discovery.scan())), Some(FIRST));
    took("another look at all", measured(|| drop(discovery.scan())), None);
    let listing = measured(|| {
        // A process that has begun since makes it list them.
        let child = Command::new("/bin/true").status();
        child.expect("it is everywhere");
        drop(discovery.newcomers());
    });
    took("a listing, and starting a process", listing, None);
    let ticks = (ROUND.as_secs_f64() / TICK.as_secs_f64()) as u32;
    let looks = discovery.looks();
    let [_, round] = measured(|| (0..ticks).for_each(|_| drop(discovery.round(TICK, ROUND))));
    found("looks in a round", "", (discovery.looks() - looks) as f64, None);
    found("a round: processor", "ms", round, None);
    let share = round / 1000.0 / ROUND.as_secs_f64() * 100.0;
    found("a round: of a processor", "%", share, Some(SHARE));
    let start = Instant::now();
    let (agent, _) = Agent::start(&[]);
    found("until the agent listens", "ms", ms(start.elapsed()), None);
    found("the whole agent: of a processor", "%", agent.share(WATCHED) * 100.0, None);
    let latencies = latencies(&agent);
    let most = latencies.iter().copied().fold(0.0, f64::max);
    let [first, value, third] = quartiles(latencies);
    let (section, name, spread) =
        ("discovery", "from loading a library to its probes", Some([first, third]));
    figure(&Figure { section, name, unit: "ms", value, spread, limit: Some(LATENCY) });
    found("from loading a library to its probes, the longest", "ms", most, None);
}

fn found(name: &str, unit: &str, value: f64, limit: Option<f64>) {
    figure(&Figure { section: "discovery", name, unit, value, spread: None, limit });
}

/// What the processor worked, which has a limit, and what passed.
fn took(what: &str, [passed, worked]: [f64; 2], limit: Option<f64>) {
    found(&format!("{what}: processor"), "ms", worked, limit);
    found(&format!("{what}: passed"), "ms", passed, None);
}

/// The milliseconds from the request to load a library that nobody has to the agent's
/// word that it is observed.
fn latencies(agent: &Agent) -> Vec<f64> {
    let directory = tempfile::tempdir().expect("a directory");
    let mut loader = Program::start(Path::new(PYTHON), &["-c", LOADER]);
    let load = |n: usize| {
        let library = directory.path().join(n.to_string()).join("libssl.so.3");
        copy(&library);
        let asked = Instant::now();
        loader.tell(&library.display().to_string());
        let observed = agent.wait_for(&format!("library={} ", library.display()));
        let (observed, _) = observed.expect("the agent runs");
        ms(observed - asked)
    };
    (0..LOADS).map(load).collect()
}

/// Puts a copy of the system's libssl there.
fn copy(to: &Path) {
    fs::create_dir_all(to.parent().expect("a directory")).expect("it can be made");
    fs::copy(LIBSSL, to).expect("the system has a libssl");
}

/// The milliseconds that passed, and that the processor worked for this process.
fn measured(what: impl FnOnce()) -> [f64; 2] {
    let (start, before) = (Instant::now(), processor_time());
    what();
    [start.elapsed(), processor_time().saturating_sub(before)].map(ms)
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
