//! The cheapest program there is, to compare the cost of a probe with: what a hit
//! costs with it, the kernel takes for the probe itself.

use std::{io, os::fd::OwnedFd, path::Path};

use aya_obj::generated::bpf_insn;

use super::multi::MultiProgram;

/// `r0 = 0`, and `exit` (Documentation/bpf/standardization/instruction-set.rst).
const OPERATIONS: [u8; 2] = [0xb7, 0x95];

/// A program that does nothing.
pub struct Floor(MultiProgram);

impl Floor {
    /// Loads it.
    ///
    /// # Errors
    ///
    /// If the kernel has no links for many probes (before 6.6), or needs root.
    pub fn load() -> io::Result<Self> {
        let instructions = OPERATIONS.map(|code| bpf_insn {
            code,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
            off: 0,
            imm: 0,
        });
        MultiProgram::of(&instructions, c"GPL", "floor").map(Self)
    }

    /// Attaches it to places of a file, until what is returned is closed.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn attach(&self, path: &Path, offsets: &[u64]) -> io::Result<OwnedFd> {
        let places: Vec<(u64, u32)> = offsets.iter().map(|offset| (*offset, 0)).collect();
        self.0.attach(path, &places)
    }

    /// Attaches it to where a function of a file returns.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn attach_to_return(&self, path: &Path, function: u64) -> io::Result<OwnedFd> {
        self.0.attach_to_returns(path, &[(function, 0)])
    }
}
