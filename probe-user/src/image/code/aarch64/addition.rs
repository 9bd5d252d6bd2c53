//! Atomic additions that take more than one instruction: loops of `ldxr` and
//! `stxr`, and functions that hold such a loop.
//!
//! Compilers call `__aarch64_ldadd4_relax` and its like where the processor may
//! or may not have the instructions of ARMv8.1 (`-moutline-atomics`, the default
//! of gcc since 10.1 and of clang since 14). They are hidden functions of libgcc
//! (`config/aarch64/lse.S`) and compiler-rt (`lib/builtins/aarch64/lse.S`), so
//! they are known by their code.

use std::ops::RangeInclusive;

use super::{
    facts,
    operation::{Atomic, Data, General, LR, Operation, Place, Shift, Source},
};
use crate::image::code::{CodeSource, value::mask};

/// Instructions of such a function at most.
const LENGTH: usize = 14;

/// Registers for intermediate values.
const SCRATCH: RangeInclusive<usize> = 9..=17;

/// Registers that such a function, or a veneer on the way to it, may change.
pub(super) fn scratch() -> impl Iterator<Item = usize> {
    SCRATCH.chain([LR])
}

/// What the function at an address does, if it is an atomic addition:
/// `x0 = [x1]; [x1] += w0`.
///
/// It may change the registers of [`scratch`] besides.
pub(super) fn function(source: &dyn CodeSource, entry: u64) -> Option<Operation> {
    let code = operations(source, entry, LENGTH);
    let start = choice(code.get(..3)?)?;
    let width = with_instruction(code.get(3..5)?)?;
    let code = code.get(5..)?;
    let (loop_at, keep) = *code.first()?;
    let Operation::Bits { to: Some(kept), left: None, right, invert: false, .. } = keep else {
        return None;
    };
    let one = repeated(code.get(1..)?)?;
    let back = code.get(5).map(|(_, operation)| *operation);
    let agrees = start == loop_at
        && plain(right) == Some(0)
        && one.operand == Source::Shifted { register: Some(kept), shift: Shift::Left, amount: 0 }
        && (one.to, one.base, one.width) == (0, 1, width)
        && back == Some(Operation::Return(Some(LR)))
        && [kept, one.sum, one.status].iter().all(|number| SCRATCH.contains(number))
        && kept != one.sum;
    agrees.then_some(Operation::Atomic {
        kind: Atomic::Add,
        to: Some(0),
        operand: Some(0),
        base: 1,
        width,
    })
}

/// A loop that adds to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loop {
    /// The register that gets what was there before; the sum, if that is the same.
    pub(super) to: usize,
    /// The register that gets the sum.
    pub(super) sum: usize,
    /// What is added.
    pub(super) operand: Source,
    /// The register that says whether it was stored; it is 0 behind the loop.
    pub(super) status: usize,
    /// The register that holds the address.
    pub(super) base: usize,
    /// Bytes.
    pub(super) width: u8,
    /// The address behind it.
    pub(super) end: u64,
}

/// The loop at an address, if it is an addition.
pub(super) fn in_loop(source: &dyn CodeSource, at: u64) -> Option<Loop> {
    repeated(&operations(source, at, 4))
}

/// Instructions with their addresses; landing pads and barriers, which do nothing to
/// registers and memory, are left out.
fn operations(source: &dyn CodeSource, mut at: u64, count: usize) -> Vec<(u64, Operation)> {
    let mut code = Vec::with_capacity(count);
    for _ in 0..count {
        let Some(operation) = source.code(at).and_then(|code| facts::operation(code, at)) else {
            break;
        };
        if operation != Operation::Nothing {
            code.push((at, operation));
        }
        at = at.wrapping_add(u64::from(facts::LENGTH));
    }
    code
}

fn plain(source: Source) -> General {
    match source {
        Source::Shifted { register, shift: Shift::Left, amount: 0 } => register,
        _ => None,
    }
}

/// `adrp x16, flag; ldrb w16, [x16, flag]; cbz w16, without`: says where the latter is.
fn choice(code: &[(u64, Operation)]) -> Option<u64> {
    let [(_, address), (_, load), (_, branch)] = *code else { return None };
    let Operation::JumpIfZero { register: Some(flag), negated: false, target, .. } = branch else {
        return None;
    };
    let Operation::Address { to: Some(page), .. } = address else { return None };
    let Operation::Load { data: Data::One(Some(to)), place, width: 1, .. } = load else {
        return None;
    };
    let agrees = page == flag
        && to == flag
        && place == (Place { offset: place.offset, ..Place::at(flag) })
        && SCRATCH.contains(&flag);
    agrees.then_some(target)
}

/// `ldadd w0, w0, [x1]; ret`; the bytes that it adds to.
fn with_instruction(code: &[(u64, Operation)]) -> Option<u8> {
    let [(_, add), (_, back)] = *code else { return None };
    let Operation::Atomic { kind: Atomic::Add, to, operand, base: 1, width } = add else {
        return None;
    };
    let agrees = (to, operand, back) == (Some(0), Some(0), Operation::Return(Some(LR)));
    agrees.then_some(width)
}

/// `again: ldxr w0, [x1]; add w17, w0, w16; stxr w15, w17, [x1]; cbnz w15, again`.
fn repeated(code: &[(u64, Operation)]) -> Option<Loop> {
    let [(again, load), (_, add), (_, store), (last, repeat), ..] = *code else { return None };
    let Operation::LoadExclusive { data: Data::One(Some(to)), base, width } = load else {
        return None;
    };
    let Operation::Add { to: Some(sum), left: Some(left), right, subtract, width: added, .. } = add
    else {
        return None;
    };
    let operand = match right {
        Source::Constant(amount) if subtract => {
            Source::Constant(amount.wrapping_neg() & mask(added))
        }
        _ if subtract => return None,
        operand => operand,
    };
    let Operation::StoreExclusive { status: Some(status), data, base: to_base, width: stored } =
        store
    else {
        return None;
    };
    let Operation::JumpIfZero { register, negated: true, target, .. } = repeat else { return None };
    let agrees = left == to
        && plain(operand) != Some(to)
        && (to_base, stored) == (base, width)
        && width == added
        && data == Data::One(Some(sum))
        && (register, target) == (Some(status), again)
        && ![to, sum, status].contains(&base)
        && ![to, sum].contains(&status);
    let end = last.wrapping_add(u64::from(facts::LENGTH));
    agrees.then_some(Loop { to, sum, operand, status, base, width, end })
}
