//! Finds the instructions that increment a counter.
//!
//! In x86-64 builds each of OpenSSL's `ssl_tsan_counter(ctx, &ctx->stats.x)`
//! becomes one `lock add`, `lock sub` or `lock inc` of an `int` with the
//! counter's offset as its displacement. On aarch64 it takes several
//! instructions, the last of which calls an outlined addition, is one, or ends
//! a loop.

use std::{collections::BTreeSet, ops::Range};

use probe_common::{COUNTERS, Counter};

use super::{
    code::{
        flow::{self, Function},
        instruction::{Effect, Instruction},
    },
    elf::Elf,
    functions::Functions,
    unwind::FunctionRanges,
};

/// Increments of one counter in one file that are looked at closer: more are not
/// OpenSSL's, and each costs a look at its whole function.
pub(super) const MAX_SITES: usize = 256;

/// One instruction that changes a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncrementSite {
    /// The counter.
    pub counter: Counter,
    /// 1 or -1.
    pub amount: i8,
    /// The address of the instruction; of the last one, where it takes several.
    pub address: u64,
    /// The function that it is in, or the part of one.
    pub function: Range<u64>,
    /// The number of the register that holds the context.
    pub base: usize,
    /// The instruction before which that register holds it.
    pub base_at: u64,
}

/// Finds the increments of a file, those of one instruction first, each kind in
/// the order of their addresses.
///
/// `block` is the offset of the first counter in the `SSL_CTX`. A function that
/// does not decode to its end contributes nothing, and no probe is placed there.
#[must_use]
pub fn find(functions: &mut Functions<'_>, block: u32) -> Vec<IncrementSite> {
    let elf = functions.elf();
    let mut sites = Vec::new();
    let mut candidates: Vec<(Range<u64>, Vec<u64>)> = Vec::new();
    for range in possible(elf, functions.ranges(), block) {
        let Ok(instructions) = flow::decode(elf, &range) else { continue };
        let changes: Vec<u64> = instructions
            .iter()
            .filter(|instruction| elf.processor().may_change(elf, instruction))
            .map(|instruction| instruction.address)
            .collect();
        if !changes.is_empty() {
            candidates.push((range.clone(), changes));
        }
        for instruction in &instructions {
            if let Some((counter, amount, base)) = increment(instruction, block) {
                let (address, function) = (instruction.address, range.clone());
                let base_at = address;
                sites.push(IncrementSite { counter, amount, address, function, base, base_at });
            }
        }
    }
    functions.prepare(&candidates.iter().map(|(range, _)| range.clone()).collect::<Vec<_>>());
    for (range, changes) in candidates {
        let Some(function) = functions.get(&range) else { continue };
        sites.extend(made_of_several(elf, &function, &range, &changes, block));
    }
    sites
}

/// The functions that may have an increment, as their bytes tell: all, where
/// these do not.
fn possible(elf: &Elf, functions: &FunctionRanges<'_>, block: u32) -> Vec<Range<u64>> {
    let block = i64::from(block);
    let distances = block..block + 4 * COUNTERS.len() as i64;
    let mut possible = BTreeSet::new();
    for (address, code) in elf.executable() {
        let Some(found) = elf.processor().possible_changes(code, address, &distances) else {
            return functions.iter().cloned().collect();
        };
        let functions = found.into_iter().filter_map(|at| functions.containing(at));
        possible.extend(functions.map(|function| (function.start, function.end)));
    }
    possible.into_iter().map(|(start, end)| start..end).collect()
}

/// The increments of a function that take several instructions each.
fn made_of_several(
    elf: &Elf,
    function: &Function,
    range: &Range<u64>,
    changes: &[u64],
    block: u32,
) -> Vec<IncrementSite> {
    changes
        .iter()
        .filter_map(|at| {
            let change = elf.processor().change(elf, function, *at)?;
            Some(IncrementSite {
                counter: counter_at(change.displacement, block)?,
                amount: change.amount,
                address: change.last,
                function: range.clone(),
                base: change.base,
                base_at: change.base_at,
            })
        })
        .collect()
}

/// Whether an instruction changes one of the counters by one, in which direction,
/// and through which register.
fn increment(instruction: &Instruction, block: u32) -> Option<(Counter, i8, usize)> {
    let Effect::Change { base, displacement, amount, atomic: true } = instruction.effect else {
        return None;
    };
    Some((counter_at(displacement, block)?, amount, base))
}

/// The counter at a distance from the context.
fn counter_at(displacement: i64, block: u32) -> Option<Counter> {
    let distance = usize::try_from(displacement.checked_sub(i64::from(block))?).ok()?;
    COUNTERS.get(distance / 4).copied().filter(|_| distance % 4 == 0)
}
