//! Libraries are learnt on other threads, and get their probes when the answer is there.

use std::{
    collections::{BTreeSet, HashMap},
    os::fd::AsRawFd as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use tracing::info;

use super::{Asking, Images, Known, Learnt, Pair, refused};
use crate::{
    agent::{
        inodes::InodeId,
        learner::{Lesson, Outcome, Task},
        probes::Probes,
    },
    host::Library,
    image::{FieldGap, Gap, Image, plan},
};

/// How long a process may map a libssl without the libcrypto that it needs: the
/// dynamic linker maps one after the other.
const LOADING: Duration = Duration::from_secs(2);

impl Images {
    /// Has a library learnt. The answer comes as a [`Lesson`].
    pub(super) fn ask(&mut self, pair: Pair, library: &Library, since: Instant) {
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
        let attached = probes.attach(number, layout, &image.plan, &path);
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
