//! Finds the instructions that increment a counter.
//!
//! In x86-64 builds each of OpenSSL's `ssl_tsan_counter(ctx, &ctx->stats.x)`
//! becomes one `lock add`, `lock sub` or `lock inc` of an `int` with the
//! counter's offset as its displacement.

use std::{collections::HashSet, ops::Range};

use probe_common::{COUNTERS, Counter};

use super::{
    code::{
        flow,
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
    /// The address of the instruction.
    pub address: u64,
    /// The function that it is in, or the part of one.
    pub function: Range<u64>,
    /// The number of the register that holds the context.
    pub base: usize,
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
    for range in functions.iter() {
        let Ok(instructions) = flow::decode(elf, range) else { continue };
        let mut computes_jumps = false;
        for instruction in &instructions {
            match instruction.control {
                // A jump to the start of a function is a call of it; to the
                // start of a part of one, it is not.
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
    sweep
}

/// Whether an instruction changes one of the counters by one, and through which
/// register.
fn increment(instruction: &Instruction, block: u32) -> Option<(Counter, usize)> {
    let Effect::Change { base, displacement, atomic: true, .. } = instruction.effect else {
        return None;
    };
    let distance = usize::try_from(displacement.checked_sub(i64::from(block))?).ok()?;
    let counter = COUNTERS.get(distance / 4)?;
    (distance % 4 == 0).then_some((*counter, base))
}
