//! Reads the memory of a process, and finds its contexts.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashSet},
    io,
    ops::{ControlFlow, Range},
    time::{Duration, Instant},
};

use super::{
    claims::{Claims, Owners},
    target::Target,
    worker::Progress,
};
use crate::host::{Heap, ProcessMemory, clock, heap};

/// How much is read at a time. It stays in a processor's cache.
const CHUNK: usize = 512 << 10;

/// After how many candidates the time is looked at: each can cost a read.
const CANDIDATES: u32 = 256;

/// What of a page cannot be read is skipped with the page.
const PAGE: u64 = 4096;

/// How a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Walked {
    /// All that was there was looked at.
    All,
    /// The time was over.
    OutOfTime,
    /// The process ended.
    Gone,
    /// The process may not be looked at, and why.
    Refused(String),
}

/// What was found in a process.
#[derive(Clone, Debug)]
pub struct Found {
    /// What was looked for.
    pub target: Target,
    /// When it began, nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// Who owns the hashes that were found. If not all was looked at, a context
    /// among them may be the copy of one that was not seen.
    pub owners: Owners,
    /// The addresses of all hashes of sessions that were found.
    pub hashes: HashSet<u64>,
    /// Bytes that were looked at.
    pub looked: u64,
    /// Bytes that there are; those of mappings that were not asked yet are not
    /// among them.
    pub total: u64,
    /// Bytes that the process has written and that cannot be read.
    pub unreadable: u64,
    /// How it ended.
    pub walked: Walked,
    /// How long it took.
    pub took: Duration,
}

/// Looks for the contexts of a process, for no longer than a time.
#[must_use]
pub fn walk(
    memory: &dyn ProcessMemory,
    target: Target,
    limit: Duration,
    progress: &Progress,
) -> Found {
    let began_ns = clock::monotonic_ns();
    let began = Instant::now();
    let until = began + limit;
    let noting = Noting::new(memory);
    let mut walk = Walk {
        memory,
        noting: &noting,
        target: &target,
        until,
        progress,
        claims: Claims::default(),
        looked: 0,
        total: 0,
        failed: Vec::new(),
        unreadable: 0,
    };
    let walked = match walk.all() {
        Ok(ControlFlow::Continue(())) => Walked::All,
        Ok(ControlFlow::Break(())) => Walked::OutOfTime,
        Err(error) => Walked::Refused(error.to_string()),
    };
    let Walk { claims, looked, total, unreadable, .. } = walk;
    let walked = if target.runs() { walked } else { Walked::Gone };
    let hashes = claims.hashes();
    let owners = claims.decide(|place| target.judge(&noting, place));
    // What could not be read of the memory that the process has: it was no mark's absence.
    let unreadable = unreadable + noting.unread(target.pid);
    let took = began.elapsed();
    Found { target, began_ns, owners, hashes, looked, total, unreadable, walked, took }
}

/// Memory that notes where it could not be read: a mark that is not there, and one that
/// cannot be looked at, are not the same.
struct Noting<'m> {
    memory: &'m dyn ProcessMemory,
    /// The pages.
    failed: RefCell<BTreeSet<u64>>,
}

impl<'m> Noting<'m> {
    fn new(memory: &'m dyn ProcessMemory) -> Self {
        Self { memory, failed: RefCell::default() }
    }

    /// How many bytes of pages that could not be read are in the process's own memory. (What
    /// only looks like a context points anywhere.)
    fn unread(&self, pid: u32) -> u64 {
        let failed = self.failed.borrow();
        if failed.is_empty() {
            return 0;
        }
        let pages = heap::joined(failed.iter().map(|page| *page..page.saturating_add(PAGE)));
        // Whose they are may not be found out; if the process is gone, nobody asks.
        Heap::of(pid).map_or(heap::bytes(&pages), |heap| {
            let all = [heap.regions(), heap.hidden()];
            all.iter().map(|regions| heap::bytes(&heap::common(regions, &pages))).sum()
        })
    }
}

impl ProcessMemory for Noting<'_> {
    fn read(&self, pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.memory.read(pid, address, buffer).inspect_err(|_| {
            self.failed.borrow_mut().insert(address / PAGE * PAGE);
        })
    }
}

struct Walk<'w> {
    memory: &'w dyn ProcessMemory,
    noting: &'w Noting<'w>,
    target: &'w Target,
    until: Instant,
    progress: &'w Progress,
    claims: Claims,
    looked: u64,
    total: u64,
    /// Pages that could not be read.
    failed: Vec<Range<u64>>,
    unreadable: u64,
}

impl Walk<'_> {
    fn all(&mut self) -> io::Result<ControlFlow<()>> {
        let heap = Heap::of(self.target.pid)?;
        let Some(parts) = self.written(&heap, heap.regions())? else {
            return Ok(ControlFlow::Break(()));
        };
        self.total = heap::bytes(&parts);
        self.unreadable = heap.hidden_bytes()?;
        if self.parts(&parts)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.try_again()
    }

    /// Looks at what could not be read, if it is still there.
    fn try_again(&mut self) -> io::Result<ControlFlow<()>> {
        let failed = heap::joined(std::mem::take(&mut self.failed));
        if failed.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let heap = Heap::of(self.target.pid)?;
        self.unreadable += heap::bytes(&heap::common(heap.hidden(), &failed));
        // A context can begin before them, and end behind.
        let span = (self.span() as u64).next_multiple_of(PAGE);
        let widened = failed
            .iter()
            .map(|part| part.start.saturating_sub(span)..part.end.saturating_add(span));
        let widened = heap::joined(widened);
        let Some(there) = self.written(&heap, &heap::common(heap.regions(), &widened))? else {
            return Ok(ControlFlow::Break(()));
        };
        let ended = self.parts(&there)?;
        self.unreadable += heap::bytes(&self.failed);
        Ok(ended)
    }

    /// The parts of some regions that were written; `None`: the time is over.
    fn written(&self, heap: &Heap, regions: &[Range<u64>]) -> io::Result<Option<Vec<Range<u64>>>> {
        let mut parts = Vec::new();
        for region in regions {
            heap.written(region, |part| {
                parts.extend(part);
                Instant::now() < self.until
            })?;
            if Instant::now() >= self.until {
                return Ok(None);
            }
        }
        Ok(Some(heap::joined(parts)))
    }

    fn parts(&mut self, parts: &[Range<u64>]) -> io::Result<ControlFlow<()>> {
        let mut buffer = vec![0; CHUNK + self.span()];
        for part in parts {
            if self.part(part, &mut buffer)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The bytes of an `SSL_CTX` that are looked at.
    fn span(&self) -> usize {
        let spans = self.target.patterns.iter().map(|pattern| pattern.span());
        spans.max().unwrap_or_default().next_multiple_of(8)
    }

    /// Looks at one part. Pieces overlap, so that every context is whole in one.
    fn part(&mut self, part: &Range<u64>, buffer: &mut [u8]) -> io::Result<ControlFlow<()>> {
        let mut at = part.start;
        while at < part.end {
            self.progress.looked(self.looked, self.total);
            if Instant::now() >= self.until {
                return Ok(ControlFlow::Break(()));
            }
            let own = (part.end - at).min(CHUNK as u64);
            let wanted = (part.end - at).min(buffer.len() as u64) as usize;
            match self.memory.read_some(self.target.pid, at, &mut buffer[..wanted]) {
                Ok(read) => {
                    if self.piece(&buffer[..read], at, own).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    // A mapping that ends early has changed: go on behind what was read.
                    let next = if read < wanted { (read as u64).min(own) } else { own };
                    at += next;
                    self.looked += next;
                }
                Err(error) if is_of_all(&error) => return Err(error),
                // It is not mapped any more, or nothing that can be read.
                Err(_) => {
                    let page = PAGE.min(own);
                    match self.failed.last_mut() {
                        Some(last) if last.end == at => last.end += page,
                        _ => self.failed.push(at..at + page),
                    }
                    at += page;
                    self.looked += page;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Takes in the candidates of a piece that begin in its first `own` bytes.
    fn piece(&mut self, bytes: &[u8], at: u64, own: u64) -> ControlFlow<()> {
        let pid = self.target.pid;
        let mut candidates = 0;
        for pattern in &self.target.patterns {
            for candidate in pattern.candidates(bytes, at) {
                if candidate.address - at >= own {
                    break;
                }
                self.claims.add(candidate, |hash| pattern.is_hash(self.noting, pid, hash));
                candidates += 1;
                if candidates % CANDIDATES == 0 && Instant::now() >= self.until {
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// Whether what failed at one address fails at all: the process may not be looked
/// at, or is gone.
fn is_of_all(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
        || error.raw_os_error() == Some(nix::libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{
        host::{LiveMemory, ProcessFacts},
        scan::pattern::tests::{pattern, words},
    };

    /// Fails with an error, whatever is read.
    struct Failing(i32);

    impl ProcessMemory for Failing {
        fn read(&self, _: u32, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(self.0))
        }
    }

    fn walked(errno: i32) -> Found {
        let pid = std::process::id();
        let start_time_ticks = ProcessFacts::read(pid).start_time_ticks.expect("it runs");
        let target = Target { pid, start_time_ticks, image: 1, patterns: vec![pattern()] };
        walk(&Failing(errno), target, Duration::from_secs(300), &Progress::default())
    }

    /// Nothing was found where nothing could be read: that must not look the same.
    #[test]
    fn memory_that_may_not_be_read_was_not_looked_at() {
        assert!(matches!(walked(nix::libc::EPERM).walked, Walked::Refused(_)));
        let found = walked(nix::libc::EFAULT);
        assert_eq!(found.walked, Walked::All);
        assert!(found.unreadable > 0, "what is there and cannot be read");
    }

    /// This process's memory, of which a page cannot be read the first time.
    struct Once {
        page: u64,
        failed: Cell<bool>,
    }

    impl ProcessMemory for Once {
        fn read(&self, pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
            LiveMemory.read(pid, address, buffer)
        }

        fn read_some(&self, pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
            let before = self.page.saturating_sub(address) as usize;
            if self.failed.get() || address >= self.page + PAGE || before >= buffer.len() {
                return LiveMemory.read_some(pid, address, buffer);
            }
            if before == 0 {
                self.failed.set(true);
                return Err(io::Error::from_raw_os_error(nix::libc::EFAULT));
            }
            LiveMemory.read_some(pid, address, &mut buffer[..before])
        }
    }

    /// Whichever page of a context could not be read at first, it is found.
    #[test]
    fn a_page_that_can_be_read_later_is_looked_at() {
        let mut memory = vec![0_u8; 6 * PAGE as usize];
        let start = memory.as_ptr() as u64;
        let page = start.next_multiple_of(PAGE);
        let (hash, store, context) = (page, page + 0x400, page + 2 * PAGE - 0x28);
        for (at, value) in words(context, hash, store) {
            let at = (at - start) as usize;
            memory[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        }
        let pid = std::process::id();
        let start_time_ticks = ProcessFacts::read(pid).start_time_ticks.expect("it runs");
        for page in [page + PAGE, page + 2 * PAGE] {
            let once = Once { page, failed: Cell::new(false) };
            let target = Target { pid, start_time_ticks, image: 1, patterns: vec![pattern()] };
            let found = walk(&once, target, Duration::from_secs(300), &Progress::default());
            assert!(once.failed.get() && found.walked == Walked::All, "{found:?}");
            // What was read into is memory of this process, too: a copy.
            let copies = found.owners.contested.iter().flat_map(|hash| &hash.places);
            let mut places = found.owners.contexts.iter().chain(copies);
            assert!(places.any(|place| *place == context), "{page:#x} {context:#x} {found:?}");
        }
        drop(memory);
    }
}
