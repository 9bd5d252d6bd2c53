//! From the bytes of a block to values, or to nothing.

use std::io;

use probe_common::{BlockLayout, ContextRecord, MirroredBlock, NO_FIELD, record_flags};
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

/// A block, and how it was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The values. Those that are not known are not to be looked at.
    pub block: MirroredBlock,
    /// Whether `block.number` is known.
    pub number_known: bool,
    /// Whether `block.references` is known.
    pub references_known: bool,
    /// Where they come from.
    pub source: Source,
    /// Just before they were read, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

impl Observation {
    /// What the kernel half recorded.
    #[must_use]
    pub fn of_record(record: &ContextRecord, source: Source) -> Self {
        Self {
            block: record.block,
            number_known: record.flags & record_flags::NUMBER_KNOWN != 0,
            references_known: record.flags & record_flags::REFERENCES_KNOWN != 0,
            source,
            at_ns: record.observed_ns,
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
        let mut block = MirroredBlock::default();
        let mut bytes = [0; 44];
        memory.read(pid, address.wrapping_add(u64::from(layout.counters)), &mut bytes)?;
        for (counter, bytes) in block.counters.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *counter = i32::from_ne_bytes(*bytes);
        }
        let references_known = layout.references != NO_FIELD;
        if references_known {
            let mut bytes = [0; 4];
            memory.read(pid, address.wrapping_add(u64::from(layout.references)), &mut bytes)?;
            block.references = i32::from_ne_bytes(bytes);
        }
        let number_known = layout.sessions != NO_FIELD && layout.num_items != NO_FIELD;
        if number_known {
            let field = |address: u64| -> io::Result<u64> {
                let mut bytes = [0; 8];
                memory.read(pid, address, &mut bytes)?;
                Ok(u64::from_ne_bytes(bytes))
            };
            let sessions = field(address.wrapping_add(u64::from(layout.sessions)))?;
            // `OPENSSL_LH_num_items(NULL)` is 0 (crypto/lhash/lhash.c).
            if sessions != 0 {
                block.number = field(sessions.wrapping_add(u64::from(layout.num_items)))?;
            }
        }
        Ok(Self { block, number_known, references_known, source: Source::Memory, at_ns })
    }
}

#[cfg(test)]
mod tests {
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

    const LAYOUT: BlockLayout =
        BlockLayout { counters: 0x10, references: 0x3c, sessions: 0x8, num_items: 0x18 };

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
        assert_eq!(seen.block.counters, [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!((seen.block.number, seen.number_known), (7, true));
        assert_eq!((seen.block.references, seen.references_known), (3, true));
    }

    #[test]
    fn what_is_not_known_is_not_read() {
        let layout = BlockLayout { num_items: NO_FIELD, ..LAYOUT };
        let seen = Observation::read(&fake(), 1, 0x1000, &layout).expect("readable");
        assert!(!seen.number_known);
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
