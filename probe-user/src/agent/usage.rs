//! Who maps what: which libraries are in use, and what is not known of a process.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    time::Instant,
};

use super::inodes::InodeId;
use crate::{host::ProcessFacts, snapshot::GapSnapshot};

/// What has become of a library that a process has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Its probes are attached, as this image.
    Observed(u32),
    /// It is being learnt, or waits for something.
    Learning,
    /// It is not observed, and why.
    Refused(String),
}

/// A library that a process has.
#[derive(Clone, Debug)]
pub(super) struct Has {
    /// `None`: it cannot be opened.
    pub(super) libssl: Option<InodeId>,
    /// Its name, as the process sees it.
    pub(super) path: PathBuf,
    pub(super) standing: Standing,
}

/// What a process has.
#[derive(Default)]
pub(super) struct Uses {
    /// What `/proc` said of it.
    pub(super) facts: ProcessFacts,
    /// The files of its libraries.
    pub(super) inodes: HashSet<InodeId>,
    /// The images whose probes are made for the libraries that it has.
    pub(super) verified: HashSet<u32>,
    /// Each libssl, and what has become of it.
    pub(super) libraries: Vec<Has>,
    /// What is not known of it.
    pub(super) gaps: Vec<GapSnapshot>,
}

/// All processes that have a library, and all libraries that a process had.
#[derive(Default)]
pub(super) struct Usage {
    by_process: HashMap<u32, Uses>,
    users: HashMap<InodeId, usize>,
    unused: HashMap<InodeId, Instant>,
}

impl Usage {
    /// What a process has now, whatever it had before.
    pub(super) fn set(&mut self, pid: u32, uses: Uses, now: Instant) {
        for inode in &uses.inodes {
            *self.users.entry(*inode).or_default() += 1;
            self.unused.remove(inode);
        }
        if let Some(before) = self.by_process.insert(pid, uses) {
            self.end(before, now);
        }
    }

    /// A process is gone, or has nothing any more.
    pub(super) fn remove(&mut self, pid: u32, now: Instant) {
        if let Some(before) = self.by_process.remove(&pid) {
            self.end(before, now);
        }
    }

    fn end(&mut self, uses: Uses, now: Instant) {
        for inode in uses.inodes {
            let users = self.users.entry(inode).or_default();
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.users.remove(&inode);
                self.unused.insert(inode, now);
            }
        }
    }

    /// Inodes that nobody uses, each with the time since when: the longest first.
    pub(super) fn unused(&self) -> Vec<(InodeId, Instant)> {
        let mut unused: Vec<(InodeId, Instant)> =
            self.unused.iter().map(|(i, t)| (*i, *t)).collect();
        unused.sort_unstable_by_key(|(inode, since)| (*since, *inode));
        unused
    }

    /// Whether there are inodes that nobody uses.
    pub(super) fn any_unused(&self) -> bool {
        !self.unused.is_empty()
    }

    /// An unused inode was let go.
    pub(super) fn forget(&mut self, inode: InodeId) {
        self.unused.remove(&inode);
    }

    /// What a process has.
    pub(super) fn of(&self, pid: u32) -> Option<&Uses> {
        self.by_process.get(&pid)
    }

    /// A process executes another program: what `/proc` said of it is not so any more.
    pub(super) fn forget_facts(&mut self, pid: u32) {
        if let Some(uses) = self.by_process.get_mut(&pid) {
            uses.facts = ProcessFacts::default();
        }
    }

    /// The libraries of all processes.
    pub(super) fn libraries(&self) -> impl Iterator<Item = (u32, &Has)> {
        self.by_process.iter().flat_map(|(pid, uses)| uses.libraries.iter().map(|has| (*pid, has)))
    }

    /// What is not known, of any process.
    pub(super) fn gaps(&self) -> impl Iterator<Item = &GapSnapshot> {
        self.by_process.values().flat_map(|uses| &uses.gaps)
    }
}
