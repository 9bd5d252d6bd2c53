//! From the bytes of a block to values, or to nothing.

use std::{io, ops::Range};

use probe_common::{BlockLayout, ContextRecord, Counter, MirroredBlock, NO_FIELD, record_flags};
use serde::{Deserialize, Serialize};

use crate::host::{ProcessMemory, clock};

/// Where values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Read from the process just now.
    Memory,
    /// Mirrored by a probe when a counter last changed.
    Probe,
    /// The exact last look, at the end of the context or of its process.
    Final,
}

/// The counters, indexed by [`Counter`]; `None` for one that the library does
/// not keep.
pub type Counters = [Option<i32>; 11];

/// The counters of a block, each by its own name.
#[must_use]
pub fn counters_of(layout: &BlockLayout, block: &[i32; 11]) -> Counters {
    let mut counters = [None; 11];
    let present = block.iter().zip(layout.order).take(usize::from(layout.count));
    for (value, counter) in present {
        if let Some(counter) = Counter::from_raw(counter) {
            counters[counter as usize] = Some(*value);
        }
    }
    counters
}

/// What a context said of itself, and how it was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The counters: C `int`s.
    pub counters: Counters,
    /// Items in the internal session cache, where that is known.
    pub number: Option<u64>,
    /// How many hold it, where that is known.
    pub references: Option<i32>,
    /// Where they come from.
    pub source: Source,
    /// Just before they were read, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

impl Observation {
    /// What the kernel half recorded.
    #[must_use]
    pub fn of_record(record: &ContextRecord, source: Source) -> Self {
        let ContextRecord { block, flags, layout, observed_ns, .. } = record;
        Self::of_block(block, *flags, layout, source, *observed_ns)
    }

    /// What a block says, of which the flags say what was read.
    #[must_use]
    pub fn of_block(
        block: &MirroredBlock,
        flags: u32,
        layout: &BlockLayout,
        source: Source,
        at_ns: u64,
    ) -> Self {
        Self {
            counters: counters_of(layout, &block.counters),
            number: (flags & record_flags::NUMBER_KNOWN != 0).then_some(block.number),
            references: (flags & record_flags::REFERENCES_KNOWN != 0).then_some(block.references),
            source,
            at_ns,
        }
    }

    /// Reads a context from the memory of its process.
    ///
    /// The caller has to make sure afterwards that the context did not end
    /// meanwhile: what was read may then be anything.
    ///
    /// # Errors
    ///
    /// If any of it cannot be read.
    pub fn read(
        memory: &dyn ProcessMemory,
        pid: u32,
        address: u64,
        layout: &BlockLayout,
    ) -> io::Result<Self> {
        let at_ns = clock::monotonic_ns();
        let (block, flags) = read_block(memory, pid, address, layout)?;
        Ok(Self::of_block(&block, flags, layout, Source::Memory, at_ns))
    }
}

/// Reads what an `SSL_CTX` says of itself, and which of the optional fields there
/// are (`record_flags`): what the kernel half's `mirror.rs` reads at a probe.
///
/// # Errors
///
/// If any of it cannot be read.
pub fn read_block(
    memory: &dyn ProcessMemory,
    pid: u32,
    address: u64,
    layout: &BlockLayout,
) -> io::Result<(MirroredBlock, u32)> {
    let at = |offset: u32| address.wrapping_add(u64::from(offset));
    let mut block = MirroredBlock::default();
    let mut flags = 0;
    let mut bytes = [0; 44];
    if let Some(bytes) = bytes.get_mut(..4 * usize::from(layout.count))
        && !bytes.is_empty()
    {
        memory.read(pid, at(layout.counters), bytes)?;
    }
    for (counter, bytes) in block.counters.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *counter = i32::from_ne_bytes(*bytes);
    }
    if layout.references != NO_FIELD {
        block.references = memory.read_i32(pid, at(layout.references))?;
        flags |= record_flags::REFERENCES_KNOWN;
    }
    if layout.sessions != NO_FIELD && layout.num_items != NO_FIELD {
        // `OPENSSL_LH_num_items(NULL)` is 0 (crypto/lhash/lhash.c).
        if let Some(number) = place_of_number(memory, pid, address, layout)? {
            block.number = memory.read_u64(pid, number)?;
        }
        flags |= record_flags::NUMBER_KNOWN;
    }
    Ok((block, flags))
}

/// Where the number of sessions of an `SSL_CTX` stands: in its hash. `None`: it has
/// no hash, or it is not known where that is.
///
/// # Errors
///
/// If the pointer to the hash cannot be read.
pub fn place_of_number(
    memory: &dyn ProcessMemory,
    pid: u32,
    address: u64,
    layout: &BlockLayout,
) -> io::Result<Option<u64>> {
    if layout.sessions == NO_FIELD || layout.num_items == NO_FIELD {
        return Ok(None);
    }
    let sessions = memory.read_u64(pid, address.wrapping_add(layout.sessions.into()))?;
    Ok((sessions != 0).then(|| sessions.wrapping_add(layout.num_items.into())))
}

/// The part of an `SSL_CTX` that [`read_block`] reads, as offsets.
#[must_use]
pub fn span(layout: &BlockLayout) -> Option<Range<u32>> {
    let counters = 4 * u32::from(layout.count);
    let parts = [(layout.counters, counters), (layout.references, 4), (layout.sessions, 8)];
    let known = || parts.into_iter().filter(|(at, length)| *at != NO_FIELD && *length > 0);
    let start = known().map(|(at, _)| at).min()?;
    let end = known().map(|(at, length)| at + length).max()?;
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use probe_common::{NO_COUNTER, OPENSSL_ORDER};

    use super::*;

    /// Memory that begins at an address, of a process that is this test.
    struct Fake(u64, Vec<u8>);

    impl ProcessMemory for Fake {
        fn read(&self, _: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
            let from = address.checked_sub(self.0).ok_or(io::ErrorKind::InvalidInput)? as usize;
            let bytes =
                self.1.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        }
    }

    const LAYOUT: BlockLayout = BlockLayout {
        counters: 0x10,
        references: 0x3c,
        sessions: 0x8,
        num_items: 0x18,
        order: OPENSSL_ORDER,
        count: 11,
    };

    /// A context at 0x1000 and its hash at 0x1080.
    fn fake() -> Fake {
        let mut bytes = vec![0; 0x100];
        bytes[0x8..0x10].copy_from_slice(&0x1080_u64.to_ne_bytes());
        for i in 0..11_i32 {
            let at = 0x10 + 4 * i as usize;
            bytes[at..at + 4].copy_from_slice(&(i - 1).to_ne_bytes());
        }
        bytes[0x3c..0x40].copy_from_slice(&3_i32.to_ne_bytes());
        bytes[0x98..0xa0].copy_from_slice(&7_u64.to_ne_bytes());
        Fake(0x1000, bytes)
    }

    #[test]
    fn a_block_is_read_as_it_stands() {
        let seen = Observation::read(&fake(), 1, 0x1000, &LAYOUT).expect("readable");
        assert_eq!(seen.counters, [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(Some));
        assert_eq!((seen.number, seen.references), (Some(7), Some(3)));
    }

    /// AWS-LC's block: `accept_renegotiate` is not among them.
    const TEN: [u8; 11] = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, NO_COUNTER];

    #[test]
    fn a_counter_that_is_not_kept_is_none_and_not_zero() {
        let layout = BlockLayout { order: TEN, count: 10, ..LAYOUT };
        let seen = Observation::read(&fake(), 1, 0x1000, &layout).expect("readable");
        assert_eq!(seen.counters[Counter::AcceptRenegotiate as usize], None);
        assert_eq!(seen.counters[Counter::Accept as usize], Some(2));
        assert_eq!(seen.counters[Counter::AcceptGood as usize], Some(3));
        assert_eq!(seen.counters[Counter::CbHits as usize], Some(8));
        assert_eq!(seen.number, Some(7));
    }

    #[test]
    fn without_counters_the_number_is_known_all_the_same() {
        let layout =
            BlockLayout { order: [NO_COUNTER; 11], count: 0, counters: NO_FIELD, ..LAYOUT };
        let seen = Observation::read(&fake(), 1, 0x1000, &layout).expect("readable");
        assert_eq!((seen.counters, seen.number), ([None; 11], Some(7)));
    }

    #[test]
    fn what_is_not_known_is_not_read() {
        let layout = BlockLayout { num_items: NO_FIELD, ..LAYOUT };
        let seen = Observation::read(&fake(), 1, 0x1000, &layout).expect("readable");
        assert_eq!(seen.number, None);
    }

    #[test]
    fn half_a_block_is_an_error() {
        assert!(Observation::read(&fake(), 1, 0x10d0, &LAYOUT).is_err());
    }

    #[test]
    fn a_dangling_hash_is_an_error_and_not_zero() {
        let mut memory = fake();
        memory.1[0x8..0x10].copy_from_slice(&0x9000_u64.to_ne_bytes());
        assert!(Observation::read(&memory, 1, 0x1000, &LAYOUT).is_err());
    }
}
