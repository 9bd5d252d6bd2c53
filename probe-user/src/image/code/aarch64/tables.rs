//! Jump tables of A64 code: entries of 1, 2 or 4 bytes, signed or not, counted
//! in instructions from an address (`adr`) or in bytes from the table itself.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    facts,
    operation::{ConditionCode, Data, Operation, Shift, Source},
};
use crate::image::code::{
    CodeSource,
    instruction::{Control, Instruction, Through},
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
/// same goes for what its entries are counted from. A table goes on for as long as the check of the
/// index allows, and without one, for as long as its entries lead to code.
pub(super) fn targets(source: &dyn CodeSource, instructions: &[Instruction]) -> BTreeSet<u64> {
    let mut targets = BTreeSet::new();
    let jumps: Vec<usize> = (0..instructions.len())
        .filter(|i| matches!(instructions[*i].control, Control::JumpThrough(Through::Register(_))))
        .collect();
    if jumps.is_empty() {
        return targets;
    }
    let code = Code {
        instructions,
        operations: instructions
            .iter()
            .map(|i| source.code(i.address).and_then(|code| facts::operation(code, i.address)))
            .collect(),
    };
    let ever = code.constants();
    let joins: BTreeSet<u64> = instructions.iter().filter_map(Instruction::jump_target).collect();
    for jump in jumps {
        let Some(dispatch) = code.dispatch(jump) else { continue };
        let constants = |(register, at): (usize, usize)| match code.constant(register, at, &joins) {
            Some(one) => BTreeSet::from([one]),
            None => ever.get(&register).cloned().unwrap_or_default(),
        };
        let (tables, bases) = (constants(dispatch.table), constants(dispatch.base));
        if tables.len() * bases.len() > MAX_PAIRS {
            continue;
        }
        for (table, base) in tables.iter().flat_map(|table| bases.iter().map(move |b| (table, b))) {
            targets.extend(entries(source, &dispatch, *table, *base));
        }
    }
    targets
}

fn entries(
    source: &dyn CodeSource,
    dispatch: &Dispatch,
    table: u64,
    base: u64,
) -> impl Iterator<Item = u64> {
    let (width, left) = (dispatch.width, dispatch.left);
    let signed = dispatch.signed;
    (0..dispatch.count.unwrap_or(MAX_TABLE).min(MAX_TABLE)).map_while(move |i| {
        let at = table.wrapping_add(i * u64::from(width));
        let entry = source.constant(at, usize::from(width))?;
        let entry = if signed { sign_extend(entry, width) } else { entry };
        let target = base.wrapping_add(entry << left);
        (target % u64::from(facts::LENGTH) == 0 && source.code(target).is_some()).then_some(target)
    })
}

struct Code<'c> {
    instructions: &'c [Instruction],
    operations: Vec<Option<Operation>>,
}

impl Code<'_> {
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
    fn constant(&self, register: usize, at: usize, joins: &BTreeSet<u64>) -> Option<u64> {
        let (mut register, mut distance) = (register, 0u64);
        if joins.contains(&self.instructions.get(at)?.address) {
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
            if joins.contains(&instruction.address) {
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
