//! Learns each library file once, attaches its probes once, and lets go of it
//! when nobody maps it any more.

mod answers;
mod lessons;
mod release;
pub mod targets;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use tracing::warn;

use super::{
    inodes::{InodeId, Inodes},
    learner::{Learner, Lesson},
    probes::Probes,
    usage::{Has, Standing, Usage, Uses},
};
use crate::{
    host::{Library, Look},
    image::{Image, PlanOptions},
    snapshot::GapSnapshot,
};

/// A library file that some process maps.
enum Known {
    /// Not a libssl of OpenSSL's kind.
    Other,
    /// It cannot be observed.
    Refused(String),
    /// Its probes are attached.
    Attached(u32),
    /// Its probes are attached, but with this libcrypto the number of sessions
    /// stands elsewhere than with the one that they were made for.
    OtherNumber(u32),
}

/// A libssl and the libcryptos that a process has with it: what is learnt of
/// the one depends on the other.
type Pair = (InodeId, Vec<InodeId>);

/// What came of learning a library.
pub struct Learnt(Lesson<Question>);

/// A library that is to be learnt, and the number of the question.
type Question = (Pair, u64);

/// Who waits for a library to be learnt.
struct Asking {
    /// Of the question.
    number: u64,
    /// The processes, each with the time since when its libraries are being loaded.
    since: HashMap<u32, Instant>,
}

/// The kernel keeps a copy of the instruction under each probe: a program that
/// maps the file now would execute those that stood there before.
const OVERWRITTEN: &str = "it was overwritten while processes mapped it, and its code is another \
                           now: it is observed again when all of these have ended";

/// All libraries that were met.
pub struct Images {
    plan: PlanOptions,
    release_after: Duration,
    inodes: Inodes,
    usage: Usage,
    by_file: HashMap<Pair, Known>,
    /// Files that have probes: a second attachment would fire twice.
    attached: HashMap<InodeId, u32>,
    /// Those that are attached, and those that contexts may still be of.
    images: HashMap<u32, Image>,
    next: u32,
    learner: Learner<Question>,
    questions: u64,
    /// What is being learnt.
    learning: HashMap<Pair, Asking>,
    /// Processes that were seen before all of their libraries were mapped.
    loading: HashMap<u32, Instant>,
    /// Processes whose libraries wait until others are let go.
    waiting: HashSet<u32>,
    /// Images that were met with different libcryptos.
    ambiguous: HashSet<u32>,
    /// Images whose probes were removed, of which the agent was not told yet.
    detached: Vec<u32>,
    /// Images of which all contexts are known (`settling`).
    settled: HashSet<u32>,
    /// Files that were attached and then overwritten in place.
    overwritten: HashSet<InodeId>,
    /// Fields of libraries about which two witnesses disagreed.
    contradictions: u64,
}

impl Images {
    /// None yet. A library is let go when nobody has mapped it for this time.
    #[must_use]
    pub fn new(plan: PlanOptions, release_after: Duration) -> Self {
        Self {
            plan,
            release_after,
            inodes: Inodes::default(),
            usage: Usage::default(),
            by_file: HashMap::new(),
            attached: HashMap::new(),
            images: HashMap::new(),
            next: 1,
            learner: Learner::start(),
            questions: 0,
            learning: HashMap::new(),
            loading: HashMap::new(),
            waiting: HashSet::new(),
            ambiguous: HashSet::new(),
            detached: Vec::new(),
            settled: HashSet::new(),
            overwritten: HashSet::new(),
            contradictions: 0,
        }
    }

    /// Makes sure that a process's libraries are known, and their probes
    /// attached; notes what cannot be observed of it.
    pub fn meet(&mut self, probes: &mut impl Probes, look: &Look) {
        let mut uses = Uses { facts: look.facts.clone(), ..Uses::default() };
        self.waiting.remove(&look.pid);
        let since = self.loading.remove(&look.pid).unwrap_or_else(Instant::now);
        for library in &look.libraries {
            self.meet_library(probes, library, since, &mut uses);
        }
        uses.gaps.extend(look.gaps.iter().map(|gap| GapSnapshot {
            pid: Some(look.pid),
            library: Some(gap.library.clone()),
            reason: gap.reason.clone(),
        }));
        if look.matters() {
            self.usage.set(look.pid, uses, Instant::now());
        } else {
            self.usage.remove(look.pid, Instant::now());
        }
    }

    /// A process is gone.
    pub fn gone(&mut self, pid: u32) {
        self.loading.remove(&pid);
        self.waiting.remove(&pid);
        self.usage.remove(pid, Instant::now());
    }

    /// `since`: when the process was first seen with libraries that are not complete.
    fn meet_library(
        &mut self,
        probes: &mut impl Probes,
        library: &Library,
        since: Instant,
        uses: &mut Uses,
    ) {
        let gap = |reason: String| GapSnapshot {
            pid: Some(library.pid),
            library: Some(library.libssl.path.clone()),
            reason,
        };
        let has = |libssl, standing| {
            let path = library.libssl.path.clone();
            Has { libssl, path, standing }
        };
        let refused = |uses: &mut Uses, libssl, reason: String| {
            uses.libraries.push(has(libssl, Standing::Refused(reason.clone())));
            uses.gaps.push(gap(reason));
        };
        let pair = match self.hold(probes, library, uses) {
            Some(Ok(pair)) => pair,
            Some(Err(reason)) => return refused(uses, None, reason),
            None => return,
        };
        let libssl = Some(pair.0);
        if self.overwritten.contains(&pair.0) {
            return refused(uses, libssl, OVERWRITTEN.to_owned());
        }
        if !self.by_file.contains_key(&pair) && !self.has_room(probes, library.pid, pair.0) {
            return refused(uses, libssl, "all probe points are in use".to_owned());
        }
        let Some(known) = self.by_file.get(&pair) else {
            uses.libraries.push(has(libssl, Standing::Learning));
            return self.ask(pair, library, since);
        };
        match known {
            Known::Other => {}
            Known::Refused(reason) => refused(uses, libssl, reason.clone()),
            Known::Attached(image) => {
                uses.verified.insert(*image);
                uses.libraries.push(has(libssl, Standing::Observed(*image)));
                let missing = self.images[image].gaps();
                uses.gaps.extend(missing.map(|m| gap(format!("{}: {}", m.field, m.reason))));
            }
            Known::OtherNumber(image) => {
                self.ambiguous.insert(*image);
                uses.libraries.push(has(libssl, Standing::Observed(*image)));
                uses.gaps.push(gap(format!(
                    "number: another process has this libssl with another libcrypto (image \
                     {image}), which counts the sessions elsewhere"
                )));
            }
        }
    }

    /// Holds the files of a library. `None`: the process is gone, or something
    /// else is mapped there by now.
    fn hold(
        &mut self,
        probes: &mut impl Probes,
        library: &Library,
        uses: &mut Uses,
    ) -> Option<Result<Pair, String>> {
        let mut ids = Vec::new();
        for file in library.libcrypto.iter().chain([&library.libssl]) {
            match self.inodes.hold(file)? {
                Ok(held) => {
                    if held.rewritten {
                        self.relearn(probes, library, held.id);
                    }
                    ids.push(held.id);
                    uses.inodes.extend(self.inodes.behind(file));
                }
                Err(error) => return Some(Err(error.to_string())),
            }
        }
        let libssl = ids.pop()?;
        Some(Ok((libssl, ids)))
    }

    /// Processes that are to be looked at again soon: they were met while their
    /// libraries were being loaded, or these wait for others to be let go.
    #[must_use]
    pub fn unfinished(&self) -> Vec<u32> {
        self.loading.keys().chain(&self.waiting).copied().collect()
    }
}

fn concerns(pair: &Pair, id: InodeId) -> bool {
    pair.0 == id || pair.1.contains(&id)
}

fn refused(library: &Library, reason: String) -> Known {
    warn!(pid = library.pid, library = %library.libssl.path.display(), reason, "not observed");
    Known::Refused(reason)
}

#[cfg(test)]
mod tests;
