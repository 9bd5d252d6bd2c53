//! `sslsess show`: one look, a table, and why it is so.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::{Instant, interval_at};

use super::{interrupted, print, print_json};
use crate::{
    agent::task::{self, AgentHandle},
    cli::ShowArgs,
    diagnosis,
    export::{table, targets, why},
    host::family::Families,
    preflight,
    scan::Progress,
    snapshot::Snapshot,
};

/// The counters are C `int`s: from one look to the next, each has to move by
/// less than 2^31 for its wraps to be seen. Nothing counts 3.5 million times a second.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// How long to watch if nobody says.
const WATCHED: Duration = Duration::from_secs(5);

/// How long a scan may take before its progress is shown, and from then on the
/// time between two lines.
const SILENT: Duration = Duration::from_millis(500);

pub(super) async fn run(args: ShowArgs) -> anyhow::Result<()> {
    preflight::require()?;
    for pid in &args.pids {
        anyhow::ensure!(
            std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "there is no process {pid}: --pid takes the id of a running process"
        );
    }
    let progress = Arc::default();
    let scan = args.scan.options(args.watch.plan, &progress);
    // What was mapped before is known as soon as the agent has started.
    let unasked = if scan.is_some() || args.targets { Duration::ZERO } else { WATCHED };
    let watch_for = args.watch_for.unwrap_or(unasked);
    let mut options = args.watch.agent_options(&args.pids, scan);
    options.group_by = args.groups.group_by();
    let agent = task::spawn(options).await?;
    if stderr().is_terminal() && !watch_for.is_zero() {
        let watched = humantime::format_duration(watch_for);
        eprintln!("watching for {watched}: a context appears when it is used (Ctrl-C: print now)");
    }
    let watched = async {
        tokio::time::sleep(watch_for).await;
        agent.scanned().await
    };
    tokio::select! {
        result = watched => result?,
        result = interrupted() => result?,
        result = keep_looking(&agent) => result?,
        () = show(&progress), if stderr().is_terminal() => {}
    }
    let snapshot = agent.snapshot().await.map(|snapshot| {
        let mut snapshot = Snapshot::clone(&snapshot);
        if args.why {
            // While the processes are still there.
            let families = Families::read();
            diagnosis::explain(&mut snapshot.contexts, |pid, serving| families.peers(pid, serving));
        }
        snapshot
    });
    // The probes go first: printing can block on a pipe.
    agent.stop().await;
    let snapshot = snapshot?;
    if args.json {
        return print_json(&snapshot);
    }
    if args.targets {
        return print(&targets::render(&snapshot, Timestamp::now()));
    }
    print(&table::render(&snapshot))?;
    if args.why { print(&why::render(&snapshot)) } else { Ok(()) }
}

/// Looks now and then, so that no wrap is missed. Returns only if that fails.
async fn keep_looking(agent: &AgentHandle) -> anyhow::Result<()> {
    let mut ticks = interval_at(Instant::now() + LOOK_AGAIN, LOOK_AGAIN);
    loop {
        ticks.tick().await;
        agent.snapshot().await?;
    }
}

/// Shows how far the scan is, on one line of the terminal.
async fn show(progress: &Progress) {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let mut shown = false;
    loop {
        tokio::time::sleep(SILENT).await;
        let text = match progress.now() {
            Some((pid, looked, total)) => {
                shown = true;
                format!("scanning process {pid}: {:.1} of {:.1} GiB", gib(looked), gib(total))
            }
            None if shown => String::new(),
            None => continue,
        };
        // A line that is shorter than the one before leaves nothing of it.
        let _ = write!(stderr(), "\r{text:<60}");
    }
}
