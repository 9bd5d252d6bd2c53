//! `sslsess show`: one look, a table, and why it is so.

use std::io::{IsTerminal as _, stderr};

use super::{interrupted, print, print_json};
use crate::{
    agent::task,
    cli::ShowArgs,
    diagnosis,
    export::{table, why},
    host::family::Families,
    preflight,
    snapshot::Snapshot,
};

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
