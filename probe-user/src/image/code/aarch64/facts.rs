//! The neutral facts of an A64 instruction.

use super::{
    CONVENTION,
    decode::decode,
    operation::{Bitwise, Data, General, LR, Operation, Place, Shift, Source},
};
use crate::image::code::instruction::{Control, Effect, Instruction, Through, Writes};

/// Bytes of an instruction.
pub(super) const LENGTH: u8 = 4;

/// The operation at the start of a piece of code.
pub(super) fn operation(code: &[u8], at: u64) -> Option<Operation> {
    if !at.is_multiple_of(u64::from(LENGTH)) {
        return None;
    }
    let word = code.first_chunk::<4>()?;
    decode(u32::from_le_bytes(*word), at)
}

/// Instructions behind an `ldxr` that may still belong to what its `stxr` ends.
const EXCLUSIVE: usize = 32;

/// The instructions of a piece of code.
pub(super) struct Instructions<'c> {
    code: &'c [u8],
    at: u64,
    /// How many of the next may stand between an `ldxr` and its `stxr`: a probe
    /// there would make the latter fail, every time.
    exclusive: usize,
}

impl<'c> Instructions<'c> {
    pub(super) fn new(code: &'c [u8], at: u64) -> Self {
        Self { code, at, exclusive: 0 }
    }
}

impl Iterator for Instructions<'_> {
    type Item = Option<Instruction>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.code.is_empty() {
            return None;
        }
        let (code, at) = (self.code, self.at);
        let decoded = operation(code, at);
        self.code = if decoded.is_some() { code.get(4..).unwrap_or_default() } else { &[] };
        self.at = at.wrapping_add(u64::from(LENGTH));
        let Some(operation) = decoded else { return Some(None) };
        self.exclusive = match operation {
            Operation::LoadExclusive { .. } => EXCLUSIVE,
            _ => self.exclusive.saturating_sub(1),
        };
        let may_be_probed = self.exclusive == 0;
        if matches!(operation, Operation::StoreExclusive { .. }) {
            self.exclusive = 0;
        }
        Some(Some(instruction(&operation, at, may_be_probed)))
    }
}

/// The facts of an operation at an address.
fn instruction(operation: &Operation, at: u64, may_be_probed: bool) -> Instruction {
    Instruction {
        address: at,
        length: LENGTH,
        control: control(operation),
        assigns: assigned(operation),
        effect: effect(operation),
        writes: writes(operation),
        emulated: may_be_probed && is_emulated(operation),
        steppable: may_be_probed && is_steppable(operation),
    }
}

fn control(operation: &Operation) -> Control {
    match *operation {
        Operation::Jump(target) => Control::Jump(target),
        Operation::JumpIf(_, target)
        | Operation::JumpIfZero { target, .. }
        | Operation::JumpIfClear { target, .. } => Control::Branch(target),
        Operation::Call(target) => Control::Call(target),
        Operation::CallRegister(_) => Control::CallThrough(None),
        Operation::JumpRegister(register) => {
            Control::JumpThrough(register.map_or(Through::Other, Through::Register))
        }
        Operation::Return(Some(LR)) => Control::Return,
        Operation::Return(register) => {
            Control::JumpThrough(register.map_or(Through::Other, Through::Register))
        }
        Operation::Trap => Control::Stop,
        _ => Control::Next,
    }
}

fn bit(register: General) -> u32 {
    register.map_or(0, |number| 1 << number)
}

fn written(data: Data) -> u32 {
    match data {
        Data::One(one) => bit(one),
        Data::Two(one, two) => bit(one) | bit(two),
        Data::Vectors(_) => 0,
    }
}

/// The registers that an operation assigns, wholly or in part.
fn assigned(operation: &Operation) -> u32 {
    let updated = |place: &Place| if place.update.is_some() { 1 << place.base } else { 0 };
    match operation {
        Operation::Address { to, .. }
        | Operation::Set { to, .. }
        | Operation::Keep { to, .. }
        | Operation::Add { to, .. }
        | Operation::Bits { to, .. }
        | Operation::Move { to, .. }
        | Operation::Extract { to, .. }
        | Operation::Select { to, .. }
        | Operation::Multiply { to, .. }
        | Operation::Compute { to, .. }
        | Operation::LoadFixed { to, .. }
        | Operation::Atomic { to, .. }
        | Operation::CompareAndSwap { expected: to, .. } => bit(*to),
        Operation::StoreExclusive { status, .. } => bit(*status),
        Operation::Load { data, place, .. } => updated(place) | written(*data),
        Operation::LoadExclusive { data, .. } => written(*data),
        Operation::Store { place, .. } => updated(place),
        Operation::Call(_) | Operation::CallRegister(_) => {
            CONVENTION.caller_saved.iter().fold(0, |bits, register| bits | 1 << register)
        }
        Operation::Other { writes, .. } => *writes,
        Operation::System => 1,
        Operation::Nothing
        | Operation::CompareIf { .. }
        | Operation::Jump(_)
        | Operation::JumpIf(..)
        | Operation::JumpIfZero { .. }
        | Operation::JumpIfClear { .. }
        | Operation::JumpRegister(_)
        | Operation::Return(_)
        | Operation::Trap => 0,
    }
}

fn effect(operation: &Operation) -> Effect {
    match *operation {
        Operation::Bits {
            to: Some(to),
            left: None,
            right: Source::Shifted { register: Some(from), shift: Shift::Left, amount: 0 },
            kind: Bitwise::Or,
            invert: false,
            width: 8,
            ..
        } => Effect::Copy { to, from },
        // `mov` to and from the stack pointer.
        Operation::Add {
            to: Some(to),
            left: Some(from),
            right: Source::Constant(0),
            flags: false,
            width: 8,
            ..
        } => Effect::Copy { to, from },
        Operation::Load { data: Data::One(Some(to)), place, width, signed: None }
            if place.index.is_none() && place.update.is_none() =>
        {
            Effect::Load { to, base: Some(place.base), displacement: place.offset, width }
        }
        Operation::Store { data: Data::One(Some(from)), place, width: 8 }
            if place.index.is_none() && place.update.is_none() =>
        {
            Effect::Store { from, base: place.base, displacement: place.offset }
        }
        Operation::LoadFixed { to: Some(to), address, width, signed: false } => {
            Effect::Load { to, base: None, displacement: address as i64, width }
        }
        Operation::Address { to: Some(to), target } => Effect::Address { to, target },
        _ => Effect::Other,
    }
}

fn writes(operation: &Operation) -> Writes {
    match operation {
        Operation::Store { place, .. } if place.base == CONVENTION.stack_pointer => Writes::Nothing,
        Operation::Store { data, place, width }
            if place.index.is_none() && place.update.is_none() =>
        {
            let width = u16::from(*width) * if matches!(data, Data::One(_)) { 1 } else { 2 };
            Writes::At { base: place.base, displacement: place.offset, width }
        }
        Operation::Store { .. }
        | Operation::Atomic { .. }
        | Operation::StoreExclusive { .. }
        | Operation::CompareAndSwap { .. }
        | Operation::Other { .. }
        | Operation::System => Writes::Somewhere,
        _ => Writes::Nothing,
    }
}

/// Whether the kernel simulates the instruction under a uprobe, in place of
/// executing it out of line: direct branches and calls, those through a
/// register, `adr` and `adrp` (arch/arm64/kernel/probes/decode-insn.c,
/// `arm_probe_decode_insn`). Loads of constants behind the code are refused by
/// newer kernels, and `nop` is simulated by newer ones only.
fn is_emulated(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Jump(_)
            | Operation::JumpIf(..)
            | Operation::JumpIfZero { .. }
            | Operation::JumpIfClear { .. }
            | Operation::Call(_)
            | Operation::CallRegister(_)
            | Operation::JumpRegister(_)
            | Operation::Return(_)
            | Operation::Address { .. }
    )
}

/// Whether the kernel executes the instruction out of line under a uprobe
/// (`aarch64_insn_is_steppable`, same file), and every kernel does: plain
/// arithmetic, loads and stores. Hints, system registers, exclusive accesses and
/// loads of constants behind the code are left out.
fn is_steppable(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Set { .. }
            | Operation::Keep { .. }
            | Operation::Add { .. }
            | Operation::Bits { .. }
            | Operation::Move { .. }
            | Operation::Select { .. }
            | Operation::CompareIf { .. }
            | Operation::Load { data: Data::One(_) | Data::Two(..), .. }
            | Operation::Store { data: Data::One(_) | Data::Two(..), .. }
    )
}
