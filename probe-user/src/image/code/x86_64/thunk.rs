//! Retpolines: computed jumps and returns that are disguised as calls, so that
//! the processor does not speculate on them.
//!
//! gcc and clang write the same thunk (gcc: `output_indirect_thunk`; clang:
//! `X86IndirectThunks.cpp`):
//!
//! ```text
//!    call 1f
//! 0: pause
//!    lfence
//!    jmp  0b
//! 1: mov  %rax,(%rsp)        (to jump)     lea 8(%rsp),%rsp     (to return)
//!    ret
//! ```

use std::ops::Range;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::general_register;
use crate::image::code::{
    CodeSource,
    flow::FlowProblem,
    instruction::{Control, Instruction as Facts, Through},
};

/// `pause; lfence; jmp` back to the `pause`: nothing ever gets out of there.
const TRAP: [u8; 7] = [0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9];

/// What a thunk may begin with.
const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
const LFENCE: &[u8] = &[0x0f, 0xae, 0xe8];

/// How far such a call leads: over the trap, to where clang aligns to 16 bytes.
const NEAR: Range<u64> = TRAP.len() as u64..64;

/// What such a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thunk {
    /// It jumps to what a register holds.
    Jump(usize),
    /// It returns from the function that jumped to the thunk.
    Return,
}

/// What a call does, if it is one of a thunk to its own inside.
pub(super) fn disguised(source: &dyn CodeSource, call: &Instruction) -> Option<Thunk> {
    if call.code() != Code::Call_rel32_64 || !source.code(call.next_ip())?.starts_with(&TRAP) {
        return None;
    }
    let target = call.near_branch_target();
    let mut decoder = Decoder::with_ip(64, source.code(target)?, target, DecoderOptions::NONE);
    let (first, second) = (decoder.decode(), decoder.decode());
    if second.mnemonic() != Mnemonic::Ret || second.op_count() != 0 {
        return None;
    }
    let on_the_stack = first.memory_base() == Register::RSP
        && first.memory_index() == Register::None
        && first.segment_prefix() == Register::None;
    match first.mnemonic() {
        Mnemonic::Mov
            if on_the_stack
                && first.memory_displacement64() == 0
                && first.op0_kind() == OpKind::Memory
                && first.op1_kind() == OpKind::Register
                && first.op1_register().size() == 8 =>
        {
            general_register(first.op1_register()).map(Thunk::Jump)
        }
        Mnemonic::Lea
            if on_the_stack
                && first.memory_displacement64() == 8
                && first.op0_register() == Register::RSP =>
        {
            Some(Thunk::Return)
        }
        Mnemonic::Add
            if first.op0_register() == Register::RSP && first.try_immediate(1).ok() == Some(8) =>
        {
            Some(Thunk::Return)
        }
        _ => None,
    }
}

/// A direct jump or call as what it really is: one that leads to a thunk, or that
/// is the first instruction of one.
///
/// # Errors
///
/// If a branch leads to one that jumps: no compiler writes that.
pub(super) fn undisguised(
    source: &dyn CodeSource,
    instruction: Facts,
) -> Result<Facts, FlowProblem> {
    let as_jump = |thunk| Facts {
        control: match thunk {
            Thunk::Jump(register) => Control::JumpThrough(Through::Register(register)),
            Thunk::Return => Control::Return,
        },
        // Nothing of what a called function may.
        assigns: 0,
        ..instruction
    };
    let itself = |target: u64| {
        let is_near = NEAR.contains(&target.wrapping_sub(instruction.end()));
        is_near.then(|| at(source, instruction.address)).flatten()
    };
    let thunk = match instruction.control {
        Control::Jump(target) => at(source, target).map(as_jump),
        Control::Call(target) => match itself(target) {
            Some(thunk) => Some(as_jump(thunk)),
            None => matches!(at(source, target), Some(Thunk::Jump(_)))
                .then_some(Facts { control: Control::CallThrough(None), ..instruction }),
        },
        Control::Branch(target) => match at(source, target) {
            Some(Thunk::Jump(_)) => return Err(FlowProblem::UnknownJump(instruction.address)),
            _ => None,
        },
        _ => None,
    };
    Ok(thunk.unwrap_or(instruction))
}

/// The thunk at an address: a retpoline, or what processors need that have no
/// use for one: `lfence; jmp *%rax`, or the jump alone.
fn at(source: &dyn CodeSource, address: u64) -> Option<Thunk> {
    let code = source.code(address)?;
    let (mut rest, mut at) = (code, address);
    for prelude in [ENDBR64, LFENCE] {
        if let Some(behind) = rest.strip_prefix(prelude) {
            (rest, at) = (behind, at.wrapping_add(prelude.len() as u64));
        }
    }
    if !matches!(rest, [0xe8, ..] | [0xff, 0xe0..=0xe7, ..] | [0x41, 0xff, 0xe0..=0xe7, ..]) {
        return None;
    }
    let instruction = Decoder::with_ip(64, rest, at, DecoderOptions::NONE).decode();
    if instruction.code() == Code::Jmp_rm64 {
        return general_register(instruction.op0_register()).map(Thunk::Jump);
    }
    disguised(source, &instruction)
}

#[cfg(test)]
mod tests {
    use crate::image::code::{
        explore::{DEFAULT_BOUNDS, called_with, explore},
        processor::Processor as _,
        specimen::Bytes,
        value::Value,
        x86_64::X86_64,
    };

    fn answers(code: &[&[u8]]) -> Vec<String> {
        let machine = called_with(X86_64.convention(), &[Value::argument(0)]);
        let answers = explore(&Bytes::new(code.concat()), 0x1000, machine, DEFAULT_BOUNDS);
        answers.expect("it is followed").iter().map(|answer| answer.value.to_string()).collect()
    }

    /// 1000: mov 0x5a0(%rdi),%rax / 1007: jmp 100c
    const GET: &[u8] = &[0x48, 0x8b, 0x87, 0xa0, 0x05, 0, 0, 0xe9, 0, 0, 0, 0];
    /// 100c: call 1018 / 1011: pause; lfence; jmp 1011
    const CALL: &[u8] = &[0xe8, 0x07, 0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9];

    /// `SSL_get_SSL_CTX` of 1.1.1w, gcc 12, -mfunction-return=thunk.
    #[test]
    fn a_return_thunk_returns() {
        // lea 8(%rsp),%rsp / ret
        assert_eq!(answers(&[GET, CALL, &[0x48, 0x8d, 0x64, 0x24, 8, 0xc3]]), ["u64[arg0+0x5a0]"]);
        // add $8,%rsp / ret
        assert_eq!(answers(&[GET, CALL, &[0x48, 0x83, 0xc4, 8, 0xc3]]), ["u64[arg0+0x5a0]"]);
    }

    /// lea 0x14(%rip),%rcx (101e) / jmp 100c; the thunk is that of %rcx.
    #[test]
    fn a_jump_thunk_jumps() {
        let code: [&[u8]; 4] = [
            &[0x48, 0x8d, 0x0d, 0x17, 0, 0, 0, 0xe9, 0, 0, 0, 0],
            CALL,
            // 1018: mov %rcx,(%rsp) / ret / nop
            &[0x48, 0x89, 0x0c, 0x24, 0xc3, 0x90],
            // 101e: mov 0x8(%rdi),%eax / ret
            &[0x8b, 0x47, 8, 0xc3],
        ];
        assert_eq!(answers(&code), ["u32[arg0+0x8]"]);
    }
}
