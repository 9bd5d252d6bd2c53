//! Atomic additions that stand in a function of their own.
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
use crate::image::code::CodeSource;

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
pub(super) fn addition(source: &dyn CodeSource, entry: u64) -> Option<Operation> {
    let mut at = entry;
    let mut code = Vec::with_capacity(LENGTH);
    for _ in 0..LENGTH {
        let operation = facts::operation(source.code(at)?, at)?;
        // Landing pads and barriers do nothing to registers and memory.
        if operation != Operation::Nothing {
            code.push((at, operation));
        }
        at = at.wrapping_add(u64::from(facts::LENGTH));
    }
    let with_instruction = with_instruction(code.get(3..5)?)?;
    let (has_it, without) = choice(code.get(..3)?)?;
    let (loop_at, _) = *code.get(5)?;
    let with_loop = with_loop(code.get(5..)?)?;
    let agree = with_instruction == with_loop && has_it && without == loop_at;
    agree.then_some(Operation::Atomic {
        kind: Atomic::Add,
        to: Some(0),
        operand: Some(0),
        base: 1,
        width: with_loop,
    })
}

/// `adrp x16, flag; ldrb w16, [x16, flag]; cbz w16, without`.
fn choice(code: &[(u64, Operation)]) -> Option<(bool, u64)> {
    let [(_, address), (_, load), (_, branch)] = code else { return None };
    let flag = |register: General| {
        matches!(address, Operation::Address { to, .. } if *to == register)
            && matches!(
                load,
                Operation::Load { data: Data::One(to), place, width: 1, .. }
                    if *to == register && Some(place.base) == register && place.update.is_none()
            )
    };
    match *branch {
        Operation::JumpIfZero { register, negated: false, target, .. } => Some((
            register.is_some_and(|number| SCRATCH.contains(&number)) && flag(register),
            target,
        )),
        _ => None,
    }
}

/// `ldadd w0, w0, [x1]; ret`; the bytes that it adds to.
fn with_instruction(code: &[(u64, Operation)]) -> Option<u8> {
    match code {
        [
            (
                _,
                Operation::Atomic {
                    kind: Atomic::Add,
                    to: Some(0),
                    operand: Some(0),
                    base: 1,
                    width,
                },
            ),
            (_, Operation::Return(Some(30))),
        ] => Some(*width),
        _ => None,
    }
}

/// `mov w16, w0; again: ldxr w0, [x1]; add w17, w0, w16; stxr w15, w17, [x1];
/// cbnz w15, again; ret`.
fn with_loop(code: &[(u64, Operation)]) -> Option<u8> {
    let [(_, keep), (again, load), (_, add), (_, store), (_, repeat), (_, back), ..] = code else {
        return None;
    };
    let plain = |source: Source| match source {
        Source::Shifted { register: Some(number), shift: Shift::Left, amount: 0 } => Some(number),
        _ => None,
    };
    let Operation::Bits { to: Some(kept), left: None, right, invert: false, .. } = *keep else {
        return None;
    };
    let Operation::Load { data: Data::One(Some(0)), place, width, signed: None } = *load else {
        return None;
    };
    let Operation::Add { to: Some(sum), left: Some(0), right: addend, subtract: false, .. } = *add
    else {
        return None;
    };
    let Operation::StoreExclusive { status: Some(status), data, base: 1, width: stored } = *store
    else {
        return None;
    };
    let Operation::JumpIfZero { register, negated: true, target, .. } = *repeat else {
        return None;
    };
    let holds = plain(right) == Some(0)
        && plain(addend) == Some(kept)
        && place == Place::at(1)
        && data == Data::One(Some(sum))
        && stored == width
        && register == Some(status)
        && target == *again
        && *back == Operation::Return(Some(30))
        && [kept, sum, status].into_iter().all(|number| SCRATCH.contains(&number))
        && kept != sum;
    holds.then_some(width)
}
