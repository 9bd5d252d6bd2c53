//! Which places in a function the code of other functions jumps to.
//!
//! A function is looked at with all the rest of the file in mind, but the rest
//! is not decoded for it: what cannot jump there, as its bytes tell, is passed over.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Range,
};

use super::{
    code::{
        flow,
        instruction::{Control, Instruction},
    },
    elf::Elf,
    unwind::FunctionRanges,
};

/// Jumps into functions, from elsewhere in the file.
pub struct Jumps<'e> {
    elf: &'e Elf,
    functions: &'e FunctionRanges<'e>,
    /// By the start of the function.
    known: BTreeMap<u64, HashSet<u64>>,
}

impl<'e> Jumps<'e> {
    /// Nothing is looked for yet.
    #[must_use]
    pub fn new(elf: &'e Elf, functions: &'e FunctionRanges) -> Self {
        Self { elf, functions, known: BTreeMap::new() }
    }

    /// The addresses in a function that code of another one jumps to: not its
    /// start, where a jump is a call, unless it is a part of another function.
    ///
    /// A function that does not decode to its end jumps nowhere, as far as is known.
    pub fn into_function(&mut self, function: &Range<u64>) -> &HashSet<u64> {
        if !self.known.contains_key(&function.start) {
            self.look_for(std::slice::from_ref(function));
        }
        self.known.entry(function.start).or_default()
    }

    /// Looks for the jumps into several functions at once, which takes one pass
    /// over the file.
    pub fn look_for(&mut self, into: &[Range<u64>]) {
        let mut into: Vec<Range<u64>> =
            into.iter().filter(|range| !self.known.contains_key(&range.start)).cloned().collect();
        into.sort_unstable_by_key(|range| range.start);
        into.dedup();
        for function in self.possible(&into) {
            let Ok(instructions) = flow::decode(self.elf, &function) else { continue };
            for target in self.targets(&instructions) {
                if function.contains(&target) || self.functions.is_entry(target) {
                    continue;
                }
                if let Some(range) = containing(&into, target) {
                    self.known.entry(range.start).or_default().insert(target);
                }
            }
        }
        for range in into {
            self.known.entry(range.start).or_default();
        }
    }

    /// The functions that may jump into one of these: all, where the bytes do
    /// not tell.
    fn possible(&self, into: &[Range<u64>]) -> Vec<Range<u64>> {
        if into.is_empty() {
            return Vec::new();
        }
        let mut starts = BTreeSet::new();
        for (address, code) in self.elf.executable() {
            let processor = self.elf.processor();
            let Some(found) = processor.possible_jumps(self.elf, code, address, into) else {
                return self.functions.iter().cloned().collect();
            };
            let functions = found.into_iter().filter_map(|at| self.functions.containing(at));
            starts.extend(functions.map(|function| (function.start, function.end)));
        }
        starts.into_iter().map(|(start, end)| start..end).collect()
    }

    fn targets(&self, instructions: &[Instruction]) -> Vec<u64> {
        let mut targets: Vec<u64> =
            instructions.iter().filter_map(Instruction::jump_target).collect();
        if instructions.iter().any(|i| matches!(i.control, Control::JumpThrough(_))) {
            targets.extend(self.elf.processor().table_targets(self.elf, instructions));
        }
        targets
    }
}

/// Of ranges that are sorted and do not overlap, the one that contains an address.
#[must_use]
pub fn containing(ranges: &[Range<u64>], address: u64) -> Option<&Range<u64>> {
    let after = ranges.partition_point(|range| range.start <= address);
    ranges.get(after.checked_sub(1)?).filter(|range| range.contains(&address))
}
