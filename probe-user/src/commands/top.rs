//! `sslsess top`: a table that refreshes itself.

use std::{
    io::{IsTerminal as _, stdout},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::{MissedTickBehavior, interval};

use super::{interrupted, print};
use crate::{
    agent::task::{self, AgentHandle},
    cli::TopArgs,
    export::table,
    preflight,
    snapshot::Snapshot,
};

/// Moves to the upper left corner and clears to the end of the screen.
const REDRAW: &str = "\x1b[H\x1b[J";

/// How long a running agent may take to answer.
const AGENT_TIMEOUT: Duration = Duration::from_secs(10);

enum Source {
    Here(AgentHandle),
    There { url: String, client: ureq::Agent, pids: Vec<u32> },
}

impl Source {
    async fn snapshot(&self) -> anyhow::Result<Arc<Snapshot>> {
        match self {
            Self::Here(agent) => agent.snapshot().await,
            Self::There { url, client, pids } => {
                let (at, client) = (format!("{url}/api/v1/contexts"), client.clone());
                let asked = at.clone();
                let body = tokio::task::spawn_blocking(move || {
                    client.get(&asked).call()?.body_mut().read_to_string()
                })
                .await?
                .with_context(|| format!("cannot ask {at}: is `sslsess serve` running there?"))?;
                let mut snapshot: Snapshot = serde_json::from_str(&body)
                    .with_context(|| format!("{at} does not answer as `sslsess serve` does"))?;
                if !pids.is_empty() {
                    snapshot.contexts.retain(|context| pids.contains(&context.pid));
                }
                Ok(Arc::new(snapshot))
            }
        }
    }
}

pub(super) async fn run(args: TopArgs) -> anyhow::Result<()> {
    let source = match args.agent {
        Some(url) => {
            let config = ureq::Agent::config_builder().timeout_global(Some(AGENT_TIMEOUT)).build();
            Source::There { url, client: config.into(), pids: args.pids }
        }
        None => {
            preflight::require()?;
            let scan = args.scan.options_to_stay(args.watch.plan);
            Source::Here(task::spawn(args.watch.agent_options(&args.pids, scan)).await?)
        }
    };
    let result = tokio::select! {
        result = refresh(&source, args.interval) => result,
        result = interrupted() => result,
        () = tokio::time::sleep(args.run_for.unwrap_or(Duration::MAX)) => Ok(()),
    };
    if let Source::Here(agent) = &source {
        agent.stop().await;
    }
    result
}

async fn refresh(source: &Source, every: Duration) -> anyhow::Result<()> {
    let redraw = if stdout().is_terminal() { REDRAW } else { "" };
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let snapshot = source.snapshot().await?;
        print(&format!("{redraw}{}\n", table::render(&snapshot)))?;
    }
}
