//! A thread that looks into one process after the other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    target::Target,
    walk::{self, Found},
};
use crate::host::LiveMemory;

/// How far the scan is, for whoever wants to show it.
#[derive(Debug, Default)]
pub struct Progress {
    pid: AtomicU32,
    looked: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// The process that is looked at, the bytes that were looked at, and those
    /// that there are; `None`: no process is looked at.
    #[must_use]
    pub fn now(&self) -> Option<(u32, u64, u64)> {
        let pid = self.pid.load(Ordering::Relaxed);
        let (looked, total) = (&self.looked, &self.total);
        (pid != 0).then(|| (pid, looked.load(Ordering::Relaxed), total.load(Ordering::Relaxed)))
    }

    fn at(&self, pid: u32) {
        self.looked(0, 0);
        self.pid.store(pid, Ordering::Relaxed);
    }

    pub(super) fn looked(&self, looked: u64, total: u64) {
        self.looked.store(looked, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }
}

/// The thread, and what it is to do.
pub struct Worker {
    jobs: mpsc::Sender<Target>,
    found: UnboundedReceiver<Found>,
    outstanding: usize,
}

impl Worker {
    /// Starts it; each process gets so much time. It ends when this is dropped
    /// and it has done what it is at.
    ///
    /// # Errors
    ///
    /// If there can be no other thread.
    pub fn start(limit: Duration, progress: Arc<Progress>) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        let (outbox, found) = unbounded_channel();
        thread::Builder::new()
            .name("scan".to_owned())
            .spawn(move || work(&inbox, &outbox, limit, &progress))?;
        Ok(Self { jobs, found, outstanding: 0 })
    }

    /// Looks into a process when it comes to it.
    pub fn look_into(&mut self, target: Target) {
        if self.jobs.send(target).is_ok() {
            self.outstanding += 1;
        }
    }

    /// The next result; `None`: the thread has ended.
    pub async fn next(&mut self) -> Option<Found> {
        let found = self.found.recv().await;
        self.outstanding = if found.is_some() { self.outstanding - 1 } else { 0 };
        found
    }

    /// Whether all that it was given was done, and taken.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.outstanding == 0
    }
}

fn work(
    jobs: &mpsc::Receiver<Target>,
    results: &UnboundedSender<Found>,
    limit: Duration,
    progress: &Progress,
) {
    for target in jobs {
        progress.at(target.pid);
        let found = walk::walk(&LiveMemory, target, limit, progress);
        progress.at(0);
        // Nobody waits for it any more.
        if results.send(found).is_err() {
            break;
        }
    }
}
