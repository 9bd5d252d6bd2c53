//! What is asked of the libraries.

use super::{Images, InodeId, Known};
use crate::{
    host::{Library, ProcessFacts, files::FileId},
    image::{Image, ProbeKind, SettingsLayout},
    snapshot::{GapSnapshot, LibrarySnapshot},
};

impl Images {
    /// The image of a library that a process maps, if its probes are attached and
    /// made for that process's libcrypto too.
    #[must_use]
    pub fn image_of(&self, library: &Library) -> Option<u32> {
        let libcrypto: Option<Vec<InodeId>> =
            library.libcrypto.iter().map(|file| self.inodes.known(file)).collect();
        match self.by_file.get(&(self.inodes.known(&library.libssl)?, libcrypto?))? {
            Known::Attached(image) => Some(*image),
            _ => None,
        }
    }

    /// The file of an image, under each of the numbers that it was met with.
    pub fn files(&self, image: u32) -> impl Iterator<Item = FileId> {
        let inode = self.attached.iter().find(|(_, number)| **number == image);
        inode.into_iter().flat_map(|(inode, _)| self.inodes.numbers(*inode))
    }

    /// What was learnt of an image.
    #[must_use]
    pub fn image(&self, image: u32) -> Option<&Image> {
        self.images.get(&image)
    }

    /// Whether the number of sessions of a process is where the image's probes
    /// look for it.
    #[must_use]
    pub fn knows_number(&self, image: u32, pid: u32, start_time_ticks: Option<u64>) -> bool {
        !self.ambiguous.contains(&image)
            || self.usage.of(pid).is_some_and(|uses| {
                let same = uses.facts.start_time_ticks == start_time_ticks;
                same && uses.verified.contains(&image)
            })
    }

    /// What `/proc` says of a process; if it is gone, what it said at the last
    /// look at its libraries.
    #[must_use]
    pub fn facts(&self, pid: u32) -> ProcessFacts {
        let now = ProcessFacts::read(pid);
        let then = self.usage.of(pid).filter(|_| now.start_time_ticks.is_none());
        then.map_or(now, |uses| uses.facts.clone())
    }

    /// A process executes another program.
    pub fn executed(&mut self, pid: u32) {
        self.usage.forget_facts(pid);
    }

    /// What is not known, of any process.
    pub fn gaps(&self) -> impl Iterator<Item = &GapSnapshot> {
        self.usage.gaps()
    }

    /// How many files of libraries are held open.
    #[must_use]
    pub fn held(&self) -> usize {
        self.inodes.len()
    }

    /// Where the settings are in the contexts of an image.
    #[must_use]
    pub fn settings(&self, image: u32) -> SettingsLayout {
        self.images.get(&image).map(|image| image.settings.layout).unwrap_or_default()
    }

    /// Fields of the libraries that were learnt about which two witnesses disagreed.
    #[must_use]
    pub fn contradictions(&self) -> u64 {
        self.contradictions
    }

    /// What is shown of an image.
    #[must_use]
    pub fn library(&self, image: u32) -> LibrarySnapshot {
        self.images.get(&image).map_or_else(LibrarySnapshot::default, |image| LibrarySnapshot {
            path: image.path.clone(),
            build_id: image.build_id.clone(),
            version: image.version.clone(),
            family: image.family,
        })
    }

    /// Whether counters of this image change without a probe that sees it: what the
    /// last probe saw need not be what a context had.
    #[must_use]
    pub fn changes_unseen(&self, image: u32) -> bool {
        self.images.get(&image).is_some_and(|image| !image.plan.sees_changes)
    }

    /// Whether probes of this image see contexts that were there before them.
    #[must_use]
    pub fn sees_use(&self, image: u32) -> bool {
        let lasting = |image: &Image| image.plan.sees_use();
        self.images.get(&image).is_some_and(lasting) || self.unsettled().any(|of| of == image)
    }

    /// Whether the probes of this image stand at function entries, where nothing has
    /// been counted yet.
    #[must_use]
    pub fn is_entered(&self, image: u32) -> bool {
        let at_entries =
            |image: &Image| image.plan.all().any(|point| point.kind == ProbeKind::Entry);
        self.images.get(&image).is_some_and(at_entries)
    }
}
