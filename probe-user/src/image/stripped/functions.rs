//! The functions of a file that were looked at, each decoded once.

use std::{cell::OnceCell, collections::HashMap, ops::Range};

use super::{
    jumps::Jumps,
    origin::{self, Held},
};
use crate::image::{
    code::flow::{self, Function},
    elf::Elf,
    pointers::Pointers,
    unwind::FunctionRanges,
};

/// How far beyond the functions that are looked at first others can be.
const AROUND: u64 = 1 << 20;

/// Functions, decoded when they are asked for.
pub(super) struct Functions<'e> {
    pub(super) elf: &'e Elf,
    pub(super) ranges: &'e FunctionRanges<'e>,
    jumps: Option<(Range<u64>, Jumps<'e>)>,
    pointers: OnceCell<Pointers>,
    known: HashMap<u64, Option<Function>>,
}

impl<'e> Functions<'e> {
    pub(super) fn new(elf: &'e Elf, ranges: &'e FunctionRanges<'e>) -> Self {
        Self { elf, ranges, jumps: None, pointers: OnceCell::new(), known: HashMap::new() }
    }

    /// The function, or part of one, that contains an address.
    pub(super) fn containing(&self, address: u64) -> Option<Range<u64>> {
        self.ranges.containing(address)
    }

    /// Decodes functions, with what jumps into them from elsewhere.
    pub(super) fn prepare(&mut self, functions: &[Range<u64>]) {
        let missing: Vec<Range<u64>> =
            functions.iter().filter(|f| !self.known.contains_key(&f.start)).cloned().collect();
        let (Some(first), Some(last)) =
            (missing.iter().map(|f| f.start).min(), missing.iter().map(|f| f.end).max())
        else {
            return;
        };
        let outside = self.jumps(&(first..last)).targets_in(&missing);
        for range in missing {
            let function = outside
                .as_ref()
                .and_then(|outside| Function::new(self.elf, range.clone(), outside).ok());
            self.known.insert(range.start, function);
        }
    }

    /// The jumps to anywhere in a piece of the file; looked for once, if the
    /// pieces are near each other.
    fn jumps(&mut self, to: &Range<u64>) -> &mut Jumps<'e> {
        let known = self.jumps.take();
        let all = known.as_ref().map_or_else(
            || to.clone(),
            |(known, _)| known.start.min(to.start)..known.end.max(to.end),
        );
        let (elf, ranges) = (self.elf, self.ranges);
        let pointers = self.pointers.get_or_init(|| Pointers::read(elf));
        let (_, jumps) =
            self.jumps.insert(known.filter(|(known, _)| *known == all).unwrap_or_else(|| {
                let around = all.start.saturating_sub(AROUND)..all.end.saturating_add(AROUND);
                let jumps = Jumps::scan(elf, ranges, pointers, &around);
                (around, jumps)
            }));
        jumps
    }

    /// A function that was prepared and decodes.
    pub(super) fn get(&self, start: u64) -> Option<&Function> {
        self.known.get(&start)?.as_ref()
    }

    /// The range of a function that begins at an address, is no part of another
    /// one, and decodes.
    pub(super) fn entered(&mut self, entry: u64) -> Option<Range<u64>> {
        let range = self.containing(entry).filter(|_| self.ranges.is_entry(entry))?;
        self.prepare(std::slice::from_ref(&range));
        self.get(entry).map(|_| range)
    }

    /// What a register holds before an instruction of a prepared function.
    pub(super) fn held(&self, function: &Range<u64>, register: usize, at: u64) -> Held {
        match self.get(function.start) {
            Some(known) if known.at(at).is_some() => origin::held(self.elf, known, register, at),
            _ => Held::Other,
        }
    }

    /// The first of the loads of what a register holds before an instruction of a
    /// prepared function.
    pub(super) fn loaded_at(&self, function: &Range<u64>, register: usize, at: u64) -> Option<u64> {
        origin::loaded_at(self.elf, self.get(function.start)?, register, at)
    }

    /// The instructions of a function, in a row.
    pub(super) fn instructions(
        &self,
        range: &Range<u64>,
    ) -> Vec<crate::image::code::instruction::Instruction> {
        flow::decode(self.elf, range).unwrap_or_default()
    }
}
