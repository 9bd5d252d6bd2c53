//! Runs the agent: events as they come, a safety net every second, snapshots when
//! asked.

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

use super::{Agent, AgentOptions, watch::Outcome};
use crate::{
    host::discovery::TICK,
    snapshot::{Scraped, Snapshot, Wanted},
};

/// The dynamic linker maps a program's libraries within this time, as a rule:
/// they are looked at once.
const GATHER: Duration = Duration::from_millis(5);

/// When processes are looked at again that were met while it was at it.
const SOON: Duration = Duration::from_millis(20);

type Reply = oneshot::Sender<anyhow::Result<Arc<Snapshot>>>;

enum Request {
    Snapshot(Wanted, Reply),
    Scraped(Scraped),
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
        self.snapshot_of(Wanted::All).await
    }

    /// As [`Self::snapshot`], with the contexts that are wanted.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read, or the agent has stopped.
    pub async fn snapshot_of(&self, wanted: Wanted) -> anyhow::Result<Arc<Snapshot>> {
        let (reply, answer) = oneshot::channel();
        let stopped = || anyhow::anyhow!("the agent has stopped");
        self.0.send(Request::Snapshot(wanted, reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Says what a scrape has shown.
    ///
    /// # Errors
    ///
    /// If the agent has stopped.
    pub async fn scraped(&self, scraped: Scraped) -> anyhow::Result<()> {
        let stopped = |_| anyhow::anyhow!("the agent has stopped");
        self.0.send(Request::Scraped(scraped)).await.map_err(stopped)
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
    let mappings = agent.mappings_fd().and_then(watch);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let _logs = forward_logs(&mut agent);
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
    let mut due = Due::default();
    let stopped = loop {
        if agent.has_looked() {
            waiting.drain(..).for_each(|reply| reply.send(()).unwrap_or_default());
        }
        tokio::select! {
            biased;
            request = inbox.recv() => match request {
                Some(Request::Snapshot(wanted, reply)) => {
                    let _ = reply.send(agent.snapshot_of(wanted).map(Arc::new));
                }
                Some(Request::Scraped(scraped)) => agent.scraped(&scraped),
                Some(Request::Scanned(reply)) => waiting.push(reply),
                Some(Request::Stop(done)) => break Some(done),
                None => break None,
            },
            () = at(due.mappings) => {
                due.mappings = None;
                let unfinished = agent.take_mappings();
                due.look_again(unfinished);
            }
            () = readable(&mappings), if due.mappings.is_none() => {
                due.mappings = Some(Instant::now() + GATHER);
            }
            result = agent.next_result() => match result {
                Outcome::Learnt(learnt) => {
                    let unfinished = agent.take_lesson(learnt);
                    due.look_again(unfinished);
                }
                Outcome::Found(found) => {
                    if let Err(error) = agent.take_in(&found) {
                        let error = format!("{error:#}");
                        warn!(error, "what was found in memory is not shown");
                    }
                }
            },
            () = readable(&events) => {
                if agent.handle_events() && due.changes.is_none() {
                    due.changes = Some(Instant::now() + SOON);
                }
            }
            () = at(due.changes) => {
                due.changes = None;
                let unfinished = agent.follow_changes();
                due.look_again(unfinished);
            }
            () = at(due.looks) => {
                due.looks = None;
                let unfinished = agent.look_again();
                due.look_again(unfinished);
            }
            _ = ticks.tick() => {
                let unfinished = agent.tick();
                due.look_again(unfinished);
            }
        }
    };
    drop((events, mappings));
    agent.stop();
    if let Some(done) = stopped {
        let _ = done.send(());
    }
}

/// What is to be done, and when.
#[derive(Default)]
struct Due {
    /// To take in what was mapped.
    mappings: Option<Instant>,
    /// To see which processes have changed.
    changes: Option<Instant>,
    /// To look at processes again that were not finished.
    looks: Option<Instant>,
}

impl Due {
    fn look_again(&mut self, unfinished: bool) {
        if unfinished && self.looks.is_none() {
            self.looks = Some(Instant::now() + SOON);
        }
    }
}

/// Waits for a time; for ever if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits for a file descriptor to become readable.
fn watch<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the owner has one file descriptor (such as a ring buffer's map), which it
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
        // Without it, events are handled every second.
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
