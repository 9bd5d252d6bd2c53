//! Which places in a few functions the rest of a large file jumps to, without
//! decoding all of it.
//!
//! [`crate::image::jumps`] takes the tables of every function that may jump
//! there for as long as they could be; behind one another, as clang puts them,
//! they seem to lead into others. Here only those of the parts of a
//! function itself count: no other function has a table with its code.
//!
//! Errs to one side: what looks like a jump is taken for one.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    rc::Rc,
};

use memchr::memchr_iter;

use crate::image::{
    code::{
        flow,
        instruction::{Control, Instruction},
    },
    elf::Elf,
    pointers::{Pointer, Pointers},
    unwind::FunctionRanges,
};

/// How far a jump of two bytes reaches, and its own length.
const SHORT_REACH: u64 = 0x80 + 2;

/// Bytes of an instruction at most.
const LONGEST: u64 = 15;

/// Jumps with a 32-bit distance to anywhere in a piece of a file.
pub(super) struct Jumps<'e> {
    elf: &'e Elf,
    ranges: &'e FunctionRanges<'e>,
    /// Sorted: where they go, and where they stand.
    near: Vec<(u64, u64)>,
    /// Sorted by where they lead.
    pointers: Vec<Pointer>,
    /// By the start of a function; `None`: it does not decode.
    decoded: HashMap<u64, Option<Rc<[Instruction]>>>,
}

impl<'e> Jumps<'e> {
    /// Looks for `jmp` and `jcc` everywhere in the executable segments.
    pub(super) fn scan(
        elf: &'e Elf,
        ranges: &'e FunctionRanges<'e>,
        pointers: &Pointers,
        to: &Range<u64>,
    ) -> Self {
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
        let mut pointers: Vec<Pointer> = pointers.leading_into(to.clone()).collect();
        pointers.sort_unstable_by_key(|pointer| pointer.target);
        Self { elf, ranges, near, pointers, decoded: HashMap::new() }
    }

    /// The addresses in these functions, and in the parts that were split off
    /// them, that code outside of the function jumps to; not the entries of
    /// functions, where a jump is a call. `None`: there is too much to tell.
    pub(super) fn targets_in(&mut self, functions: &[Range<u64>]) -> Option<HashSet<u64>> {
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
            let Some(instructions) = self.decode(&range) else { continue };
            for target in self.leaving(&range, &instructions)? {
                outside.insert(target);
                open.extend(self.ranges.containing(target));
            }
        }
        for (start, end) in met {
            outside.extend(self.pointed_to(&(start..end)));
        }
        Some(outside)
    }

    fn decode(&mut self, range: &Range<u64>) -> Option<Rc<[Instruction]>> {
        let known = self.decoded.entry(range.start);
        known.or_insert_with(|| flow::decode(self.elf, range).ok().map(Into::into)).clone()
    }

    /// Where pointers lead in a function, but for those in its own tables.
    fn pointed_to(&mut self, range: &Range<u64>) -> Vec<u64> {
        let first = self.pointers.partition_point(|pointer| pointer.target < range.start);
        let within = self.pointers[first..].iter().take_while(|p| p.target < range.end);
        let mut within: Vec<Pointer> =
            within.filter(|pointer| !self.ranges.is_entry(pointer.target)).copied().collect();
        if !within.is_empty()
            && let Some(instructions) = self.decode(range)
        {
            let tables = self.elf.processor().tables(self.elf, &instructions).cells;
            within.retain(|pointer| !tables.iter().any(|cells| cells.contains(&pointer.cell)));
        }
        within.into_iter().map(|pointer| pointer.target).collect()
    }

    /// Jumps into a function that stand elsewhere.
    fn coming_into(&mut self, range: &Range<u64>) -> Vec<(u64, u64)> {
        let first = self.near.partition_point(|(target, _)| *target < range.start);
        let mut jumps: Vec<(u64, u64)> = self.near[first..]
            .iter()
            .take_while(|(target, _)| *target < range.end)
            .filter(|(_, source)| !range.contains(source))
            .copied()
            .collect();
        // By short jumps too, from what stands around it.
        jumps.extend(self.around(range));
        jumps.retain(|(target, source)| {
            !self.ranges.is_entry(*target)
                && self.may_be_an_instruction(*source)
                // Else it is none.
                && (self.may_be_an_instruction(*target) || self.is_an_instruction(*source))
        });
        jumps
    }

    /// What may be a jump into a function, right before or behind it.
    fn around(&self, range: &Range<u64>) -> Vec<(u64, u64)> {
        let processor = self.elf.processor();
        let before = range.start.saturating_sub(SHORT_REACH)..range.start;
        let behind = range.end..range.end.saturating_add(SHORT_REACH);
        let mut jumps = Vec::new();
        for (address, code) in self.elf.executable() {
            for piece in [&before, &behind] {
                let offset = |at: u64| (at.saturating_sub(address) as usize).min(code.len());
                let piece = offset(piece.start)..offset(piece.end);
                let start = address + piece.start as u64;
                let into = std::slice::from_ref(range);
                let found = processor.possible_jumps(self.elf, &code[piece], start, into);
                for at in found.unwrap_or_default() {
                    let code = &code[offset(at)..offset(at.saturating_add(LONGEST))];
                    let jump = processor.decode(code, at).next().flatten();
                    let target = jump.and_then(|jump| jump.jump_target());
                    jumps.extend(target.filter(|t| range.contains(t)).map(|target| (target, at)));
                }
            }
        }
        jumps
    }

    /// Whether an instruction may begin at an address: not in the middle of
    /// another one of a function that decodes.
    fn may_be_an_instruction(&mut self, address: u64) -> bool {
        self.begins_an_instruction(address).unwrap_or(true)
    }

    /// The same, where it is certain.
    fn is_an_instruction(&mut self, address: u64) -> bool {
        self.begins_an_instruction(address).unwrap_or(false)
    }

    /// `None`: it is in no function that decodes.
    fn begins_an_instruction(&mut self, address: u64) -> Option<bool> {
        let function = self.ranges.containing(address)?;
        let all = self.decode(&function)?;
        Some(all.binary_search_by_key(&address, |i| i.address).is_ok())
    }

    /// Where a function leads to outside of itself, other than to entries.
    fn leaving(&mut self, range: &Range<u64>, instructions: &[Instruction]) -> Option<Vec<u64>> {
        let processor = self.elf.processor();
        let made = |i: &Instruction| [i.jump_target(), processor.label(i)];
        let mut targets: Vec<u64> = instructions.iter().flat_map(made).flatten().collect();
        if instructions.iter().any(|i| matches!(i.control, Control::JumpThrough(_))) {
            let tables = processor.tables(self.elf, instructions);
            if tables.endless {
                return None;
            }
            // What leads into the middle of an instruction is of another table.
            let targets_of = tables.targets.into_iter();
            targets.extend(targets_of.filter(|target| self.may_be_an_instruction(*target)));
        }
        targets.retain(|target| !range.contains(target) && !self.ranges.is_entry(*target));
        Some(targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::specimen::{Specimen, executable};

    fn specimen(body: &[u8]) -> Specimen {
        ("", body.to_vec(), Vec::new())
    }

    /// What leads into the function at 1000, of ten bytes, of a program; behind it
    /// stands what nobody knows.
    fn into_first(first: &[u8], other: &[u8]) -> Vec<u64> {
        let function = 0x1000..0x100a;
        let elf = executable(&[specimen(first), specimen(other)]);
        let ranges = FunctionRanges::of(std::slice::from_ref(&function));
        let mut jumps = Jumps::scan(&elf, &ranges, &Pointers::read(&elf), &function);
        let found = jumps.targets_in(&[function]).expect("it is little");
        let mut found: Vec<u64> = found.into_iter().collect();
        found.sort_unstable();
        found
    }

    /// 1000: mov 0x8(%rdi),%rax / 1004: mov %rax,%rbx / 1007: nop / 1008: nop / 1009: ret
    const FIRST: &[u8] = &[0x48, 0x8b, 0x47, 0x08, 0x48, 0x89, 0xc3, 0x90, 0x90, 0xc3];

    #[test]
    fn a_short_jump_from_code_that_is_not_known_is_one() {
        // 100a: mov %rsi,%rax / 100d: jmp 1007
        let before = [FIRST, &[0x48, 0x89, 0xf0, 0xeb, 0xf8]].concat();
        assert_eq!(into_first(&before, &[]), [0x1007]);
        // 100d: jmp 1005, in the middle of an instruction
        let before = [FIRST, &[0x48, 0x89, 0xf0, 0xeb, 0xf6]].concat();
        assert!(into_first(&before, &[]).is_empty());
    }

    #[test]
    fn who_has_a_pointer_may_jump_there() {
        // 1100: .quad 1008
        assert_eq!(into_first(FIRST, &0x1008_u64.to_le_bytes()), [0x1008]);
    }
}
