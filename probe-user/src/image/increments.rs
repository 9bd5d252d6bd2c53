//! Finds the instructions that increment a counter.
//!
//! In x86-64 builds each of OpenSSL's `ssl_tsan_counter(ctx, &ctx->stats.x)`
//! becomes one `lock add`, `lock sub` or `lock inc` of an `int` with the
//! counter's offset as its displacement.

use std::{collections::BTreeSet, ops::Range};

use probe_common::{COUNTERS, Counter};

use super::{
    code::{
        flow,
        instruction::{Effect, Instruction},
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

/// Finds the increments of a file, in the order of their addresses.
///
/// `block` is the offset of the first counter in the `SSL_CTX`. A function that
/// does not decode to its end contributes nothing, and no probe is placed there.
#[must_use]
pub fn find(elf: &Elf, functions: &FunctionRanges, block: u32) -> Vec<IncrementSite> {
    let mut sites = Vec::new();
    for range in possible(elf, functions, block) {
        let Ok(instructions) = flow::decode(elf, &range) else { continue };
        for instruction in &instructions {
            if let Some((counter, base)) = increment(instruction, block) {
                let (address, function) = (instruction.address, range.clone());
                sites.push(IncrementSite { counter, address, function, base });
            }
        }
    }
    sites
}

/// The functions that may have an increment, as their bytes tell: all, where
/// these do not.
fn possible(elf: &Elf, functions: &FunctionRanges, block: u32) -> Vec<Range<u64>> {
    let block = i64::from(block);
    let distances = block..block + 4 * COUNTERS.len() as i64;
    let mut possible = BTreeSet::new();
    for (address, code) in elf.executable() {
        let Some(found) = elf.processor().may_change(code, address, &distances) else {
            return functions.iter().cloned().collect();
        };
        let functions = found.into_iter().filter_map(|at| functions.containing(at));
        possible.extend(functions.map(|function| (function.start, function.end)));
    }
    possible.into_iter().map(|(start, end)| start..end).collect()
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
