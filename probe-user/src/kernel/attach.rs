//! Attaches the probes of a library, and takes them away again.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    path::Path,
    thread::{self, JoinHandle},
};

use aya::{
    maps::MapError,
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
    },
};
use probe_common::{BlockLayout, Moment, ProbeSpec, names};
use thiserror::Error;
use tracing::{debug, warn};

use super::{load::Kernel, slots::Slots};
use crate::{
    host::clock,
    image::{ProbePlan, ProbePoint},
};

/// Links that one thread closes. The kernel waits for a grace period per probe,
/// so closing is slow and goes well in parallel.
const LINKS_PER_CLOSER: usize = 2;

/// Why a library's probes could not be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The kernel refused a probe.
    #[error("the kernel refuses a probe at offset {offset:#x}")]
    Probe {
        /// Where, in the file.
        offset: u64,
        /// Why.
        #[source]
        source: ProgramError,
    },
    /// The description of a probe could not be given to the kernel half.
    #[error("cannot describe a probe to the BPF program: {0}")]
    Spec(#[from] MapError),
    /// Too many probes.
    #[error("all {limit} probe points are in use, by libraries that processes map")]
    Full {
        /// How many there are.
        limit: u32,
    },
    /// The object lacks the program: it was not built from this source.
    #[error("the BPF object has no probe program: build it anew with `cargo xtask build`")]
    Incomplete,
}

/// How probes are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LinkChoice {
    /// All of a library in one step where the kernel can (Linux 6.6), else one by one.
    #[default]
    Auto,
    /// One by one, as on older kernels.
    OneByOne,
}

/// What keeps probes where they are; they go when it is dropped.
#[expect(dead_code, reason = "nothing is asked of a link: it is there, or it is not")]
enum Link {
    /// One probe.
    One(UProbeLink),
    /// All probes of an image.
    All(OwnedFd),
}

/// The probes of an image.
#[derive(Default)]
struct Probes {
    links: Vec<Link>,
    /// One for each probe.
    cookies: Vec<u32>,
}

/// The probes that are attached, by image.
#[derive(Default)]
pub(super) struct Attachments {
    slots: Slots,
    probes: HashMap<u32, Probes>,
    /// Those of an image that are there until all contexts are known.
    until_known: HashMap<u32, Probes>,
    /// Since when all of an image's are attached.
    since: HashMap<u32, u64>,
    /// Threads that remove probes, and then say whose cookies are free.
    closers: Vec<JoinHandle<Vec<u32>>>,
    /// How many cookies they have.
    closing: usize,
}

impl Attachments {
    /// Removes probes, which takes the kernel 0.1 s each.
    fn close(&mut self, probes: Probes) {
        let Probes { links, cookies } = probes;
        self.closing += cookies.len();
        // The closing of a probe's file descriptors returns after the kernel has
        // seen every CPU leave its program.
        self.closers.push(thread::spawn(move || {
            close_all(links);
            cookies
        }));
    }

    /// The cookies of probes that are gone by now.
    fn closed(&mut self) -> Vec<u32> {
        let (done, closing) = self.closers.drain(..).partition(JoinHandle::is_finished);
        self.closers = closing;
        let done: Vec<JoinHandle<Vec<u32>>> = done;
        // A thread that panicked keeps its cookies: nobody knows what became of them.
        done.into_iter().filter_map(|closer| closer.join().ok()).flatten().collect()
    }
}

impl Kernel {
    /// Attaches all probe points of an image; either all of them or none. Says how many.
    ///
    /// `path` must lead to the file that the processes map. Through the file
    /// descriptor of a file that was opened at `/proc/PID/map_files` it does,
    /// also in other mount namespaces, and for a file that was deleted.
    ///
    /// # Errors
    ///
    /// If any of them is refused.
    pub fn attach(
        &mut self,
        image: u32,
        layout: BlockLayout,
        plan: &ProbePlan,
        path: &Path,
    ) -> Result<usize, AttachError> {
        let lasting = self.place(image, layout, &plan.points, path)?;
        let until_known = match self.place(image, layout, &plan.until_known, path) {
            Ok(probes) => probes,
            Err(error) => {
                self.retire(lasting);
                return Err(error);
            }
        };
        self.attachments.probes.insert(image, lasting);
        self.attachments.until_known.insert(image, until_known);
        self.attachments.since.insert(image, clock::monotonic_ns());
        Ok(self.attached(image))
    }

    fn place(
        &mut self,
        image: u32,
        layout: BlockLayout,
        points: &[ProbePoint],
        path: &Path,
    ) -> Result<Probes, AttachError> {
        let mut probes = Probes::default();
        if points.is_empty() {
            return Ok(probes);
        }
        let attached = self
            .describe(image, layout, points, &mut probes)
            .and_then(|places| self.link(path, &places, &mut probes));
        if let Err(error) = attached {
            self.retire(probes);
            return Err(error);
        }
        Ok(probes)
    }

    /// Writes down what each probe means, before there is one: it may fire at once.
    /// Says where they are to be, each with its cookie.
    fn describe(
        &mut self,
        image: u32,
        layout: BlockLayout,
        points: &[ProbePoint],
        probes: &mut Probes,
    ) -> Result<Vec<(u64, u32)>, AttachError> {
        let limit = self.specs.len();
        let mut placed = HashSet::new();
        let mut places = Vec::new();
        for point in points {
            // Two increments can share the instruction behind them.
            if !placed.insert((point.file_offset, point.argument)) {
                continue;
            }
            let cookie = self.attachments.slots.take(limit).ok_or(AttachError::Full { limit })?;
            probes.cookies.push(cookie);
            let mut spec = point.spec(image, layout);
            if !self.timed {
                // There is no room for it.
                spec.moment = Moment::None as u8;
            }
            self.specs.set(cookie, spec, 0)?;
            places.push((point.file_offset, cookie));
        }
        Ok(places)
    }

    /// Attaches probes: all at once, or else one by one.
    fn link(
        &mut self,
        path: &Path,
        places: &[(u64, u32)],
        probes: &mut Probes,
    ) -> Result<(), AttachError> {
        let all = self.multi.as_ref().map(|program| program.attach(path, places));
        match all {
            Some(Ok(link)) => {
                probes.links.push(Link::All(link));
                return Ok(());
            }
            Some(Err(error)) => debug!(%error, "not all at once"),
            None => {}
        }
        for (offset, cookie) in places {
            let link = self.attach_one(path, *offset, *cookie)?;
            probes.links.push(Link::One(link));
        }
        // It was not for a reason of these probes: the kernel has no such links.
        self.multi = None;
        Ok(())
    }

    fn attach_one(
        &mut self,
        path: &Path,
        offset: u64,
        cookie: u32,
    ) -> Result<UProbeLink, AttachError> {
        let place = UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(offset),
            cookie: Some(u64::from(cookie)),
        };
        let program: &mut UProbe = self
            .ebpf
            .program_mut(names::PROBE_POINT)
            .and_then(|program| program.try_into().ok())
            .ok_or(AttachError::Incomplete)?;
        program
            .attach(place, path, UProbeScope::AllProcesses)
            .and_then(|id| program.take_link(id))
            .map_err(|source| AttachError::Probe { offset, source })
    }

    /// Since when all probes of an image are attached, nanoseconds of
    /// `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn attached_since(&self, image: u32) -> Option<u64> {
        self.attachments.since.get(&image).copied()
    }

    /// How many probes of an image are attached.
    #[must_use]
    pub fn attached(&self, image: u32) -> usize {
        let Attachments { probes, until_known, .. } = &self.attachments;
        let all = [probes, until_known].into_iter().filter_map(|probes| probes.get(&image));
        all.map(|probes| probes.cookies.len()).sum()
    }

    /// How many more probes there is room for: now, and when those are gone that
    /// are being removed.
    pub fn room(&mut self) -> (usize, usize) {
        self.collect_closed();
        let room = self.attachments.slots.room(self.specs.len());
        (room, room + self.attachments.closing)
    }

    /// Removes the probes of an image. They do nothing from now on, and are gone
    /// some time later.
    pub fn detach(&mut self, image: u32) {
        self.attachments.since.remove(&image);
        self.settle(image);
        if let Some(probes) = self.attachments.probes.remove(&image) {
            self.retire(probes);
        }
    }

    /// Removes the probes of an image that are there until all contexts are known.
    pub fn settle(&mut self, image: u32) {
        if let Some(probes) = self.attachments.until_known.remove(&image) {
            self.retire(probes);
        }
    }

    /// Removes probes. They do nothing from now on, and are gone some time later.
    fn retire(&mut self, probes: Probes) {
        for cookie in &probes.cookies {
            let retired = ProbeSpec::empty(ProbeSpec::RETIRED);
            if let Err(error) = self.specs.set(*cookie, retired, 0) {
                warn!(%error, cookie, "a probe goes on until it is gone");
            }
        }
        self.attachments.close(probes);
    }

    /// Makes the cookies of probes that are gone free for others.
    fn collect_closed(&mut self) {
        for cookie in self.attachments.closed() {
            self.attachments.closing -= 1;
            match self.specs.set(cookie, ProbeSpec::empty(0), 0) {
                Ok(()) => self.attachments.slots.give_back(cookie),
                Err(error) => warn!(%error, cookie, "cannot clear a probe point: it stays unused"),
            }
        }
    }

    /// Removes every probe; returns when the last one is gone.
    pub fn detach_all(&mut self) {
        let Attachments { probes, until_known, .. } = &mut self.attachments;
        let probes = probes.drain().chain(until_known.drain());
        close_all(probes.flat_map(|(_, probes)| probes.links).collect());
        for closer in self.attachments.closers.drain(..) {
            let _ = closer.join();
        }
        debug!("all probes are removed");
    }
}

/// Removes probes; returns when the last one is gone.
fn close_all(links: Vec<Link>) {
    thread::scope(|scope| {
        let mut links = links.into_iter().peekable();
        while links.peek().is_some() {
            let batch: Vec<Link> = links.by_ref().take(LINKS_PER_CLOSER).collect();
            scope.spawn(move || drop(batch));
        }
    });
}
