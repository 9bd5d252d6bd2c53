//! On which instruction a probe can stand: one that the kernel emulates if there is
//! one near, and at which the context is to be had.

use std::collections::BTreeSet;

use super::{
    code::{
        flow::{Function, Origin},
        instruction::{Control, Effect, Instruction},
    },
    point::Argument,
};

/// Instructions behind an increment among which a probe point is looked for.
pub(super) const REACH: usize = 48;

/// The first emulated instruction on the way from a place at which the context
/// can be had, and how.
pub(super) fn first_emulated(
    function: &Function,
    mut at: u64,
    argument: impl Fn(&[Instruction], u64) -> Option<Argument>,
) -> Result<(Instruction, Argument), &'static str> {
    let mut passed = Vec::new();
    for _ in 0..REACH {
        let instruction = *function.at(at).ok_or("the path leaves the function")?;
        if instruction.emulated
            && let Some(argument) = argument(&passed, at)
        {
            return Ok((instruction, argument));
        }
        passed.push(instruction);
        at = match instruction.control {
            Control::Next | Control::CallThrough(_) => instruction.end(),
            Control::Call(_) if instruction.emulated => instruction.end(),
            Control::Jump(target) if instruction.emulated => target,
            Control::Branch(_) if instruction.emulated => {
                return Err("the context is in no register when the path forks");
            }
            _ => return Err("the function ends first"),
        };
    }
    Err("too far away")
}

/// The first instruction on the way from a place that may be executed out of
/// line, and at which the context can be had.
pub(super) fn first_stepped(
    function: &Function,
    at: u64,
    argument: impl Fn(&[Instruction], u64) -> Option<Argument>,
) -> Option<(Instruction, Argument)> {
    let path = straight(function, at);
    let mut steppable = path.iter().enumerate().filter(|(_, instruction)| instruction.steppable);
    steppable.find_map(|(index, instruction)| {
        Some((*instruction, argument(&path[..index], instruction.address)?))
    })
}

/// The instructions from a place to the first that may go elsewhere.
pub(super) fn straight(function: &Function, mut at: u64) -> Vec<Instruction> {
    let mut path = Vec::new();
    while let Some(instruction) = function.at(at).filter(|_| path.len() < REACH) {
        path.push(*instruction);
        if instruction.control != Control::Next {
            break;
        }
        at = instruction.end();
    }
    path
}

/// The registers that hold an argument somewhere on the way into a function.
pub(super) fn holders(function: &Function, path: &[Instruction], argument: usize) -> Vec<Holder> {
    let mut holders = vec![Holder { register: argument, from: Origin::Entry }];
    for instruction in path {
        if let Effect::Copy { to, from } = instruction.effect
            && holders
                .iter()
                .any(|h| h.register == from && h.holds_at(function, instruction.address))
        {
            holders.push(Holder { register: to, from: Origin::Assignment(instruction.address) });
        }
    }
    holders
}

/// A register that holds an argument of a function.
pub(super) struct Holder {
    pub(super) register: usize,
    /// The function's entry, or a copy of another holder.
    from: Origin,
}

impl Holder {
    /// Whether it does so at a place, whatever way leads there.
    pub(super) fn holds_at(&self, function: &Function, at: u64) -> bool {
        function.reaching(self.register, at) == BTreeSet::from([self.from])
    }
}
