//! Attaches the probes of a library, and takes them away again.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    thread,
};

use aya::{
    maps::MapError,
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
    },
};
use probe_common::{BlockLayout, names};
use thiserror::Error;
use tracing::debug;

use super::load::Kernel;
use crate::image::ProbePoint;

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
    #[error(
        "all {limit} probe points are in use: restart sslsess to let go of libraries that are gone"
    )]
    Full {
        /// How many there are.
        limit: u32,
    },
    /// The object lacks the program: it was not built from this source.
    #[error("the BPF object has no probe program: build it anew with `cargo xtask build`")]
    Incomplete,
}

/// The probes that are attached, by image.
#[derive(Default)]
pub(super) struct Attachments {
    next_cookie: u32,
    links: HashMap<u32, Vec<UProbeLink>>,
}

impl Kernel {
    /// Attaches all probe points of an image; either all of them or none.
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
        points: &[ProbePoint],
        path: &Path,
    ) -> Result<usize, AttachError> {
        let mut placed = HashSet::new();
        let mut links = Vec::new();
        for point in points {
            // Two increments can share the instruction behind them.
            if placed.insert((point.file_offset, point.argument)) {
                // What is attached already goes with `links` if this fails.
                links.push(self.attach_one(image, layout, point, path)?);
            }
        }
        let count = links.len();
        self.attachments.links.insert(image, links);
        Ok(count)
    }

    fn attach_one(
        &mut self,
        image: u32,
        layout: BlockLayout,
        point: &ProbePoint,
        path: &Path,
    ) -> Result<UProbeLink, AttachError> {
        let cookie = self.attachments.next_cookie;
        if cookie >= self.specs.len() {
            return Err(AttachError::Full { limit: self.specs.len() });
        }
        // First the description, then the probe: it may fire at once.
        self.specs.set(cookie, point.spec(image, layout), 0)?;
        self.attachments.next_cookie += 1;
        let place = UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(point.file_offset),
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
            .map_err(|source| AttachError::Probe { offset: point.file_offset, source })
    }

    /// How many probes of an image are attached.
    #[must_use]
    pub fn attached(&self, image: u32) -> usize {
        self.attachments.links.get(&image).map_or(0, Vec::len)
    }

    /// Removes every probe; returns when the last one is gone.
    pub fn detach_all(&mut self) {
        let links: Vec<UProbeLink> = self.attachments.links.drain().flat_map(|(_, l)| l).collect();
        thread::scope(|scope| {
            let mut links = links.into_iter().peekable();
            while links.peek().is_some() {
                let batch: Vec<UProbeLink> = links.by_ref().take(LINKS_PER_CLOSER).collect();
                scope.spawn(move || drop(batch));
            }
        });
        debug!("all probes are removed");
    }
}
