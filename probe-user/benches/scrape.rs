//! How long a scrape takes, and how large the agent is, with 10, 1,000, 10,000 and
//! 100,000 live contexts in one process; and what the agent costs when nothing
//! happens. `cargo xtask bench` builds and runs it, as root.

#[path = "agent.rs"]
mod agent;
#[path = "compile.rs"]
mod compile;
#[path = "program.rs"]
mod program;
#[path = "report.rs"]
mod report;
#[path = "statistics.rs"]
mod statistics;

use std::time::{Duration, Instant};

use procfs::process::Process;

use agent::Agent;
use compile::compile;
use program::Program;
use report::{Figure, figure};
use statistics::quartiles;

/// Contexts, with the milliseconds that a scrape may take, and the MiB that the agent may
/// have.
const SIZES: [(usize, Option<f64>, Option<f64>); 4] = [
    (10, None, None),
    (1_000, None, Some(40.0)),
    (10_000, Some(100.0), None),
    (100_000, Some(1_000.0), Some(150.0)),
];

/// How often each is asked.
const TIMES: usize = 7;

/// With how many the agent is watched while nobody asks.
const WATCHED_WITH: usize = 1_000;

/// The percent of a processor that it may take then.
const IDLE: f64 = 0.1;

/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(60);

fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = compile(directory.path(), "many", &["ssl", "crypto"]);
    for (count, time, memory) in SIZES {
        let agent = Observer::start();
        let mut many = Program::start(&path, &[count.to_string()]);
        // Its libssl has its probes before it uses any.
        agent.wait_until("sslsess_probes{", "/libssl.so", 1);
        many.tell("");
        assert_eq!(many.line(), "ready");
        agent.wait_until("openssl_ctx_live{", "/many\"", count);
        let of = |what: &str, unit, [first, value, third]: [f64; 3], limit| {
            let name = format!("{what}, {count} contexts");
            let spread = (first < third).then_some([first, third]);
            figure(&Figure { section: "scrape", name: &name, unit, value, spread, limit });
        };
        of("/metrics", "ms", times(|| agent.get("/metrics")), time);
        of("JSON", "ms", times(|| agent.get("/api/v1/contexts")), None);
        of("memory of the agent", "MiB", [agent.resident(); 3], memory);
        if count == WATCHED_WITH {
            let idle = agent.agent.share(WATCHED) * 100.0;
            of("of a processor when nobody asks", "%", [idle; 3], Some(IDLE));
        }
    }
}

/// An agent that is asked.
struct Observer {
    agent: Agent,
    url: String,
}

impl Observer {
    fn start() -> Self {
        let (agent, url) = Agent::start(&["--max-contexts", "131072"]);
        Self { agent, url }
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

    /// Resident memory, in MiB.
    fn resident(&self) -> f64 {
        let process = Process::new(self.agent.child.id().cast_signed()).expect("it runs");
        (process.statm().expect("it runs").resident * procfs::page_size()) as f64 / 1_048_576.0
    }
}

/// The milliseconds that something takes, with the quartiles.
fn times<T>(mut what: impl FnMut() -> T) -> [f64; 3] {
    quartiles((0..TIMES).map(|_| {
        let start = Instant::now();
        drop(what());
        start.elapsed().as_secs_f64() * 1000.0
    }))
}
