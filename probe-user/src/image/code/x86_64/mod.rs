//! x86-64, as compilers of the System V ABI write it.

mod decode;
mod execute;
mod operand;
mod scan;
mod tables;
#[cfg(test)]
mod tests;
mod thunk;

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Formatter as _, GasFormatter, Register};

use self::thunk::Thunk;
use super::{
    CodeSource,
    flow::FlowProblem,
    instruction::{Effect, Instruction},
    machine::Machine,
    processor::{Convention, Next, Processor, Stopped, Tables},
};
use crate::image::class::Class;

/// The number of `%rax`, which holds what a function returns.
const RAX: usize = 0;
/// The number of `%rdx`.
const RDX: usize = 2;
/// The number of `%rsp`.
const RSP: usize = 4;
/// The number of `%rbp`.
const RBP: usize = 5;

/// The numbers of the registers that string instructions use.
const RCX: usize = 1;
const RSI: usize = 6;
const RDI: usize = 7;

/// The System V ABI's.
static CONVENTION: Convention = Convention {
    arguments: &[7, 6, 2, 1, 8, 9],
    result: RAX,
    stack_pointer: RSP,
    caller_saved: &[0, 1, 2, 6, 7, 8, 9, 10, 11],
    // The return address is all there is on the stack.
    frame_at_entry: (7, 8),
};

/// Names of the general registers, by number.
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// x86-64.
#[derive(Debug)]
pub struct X86_64;

impl Processor for X86_64 {
    fn name(&self) -> &'static str {
        "x86_64"
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
        let code = source.code(at).ok_or_else(|| Stopped {
            address: at,
            instruction: String::new(),
            why: "there is no code",
        })?;
        let instruction = Decoder::with_ip(64, code, at, DecoderOptions::NONE).decode();
        match thunk::disguised(source, &instruction) {
            Some(Thunk::Jump(register)) => {
                let target = machine.register(register).clone();
                return Ok((Next::Jump(target), instruction.next_ip()));
            }
            Some(Thunk::Return) => return Ok((Next::Return, instruction.next_ip())),
            None => {}
        }
        let next = execute::step(machine, source, &instruction).map_err(|why| Stopped {
            address: at,
            instruction: text(&instruction),
            why,
        })?;
        Ok((next, instruction.next_ip()))
    }

    fn decode<'c>(
        &self,
        code: &'c [u8],
        at: u64,
    ) -> Box<dyn Iterator<Item = Option<Instruction>> + 'c> {
        Box::new(decode::Instructions::new(code, at))
    }

    fn undisguised(
        &self,
        source: &dyn CodeSource,
        instruction: Instruction,
    ) -> Result<Instruction, FlowProblem> {
        thunk::undisguised(source, instruction)
    }

    fn tables(&self, source: &dyn CodeSource, instructions: &[Instruction]) -> Tables {
        tables::read(source, instructions)
    }

    fn label(&self, instruction: &Instruction) -> Option<u64> {
        match instruction.effect {
            Effect::Address { target, .. } => Some(target),
            _ => None,
        }
    }

    fn possible_changes(&self, code: &[u8], at: u64, distances: &Range<i64>) -> Option<Vec<u64>> {
        Some(scan::changes(code, distances).into_iter().map(|o| at.wrapping_add(o)).collect())
    }

    fn possible_jumps(
        &self,
        source: &dyn CodeSource,
        code: &[u8],
        at: u64,
        into: &[Range<u64>],
    ) -> Option<Vec<u64>> {
        Some(scan::jumps(source, code, at, into))
    }

    fn class(&self, code: &[u8]) -> Class {
        Class::of_x86_64(code)
    }

    fn text(&self, code: &[u8], at: u64) -> String {
        text(&Decoder::with_ip(64, code, at, DecoderOptions::NONE).decode())
    }
}

/// The number by which a general register, or a part of it, is encoded.
pub(in crate::image) fn general_register(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

/// The number of a general register, if all 64 bits of it are meant: what is
/// counted from less (`8(%edi)`) is not counted from what the register holds.
fn whole_register(register: Register) -> Option<usize> {
    general_register(register).filter(|_| register.is_gpr64())
}

fn text(instruction: &iced_x86::Instruction) -> String {
    let mut text = String::new();
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_uppercase_hex(false);
    options.set_rip_relative_addresses(false);
    options.set_branch_leading_zeros(false);
    formatter.format(instruction, &mut text);
    text
}
