//! Libraries that were overwritten, that nobody maps any more, and whose contexts are all
//! known: some or all of their probes go.

use std::{collections::HashSet, time::Instant};

use tracing::{info, warn};

use super::{Images, concerns};
use crate::{
    agent::{
        companion::{MappedCompanion, look_for_names},
        inodes::InodeId,
        probes::Probes,
    },
    host::Library,
    image::Elf,
};

/// More probes than any library has.
pub(super) const ROOM: usize = 64;

/// How many files that nobody maps are held at most.
const MAX_UNUSED: usize = 256;

impl Images {
    /// A file was written to while somebody mapped it.
    pub(super) fn relearn(&mut self, probes: &mut impl Probes, library: &Library, id: InodeId) {
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
    pub(super) fn has_room(&mut self, probes: &mut impl Probes, pid: u32, libssl: InodeId) -> bool {
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
        probes.settle(image);
        self.settled.insert(image);
    }

    /// Whether handshakes had probes of an image until all contexts were known.
    #[must_use]
    pub fn is_settled(&self, image: u32) -> bool {
        self.settled.contains(&image)
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
}
