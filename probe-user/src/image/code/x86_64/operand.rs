//! The operands of an x86-64 instruction: registers, memory, and what is
//! encoded in it.

use iced_x86::{Instruction, OpKind, Register};

use super::{general_register, whole_register};
use crate::image::code::{
    CodeSource,
    machine::Machine,
    value::{Base, Value, mask},
};

/// Bytes of an operand.
pub(super) fn operand_width(instruction: &Instruction, operand: u32) -> u8 {
    if operand >= instruction.op_count() {
        return 8;
    }
    match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand).size() as u8,
        OpKind::Memory => u8::try_from(instruction.memory_size().size()).unwrap_or(u8::MAX),
        OpKind::Immediate8 => 1,
        OpKind::Immediate16 => 2,
        OpKind::Immediate32 | OpKind::Immediate8to32 => 4,
        _ => 8,
    }
}

/// The address of the memory operand.
pub(super) fn address(machine: &Machine, instruction: &Instruction) -> Value {
    if instruction.is_ip_rel_memory_operand() {
        return Value::Constant(instruction.ip_rel_memory_address());
    }
    let whole = |register| whole_register(register).map(|number| machine.register(number));
    let mut sum = Value::Constant(instruction.memory_displacement64());
    if instruction.memory_base() != Register::None {
        sum = sum.plus(whole(instruction.memory_base()).unwrap_or(&Value::Unknown));
    }
    if instruction.memory_index() != Register::None {
        let index = whole(instruction.memory_index()).unwrap_or(&Value::Unknown);
        let scaled = match (index, instruction.memory_index_scale()) {
            (index, 1) => index.clone(),
            (Value::Constant(index), scale) => {
                Value::Constant(index.wrapping_mul(u64::from(scale)))
            }
            _ => Value::Unknown,
        };
        sum = sum.plus(&scaled);
    }
    sum
}

/// An operand, extended with zeros (an immediate: as it is encoded).
pub(super) fn read(
    machine: &Machine,
    source: &dyn CodeSource,
    instruction: &Instruction,
    operand: u32,
) -> Value {
    if operand >= instruction.op_count() {
        return Value::Unknown;
    }
    match instruction.op_kind(operand) {
        OpKind::Register => {
            let register = instruction.op_register(operand);
            match general_register(register) {
                // The second byte of a register: `%ah` and its like.
                Some(_) if register.is_gpr8() && is_high_byte(register) => Value::Unknown,
                Some(number) => machine.register(number).zero_extended(register.size() as u8),
                None => Value::Unknown,
            }
        }
        OpKind::Memory => {
            let at = address(machine, instruction);
            match instruction.segment_prefix() {
                Register::FS if at == Value::Constant(0x28) => {
                    Value::Pointer { base: Base::Guard, offset: 0 }
                }
                Register::FS | Register::GS => Value::Unknown,
                _ => machine.load(source, &at, operand_width(instruction, operand)),
            }
        }
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            Value::Constant(instruction.near_branch_target())
        }
        _ => instruction.try_immediate(operand).map_or(Value::Unknown, |immediate| {
            Value::Constant(immediate & mask(operand_width(instruction, 0)))
        }),
    }
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::BH | Register::CH | Register::DH)
}

/// Writes an operand, as wide as it is.
pub(super) fn write(
    machine: &mut Machine,
    instruction: &Instruction,
    operand: u32,
    value: Value,
) -> Result<(), &'static str> {
    if instruction.op_kind(operand) == OpKind::Memory {
        let width = operand_width(instruction, operand);
        return store(machine, instruction, width, value.zero_extended(width));
    }
    let register = instruction.op_register(operand);
    let Some(number) = general_register(register) else { return Ok(()) };
    let value = match register.size() {
        8 => value,
        4 => value.zero_extended(4),
        // The rest of the register stays as it was.
        width => match (machine.register(number), value) {
            (old, _) if old.is_on_stack() => Value::OnStack,
            (Value::Constant(old), Value::Constant(new)) if !is_high_byte(register) => {
                let mask = mask(width as u8);
                Value::Constant(old & !mask | new & mask)
            }
            (_, Value::Constant(new)) if !is_high_byte(register) => {
                Value::Low { value: new & mask(width as u8), width: width as u8 }
            }
            _ => Value::Unknown,
        },
    };
    machine.set_register(number, value);
    Ok(())
}

/// Writes the memory operand.
pub(super) fn store(
    machine: &mut Machine,
    instruction: &Instruction,
    width: u8,
    value: Value,
) -> Result<(), &'static str> {
    if matches!(instruction.segment_prefix(), Register::FS | Register::GS) {
        machine.give_away(&value);
        return Ok(());
    }
    let at = address(machine, instruction);
    if machine.store(&at, width, value) { Ok(()) } else { Err("it writes where it is not known") }
}
