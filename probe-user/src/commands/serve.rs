//! `sslsess serve`: the agent.

use anyhow::Context as _;
use tokio::net::TcpListener;
use tracing::info;

use super::interrupted;
use crate::{agent::task, cli::ServeArgs, export::web, preflight};

pub(super) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    preflight::require()?;
    // Before the kernel is asked for anything: a port that is taken ends it here.
    let address = args.listen_address;
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; choose another with --web.listen-address")
    })?;
    let mut options = args.watch.agent_options(&[], args.scan.options_to_stay(args.watch.plan));
    options.group_by = args.groups.group_by();
    options.retention.time = args.retain;
    let agent = task::spawn(options).await?;
    info!("listening on http://{}", listener.local_addr()?);
    let pages = web::router(agent.clone(), args.max_context_series);
    let served = axum::serve(listener, pages)
        .with_graceful_shutdown(async {
            let _ = interrupted().await;
            info!("stopping");
        })
        .await;
    agent.stop().await;
    info!("all probes are removed");
    served.context("the web server failed")
}
