//! Runs the agent: events as they come, a safety net every now and then, snapshots when
//! asked.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    runtime::Builder,
    sync::{mpsc, oneshot},
};
use tracing::warn;

use super::{
    Agent, AgentOptions,
    alarm::Alarm,
    ready::{readable, watch},
    watch::Outcome,
};
use crate::snapshot::{Scraped, Snapshot, Wanted};

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
    // Attaching, scanning and reading maps block: not for the caller's threads. With a
    // runtime of its own, what wakes the agent wakes one thread, and not two.
    let runtime = Builder::new_current_thread().enable_io().build()?;
    std::thread::Builder::new().name("agent".to_owned()).spawn(move || {
        let _within = runtime.enter();
        let agent = Agent::start(options);
        match agent.and_then(|agent| Ok((agent, Alarm::new().context("cannot make a timer")?))) {
            Ok((agent, alarm)) => {
                let _ = ready.send(Ok(()));
                runtime.block_on(run(agent, alarm, inbox));
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    })?;
    started.await??;
    Ok(AgentHandle(requests))
}

async fn run(mut agent: Agent, mut alarm: Alarm, mut inbox: mpsc::Receiver<Request>) {
    let events = agent.kernel().event_fd().and_then(watch);
    let mappings = agent.mappings_fd().and_then(watch);
    let _logs = forward_logs(&mut agent);
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
    let mut due = Due::new();
    // What was mapped until now, told to nobody.
    let unfinished = agent.tick();
    due.look_again(unfinished);
    let stopped = loop {
        if agent.has_looked() {
            waiting.drain(..).for_each(|reply| reply.send(()).unwrap_or_default());
        }
        if let Err(error) = alarm.set(due.next(agent.pause())) {
            warn!(%error, "cannot set a timer: only what happens is noticed");
        }
        tokio::select! {
            biased;
            request = inbox.recv() => match request {
                Some(Request::Snapshot(wanted, reply)) => {
                    let _ = reply.send(agent.snapshot_of(wanted).map(Arc::new));
                    due.look_again(agent.is_unfinished());
                }
                Some(Request::Scraped(scraped)) => agent.scraped(&scraped),
                Some(Request::Scanned(reply)) => waiting.push(reply),
                Some(Request::Stop(done)) => break Some(done),
                None => break None,
            },
            () = alarm.rings() => due.act(&mut agent),
            () = readable(&mappings), if due.mappings.is_none() => {
                agent.gather_mappings();
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
        }
    };
    drop((events, mappings));
    agent.stop();
    if let Some(done) = stopped {
        let _ = done.send(());
    }
}

/// What is to be done, and when.
struct Due {
    /// When was done last what is done every now and then.
    ticked: Instant,
    /// To take in what was mapped.
    mappings: Option<Instant>,
    /// To see which processes have changed.
    changes: Option<Instant>,
    /// To look at processes again that were not finished.
    looks: Option<Instant>,
}

impl Due {
    fn new() -> Self {
        Self { ticked: Instant::now(), mappings: None, changes: None, looks: None }
    }

    /// When the first of it is; `pause`: how long after a tick the next one is.
    fn next(&self, pause: Duration) -> Instant {
        let others = [self.mappings, self.changes, self.looks];
        others.into_iter().flatten().fold(self.ticked + pause, Instant::min)
    }

    fn look_again(&mut self, unfinished: bool) {
        if unfinished && self.looks.is_none() {
            self.looks = Some(Instant::now() + SOON);
        }
    }

    /// Does what is due now.
    fn act(&mut self, agent: &mut Agent) {
        let now = Instant::now();
        let is_due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        if is_due(&mut self.mappings) {
            let unfinished = agent.take_mappings();
            self.look_again(unfinished);
        }
        if is_due(&mut self.changes) {
            let unfinished = agent.follow_changes();
            self.look_again(unfinished);
        }
        if is_due(&mut self.looks) {
            let unfinished = agent.look_again();
            self.look_again(unfinished);
        }
        if self.ticked + agent.pause() <= now {
            let unfinished = agent.tick();
            self.look_again(unfinished);
            // Whatever took long, no two follow each other at once.
            self.ticked = Instant::now();
        }
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
