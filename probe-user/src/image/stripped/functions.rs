//! The functions of a file that were looked at, each decoded once.

use std::{collections::HashMap, ops::Range};

use super::origin::{self, Held};
use crate::image::{
    code::{
        flow::{self, Function},
        instruction::Instruction,
    },
    elf::Elf,
    jumps::Jumps,
    unwind::FunctionRanges,
};

/// Functions, decoded when they are asked for.
pub(super) struct Functions<'e> {
    pub(super) elf: &'e Elf,
    pub(super) ranges: &'e FunctionRanges<'e>,
    jumps: Jumps<'e>,
    known: HashMap<u64, Option<Function>>,
}

impl<'e> Functions<'e> {
    pub(super) fn new(elf: &'e Elf, ranges: &'e FunctionRanges<'e>) -> Self {
        Self { elf, ranges, jumps: Jumps::new(elf, ranges), known: HashMap::new() }
    }

    /// The function, or part of one, that contains an address.
    pub(super) fn containing(&self, address: u64) -> Option<Range<u64>> {
        self.ranges.containing(address)
    }

    /// Decodes functions, with what jumps into them from elsewhere; best of all
    /// that are needed at once, since that takes a pass over the file.
    pub(super) fn prepare(&mut self, functions: &[Range<u64>]) {
        let missing: Vec<Range<u64>> =
            functions.iter().filter(|f| !self.known.contains_key(&f.start)).cloned().collect();
        self.jumps.look_for(&missing);
        for range in missing {
            let outside = self.jumps.into_function(&range);
            let function = Function::new(self.elf, range.clone(), outside).ok();
            self.known.insert(range.start, function);
        }
    }

    /// The range of a function that begins at an address, is no part of another
    /// one, and decodes.
    pub(super) fn entered(&mut self, entry: u64) -> Option<Range<u64>> {
        let range = self.containing(entry).filter(|_| self.ranges.is_entry(entry))?;
        self.prepare(std::slice::from_ref(&range));
        self.known.get(&entry)?.as_ref().map(|_| range)
    }

    /// What a register holds before an instruction of a prepared function.
    pub(super) fn held(&self, function: &Range<u64>, register: usize, at: u64) -> Held {
        match self.known.get(&function.start) {
            Some(Some(known)) if known.at(at).is_some() => {
                origin::held(self.elf, known, register, at)
            }
            _ => Held::Other,
        }
    }

    /// The instructions of a function, in a row.
    pub(super) fn instructions(&self, range: &Range<u64>) -> Vec<Instruction> {
        flow::decode(self.elf, range).unwrap_or_default()
    }
}
