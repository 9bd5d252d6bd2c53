//! AArch64, as compilers of its procedure call standard (AAPCS64) write it.
//!
//! The 32-bit words are decoded here, in tables like the manual's: the crates
//! that decode A64 know every instruction and say little about what each one
//! does to which register. The text of an instruction is one's, `yaxpeax-arm`.

mod addition;
mod arithmetic;
mod changes;
mod decode;
mod execute;
mod facts;
mod immediate;
mod memory;
mod operation;
mod scan;
mod tables;
#[cfg(test)]
mod tests;
mod text;

use std::ops::Range;

use self::operation::{Operation, SP};
use super::{
    CodeSource,
    flow::Function,
    instruction::Instruction,
    machine::Machine,
    processor::{Change, Convention, Next, Processor, Stopped, Tables},
    value::Value,
};
use crate::image::class::Class;

/// AAPCS64, section 6: `x18` belongs to the platform, and is not counted on.
static CONVENTION: Convention = Convention {
    arguments: &[0, 1, 2, 3, 4, 5, 6, 7],
    result: 0,
    stack_pointer: SP,
    caller_saved: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 30],
    frame_at_entry: (31, 0),
};

/// Names of the general registers, by number; 31 is the stack pointer here.
const NAMES: [&str; 32] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14",
    "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27",
    "x28", "x29", "x30", "sp",
];

/// AArch64.
#[derive(Debug)]
pub struct Aarch64;

impl Processor for Aarch64 {
    fn name(&self) -> &'static str {
        "aarch64"
    }

    fn convention(&self) -> &'static Convention {
        &CONVENTION
    }

    fn register_name(&self, number: usize) -> &'static str {
        NAMES.get(number).copied().unwrap_or("?")
    }

    fn step(
        &self,
        machine: &mut Machine,
        source: &dyn CodeSource,
        at: u64,
    ) -> Result<(Next, u64), Stopped> {
        let stopped = |instruction, why| Stopped { address: at, instruction, why };
        let code = source.code(at).ok_or_else(|| stopped(String::new(), "there is no code"))?;
        let operation = facts::operation(code, at).ok_or_else(|| {
            stopped(self.text(code, at), "it is not an instruction that is known")
        })?;
        let behind = at.wrapping_add(u64::from(facts::LENGTH));
        // An atomic addition that is a loop, or stands in a function of its own,
        // is one step.
        let operation = match operation {
            Operation::Call(target) => match addition::function(source, target) {
                Some(addition) => {
                    addition::scratch().for_each(|r| machine.set_register(r, Value::Unknown));
                    addition
                }
                None => operation,
            },
            Operation::LoadExclusive { .. } => match addition::in_loop(source, at) {
                Some(addition) => {
                    execute::add_in_loop(machine, source, &addition)
                        .map_err(|why| stopped(self.text(code, at), why))?;
                    return Ok((Next::Fall, addition.end));
                }
                None => operation,
            },
            other => other,
        };
        let next = execute::step(machine, source, &operation)
            .map_err(|why| stopped(self.text(code, at), why))?;
        Ok((next, behind))
    }

    fn decode<'c>(
        &self,
        code: &'c [u8],
        at: u64,
    ) -> Box<dyn Iterator<Item = Option<Instruction>> + 'c> {
        Box::new(facts::Instructions::new(code, at))
    }

    fn may_change(&self, source: &dyn CodeSource, instruction: &Instruction) -> bool {
        changes::may_change(source, instruction)
    }

    fn change(&self, source: &dyn CodeSource, function: &Function, at: u64) -> Option<Change> {
        changes::change(source, function, at)
    }

    fn tables(&self, source: &dyn CodeSource, instructions: &[Instruction]) -> Tables {
        Tables { targets: tables::targets(source, instructions), ..Tables::default() }
    }

    fn possible_jumps(
        &self,
        _: &dyn CodeSource,
        code: &[u8],
        at: u64,
        into: &[Range<u64>],
    ) -> Option<Vec<u64>> {
        Some(scan::jumps(code, at, into))
    }

    fn class(&self, code: &[u8]) -> Class {
        Class::of_aarch64(code)
    }

    fn text(&self, code: &[u8], at: u64) -> String {
        text::of(code, at)
    }
}
