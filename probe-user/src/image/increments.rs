//! Finds the instructions that increment a counter.
//!
//! In x86-64 builds each of OpenSSL's `ssl_tsan_counter(ctx, &ctx->stats.x)`
//! becomes one `lock add`, `lock sub` or `lock inc` of an `int` with the
//! counter's offset as its displacement. On aarch64 it takes several
//! instructions, the last of which calls an outlined addition, is one, or ends
//! a loop.

use std::{collections::HashSet, ops::Range};

use probe_common::{COUNTERS, Counter};

use super::{
    code::{
        flow::{self, Function},
        instruction::{Control, Effect, Instruction},
    },
    elf::Elf,
    unwind::FunctionRanges,
};

/// How often the sources change each counter (OpenSSL 1.1.1 to 4.0: 15 lines).
#[must_use]
pub const fn in_the_sources(counter: Counter) -> usize {
    match counter {
        // `tls_setup_handshake`; `final_server_name` adds one and takes one.
        Counter::Accept => 3,
        // A server's in `lookup_sess_in_cache`, a client's in `tls_process_server_hello`.
        Counter::Misses => 2,
        // A server's in `ssl_get_prev_session`, a client's in `tls_finish_handshake`.
        Counter::Hits => 2,
        _ => 1,
    }
}

/// One instruction that changes a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncrementSite {
    /// The counter.
    pub counter: Counter,
    /// The address of the instruction; of the last one, where it takes several.
    pub address: u64,
    /// The function that it is in, or the part of one.
    pub function: Range<u64>,
    /// The number of the register that holds the context.
    pub base: usize,
    /// The instruction before which that register holds it.
    pub base_at: u64,
}

/// What one pass over all functions of a file finds.
#[derive(Debug, Default)]
pub struct Sweep {
    /// In the order of their addresses.
    pub increments: Vec<IncrementSite>,
    /// Addresses that code of another function jumps to.
    pub outside_targets: HashSet<u64>,
}

/// Decodes every function of a file once.
///
/// `block` is the offset of the first counter in the `SSL_CTX`; without it, no
/// increments are looked for. A function that
/// does not decode to its end contributes nothing, and no probe is placed there.
#[must_use]
pub fn sweep(elf: &Elf, functions: &FunctionRanges, block: Option<u32>) -> Sweep {
    let mut sweep = Sweep::default();
    let mut candidates: Vec<(Range<u64>, Vec<u64>)> = Vec::new();
    for range in functions.iter() {
        let Ok(instructions) = flow::decode(elf, range) else { continue };
        let changes: Vec<u64> = instructions
            .iter()
            .filter(|instruction| elf.processor().may_change(elf, instruction))
            .map(|instruction| instruction.address)
            .collect();
        if !changes.is_empty() {
            candidates.push((range.clone(), changes));
        }
        let mut computes_jumps = false;
        for instruction in &instructions {
            match instruction.control {
                // A jump to the start of a function is a call of it; to the start
                // of a part of one, it is not.
                Control::Jump(target) | Control::Branch(target)
                    if !range.contains(&target) && !functions.is_entry(target) =>
                {
                    sweep.outside_targets.insert(target);
                }
                Control::JumpThrough(_) => computes_jumps = true,
                Control::Next => {
                    if let Some((counter, base)) =
                        block.and_then(|block| increment(instruction, block))
                    {
                        sweep.increments.push(IncrementSite {
                            counter,
                            address: instruction.address,
                            function: range.clone(),
                            base,
                            base_at: instruction.address,
                        });
                    }
                }
                _ => {}
            }
        }
        if computes_jumps {
            let targets = elf.processor().table_targets(elf, &instructions);
            let outside = targets.into_iter().filter(|t| !range.contains(t));
            sweep.outside_targets.extend(outside.filter(|t| !functions.is_entry(*t)));
        }
    }
    let Some(block) = block else { return sweep };
    for (range, changes) in candidates {
        let found = made_of_several(elf, &range, &changes, &sweep.outside_targets, block);
        sweep.increments.extend(found);
    }
    sweep
}

/// The increments of a function that take several instructions each.
fn made_of_several(
    elf: &Elf,
    range: &Range<u64>,
    changes: &[u64],
    outside: &HashSet<u64>,
    block: u32,
) -> Vec<IncrementSite> {
    let Ok(function) = Function::new(elf, range.clone(), outside) else { return Vec::new() };
    changes
        .iter()
        .filter_map(|at| {
            let change = elf.processor().change(elf, &function, *at)?;
            Some(IncrementSite {
                counter: counter_at(change.displacement, block)?,
                address: change.last,
                function: range.clone(),
                base: change.base,
                base_at: change.base_at,
            })
        })
        .collect()
}

/// Whether an instruction changes one of the counters by one, and through which
/// register.
fn increment(instruction: &Instruction, block: u32) -> Option<(Counter, usize)> {
    let Effect::Change { base, displacement, atomic: true, .. } = instruction.effect else {
        return None;
    };
    Some((counter_at(displacement, block)?, base))
}

/// The counter at a distance from the context.
fn counter_at(displacement: i64, block: u32) -> Option<Counter> {
    let distance = usize::try_from(displacement.checked_sub(i64::from(block))?).ok()?;
    COUNTERS.get(distance / 4).copied().filter(|_| distance % 4 == 0)
}
