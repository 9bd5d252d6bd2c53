//! Learns each library file once, attaches its probes once, and lets go of it
//! when nobody maps it any more.

mod answers;
pub mod targets;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    os::fd::AsRawFd as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{
    companion::{MappedCompanion, look_for_names},
    inodes::{InodeId, Inodes},
    learner::{Learner, Lesson, Outcome, Task},
    probes::Probes,
    usage::{Has, Standing, Usage, Uses},
};
use crate::{
    host::{Library, Look},
    image::{Elf, FieldGap, Gap, Image, PlanOptions, ProbePlan, plan},
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

/// How long a process may map a libssl without the libcrypto that it needs: the
/// dynamic linker maps one after the other.
const LOADING: Duration = Duration::from_secs(2);

/// More probes than any library has.
const ROOM: usize = 64;

/// How many files that nobody maps are held at most.
const MAX_UNUSED: usize = 256;

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

    /// A file was written to while somebody mapped it.
    fn relearn(&mut self, probes: &mut impl Probes, library: &Library, id: InodeId) {
        let fits = |number: &u32| self.still_fits(library, *number, id);
        if self.attached.get(&id).is_some_and(fits) {
            return;
        }
        self.by_file.retain(|pair, _| !concerns(pair, id));
        self.learning.retain(|pair, _| !concerns(pair, id));
        if let Some(image) = self.attached.remove(&id) {
            warn!(library = %library.libssl.path.display(), "overwritten, and let go");
            probes.detach(image);
            self.detached.push(image);
            self.overwritten.insert(id);
        }
    }

    /// Whether what was learnt of a file is what it says now.
    fn still_fits(&self, library: &Library, number: u32, id: InodeId) -> bool {
        let shown = &library.libssl.path;
        let elf = self.inodes.file(id).and_then(|file| Elf::read(file, shown).ok());
        let Some(mut elf) = elf else { return false };
        look_for_names(&mut elf, library);
        let companion = MappedCompanion::of(&elf, library);
        let mut now = companion.learn(library, &elf, self.plan);
        let then = &self.images[&number];
        if matches!(companion, MappedCompanion::Absent(_)) {
            // The process is just loading it, and what it says is not of this file.
            let (layout, known) = (&mut now.learnt.layout, &then.learnt.layout);
            layout.sessions = layout.sessions.or(known.sessions);
            layout.num_items = layout.num_items.or(known.num_items);
        }
        now.learnt.layout == then.learnt.layout && now.plan.all().eq(then.plan.all())
    }

    /// Whether there is room for the probes of a library. If not, some is made,
    /// and the process waits for that; if none can be made, it has its turn later.
    fn has_room(&mut self, probes: &mut impl Probes, pid: u32, libssl: InodeId) -> bool {
        let (now, soon) = probes.room();
        if self.attached.contains_key(&libssl) || now >= ROOM {
            return true;
        }
        if soon < ROOM {
            let unused = self.usage.unused();
            let attached = |(id, _): &&(InodeId, Instant)| self.attached.contains_key(id);
            let Some((oldest, _)) = unused.iter().find(attached) else { return false };
            self.let_go(probes, *oldest);
        }
        self.waiting.insert(pid);
        false
    }

    /// Lets go of what nobody has mapped for long enough. `seen_all` says whether
    /// all processes were looked at after a time, `has_live` whether contexts of an
    /// image live: in a process that has closed the library, or was not looked at.
    pub fn release(
        &mut self,
        probes: &mut impl Probes,
        seen_all: impl Fn(Instant) -> bool,
        has_live: impl Fn(u32) -> bool,
    ) {
        let unused = self.usage.unused();
        let many = unused.len().saturating_sub(MAX_UNUSED);
        for (n, (id, since)) in unused.into_iter().enumerate() {
            let over = since.elapsed() >= self.release_after
                && seen_all(since)
                && !self.attached.get(&id).is_some_and(|image| has_live(*image));
            if n < many || over {
                self.let_go(probes, id);
            }
        }
    }

    /// Images whose probes were removed since the last time. If contexts of them
    /// live, nobody sees any more when they end.
    pub fn take_detached(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.detached)
    }

    /// Whether something waits to be let go.
    #[must_use]
    pub fn is_releasing(&self) -> bool {
        self.usage.any_unused()
    }

    fn let_go(&mut self, probes: &mut impl Probes, id: InodeId) {
        if let Some(image) = self.attached.remove(&id) {
            info!(library = %self.images[&image].path.display(), "nobody maps it: let go");
            probes.detach(image);
            self.detached.push(image);
        }
        self.overwritten.remove(&id);
        self.by_file.retain(|pair, _| !concerns(pair, id));
        self.inodes.let_go(id);
        self.usage.forget(id);
    }

    /// All contexts of an image that live are known: the probes go that look for others.
    pub fn settle(&mut self, probes: &mut impl Probes, image: u32) {
        let Some(of_it) = self.images.get(&image) else { return };
        info!(library = %of_it.path.display(), "all its contexts are known: handshakes have no probes now");
        probes.detach_temporary(image);
        self.settled.insert(image);
    }

    /// Images with probes that go as soon as all contexts are known.
    pub fn unsettled(&self) -> impl Iterator<Item = u32> {
        let attached = self.attached.values().copied();
        attached.filter(|image| {
            !self.settled.contains(image) && !self.images[image].plan.until_known.is_empty()
        })
    }

    /// Forgets what was learnt of libraries that were let go and that no context
    /// is of any more.
    pub fn forget(&mut self, has_contexts: impl Fn(u32) -> bool) {
        if self.images.len() > self.attached.len() {
            let attached: HashSet<u32> = self.attached.values().copied().collect();
            self.images.retain(|image, _| attached.contains(image) || has_contexts(*image));
            self.ambiguous.retain(|image| self.images.contains_key(image));
            self.settled.retain(|image| self.images.contains_key(image));
        }
    }

    /// Processes that are to be looked at again soon: they were met while their
    /// libraries were being loaded, or these wait for others to be let go.
    #[must_use]
    pub fn unfinished(&self) -> Vec<u32> {
        self.loading.keys().chain(&self.waiting).copied().collect()
    }

    /// Has a library learnt. The answer comes as a [`Lesson`].
    fn ask(&mut self, pair: Pair, library: &Library, since: Instant) {
        if let Some(asking) = self.learning.get_mut(&pair) {
            asking.since.entry(library.pid).or_insert(since);
            return;
        }
        let inodes = pair.1.iter().chain([&pair.0]);
        // Of one's own: what is learnt does not depend on who lets go of what.
        let files = inodes.map(|id| self.inodes.file(*id)?.try_clone().ok()).collect();
        // Without a file descriptor left, at the next look.
        let Some(files) = files else { return };
        self.questions += 1;
        let number = self.questions;
        let asking = Asking { number, since: HashMap::from([(library.pid, since)]) };
        self.learning.insert(pair.clone(), asking);
        let complete = since.elapsed() >= LOADING;
        let (library, plan) = (library.clone(), self.plan);
        self.learner.give(Task { key: (pair, number), library, files, plan, complete });
    }

    /// Whether libraries are being learnt.
    #[must_use]
    pub fn is_learning(&self) -> bool {
        !self.learning.is_empty()
    }

    /// Waits until something was learnt; for ever if nothing is.
    pub async fn next_lesson(&mut self) -> Learnt {
        match self.learner.next().await {
            Some(lesson) => Learnt(lesson),
            None => std::future::pending().await,
        }
    }

    /// As [`Self::next_lesson`], outside of a runtime. `None`: nothing will come.
    pub fn wait_for_lesson(&mut self) -> Option<Learnt> {
        self.learner.wait().map(Learnt)
    }

    /// Takes in what was learnt, and attaches the probes. Says which processes are
    /// to be looked at again: they have the library.
    pub fn take_lesson(&mut self, probes: &mut impl Probes, Learnt(lesson): Learnt) -> Vec<u32> {
        let Lesson { key: (pair, number), library, outcome } = lesson;
        // Of an earlier question, before the file was written to.
        if self.learning.get(&pair).is_none_or(|asking| asking.number != number) {
            return Vec::new();
        }
        let asking = self.learning.remove(&pair).map(|asking| asking.since).unwrap_or_default();
        let known = match outcome {
            Outcome::Other => Some(Known::Other),
            Outcome::Refused(reason) => Some(refused(&library, reason)),
            Outcome::Incomplete => {
                for (pid, since) in &asking {
                    self.loading.entry(*pid).or_insert(*since);
                }
                return Vec::new();
            }
            // Others have taken the room meanwhile: at the next look at a process.
            Outcome::Image(image)
                if !self.attached.contains_key(&pair.0)
                    && probes.room().0 < image.plan.all().count() =>
            {
                return Vec::new();
            }
            Outcome::Image(image) => self.observe(probes, &library, pair.0, *image),
        };
        if let Some(known) = known.filter(|_| self.inodes.file(pair.0).is_some()) {
            self.by_file.insert(pair, known);
        }
        asking.into_keys().collect()
    }

    fn observe(
        &mut self,
        probes: &mut impl Probes,
        library: &Library,
        libssl: InodeId,
        image: Image,
    ) -> Option<Known> {
        let disagreed = |gap: &&FieldGap| matches!(gap.reason, Gap::Contradiction { .. });
        self.contradictions += image.gaps().filter(disagreed).count() as u64;
        if let Some(number) = self.attached.get(&libssl) {
            // Known with another libcrypto: the probes that are there serve.
            let known = &self.images[number].learnt.layout;
            let same = known.num_items == image.learnt.layout.num_items;
            let attached = if same { Known::Attached } else { Known::OtherNumber };
            return Some(attached(*number));
        }
        let Some(layout) = plan::block_layout(&image.learnt.layout) else {
            let gaps = image.learnt.gaps.iter().chain(&image.plan.gaps);
            let reasons: BTreeSet<String> = gaps.map(|gap| gap.reason.to_string()).collect();
            let reasons = Vec::from_iter(reasons).join("; ");
            return Some(refused(library, format!("its layout is not known: {reasons}")));
        };
        if !image.plan.sees_deaths() || !image.plan.sees_contexts() {
            let reasons: Vec<String> = image
                .plan
                .gaps
                .iter()
                .map(|gap| format!("{}: {}", gap.field, gap.reason))
                .collect();
            let reason = format!("probes cannot be placed: {}", reasons.join("; "));
            return Some(refused(library, reason));
        }
        // If it was let go meanwhile, or changed, whoever maps it shows it again.
        let file = self.inodes.file(libssl).filter(|_| self.inodes.is_as_it_was(libssl))?;
        let number = self.next;
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let ProbePlan { points, until_known, .. } = &image.plan;
        let attached = probes.attach(number, layout, points, &path).and_then(|count| {
            if until_known.is_empty() {
                return Ok(count);
            }
            let more = probes.attach_temporary(number, layout, until_known, &path);
            more.inspect_err(|_| probes.detach(number)).map(|more| count + more)
        });
        match attached {
            // It was copied by its overlay just now, and the probes are on the copy.
            Ok(_) if !self.inodes.is_as_it_was(libssl) => {
                probes.detach(number);
                self.detached.push(number);
                self.next += 1;
                None
            }
            Ok(attached) => {
                info!(
                    library = %image.path.display(),
                    version = image.version.as_deref().unwrap_or("unknown"),
                    probes = attached,
                    "observed"
                );
                self.next += 1;
                self.attached.insert(libssl, number);
                self.images.insert(number, image);
                Some(Known::Attached(number))
            }
            Err(error) => {
                // Some may have been there for a moment, and seen contexts.
                self.detached.push(number);
                self.next += 1;
                Some(refused(library, format!("{:#}", anyhow::Error::from(error))))
            }
        }
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
