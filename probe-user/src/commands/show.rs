//! `sslsess show`: one look, a table, and why it is so.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use tokio::time::{Instant, interval_at};

use super::{interrupted, print, print_json};
use crate::{
    agent::task::{self, AgentHandle},
    cli::ShowArgs,
    diagnosis,
    export::{table, why},
    host::family::Families,
    preflight,
    snapshot::Snapshot,
};

/// The counters are C `int`s: from one look to the next, each has to move by
/// less than 2^31 for its wraps to be seen. Nothing counts 3.5 million times a second.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

pub(super) async fn run(args: ShowArgs) -> anyhow::Result<()> {
    preflight::require()?;
    for pid in &args.pids {
        anyhow::ensure!(
            std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "there is no process {pid}: --pid takes the id of a running process"
        );
    }
    let agent = task::spawn(args.watch.agent_options(&args.pids)).await?;
    if stderr().is_terminal() {
        let watched = humantime::format_duration(args.watch_for);
        eprintln!("watching for {watched}: a context appears when it is used (Ctrl-C: print now)");
    }
    tokio::select! {
        () = tokio::time::sleep(args.watch_for) => {}
        result = interrupted() => result?,
        result = keep_looking(&agent) => result?,
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
