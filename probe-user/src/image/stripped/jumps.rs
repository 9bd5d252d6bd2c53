//! Which places in a few functions the rest of a large file jumps to, without
//! decoding all of it.
//!
//! [`crate::image::jumps`] takes the tables of every function that may jump
//! there for as long as they could be; behind one another, as clang puts them,
//! they seem to lead into the middle of others. Here only those of the parts of a
//! function itself count: no other function has a table with its code.
//!
//! Errs to one side: what looks like a jump is taken for one.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
};

use memchr::memchr_iter;

use crate::image::{
    code::{
        flow,
        instruction::{Control, Instruction},
    },
    elf::Elf,
    unwind::FunctionRanges,
};

/// How far a jump of two bytes reaches, and its own length.
const SHORT_REACH: u64 = 0x80 + 2;

/// Jumps with a 32-bit distance to anywhere in a piece of a file.
pub(super) struct Jumps<'e> {
    elf: &'e Elf,
    ranges: &'e FunctionRanges<'e>,
    /// Sorted: where they go, and where they stand.
    near: Vec<(u64, u64)>,
}

impl<'e> Jumps<'e> {
    /// Looks for `jmp` and `jcc` everywhere in the executable segments.
    pub(super) fn scan(elf: &'e Elf, ranges: &'e FunctionRanges<'e>, to: &Range<u64>) -> Self {
        let mut near = Vec::new();
        for (address, code) in elf.executable() {
            let mut meet = |at: usize, length: usize| {
                let Some(bytes) = code.get(at + length - 4..at + length) else { return };
                let distance = bytes.iter().rev().fold(0, |d: u32, byte| d << 8 | u32::from(*byte));
                let source = address + at as u64;
                let target =
                    (source + length as u64).wrapping_add_signed(i64::from(distance.cast_signed()));
                if to.contains(&target) {
                    near.push((target, source));
                }
            };
            for at in memchr_iter(0xe9, code) {
                meet(at, 5);
            }
            for at in memchr_iter(0x0f, code) {
                if code.get(at + 1).is_some_and(|byte| matches!(byte, 0x80..=0x8f)) {
                    meet(at, 6);
                }
            }
        }
        near.sort_unstable();
        Self { elf, ranges, near }
    }

    /// The addresses in these functions, and in the parts that were split off
    /// them, that code outside of the function jumps to; not the entries of
    /// functions, where a jump is a call.
    pub(super) fn targets_in(&self, functions: &[Range<u64>]) -> HashSet<u64> {
        let mut outside = HashSet::new();
        let mut met: BTreeMap<u64, u64> = BTreeMap::new();
        let mut open: Vec<Range<u64>> = functions.to_vec();
        // A part of a function is entered from it, so that whatever computes a
        // jump into the function is met here too.
        while let Some(range) = open.pop() {
            if met.insert(range.start, range.end).is_some() {
                continue;
            }
            for (target, source) in self.coming_into(&range) {
                outside.insert(target);
                open.extend(self.ranges.containing(source));
            }
            let Ok(instructions) = flow::decode(self.elf, &range) else { continue };
            for target in self.leaving(&range, &instructions) {
                outside.insert(target);
                open.extend(self.ranges.containing(target));
            }
        }
        outside
    }

    /// Jumps into a function that stand elsewhere.
    fn coming_into(&self, range: &Range<u64>) -> Vec<(u64, u64)> {
        let first = self.near.partition_point(|(target, _)| *target < range.start);
        let mut jumps: Vec<(u64, u64)> = self.near[first..]
            .iter()
            .take_while(|(target, _)| *target < range.end)
            .filter(|(_, source)| !range.contains(source))
            .copied()
            .collect();
        // By short jumps too, from the functions around it.
        let around = (range.start.saturating_sub(SHORT_REACH)..range.start)
            .chain(range.end..range.end.saturating_add(SHORT_REACH));
        let mut neighbours: Vec<Range<u64>> =
            around.filter_map(|address| self.ranges.containing(address)).collect();
        neighbours.dedup();
        for neighbour in neighbours {
            for instruction in flow::decode(self.elf, &neighbour).unwrap_or_default() {
                let target = instruction.jump_target().filter(|target| range.contains(target));
                jumps.extend(target.map(|target| (target, instruction.address)));
            }
        }
        jumps.retain(|(target, source)| {
            !self.ranges.is_entry(*target) && self.may_be_an_instruction(*source)
        });
        jumps
    }

    /// Whether an instruction may begin at an address: not in the middle of
    /// another one of a function that decodes.
    fn may_be_an_instruction(&self, address: u64) -> bool {
        let function = self.ranges.containing(address);
        let decoded = function.and_then(|range| flow::decode(self.elf, &range).ok());
        decoded.is_none_or(|all| all.binary_search_by_key(&address, |i| i.address).is_ok())
    }

    /// Where a function jumps to outside of itself, other than to entries.
    fn leaving(&self, range: &Range<u64>, instructions: &[Instruction]) -> Vec<u64> {
        let mut targets: Vec<u64> =
            instructions.iter().filter_map(Instruction::jump_target).collect();
        if instructions.iter().any(|i| matches!(i.control, Control::JumpThrough(_))) {
            targets.extend(self.elf.processor().tables(self.elf, instructions).targets);
        }
        targets.retain(|target| !range.contains(target) && !self.ranges.is_entry(*target));
        targets
    }
}
