//! Code that a test writes down byte by byte.

use super::{CodeSource, processor::Processor, x86_64::X86_64};

/// Where the first byte stands.
pub(in crate::image) const BASE: u64 = 0x1000;

/// Bytes that are code, and constants, as those of a segment that is not writable.
pub(in crate::image) struct Bytes(&'static dyn Processor, Vec<u8>);

impl Bytes {
    /// Of x86-64.
    pub(in crate::image) fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self::of(&X86_64, bytes)
    }

    pub(in crate::image) fn of(
        processor: &'static dyn Processor,
        bytes: impl Into<Vec<u8>>,
    ) -> Self {
        Self(processor, bytes.into())
    }
}

impl CodeSource for Bytes {
    fn processor(&self) -> &'static dyn Processor {
        self.0
    }

    fn code(&self, address: u64) -> Option<&[u8]> {
        self.1.get(usize::try_from(address.checked_sub(BASE)?).ok()?..)
    }

    fn constant(&self, address: u64, width: usize) -> Option<u64> {
        let bytes = self.code(address)?.get(..width)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn import_at(&self, _: u64) -> Option<&str> {
        None
    }
}
