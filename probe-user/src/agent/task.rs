//! Runs the agent: events as they come, a scan every second, snapshots when asked.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use tracing::warn;

use super::{Agent, AgentOptions};
use crate::snapshot::Snapshot;

/// The longest time that a new library stays unseen.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// After an exec the dynamic linker needs a moment to map the libraries.
const SCAN_SOON: Duration = Duration::from_millis(20);

type Reply = oneshot::Sender<anyhow::Result<Arc<Snapshot>>>;

enum Request {
    Snapshot(Reply),
    Scanned(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

/// A way to ask the running agent. Cheap to clone.
#[derive(Clone)]
pub struct AgentHandle(mpsc::Sender<Request>);

impl AgentHandle {
    /// What is known now.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read, or the agent has stopped.
    pub async fn snapshot(&self) -> anyhow::Result<Arc<Snapshot>> {
        let (reply, answer) = oneshot::channel();
        let stopped = || anyhow::anyhow!("the agent has stopped");
        self.0.send(Request::Snapshot(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Waits until every process that was met was looked into for contexts that are
    /// idle, if they are.
    ///
    /// # Errors
    ///
    /// If the agent has stopped.
    pub async fn scanned(&self) -> anyhow::Result<()> {
        let (reply, answer) = oneshot::channel();
        let stopped = || anyhow::anyhow!("the agent has stopped");
        self.0.send(Request::Scanned(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }

    /// Removes every probe; returns when the last one is gone.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.0.send(Request::Stop(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }
}

/// Starts the agent on a thread of its own.
///
/// # Errors
///
/// If the kernel refuses it.
pub async fn spawn(options: AgentOptions) -> anyhow::Result<AgentHandle> {
    let (requests, inbox) = mpsc::channel(64);
    let (ready, started) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    // Attaching, scanning and reading maps block: not for the runtime's threads.
    std::thread::Builder::new().name("agent".to_owned()).spawn(move || {
        let agent = Agent::start(options);
        match agent {
            Ok(agent) => {
                let _ = ready.send(Ok(()));
                runtime.block_on(run(agent, inbox));
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    })?;
    started.await??;
    Ok(AgentHandle(requests))
}

async fn run(mut agent: Agent, mut inbox: mpsc::Receiver<Request>) {
    let events = agent.kernel().event_fd().and_then(watch);
    let mut ticks = interval(SCAN_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let _logs = forward_logs(&mut agent);
    let mut scan_at: Option<Instant> = None;
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
    let stopped = loop {
        if agent.has_looked() {
            waiting.drain(..).for_each(|reply| reply.send(()).unwrap_or_default());
        }
        tokio::select! {
            biased;
            request = inbox.recv() => match request {
                Some(Request::Snapshot(reply)) => {
                    let _ = reply.send(agent.snapshot().map(Arc::new));
                }
                Some(Request::Scanned(reply)) => waiting.push(reply),
                Some(Request::Stop(done)) => break Some(done),
                None => break None,
            },
            () = readable(&events) => {
                if agent.handle_events() && scan_at.is_none() {
                    scan_at = Some(Instant::now() + SCAN_SOON);
                }
            }
            found = agent.found() => {
                if let Err(error) = agent.take_in(&found) {
                    warn!(error = format!("{error:#}"), "what was found in memory is not shown");
                }
            }
            () = sleep_until(scan_at.unwrap_or_else(Instant::now)), if scan_at.is_some() => {
                scan_at = agent.scan().then(|| Instant::now() + SCAN_SOON);
            }
            _ = ticks.tick() => {
                if agent.scan() {
                    scan_at = Some(Instant::now() + SCAN_SOON);
                }
            }
        }
    };
    drop(events);
    agent.stop();
    if let Some(done) = stopped {
        let _ = done.send(());
    }
}

/// Waits for a file descriptor to become readable.
fn watch<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the owner has one file descriptor (a ring buffer's map), which it
    // keeps open and does not exchange for another for as long as it exists;
    // the `AsyncFd` owns the owner.
    unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) }.map_err(Into::into)
}

async fn readable(events: &io::Result<AsyncFd<OwnedFd>>) {
    match events {
        Ok(events) => {
            if let Ok(mut guard) = events.readable().await {
                guard.clear_ready();
            }
        }
        // Without it, events are handled at every scan.
        Err(_) => std::future::pending().await,
    }
}

/// Log lines of the BPF programs appear among the agent's own.
fn forward_logs(agent: &mut Agent) -> Option<tokio::task::JoinHandle<()>> {
    let logger = agent.kernel().forward_logs()?;
    let mut logger = watch(logger).ok()?;
    Some(tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }))
}
