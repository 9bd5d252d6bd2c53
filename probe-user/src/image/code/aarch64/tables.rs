//! Jump tables of A64 code: entries of 1, 2 or 4 bytes, signed or not, counted
//! in instructions from an address (`adr`) or in bytes from the table itself.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    facts,
    operation::{ConditionCode, Data, Operation, Shift, Source},
};
use crate::image::code::{
    CodeSource,
    instruction::{Control, Effect, Instruction, Through},
    value::sign_extend,
};

/// Entries of a jump table that are read at most.
const MAX_TABLE: u64 = 1024;

/// Instructions before a computed jump among which what leads to it stands.
const REACH: usize = 24;

/// Pairs of a table and what its entries are counted from, at most.
const MAX_PAIRS: usize = 64;

/// How the code before a computed jump reads its table.
struct Dispatch {
    /// The register that holds the table's address, and the index of the
    /// instruction before which it does.
    table: (usize, usize),
    /// The same of what the entries are counted from.
    base: (usize, usize),
    /// Bytes of an entry.
    width: u8,
    signed: bool,
    /// Bits that an entry is shifted to the left.
    left: u32,
    /// How many entries there are, if the code checks that.
    count: Option<u64>,
}

/// A table is at the address that the code right before puts into the register
/// that it is read through. If that is not plain, it is taken to be at each that
/// the function ever puts there: that is too many at times, and never too few. The
/// same goes for what its entries are counted from. A table goes on for as long as
/// the check of the index allows, and without one, for as long as its entries lead
/// to code.
///
/// If one jump's table is not found, none is: the function is unfit for probes.
pub(super) fn targets(source: &dyn CodeSource, instructions: &[Instruction]) -> BTreeSet<u64> {
    let jumps: Vec<(usize, usize)> = instructions
        .iter()
        .enumerate()
        .filter_map(|(i, instruction)| match instruction.control {
            Control::JumpThrough(Through::Register(register)) => Some((i, register)),
            _ => None,
        })
        .collect();
    if jumps.is_empty() {
        return BTreeSet::new();
    }
    let code = Code {
        instructions,
        operations: instructions
            .iter()
            .map(|i| source.code(i.address).and_then(|code| facts::operation(code, i.address)))
            .collect(),
        joins: instructions.iter().filter_map(Instruction::jump_target).collect(),
    };
    let ever = code.constants();
    let mut targets = BTreeSet::new();
    for (jump, register) in jumps {
        let Some(found) = code.targets(source, &ever, jump) else {
            if code.is_loaded(register, jump) {
                continue;
            }
            return BTreeSet::new();
        };
        targets.extend(found);
    }
    targets
}

/// Where the entries of a table lead.
fn entries(source: &dyn CodeSource, dispatch: &Dispatch, table: u64, base: u64) -> Vec<u64> {
    let mut targets = Vec::new();
    for i in 0..dispatch.count.unwrap_or(MAX_TABLE) {
        let at = table.wrapping_add(i * u64::from(dispatch.width));
        let Some(entry) = source.constant(at, usize::from(dispatch.width)) else { break };
        let entry = if dispatch.signed { sign_extend(entry, dispatch.width) } else { entry };
        let target = base.wrapping_add(entry.checked_shl(dispatch.left).unwrap_or(0));
        let is_code = target.is_multiple_of(u64::from(facts::LENGTH));
        if is_code && source.code(target).is_some() {
            targets.push(target);
        } else if dispatch.count.is_none() {
            break;
        }
    }
    targets
}

struct Code<'c> {
    instructions: &'c [Instruction],
    operations: Vec<Option<Operation>>,
    /// Where the direct jumps of the function lead.
    joins: BTreeSet<u64>,
}

impl Code<'_> {
    /// Where a computed jump may lead; `None` if its table is not found.
    fn targets(
        &self,
        source: &dyn CodeSource,
        ever: &BTreeMap<usize, BTreeSet<u64>>,
        jump: usize,
    ) -> Option<BTreeSet<u64>> {
        let dispatch = self.dispatch(jump)?;
        let constants = |(register, at): (usize, usize)| match self.constant(register, at) {
            Some(one) => BTreeSet::from([one]),
            None => ever.get(&register).cloned().unwrap_or_default(),
        };
        let (tables, bases) = (constants(dispatch.table), constants(dispatch.base));
        let too_many = tables.len() * bases.len() > MAX_PAIRS
            || dispatch.count.is_some_and(|count| count > MAX_TABLE);
        if too_many {
            return None;
        }
        let pairs = tables.iter().flat_map(|table| bases.iter().map(move |base| (*table, *base)));
        let targets: BTreeSet<u64> =
            pairs.flat_map(|(table, base)| entries(source, &dispatch, table, base)).collect();
        Some(targets).filter(|targets| !targets.is_empty())
    }

    /// Whether a computed jump goes through a pointer that was just loaded from a
    /// memory cell.
    fn is_loaded(&self, register: usize, jump: usize) -> bool {
        let assignment = self
            .before(jump)
            .find(|(i, _)| self.instructions.get(*i).is_some_and(|i| i.assigns(register)));
        match assignment.map(|(i, _)| (i, self.instructions[i].effect)) {
            Some((_, Effect::Load { width: 8, .. })) => true,
            Some((i, Effect::Copy { from, .. })) => i < jump && self.is_loaded(from, i),
            _ => false,
        }
    }

    /// The constant addresses that the function ever puts into each register, in
    /// whatever order it is executed.
    fn constants(&self) -> BTreeMap<usize, BTreeSet<u64>> {
        let mut constants: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
        for operation in self.operations.iter().flatten() {
            if let Operation::Address { to: Some(to), target } = *operation {
                constants.entry(to).or_default().insert(target);
            }
        }
        let pages = constants.clone();
        for operation in self.operations.iter().flatten() {
            if let Operation::Add {
                to: Some(to),
                left: Some(left),
                right: Source::Constant(distance),
                subtract: false,
                width: 8,
                ..
            } = *operation
            {
                let sums = pages.get(&left).into_iter().flatten();
                let sums: Vec<u64> = sums.map(|page| page.wrapping_add(distance)).collect();
                constants.entry(to).or_default().extend(sums);
            }
        }
        constants
    }

    /// The constant address in a register before an instruction, if no other way
    /// leads into the code that makes it.
    fn constant(&self, register: usize, at: usize) -> Option<u64> {
        let (mut register, mut distance) = (register, 0u64);
        if self.joins.contains(&self.instructions.get(at)?.address) {
            return None;
        }
        for (i, operation) in self.before(at) {
            let instruction = self.instructions.get(i)?;
            if ends(operation) {
                return None;
            }
            if instruction.assigns(register) {
                match *operation {
                    Operation::Address { target, .. } => {
                        return Some(target.wrapping_add(distance));
                    }
                    Operation::Add {
                        left: Some(left),
                        right: Source::Constant(more),
                        subtract: false,
                        width: 8,
                        ..
                    } => {
                        register = left;
                        distance = distance.wrapping_add(more);
                    }
                    _ => return None,
                }
            }
            if self.joins.contains(&instruction.address) {
                return None;
            }
        }
        None
    }

    fn before(&self, at: usize) -> impl Iterator<Item = (usize, &Operation)> {
        (0..at).rev().take(REACH).map_while(|i| Some((i, self.operations.get(i)?.as_ref()?)))
    }

    /// How the code before a computed jump reads its table.
    fn dispatch(&self, jump: usize) -> Option<Dispatch> {
        let mut sum = None;
        for (i, operation) in self.before(jump) {
            match *operation {
                Operation::Add { left: Some(base), right, width: 8, subtract: false, .. }
                    if sum.is_none() =>
                {
                    let base = (base, i);
                    sum = Some(match right {
                        Source::Extended { width, signed, left, .. } => (base, width, signed, left),
                        Source::Shifted { shift: Shift::Left, amount, .. } => {
                            (base, 8, false, amount)
                        }
                        _ => continue,
                    });
                }
                Operation::Load { data: Data::One(_), place, width, signed }
                    if place.index.is_some() =>
                {
                    let (base, extended, sign, left) = sum?;
                    // The addition says the sign where it takes as much as is loaded.
                    let signed = signed.is_some() || sign && extended == width;
                    let (table, count) = ((place.base, i), self.count(i));
                    return Some(Dispatch { table, base, width, signed, left, count });
                }
                _ => {}
            }
        }
        None
    }

    /// The number of entries that the check before the reading of a table lets
    /// through: `cmp w0, #last; b.hi` around it, or `b.ls` to it.
    fn count(&self, load: usize) -> Option<u64> {
        let above = self.before(load).find(|(_, operation)| leaves(operation));
        match above? {
            (i, Operation::JumpIf(ConditionCode(8), _)) => self.compared(i),
            (i, operation) if ends(operation) => {
                let start = self.instructions.get(i + 1)?.address;
                let mut branches = self.operations.iter().enumerate().filter(|(_, operation)| {
                    matches!(operation, Some(Operation::JumpIf(_, target)) if *target == start)
                });
                match (branches.next()?, branches.next()) {
                    ((i, Some(Operation::JumpIf(ConditionCode(9), _))), None) => self.compared(i),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// One more than the index is compared with before a branch.
    fn compared(&self, branch: usize) -> Option<u64> {
        self.before(branch).take_while(|(_, operation)| !leaves(operation)).find_map(
            |(_, operation)| match *operation {
                Operation::Add {
                    to: None,
                    right: Source::Constant(last),
                    subtract: true,
                    flags: true,
                    ..
                } => last.checked_add(1),
                _ => None,
            },
        )
    }
}

/// Whether control may go elsewhere after an operation.
fn leaves(operation: &Operation) -> bool {
    ends(operation)
        || matches!(
            operation,
            Operation::JumpIf(..)
                | Operation::JumpIfZero { .. }
                | Operation::JumpIfClear { .. }
                | Operation::Call(_)
                | Operation::CallRegister(_)
        )
}

/// Whether control goes elsewhere for certain.
fn ends(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Jump(_) | Operation::JumpRegister(_) | Operation::Return(_) | Operation::Trap
    )
}
