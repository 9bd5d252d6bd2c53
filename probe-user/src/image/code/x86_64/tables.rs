//! Jump tables of x86-64 code.

use std::ops::Range;

use crate::image::code::{
    CodeSource,
    instruction::{Control, Effect, Instruction, Through},
    processor::Tables,
};

/// Entries in a row that lead out of a function at most, where they are of one of
/// its tables: into a part of it that was split off.
pub(super) const MAX_ELSEWHERE: usize = 1024;

/// Entries of all tables of a function that are read at most.
const MAX_ENTRIES: usize = 1 << 18;

/// A table, as far as an instruction tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Table {
    /// Where it begins.
    at: u64,
    /// What it holds.
    entries: Entries,
    /// Whether it is a jump that names it.
    named: bool,
}

/// What a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Entries {
    /// 32-bit distances from the table, as compilers write them where code can be
    /// anywhere.
    Distances,
    /// 64-bit addresses.
    Addresses,
}

impl Table {
    /// Where an entry leads; `None`: it is not constant.
    pub(super) fn entry(self, source: &dyn CodeSource, i: usize) -> Option<u64> {
        let i = i as u64;
        match self.entries {
            Entries::Distances => {
                let entry = source.constant(self.at.wrapping_add(i.wrapping_mul(4)), 4)? as u32;
                Some(self.at.wrapping_add_signed(i64::from(entry.cast_signed())))
            }
            Entries::Addresses => source.constant(self.at.wrapping_add(i.wrapping_mul(8)), 8),
        }
    }
}

/// The table of distances that may be at an address.
pub(super) fn distances(at: u64) -> Table {
    Table { at, entries: Entries::Distances, named: false }
}

/// The table at an address that a jump names.
pub(super) fn named(at: u64) -> Table {
    Table { at, entries: Entries::Addresses, named: true }
}

/// A table is taken to be at each constant address that the function computes, or
/// that it jumps through, and to go on for as long as its entries lead to code
/// that this function, if it is in it, has an instruction at: that is too long at
/// times, and never too short.
pub(super) fn read(source: &dyn CodeSource, instructions: &[Instruction]) -> Tables {
    let mut found = Tables::default();
    let (Some(first), Some(last)) = (instructions.first(), instructions.last()) else {
        return found;
    };
    let range = first.address..last.end();
    let mut tables = Vec::new();
    for instruction in instructions {
        if let Effect::Address { target, .. } = instruction.effect {
            let addresses = Table { entries: Entries::Addresses, ..distances(target) };
            tables.extend([distances(target), addresses]);
        }
        if let Control::JumpThrough(Through::Table(at)) = instruction.control {
            tables.push(named(at));
        }
    }
    // Each once, however often its address is made.
    tables.sort_unstable();
    tables.dedup();
    for table in tables {
        let (mut length, mut elsewhere) = (0, 0);
        while let Some(target) = table.entry(source, length)
            && is_target(source, instructions, &range, target)
            && elsewhere < MAX_ELSEWHERE
        {
            if found.entries == MAX_ENTRIES {
                found.endless = true;
                return found;
            }
            found.entries += 1;
            length += 1;
            elsewhere = if range.contains(&target) { 0 } else { elsewhere + 1 };
            found.targets.insert(target);
        }
        if table.named {
            found.cells.push(table.at..table.at.wrapping_add(length as u64 * 8));
        }
    }
    found
}

fn is_target(
    source: &dyn CodeSource,
    instructions: &[Instruction],
    range: &Range<u64>,
    target: u64,
) -> bool {
    if range.contains(&target) {
        instructions.binary_search_by_key(&target, |i| i.address).is_ok()
    } else {
        source.code(target).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::code::{flow, specimen::Bytes};

    /// The tables of a function that has so many cases at 1002, and one at 1009.
    ///
    /// 1000: jmp *%rax / 1002: lea 100a(%rip),%rdx / 1009: ret / 100a: the table
    fn of_many_cases(cases: usize) -> Tables {
        let mut bytes = vec![0xff, 0xe0, 0x48, 0x8d, 0x15, 0x01, 0, 0, 0, 0xc3];
        bytes.extend((-8_i32).to_le_bytes().repeat(cases));
        bytes.extend((-1_i32).to_le_bytes());
        let source = Bytes::new(bytes);
        let instructions = flow::decode(&source, &(0x1000..0x100a)).expect("it decodes");
        read(&source, &instructions)
    }

    #[test]
    fn a_table_of_many_cases_is_read_to_its_end() {
        let tables = of_many_cases(3000);
        assert_eq!(tables.targets.into_iter().collect::<Vec<_>>(), [0x1002, 0x1009]);
        assert!(!tables.endless && tables.entries == 3001);
    }

    #[test]
    fn a_table_that_is_too_long_is_endless() {
        assert!(of_many_cases(MAX_ENTRIES).endless);
    }
}
