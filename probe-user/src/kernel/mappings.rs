//! Files that become executable in any process, as the kernel tells at the moment
//! it maps them: `PERF_RECORD_MMAP2`, one ring buffer for each processor.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use perf_event::{
    Builder, Sampler,
    data::{Mmap2, Record},
    events::Software,
};
use thiserror::Error;
use tracing::warn;

use crate::host::discovery::{MappedInode, NewMapping};

/// The size of each processor's buffer: room for 500 mappings.
const RING_BYTES: usize = 64 << 10;

/// Which processors there are: `0-3,6`.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Why the kernel does not tell.
#[derive(Debug, Error)]
pub enum MappingsError {
    /// It does not say which processors there are.
    #[error("cannot read {ONLINE}: {0}")]
    Processors(io::Error),
    /// What it says is not understood.
    #[error("cannot understand {ONLINE}: {0:?}")]
    Unreadable(String),
    /// It refuses the event.
    #[error("the kernel refuses to report what is mapped on processor {cpu}: {source}")]
    Refused {
        /// The processor.
        cpu: usize,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to wait with.
    #[error("cannot wait for what is mapped: {0}")]
    Wait(#[from] nix::Error),
}

/// What was mapped since the last time.
#[derive(Debug, Default)]
pub struct Batch {
    /// Files, in the order of each processor.
    pub mappings: Vec<NewMapping>,
    /// There was more, and it was lost: every process must be looked at.
    pub lost: bool,
}

/// Reports of what is mapped executable, in every process.
pub struct Mappings {
    rings: Vec<Sampler>,
    /// Readable when a ring has something.
    waker: Epoll,
    /// Readable when `waker` is, until it is held.
    gate: Epoll,
    held: bool,
    seen: u64,
    lost: u64,
}

impl Mappings {
    /// Begins to listen, on all processors that run now. What processes do on one
    /// that is switched on later is not reported: the listing of processes finds it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it: without CAP_PERFMON, or before 3.16.
    pub fn open() -> Result<Self, MappingsError> {
        let online = fs::read_to_string(ONLINE).map_err(MappingsError::Processors)?;
        let processors = processors(online.trim())
            .ok_or_else(|| MappingsError::Unreadable(online.trim().to_owned()))?;
        let waker = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut rings = Vec::new();
        for cpu in processors {
            let ring = ring(cpu).map_err(|source| MappingsError::Refused { cpu, source })?;
            // SAFETY: the ring is open, and stays so for as long as the epoll
            // that it is added to: one value owns both.
            let fd = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
            waker.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, cpu as u64))?;
            rings.push(ring);
        }
        let gate = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        gate.add(&waker.0, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self { rings, waker, gate, held: false, seen: 0, lost: 0 })
    }

    /// Until all is [taken](Self::take), nothing that is mapped wakes anybody: a program
    /// that begins maps ten files, within a millisecond or two.
    pub fn hold(&mut self) {
        self.held = self.gate.modify(&self.waker.0, &mut EpollEvent::empty()).is_ok();
    }

    /// Takes everything that waits.
    pub fn take(&mut self) -> Batch {
        // So that what comes from here on wakes again.
        let mut ready = [EpollEvent::empty(); 64];
        let _ = self.waker.wait(&mut ready, EpollTimeout::ZERO);
        if self.held {
            let mut wakes = EpollEvent::new(EpollFlags::EPOLLIN, 0);
            self.held = self.gate.modify(&self.waker.0, &mut wakes).is_err();
        }
        let mut batch = Batch::default();
        for ring in &mut self.rings {
            while let Some(record) = ring.next_record() {
                match record.parse_record() {
                    Ok(Record::Mmap2(mapping)) => {
                        self.seen += 1;
                        batch.mappings.extend(of_a_file(&mapping));
                    }
                    Ok(Record::Lost(lost)) => {
                        self.lost += lost.lost;
                        batch.lost = true;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        warn!(%error, "a report of what was mapped is not understood");
                        self.lost += 1;
                        batch.lost = true;
                    }
                }
            }
        }
        batch
    }

    /// Mappings that were reported, and those whose reports were lost.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.seen, self.lost)
    }

    /// What becomes readable when something is mapped.
    ///
    /// # Errors
    ///
    /// If the process has no file descriptor left.
    pub fn event_fd(&self) -> io::Result<std::os::fd::OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}

impl AsFd for Mappings {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.gate.0.as_fd()
    }
}

impl AsRawFd for Mappings {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// A buffer that one processor fills, and that is readable from the first report on.
fn ring(cpu: usize) -> io::Result<Sampler> {
    Builder::new(Software::DUMMY)
        .any_pid()
        .one_cpu(cpu)
        .include_kernel()
        // Executable mappings only, and with their inodes: both are needed.
        .mmap(true)
        .mmap2(true)
        .wakeup_watermark(1)
        .enabled(true)
        .build()?
        .sampled(RING_BYTES)
}

/// A mapping, if it is of a file: what is generated at run time has no inode.
fn of_a_file(mapping: &Mmap2<'_>) -> Option<NewMapping> {
    let file = MappedInode {
        device: (mapping.maj()?, mapping.min()?),
        inode: mapping.ino().filter(|inode| *inode != 0)?,
        generation: mapping.ino_generation()?,
    };
    Some(NewMapping { pid: mapping.pid, address: mapping.addr, file })
}

/// `0-3,6`
fn processors(list: &str) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        found.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_understood() {
        assert_eq!(processors("0"), Some(vec![0]));
        assert_eq!(processors("0-2,5,7-8"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(processors(""), None);
        assert_eq!(processors("0-x"), None);
    }
}
