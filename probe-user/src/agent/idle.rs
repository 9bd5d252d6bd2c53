//! Contexts that are found in memory (`scan`): they get a record like any other.
//!
//! A context can be freed between the look at it and the making of its record,
//! when nobody is told of its end. So the agent looks once more when the record
//! is there: from then on an end is reported. What does not hold any more is
//! taken back, and nothing that a report says of it is believed before: the
//! record is marked as one that no probe has seen (`record_flags::FOUND`).

mod words;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use probe_common::{ContextKey, ContextRecord, ExeId, birth_flags, record_flags};
use tracing::{debug, info, warn};

use self::words::{claimed, out_of_time, unreadable};
use super::Agent;
use crate::{
    context::{Observation, Source, invariants::contradiction, reconstruct::read_block},
    host::{Look, ProcessFacts, clock, process},
    image::plan,
    kernel::{Kernel, maps::Adopted},
    scan::{Found, Progress, Target, Walked, Worker},
    snapshot::GapSnapshot,
};

/// How often a record is made anew because the context changed meanwhile. (One that
/// has a hundred thousand handshakes a second changes in one of ten attempts or so.)
const ATTEMPTS: usize = 16;

/// Looking for contexts in memory.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// Whether every process is looked into; else those are whose contexts may not all
    /// have been seen as they were made, to know when probes can go, and what cannot be
    /// found is no gap.
    pub every: bool,
    /// How long one process may take.
    pub limit: Duration,
    /// Told how far it is.
    pub progress: Arc<Progress>,
}

/// What is looked for, and what could not be shown of what was found.
pub struct Idle {
    worker: Worker,
    every: bool,
    limit: Duration,
    /// The libraries that each process was looked into for.
    met: HashMap<u32, HashSet<u32>>,
    /// By process.
    unshown: HashMap<u32, Vec<Unshown>>,
    /// Contexts for which the kernel half had no room.
    refused: u64,
}

/// What became of a context that was found.
enum Adoption {
    /// It has a record, or is no more.
    Known,
    /// The agent cannot be sure of it, since it does this.
    Unclear(&'static str),
    /// There is no room for another record.
    NoRoom,
}

/// Why something that may be in a process's memory is not shown.
#[derive(Clone, Debug)]
struct Unshown {
    image: u32,
    reason: String,
    /// Resolved as soon as a probe has seen the context that owns the hash.
    contested: Option<(Target, u64)>,
}

impl Idle {
    /// Nothing was looked into yet.
    ///
    /// # Errors
    ///
    /// If there can be no other thread.
    pub fn new(options: &ScanOptions) -> std::io::Result<Self> {
        Ok(Self {
            worker: Worker::start(options.limit, Arc::clone(&options.progress))?,
            every: options.every,
            limit: options.limit,
            met: HashMap::new(),
            unshown: HashMap::new(),
            refused: 0,
        })
    }

    /// Forgets a process that is gone, or runs another program now.
    pub fn forget(&mut self, pid: u32) {
        self.met.remove(&pid);
        self.unshown.remove(&pid);
    }

    /// The next process that was looked into; never, if none is to be.
    pub(super) async fn next(&mut self) -> Found {
        match self.worker.next().await {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }

    fn note(&mut self, pid: u32, image: u32, reason: String) {
        self.unshown.entry(pid).or_default().push(Unshown { image, reason, contested: None });
    }
}

impl Agent {
    /// Whether every process that was met was looked into.
    #[must_use]
    pub fn has_looked(&self) -> bool {
        self.idle.as_ref().is_none_or(|idle| idle.worker.is_idle())
    }

    /// Has a process looked into for the libraries for which it was not yet.
    pub(super) fn look_into(&mut self, look: &Look) {
        let Some(idle) = &mut self.idle else { return };
        if look.libraries.is_empty() {
            idle.forget(look.pid);
        }
        let forker = forker(&self.kernel, look);
        for library in &look.libraries {
            let Some(image) = self.images.image_of(library) else { continue };
            let unknown = self.settling.meet(image, library.pid, &look.facts, forker);
            if unknown && !idle.every && process::is_swapped(library.pid) {
                // To read it would bring it back into memory.
                let why = "some of its memory is swapped out, and is left there";
                self.settling.looked_into(image, library.pid, Some(why.to_owned()));
                continue;
            }
            if !(unknown || idle.every) || !idle.met.entry(library.pid).or_default().insert(image) {
                continue;
            }
            let Some(learnt) = self.images.image(image).map(|image| &image.marks) else { continue };
            if let Some(marks) = &learnt.marks {
                let target = Target::of(library.pid, image, library.libssl.stamp.id, marks);
                if let Some(target) = target {
                    idle.worker.look_into(target);
                    continue;
                }
                // If it is not gone.
                let why = "scan: it cannot be told where the library is in its memory";
                self.settling.looked_into(image, library.pid, Some(why.to_owned()));
                if idle.every {
                    idle.note(library.pid, image, why.to_owned());
                }
            } else {
                let reasons =
                    learnt.gaps.iter().map(|gap| format!("{}: {}", gap.field, gap.reason));
                let why = reasons.collect::<Vec<_>>().join("; ");
                self.settling.looked_into(image, library.pid, Some(why));
                let shown = if idle.every { &learnt.gaps[..] } else { &[] };
                for gap in shown {
                    let reason = format!("{}: {}", gap.field, gap.reason);
                    idle.note(library.pid, image, reason);
                }
            }
        }
    }

    /// Takes in what was found in a process.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read or changed.
    pub fn take_in(&mut self, found: &Found) -> anyhow::Result<()> {
        let taken = self.record_found(found);
        if let Err(error) = &taken {
            let why = format!("what was found in its memory has no records: {error:#}");
            self.settling.looked_into(found.target.image, found.target.pid, Some(why));
        }
        taken
    }

    fn record_found(&mut self, found: &Found) -> anyhow::Result<()> {
        let Found { target, owners, looked, total, .. } = found;
        let (pid, image) = (target.pid, target.image);
        info!(pid, looked, total, walked = ?found.walked, took = ?found.took, contexts = owners.contexts.len(), "scanned");
        let when = if self.images.sees_use(image) {
            "it is shown when it is used"
        } else {
            "with --probe-points starts it would be shown when it is used"
        };
        let unfinished = match &found.walked {
            Walked::Gone => return Ok(()),
            Walked::All if found.unreadable > 0 => Some(unreadable(found, when)),
            Walked::All => None,
            Walked::OutOfTime => self.idle.as_ref().map(|idle| out_of_time(found, idle.limit)),
            Walked::Refused(why) => Some(format!("scan: its memory cannot be looked at: {why}")),
        };
        let mut reasons = Vec::new();
        let mut unknown: Option<String> = None;
        if unfinished.is_none() {
            for address in &owners.contexts {
                match self.adopt(target, *address)? {
                    Adoption::Known => {}
                    Adoption::NoRoom => {
                        unknown = Some("the map of contexts is full; raise --max-contexts".into());
                    }
                    Adoption::Unclear(does) => {
                        let unclear = format!("scan: what is at {address:#x} {does}; {when}");
                        if !self.images.sees_use(image) {
                            reasons.push(unclear.clone());
                        }
                        unknown = Some(unclear);
                    }
                }
            }
            reasons.extend(self.missed(found)?);
        }
        for address in &owners.unproven {
            reasons.push(format!(
                "scan: what is at {address:#x} has the marks of an SSL_CTX but no cert_store, \
                 which would tell whether it lives; {when}"
            ));
        }
        reasons.extend(unfinished);
        let unshown = reasons.into_iter().map(|reason| Unshown { image, reason, contested: None });
        let contested = owners.contested.iter().map(|contested| Unshown {
            image,
            reason: claimed(contested, when),
            contested: Some((target.clone(), contested.sessions)),
        });
        let unshown: Vec<Unshown> = unshown.chain(contested).collect();
        let unknown = unknown.or_else(|| unshown.first().map(|unshown| unshown.reason.clone()));
        self.settling.looked_into(image, pid, unknown);
        if let Some(idle) = self.idle.as_mut().filter(|idle| idle.every) {
            idle.unshown.entry(pid).or_default().extend(unshown);
        }
        Ok(())
    }

    /// Makes a record of a context that was found, and sees to it that it is right.
    fn adopt(&mut self, target: &Target, address: u64) -> anyhow::Result<Adoption> {
        let key = ContextKey { tgid: target.pid, pad: 0, address };
        for _ in 0..ATTEMPTS {
            let record = match self.fresh_record(target, &key) {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(Adoption::Known),
                Err(_) if !target.runs() => return Ok(Adoption::Known),
                // Freed with its page, or hidden.
                Err(_) => return Ok(Adoption::Unclear("cannot be read any more")),
            };
            match self.kernel.adopt_context(&key, &record).context("cannot record a context")? {
                // A probe has seen it.
                Adopted::Known => return Ok(Adoption::Known),
                Adopted::NoRoom => {
                    if let Some(idle) = &mut self.idle {
                        idle.refused += 1;
                    }
                    return Ok(Adoption::NoRoom);
                }
                Adopted::Made => {}
            }
            if self.confirm(target, &key, &record)? {
                return Ok(Adoption::Known);
            }
            let taken = self.kernel.take_back_context(&key, record.born_ns);
            taken.context("cannot take back a record")?;
        }
        debug!(pid = key.tgid, ctx = format!("{address:#x}"), "it changes while it is looked at");
        Ok(Adoption::Unclear("changes while it is looked at"))
    }

    /// What a context says of itself now; `None` if there is none (any more).
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn fresh_record(
        &self,
        target: &Target,
        key: &ContextKey,
    ) -> std::io::Result<Option<ContextRecord>> {
        let image = self.images.image(target.image);
        let layout = image.and_then(|image| plan::block_layout(&image.learnt.layout));
        let Some(layout) = layout else { return Ok(None) };
        let observed_ns = clock::monotonic_ns();
        let (block, flags) = read_block(&*self.memory, key.tgid, key.address, &layout)?;
        let seen = Observation::of_block(&block, flags, &layout, Source::Memory, observed_ns);
        let is = contradiction(&seen).is_none() && target.holds(&*self.memory, key.address);
        Ok(is.then(|| ContextRecord {
            process_start_ns: clock::start_ns(target.start_time_ticks),
            born_ns: clock::monotonic_ns(),
            observed_ns,
            hits: 0,
            hit_ns: 0,
            block,
            image: target.image,
            flags: flags | record_flags::FOUND,
            comm: comm(key.tgid),
            layout,
            birth: 0,
            exe: ExeId::default(),
        }))
    }

    /// Whether a record that no probe made is of a context that lives and is as the
    /// record says; then it is admitted.
    fn confirm(
        &mut self,
        target: &Target,
        key: &ContextKey,
        made: &ContextRecord,
    ) -> anyhow::Result<bool> {
        let at_ns = clock::monotonic_ns();
        let read = read_block(&*self.memory, key.tgid, key.address, &made.layout);
        if !target.holds(&*self.memory, key.address) {
            return Ok(false);
        }
        let Ok((block, flags)) = read else { return Ok(false) };
        // An end is reported, and the record removed or marked, before anything is freed.
        let record = self.kernel.context(key).context("cannot read the map of contexts")?;
        let Some(record) = record.filter(|record| record.born_ns == made.born_ns) else {
            return Ok(false);
        };
        if record.flags & (record_flags::ENDED | record_flags::UNSURE) != 0 {
            return Ok(false);
        }
        // Another one may have come to the address before the record was made. It
        // would have counted less, or a probe has seen it.
        if record.flags & record_flags::FOUND != 0 && block != made.block {
            return Ok(false);
        }
        self.admit(*key, &record);
        let seen = Observation::of_block(&block, flags, &record.layout, Source::Memory, at_ns);
        self.registry.see(key, record.born_ns, seen);
        self.read_settings(key, &record);
        Ok(true)
    }

    /// Whether what is told of a record may be believed: a probe has seen the
    /// context, or the agent has said that it is one.
    pub(super) fn is_believed(&self, key: &ContextKey, record: &ContextRecord) -> bool {
        record.flags & record_flags::FOUND == 0
            || self.registry.is_live(key, record.born_ns)
            || self.registry.has_ended(key, record.born_ns)
            || self.is_copy_of_known(key, record)
    }

    /// Whether a fork made a record, of a context of which the agent has said that it is
    /// one. (Its report comes before that of the other's end.)
    fn is_copy_of_known(&self, key: &ContextKey, record: &ContextRecord) -> bool {
        let Ok(Some(fork)) = self.kernel.fork_of(key.tgid) else { return false };
        let of_forker = ContextKey { tgid: fork.forker, ..*key };
        let started = Some(clock::start_ticks(fork.forker_start_ns));
        record.birth & birth_flags::FORKED != 0
            && record.process_start_ns == fork.child_start_ns
            && self.registry.live_at(&of_forker).is_some_and(|known| {
                known.image == record.image
                    && known.born_ns < fork.at_ns
                    && known.facts.start_time_ticks == started
            })
    }

    /// A fork made a record of one that no probe has seen, and the agent neither. Admits
    /// it if there is a context; else it is taken back.
    pub(super) fn admit_copy(&mut self, key: &ContextKey, record: &ContextRecord) {
        let image = self.images.image(record.image);
        let marks = image.and_then(|image| image.marks.marks.as_ref());
        let target = marks.and_then(|marks| {
            let mut files = self.images.files(record.image);
            files.find_map(|file| Target::of(key.tgid, record.image, file, marks))
        });
        let admitted = target.map_or(Ok(false), |target| self.confirm(&target, key, record));
        let taken_back = admitted.and_then(|admitted| {
            if admitted {
                return Ok(());
            }
            Ok(self.kernel.take_back_context(key, record.born_ns)?)
        });
        if let Err(error) = taken_back {
            warn!(error = format!("{error:#}"), "a context of a fork");
        }
    }

    /// Whoever looks for contexts must find those that the probes know: the marks
    /// would be wrong.
    fn missed(&mut self, found: &Found) -> anyhow::Result<Vec<String>> {
        let Found { target, hashes, began_ns, .. } = found;
        let old: Vec<(ContextKey, u64)> = self
            .registry
            .live()
            .filter(|c| c.key.tgid == target.pid && c.image == target.image)
            .filter(|c| c.born_ns < *began_ns)
            .map(|context| (context.key, context.born_ns))
            .collect();
        let mut missed = Vec::new();
        for (key, born_ns) in old {
            let hash = target.sessions_of(&*self.memory, key.address);
            let record = self.kernel.context(&key).context("cannot read the map of contexts")?;
            let lives = record.is_some_and(|record| {
                record.born_ns == born_ns
                    && record.flags & (record_flags::ENDED | record_flags::UNSURE) == 0
            });
            if lives && hash.is_ok_and(|hash| !hashes.contains(&hash)) {
                missed.push(format!(
                    "scan: it did not find {:#x}, which a probe knows: it may have missed others",
                    key.address
                ));
            }
        }
        Ok(missed)
    }

    /// What may be there and is not shown.
    pub(super) fn unshown(&self) -> Vec<GapSnapshot> {
        let Some(idle) = &self.idle else { return Vec::new() };
        let mut gaps: Vec<GapSnapshot> = idle
            .unshown
            .iter()
            .flat_map(|(pid, all)| all.iter().map(|unshown| (*pid, unshown)))
            .filter(|(_, unshown)| !self.is_resolved(unshown))
            .map(|(pid, unshown)| GapSnapshot {
                pid: Some(pid),
                library: Some(self.images.library(unshown.image).path),
                reason: unshown.reason.clone(),
            })
            .collect();
        if idle.refused > 0 {
            let what = "contexts that the scan found are not shown: the map is full; raise \
                        --max-contexts";
            let reason = format!("{} {what}", idle.refused);
            gaps.push(GapSnapshot { pid: None, library: None, reason });
        }
        gaps
    }

    /// Whether a context that a probe has seen owns the hash: the others that claim
    /// it are copies.
    fn is_resolved(&self, unshown: &Unshown) -> bool {
        let Some((target, hash)) = &unshown.contested else { return false };
        self.registry
            .live()
            .filter(|context| context.key.tgid == target.pid && context.image == target.image)
            .any(|c| target.sessions_of(&*self.memory, c.key.address).is_ok_and(|h| h == *hash))
    }
}

/// Who forked a process, with its start in ticks, if the kernel half saw it.
fn forker(kernel: &Kernel, look: &Look) -> Option<(u32, u64)> {
    let fork = kernel.fork_of(look.pid).ok().flatten()?;
    let is_this = look.facts.start_time_ticks == Some(clock::start_ticks(fork.child_start_ns));
    is_this.then(|| (fork.forker, clock::start_ticks(fork.forker_start_ns)))
}

/// The name of a process's main thread, as the kernel half has it.
fn comm(pid: u32) -> [u8; 16] {
    let mut comm = [0; 16];
    if let Some(name) = ProcessFacts::read(pid).comm {
        for (byte, of_name) in comm.iter_mut().zip(name.bytes().take(15)) {
            *byte = of_name;
        }
    }
    comm
}
