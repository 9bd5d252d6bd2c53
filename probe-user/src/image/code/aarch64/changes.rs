//! Where a function adds one to an `int` in memory.
//!
//! On A64 that takes several instructions: the constant, the address, and a call
//! of an outlined function, an `ldadd`, or a loop. What leads to the last of
//! them is found along all paths.

use super::{
    addition, facts,
    operation::{Atomic, Bitwise, General, Operation, Shift, Source},
};
use crate::image::code::{
    CodeSource,
    flow::{Function, Origin},
    instruction::{Control, Instruction},
    processor::Change,
};

/// Copies and additions that are followed back at most.
const DEPTH: usize = 8;

/// Whether an instruction may be the last one of an atomic addition.
pub(super) fn may_change(source: &dyn CodeSource, instruction: &Instruction) -> bool {
    match instruction.control {
        Control::Call(target) => addition::function(source, target).is_some(),
        Control::Next => matches!(
            operation(source, instruction.address),
            Some(
                Operation::Atomic { kind: Atomic::Add, width: 4, .. }
                    | Operation::LoadExclusive { width: 4, .. }
            )
        ),
        _ => false,
    }
}

/// What an instruction adds to memory, if it is one.
pub(super) fn change(source: &dyn CodeSource, function: &Function, at: u64) -> Option<Change> {
    let code = Code { source, function };
    let (amount, base, end) = match operation(source, at)? {
        Operation::Call(target) => {
            addition::function(source, target)?;
            (code.constant(0, at, DEPTH)?, 1, function.at(at)?.end())
        }
        Operation::Atomic { kind: Atomic::Add, operand, base, width: 4, .. } => {
            (code.constant(operand?, at, DEPTH)?, base, function.at(at)?.end())
        }
        Operation::LoadExclusive { .. } => {
            let one = addition::in_loop(source, at).filter(|one| one.width == 4)?;
            let amount = match one.operand {
                Source::Constant(amount) => amount,
                Source::Shifted { register: Some(register), shift: Shift::Left, amount: 0 } => {
                    code.constant(register, at, DEPTH)?
                }
                _ => return None,
            };
            (amount, one.base, one.end)
        }
        _ => return None,
    };
    let amount = match amount as u32 as i32 {
        1 => 1,
        -1 => -1,
        _ => return None,
    };
    let address = code.address(base, at, DEPTH);
    Some(Change {
        base: address.base,
        base_at: address.at,
        displacement: address.displacement,
        amount,
        last: end.wrapping_sub(u64::from(facts::LENGTH)),
    })
}

fn operation(source: &dyn CodeSource, at: u64) -> Option<Operation> {
    facts::operation(source.code(at)?, at)
}

struct Code<'c> {
    source: &'c dyn CodeSource,
    function: &'c Function,
}

/// A register's value before an instruction, and a distance from it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Address {
    base: usize,
    at: u64,
    displacement: i64,
}

impl Code<'_> {
    /// The one assignment from which a register's value at a place comes.
    fn assignment(&self, register: usize, at: u64) -> Option<(u64, Operation)> {
        let origins = self.function.reaching(register, at);
        let mut origins = origins.into_iter();
        match (origins.next()?, origins.next()) {
            (Origin::Assignment(from), None) => Some((from, operation(self.source, from)?)),
            _ => None,
        }
    }

    /// The constant that a register holds at a place, whatever way leads there.
    fn constant(&self, register: usize, at: u64, depth: usize) -> Option<u64> {
        let depth = depth.checked_sub(1)?;
        let mut found = None;
        for origin in self.function.reaching(register, at) {
            let Origin::Assignment(from) = origin else { return None };
            let value = match operation(self.source, from)? {
                Operation::Set { value, .. } => value,
                other => self.constant(copied(&other)?, from, depth)?,
            };
            if found.is_some_and(|found| found != value) {
                return None;
            }
            found = Some(value);
        }
        found
    }

    /// Where the address in a register comes from: the register that constants
    /// were added to, as near as possible.
    fn address(&self, register: usize, at: u64, depth: usize) -> Address {
        let itself = Address { base: register, at, displacement: 0 };
        let (Some(depth), Some((from, operation))) =
            (depth.checked_sub(1), self.assignment(register, at))
        else {
            return itself;
        };
        if let Operation::Add {
            left: Some(left),
            right: Source::Constant(distance),
            subtract,
            flags: false,
            width: 8,
            ..
        } = operation
        {
            let before = self.address(left, from, depth);
            let distance = if subtract { -(distance as i64) } else { distance as i64 };
            return Address { displacement: before.displacement + distance, ..before };
        }
        // A copy matters only if something was added before it.
        copied(&operation)
            .map(|other| self.address(other, from, depth))
            .filter(|before| before.displacement != 0)
            .unwrap_or(itself)
    }
}

/// The register that an operation copies.
fn copied(operation: &Operation) -> General {
    match *operation {
        Operation::Bits {
            left: None,
            right: Source::Shifted { register, shift: Shift::Left, amount: 0 },
            kind: Bitwise::Or,
            invert: false,
            ..
        } => register,
        _ => None,
    }
}
