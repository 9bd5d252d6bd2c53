//! Jump tables of x86-64 code.

use std::{collections::BTreeSet, ops::Range};

use crate::image::code::{
    CodeSource,
    instruction::{Control, Effect, Instruction, Through},
};

/// Entries of a jump table that are read at most.
pub(super) const MAX_TABLE: u64 = 1024;

/// A table is taken to be at each constant address that the function computes
/// (entries: 32-bit distances from the table), or that it jumps through
/// (entries: 64-bit addresses), and to go on for as long as its entries lead to
/// code that this function, if it is in it, has an instruction at: that is too
/// long at times, and never too short.
pub(super) fn targets(source: &dyn CodeSource, instructions: &[Instruction]) -> BTreeSet<u64> {
    let mut targets = BTreeSet::new();
    let (Some(first), Some(last)) = (instructions.first(), instructions.last()) else {
        return targets;
    };
    let range = first.address..last.end();
    for instruction in instructions {
        let entry = |table: u64, width: u64, i: u64| -> Option<u64> {
            let at = table.wrapping_add(i.wrapping_mul(width));
            let entry = source.constant(at, width as usize)?;
            if width == 8 {
                return Some(entry);
            }
            Some(table.wrapping_add(i64::from(entry as u32 as i32) as u64))
        };
        let (table, width) = match (instruction.effect, instruction.control) {
            (Effect::Address { target, .. }, _) => (target, 4),
            (_, Control::JumpThrough(Through::Table(table))) => (table, 8),
            _ => continue,
        };
        targets.extend(
            (0..MAX_TABLE)
                .map_while(|i| entry(table, width, i))
                .take_while(|target| is_target(source, instructions, &range, *target)),
        );
    }
    targets
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
