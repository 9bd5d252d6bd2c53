//! Finds the processes that map a libssl: a library of that name, or any file
//! with OpenSSL in it.
//!
//! Every process is looked at once. Then the kernel tells of each file that is
//! mapped executable ([`NewMapping`]), and only a process that maps one that may be
//! OpenSSL is looked at again. What that misses, a listing of the processes every
//! few seconds and a look at each of them every now and then find.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

use super::{
    census::Census,
    files::{Files, TRUSTED},
    look::{self, Look},
    maps,
    process::{self, ProcessFacts},
};

/// How the kernel names a file that it has just mapped: `PERF_RECORD_MMAP2`. Not
/// always what `/proc/PID/maps` says of it, where it is on an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MappedInode {
    /// Major and minor number of the device.
    pub device: (u32, u32),
    /// The inode's number.
    pub inode: u64,
    /// Which of the inodes that had this number, if the file system counts them.
    pub generation: u64,
}

/// A file became executable in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewMapping {
    /// The process.
    pub pid: u32,
    /// Where it is mapped.
    pub address: u64,
    /// The file.
    pub file: MappedInode,
}

/// What has changed.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// Processes that map a libssl, or did at the last look.
    pub looks: Vec<Look>,
    /// Processes that did, and are gone.
    pub gone: Vec<u32>,
}

/// How many inodes are remembered as nothing that matters.
const MAX_DULL: usize = 8192;

/// How often [`Discovery::newcomers`] and [`Discovery::round`] are to be called while
/// something is going on.
pub const TICK: Duration = Duration::from_secs(1);

/// And while nothing is: whoever wakes has to fetch all that it needs to the caches.
pub const QUIET: Duration = Duration::from_secs(5);

/// How long a round takes, in which each process is looked at once more.
pub const ROUND: Duration = Duration::from_secs(60);

/// What a round may take of each tick, and it takes longer rather than more. A
/// look at a process with 180 mappings costs 0.1 ms.
const BUDGET: Duration = Duration::from_millis(3);

/// Looks of a tick that are made whatever time they take.
const LEAST_LOOKS: usize = 8;

/// A process that was looked at.
struct Known {
    looked: Instant,
    /// Whether there was anything to tell.
    matters: bool,
    /// Of its turn.
    number: u64,
}

/// What processes map, as far as it matters.
pub struct Discovery {
    only: HashSet<u32>,
    /// The agent's own pid.
    own: u32,
    files: Files,
    /// Files that are nothing, and when that was seen.
    dull: HashMap<MappedInode, Instant>,
    processes: HashMap<u32, Known>,
    /// The processes in the order in which they are looked at again, each with
    /// the number that it got then: its pid may be another's by now.
    turns: VecDeque<(u32, u64)>,
    census: Census,
    /// Looks that a round has not made yet.
    owed: f64,
    behind: bool,
    looks: u64,
    /// What is read of a process, used again.
    text: Vec<u8>,
}

impl Default for Discovery {
    /// Of all processes.
    fn default() -> Self {
        Self::new(HashSet::new())
    }
}

impl Discovery {
    /// Of these processes; none: of all.
    #[must_use]
    pub fn new(only: HashSet<u32>) -> Self {
        Self {
            only,
            own: std::process::id(),
            files: Files::default(),
            dull: HashMap::new(),
            processes: HashMap::new(),
            turns: VecDeque::new(),
            census: Census::default(),
            owed: 0.0,
            behind: false,
            looks: 0,
            text: Vec::new(),
        }
    }

    /// Looks at every process.
    #[must_use]
    pub fn scan(&mut self) -> News {
        let mut news = News::default();
        // What has changed since then, is for the next time.
        self.census.has_changed();
        let new = self.list(&mut news);
        let known: Vec<u32> = self.processes.keys().copied().collect();
        for pid in known.into_iter().chain(new) {
            self.look_at(pid, &[], &mut news);
        }
        news
    }

    /// Looks at these processes.
    #[must_use]
    pub fn look_again(&mut self, pids: impl IntoIterator<Item = u32>) -> News {
        let mut news = News::default();
        for pid in pids {
            self.look_at(pid, &[], &mut news);
        }
        news
    }

    /// Looks at the processes that have mapped what may be OpenSSL, and at those
    /// that are known to have it and have mapped more.
    #[must_use]
    pub fn notice(&mut self, mappings: &[NewMapping]) -> News {
        let now = Instant::now();
        let mut by_process: HashMap<u32, Vec<NewMapping>> = HashMap::new();
        for mapping in mappings.iter().filter(|mapping| self.is_asked(mapping.pid)) {
            by_process.entry(mapping.pid).or_default().push(*mapping);
        }
        let mut news = News::default();
        for (pid, mappings) in by_process {
            let matters = self.processes.get(&pid).is_some_and(|known| known.matters);
            if matters || mappings.iter().any(|mapping| !self.is_dull(&mapping.file, now)) {
                self.look_at(pid, &mappings, &mut news);
            }
        }
        news
    }

    /// Looks at processes that are new since the last listing. Costs nothing if
    /// no task has begun or ended since then.
    #[must_use]
    pub fn newcomers(&mut self) -> News {
        let mut news = News::default();
        if self.census.has_changed() {
            for pid in self.list(&mut news) {
                self.look_at(pid, &[], &mut news);
            }
        }
        news
    }

    /// Looks again at those processes whose turn it is when so much time has passed, so
    /// that each has one within another time. What is owed to few is saved up: the first
    /// look of some costs more than all others, since nothing that it needs is in the caches.
    #[must_use]
    pub fn round(&mut self, passed: Duration, within: Duration) -> News {
        let mut news = News::default();
        let share = (passed.as_secs_f64() / within.as_secs_f64()).min(1.0);
        let all = self.processes.len();
        self.owed = (self.owed + all as f64 * share).min(all as f64);
        self.behind = false;
        if self.owed < all.min(LEAST_LOOKS) as f64 {
            return news;
        }
        let mut looks = self.owed as usize;
        self.owed -= looks as f64;
        let started = Instant::now();
        // A round that is in a hurry may cost more.
        let budget = BUDGET.mul_f64((ROUND.as_secs_f64() / within.as_secs_f64()).max(1.0));
        let mut done = 0;
        while looks > 0 && (done < LEAST_LOOKS || started.elapsed() < budget) {
            let Some((pid, number)) = self.turns.pop_front() else { break };
            if self.processes.get(&pid).is_some_and(|known| known.number == number) {
                self.look_at(pid, &[], &mut news);
                if self.processes.contains_key(&pid) {
                    self.turns.push_back((pid, number));
                }
                looks -= 1;
                done += 1;
            }
        }
        self.behind = looks > 0;
        self.owed += looks as f64;
        news
    }

    /// Whether the last round had no time for all whose turn it was.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// Whether all processes that run were looked at after this time.
    #[must_use]
    pub fn all_looked_at_since(&self, then: Instant) -> bool {
        self.processes.values().all(|known| known.looked > then)
    }

    /// How often a process was looked at.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.looks
    }

    fn is_asked(&self, pid: u32) -> bool {
        pid != self.own && (self.only.is_empty() || self.only.contains(&pid))
    }

    fn is_dull(&self, file: &MappedInode, now: Instant) -> bool {
        self.dull.get(file).is_some_and(|seen| now.saturating_duration_since(*seen) < TRUSTED)
    }

    /// Processes that are not known; forgets those that are gone.
    fn list(&mut self, news: &mut News) -> Vec<u32> {
        let Ok(running) = process::running() else {
            self.census.forget();
            return Vec::new();
        };
        let running: HashSet<u32> = running.into_iter().filter(|pid| self.is_asked(*pid)).collect();
        let known: Vec<u32> = self.processes.keys().copied().collect();
        for pid in known.into_iter().filter(|pid| !running.contains(pid)) {
            self.forget(pid, news);
        }
        let new = |pid: &u32| !self.processes.contains_key(pid);
        running.into_iter().filter(new).collect()
    }

    fn forget(&mut self, pid: u32, news: &mut News) {
        if self.processes.remove(&pid).is_some_and(|known| known.matters) {
            news.gone.push(pid);
        }
    }

    /// Looks at one process, which these mappings led to.
    fn look_at(&mut self, pid: u32, mappings: &[NewMapping], news: &mut News) {
        self.looks += 1;
        let now = Instant::now();
        let mut text = std::mem::take(&mut self.text);
        match self.read(pid, &mut text) {
            Some(task) => {
                let (mut look, dull) = look::at(pid, task, &text, &mut self.files, now);
                self.note_dull(mappings, &dull, now);
                let (before, matters) = self.note(pid, look.matters(), now);
                if matters {
                    look.facts = ProcessFacts::read(pid);
                }
                if matters || before {
                    news.looks.push(look);
                }
            }
            None => self.forget(pid, news),
        }
        self.text = text;
    }

    /// Reads what a process maps; says through which of its tasks. `None`: it is
    /// gone, or may not be looked at.
    fn read(&self, pid: u32, text: &mut Vec<u8>) -> Option<u32> {
        maps::read(pid, text).ok()?;
        let matters = self.processes.get(&pid).is_some_and(|known| known.matters);
        if !text.is_empty() || !matters {
            return Some(pid);
        }
        // A main thread that has ended maps nothing, and others may go on.
        let task = process::live_thread(pid)?;
        maps::read(task, text).ok().map(|()| task)
    }

    /// Notes that a process was looked at; says whether it mattered before, and
    /// whether it does.
    fn note(&mut self, pid: u32, matters: bool, looked: Instant) -> (bool, bool) {
        let number = self.looks;
        let known = self.processes.entry(pid).or_insert_with(|| {
            self.turns.push_back((pid, number));
            Known { looked, matters: false, number }
        });
        let before = known.matters;
        (known.looked, known.matters) = (looked, matters);
        (before, matters)
    }

    /// Remembers the files that are mapped here and are nothing.
    fn note_dull(&mut self, mappings: &[NewMapping], dull: &[Range<u64>], now: Instant) {
        if self.dull.len() > MAX_DULL {
            self.dull.clear();
        }
        let is_dull = |mapping: &&NewMapping| dull.iter().any(|at| at.contains(&mapping.address));
        self.dull.extend(mappings.iter().filter(is_dull).map(|mapping| (mapping.file, now)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_gone_is_no_news() {
        let mut discovery = Discovery::new(HashSet::from([u32::MAX >> 1]));
        let news = discovery.scan();
        assert!(news.looks.is_empty() && news.gone.is_empty());
        let news = discovery.look_again([u32::MAX >> 1]);
        assert!(news.looks.is_empty() && news.gone.is_empty());
    }

    /// A program that is known to be nothing costs no look when it runs again.
    #[test]
    fn what_is_nothing_is_not_looked_at_twice() {
        let mut child =
            std::process::Command::new("/bin/sleep").arg("1000").spawn().expect("sleep");
        let pid = child.id();
        let mapped = || {
            let mut text = Vec::new();
            maps::read(pid, &mut text).expect("it runs");
            let exe = std::fs::canonicalize("/bin/sleep").expect("it is there");
            maps::executable(&text).find(|map| map.path == exe).map(|map| (map.start, map.key))
        };
        let (address, key) = loop {
            // It may not have called exec yet.
            if let Some(mapped) = mapped() {
                break mapped;
            }
        };
        let file = MappedInode { device: (key.major, key.minor), inode: key.inode, generation: 0 };
        let mapping = NewMapping { pid, address, file };
        let mut discovery = Discovery::default();
        let looks: Vec<u64> = (0..3)
            .map(|_| {
                assert!(discovery.notice(&[mapping]).looks.is_empty());
                discovery.looks()
            })
            .collect();
        assert_eq!(looks, [1, 1, 1]);
        child.kill().and_then(|()| child.wait()).expect("it is our child");
    }
}
