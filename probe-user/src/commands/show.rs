//! `sslsess show`: one look, a table.

use std::io::{IsTerminal as _, stderr};

use super::{interrupted, print, print_json};
use crate::{agent::task, cli::ShowArgs, export::table, preflight};

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
    let snapshot = agent.snapshot().await;
    // The probes go first: printing can block on a pipe.
    agent.stop().await;
    let snapshot = snapshot?;
    if args.json { print_json(&*snapshot) } else { print(&table::render(&snapshot)) }
}
