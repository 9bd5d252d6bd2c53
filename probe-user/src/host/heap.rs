//! Where a process can have made something: memory that is its own and that it can write
//! to, or could, as far as it was ever written.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _};

use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};

use super::process::live_thread;

/// Bits of an entry of `/proc/PID/pagemap` (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// It is a file's, or shared: nobody has written to this copy.
const OF_FILE: u64 = 1 << 61;

/// Entries that are read at a time: one says 4 KiB or more, so these say 128 MiB.
const ENTRIES: usize = 32 << 10;

/// The private memory of a process that it can have written to.
pub struct Heap {
    regions: Vec<Range<u64>>,
    hidden: Vec<Range<u64>>,
    process: Process,
    pages: File,
    page: u64,
}

impl Heap {
    /// Looks at the mappings of a process.
    ///
    /// # Errors
    ///
    /// If it is gone, or may not be looked at.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut process = open(pid)?;
        let mut maps = process.maps().map_err(io::Error::other)?;
        if maps.iter().next().is_none()
            && let Some(thread) = live_thread(pid)
        {
            // The main thread has ended before the others: they have the memory.
            process = open(thread)?;
            maps = process.maps().map_err(io::Error::other)?;
        }
        let own: Vec<&MemoryMap> = maps.iter().filter(|map| is_own(map)).collect();
        let (readable, hidden): (Vec<&MemoryMap>, Vec<&MemoryMap>) =
            own.into_iter().partition(|map| map.perms.contains(MMPermissions::READ));
        let ranges = |maps: Vec<&MemoryMap>| joined(maps.iter().map(|m| m.address.0..m.address.1));
        let (regions, hidden) = (ranges(readable), ranges(hidden));
        let pages = File::open(format!("/proc/{}/pagemap", process.pid))?;
        let page = procfs::page_size();
        Ok(Self { regions, hidden, process, pages, page })
    }

    /// What can be read of it, in ascending order; no region touches the next.
    #[must_use]
    pub fn regions(&self) -> &[Range<u64>] {
        &self.regions
    }

    /// What nobody may read now, the process included (`mprotect(2)`), likewise.
    #[must_use]
    pub fn hidden(&self) -> &[Range<u64>] {
        &self.hidden
    }

    /// How many bytes of what nobody may read were ever written. (A program can reserve
    /// terabytes of addresses so, of which [`written`](Self::written) would look at each.)
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn hidden_bytes(&self) -> io::Result<u64> {
        if self.hidden.is_empty() {
            return Ok(0);
        }
        let maps = self.process.smaps().map_err(io::Error::other)?;
        if maps.iter().next().is_none() {
            // A main thread that has ended meanwhile: others may have the memory.
            return Err(io::Error::other("its main thread has ended just now"));
        }
        // Those that were hidden when the regions were taken, whatever they are now.
        let is_hidden = |map: &&MemoryMap| {
            let at = map.address.0..map.address.1;
            !common(&self.hidden, std::slice::from_ref(&at)).is_empty()
        };
        let mut bytes = 0;
        for map in maps.iter().filter(is_hidden) {
            for what in ["Anonymous", "Swap", "Private_Hugetlb"] {
                let of_it = map.extension.map.get(what);
                bytes += of_it.ok_or_else(|| io::Error::other(format!("smaps has no {what}")))?;
            }
        }
        Ok(bytes)
    }

    /// The parts of a region that were ever written, in memory or swapped out. To
    /// read others would make pages of zeros for them. Calls back with each part,
    /// and between the steps of a long way with nothing; ends when told `false`.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn written(
        &self,
        region: &Range<u64>,
        mut each: impl FnMut(Option<Range<u64>>) -> bool,
    ) -> io::Result<()> {
        let mut bytes = vec![0; ENTRIES * 8];
        let mut at = region.start;
        while at < region.end {
            let left = usize::try_from((region.end - at) / self.page).unwrap_or(usize::MAX);
            let wanted = left.min(ENTRIES) * 8;
            let read = self.pages.read_at(&mut bytes[..wanted], at / self.page * 8)?;
            if read < 8 {
                // Beyond what the kernel tells of.
                return Ok(());
            }
            let (entries, _) = bytes[..read].as_chunks::<8>();
            for part in parts(entries, at, self.page) {
                if !each(Some(part)) {
                    return Ok(());
                }
            }
            if !each(None) {
                return Ok(());
            }
            at += entries.len() as u64 * self.page;
        }
        Ok(())
    }
}

fn open(pid: u32) -> io::Result<Process> {
    Process::new(pid.cast_signed()).map_err(io::Error::other)
}

/// Whether the process can have written to a mapping, and nobody else: to any private one,
/// if it was writable at some time. (Pages of a file that nobody has written to are told
/// apart page by page.) What the kernel puts there for its own purposes, such as `[vvar]`,
/// cannot be read.
fn is_own(map: &MemoryMap) -> bool {
    let is_memory = match &map.pathname {
        MMapPath::Anonymous | MMapPath::Heap | MMapPath::Stack | MMapPath::TStack(_) => true,
        // A name that the process gave it: `[anon:…]`.
        MMapPath::Other(name) => name.starts_with("anon:"),
        path @ MMapPath::Path(_) => !is_device(path),
        _ => false,
    };
    is_memory && map.perms.contains(MMPermissions::PRIVATE)
}

/// To read a device can mean something to it. `/dev/zero` is plain memory.
fn is_device(path: &MMapPath) -> bool {
    let MMapPath::Path(path) = path else { return false };
    path.starts_with("/dev") && !path.starts_with("/dev/zero") && !path.starts_with("/dev/shm")
}

/// Ranges in the order of their starts; those that touch or overlap become one: what is in
/// memory does not end where the kernel's books change.
#[must_use]
pub fn joined(regions: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for region in regions {
        match joined.last_mut() {
            Some(last) if last.end >= region.start => last.end = last.end.max(region.end),
            _ => joined.push(region),
        }
    }
    joined
}

/// What is in both, of ranges in ascending order.
#[must_use]
pub fn common(some: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let both = |one: &Range<u64>, other: &Range<u64>| {
        let both = one.start.max(other.start)..one.end.min(other.end);
        (both.start < both.end).then_some(both)
    };
    some.iter().flat_map(|one| others.iter().filter_map(move |other| both(one, other))).collect()
}

/// How many bytes there are in ranges.
#[must_use]
pub fn bytes(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Runs of pages that were written, of which the first entry is of the page at an address.
fn parts(entries: &[[u8; 8]], at: u64, page: u64) -> Vec<Range<u64>> {
    let written = |entry: &[u8; 8]| {
        let entry = u64::from_ne_bytes(*entry);
        entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0
    };
    let pages = (0..).zip(entries).filter(|(_, entry)| written(entry)).map(|(number, _)| {
        let start = at + number * page;
        start..start + page
    });
    joined(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_were_written_are_looked_at() {
        let entries = [0, PRESENT, SWAPPED, PRESENT | OF_FILE, PRESENT | 77].map(u64::to_ne_bytes);
        assert_eq!(parts(&entries, 0x5000, 0x1000), [0x6000..0x8000, 0x9000..0xa000]);
    }

    #[test]
    fn what_this_process_wrote_is_there_and_what_it_did_not_is_not() {
        const BYTES: usize = 64 << 20;
        let mut memory: Vec<u8> = Vec::with_capacity(BYTES);
        let start = memory.as_mut_ptr() as u64;
        memory.spare_capacity_mut()[BYTES / 2].write(1);
        let heap = Heap::of(std::process::id()).expect("it is this process");
        let mut written = Vec::new();
        for region in heap.regions() {
            heap.written(region, |part| {
                written.extend(part);
                true
            })
            .expect("it runs");
        }
        let is_written = |address: u64| written.iter().any(|part| part.contains(&address));
        assert!(is_written(start + BYTES as u64 / 2));
        assert!(!is_written(start + BYTES as u64 / 4), "nobody wrote there");
        assert!(is_written(written.as_ptr() as u64));
    }
}
