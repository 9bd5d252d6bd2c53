//! What one x86-64 instruction does to a [`Machine`].

use iced_x86::{
    Code, ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind,
    Register,
};

use super::{RAX, RBP, RCX, RDI, RDX, RSI, RSP, decode::is_write, general_register};
use crate::image::code::{
    CodeSource,
    machine::{Condition, Flags, Increment, Machine},
    processor::Next,
    value::{self, Base, Value, mask},
};

/// Executes one instruction.
///
/// # Errors
///
/// With what cannot be followed.
pub(super) fn step(
    machine: &mut Machine,
    source: &dyn CodeSource,
    instruction: &Instruction,
) -> Result<Next, &'static str> {
    match instruction.flow_control() {
        FlowControl::Next | FlowControl::XbeginXabortXend => {
            compute(machine, source, instruction)?;
            Ok(Next::Fall)
        }
        FlowControl::UnconditionalBranch => {
            Ok(Next::Jump(Value::Constant(instruction.near_branch_target())))
        }
        FlowControl::IndirectBranch => Ok(Next::Jump(read(machine, source, instruction, 0))),
        FlowControl::ConditionalBranch => Ok(Next::Branch(
            condition(machine, instruction.condition_code()),
            instruction.near_branch_target(),
        )),
        FlowControl::Call => Ok(Next::Call(Value::Constant(instruction.near_branch_target()))),
        FlowControl::IndirectCall => Ok(Next::Call(read(machine, source, instruction, 0))),
        FlowControl::Return => Ok(Next::Return),
        // `ud2`, behind a call that never returns or a check that failed.
        FlowControl::Exception => Ok(Next::Stop),
        FlowControl::Interrupt => Err("it leaves the function"),
    }
}

fn compute(
    machine: &mut Machine,
    source: &dyn CodeSource,
    instruction: &Instruction,
) -> Result<(), &'static str> {
    let width = operand_width(instruction, 0);
    match instruction.mnemonic() {
        Mnemonic::Nop | Mnemonic::Endbr64 | Mnemonic::Pause => {}
        Mnemonic::Mov if is_general(instruction) => {
            let value = read(machine, source, instruction, 1);
            write(machine, instruction, 0, value)?;
        }
        Mnemonic::Movzx => {
            let value = read(machine, source, instruction, 1);
            write(machine, instruction, 0, value)?;
        }
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            let from = operand_width(instruction, 1);
            let value = read(machine, source, instruction, 1).sign_extended(from);
            write(machine, instruction, 0, value)?;
        }
        Mnemonic::Cdqe => {
            let value = machine.register(RAX).zero_extended(4).sign_extended(4);
            machine.set_register(RAX, value);
        }
        Mnemonic::Lea => {
            let value = address(machine, instruction).zero_extended(width);
            write(machine, instruction, 0, value)?;
        }
        Mnemonic::Push => {
            let value = read(machine, source, instruction, 0);
            push(machine, value)?;
        }
        Mnemonic::Pop => {
            let value = pop(machine, source)?;
            write(machine, instruction, 0, value)?;
        }
        Mnemonic::Leave => {
            let frame = machine.register(RBP).clone();
            machine.set_register(RSP, frame);
            let value = pop(machine, source)?;
            machine.set_register(RBP, value);
        }
        Mnemonic::Cmp => {
            let left = read(machine, source, instruction, 0);
            let right = read(machine, source, instruction, 1).zero_extended(width);
            machine.flags = Flags::Difference { left, right, width };
        }
        Mnemonic::Test => {
            let (a, b) =
                (read(machine, source, instruction, 0), read(machine, source, instruction, 1));
            machine.flags = Flags::Logic { value: bitwise(&a, &b, |a, b| a & b, true), width };
        }
        Mnemonic::Add | Mnemonic::Xadd | Mnemonic::Inc | Mnemonic::Dec | Mnemonic::Sub => {
            add_or_subtract(machine, source, instruction, width)?;
        }
        Mnemonic::And | Mnemonic::Or | Mnemonic::Xor => {
            let (a, b) =
                (read(machine, source, instruction, 0), read(machine, source, instruction, 1));
            let value = match instruction.mnemonic() {
                Mnemonic::And => bitwise(&a, &b, |a, b| a & b, true),
                Mnemonic::Or => bitwise(&a, &b, |a, b| a | b, true),
                _ if same_register(instruction) => Value::Constant(0),
                _ => bitwise(&a, &b, |a, b| a ^ b, false),
            }
            .zero_extended(width);
            write(machine, instruction, 0, value.clone())?;
            machine.flags = Flags::Logic { value, width };
        }
        Mnemonic::Shl | Mnemonic::Shr | Mnemonic::Sar => {
            shift(machine, source, instruction, width)?;
        }
        Mnemonic::Mul | Mnemonic::Div if width == 8 => {
            multiply_or_divide(machine, source, instruction);
        }
        Mnemonic::Mulx if width == 8 => {
            let factor = read(machine, source, instruction, 2);
            let high = machine.register(RDX).multiplied_high(&factor);
            // Into the same register, the upper half wins.
            write(machine, instruction, 1, Value::Unknown)?;
            write(machine, instruction, 0, high)?;
        }
        _ if instruction.is_string_instruction() && writes_memory(instruction) => {
            write_string(machine)?;
        }
        _ if instruction.condition_code() != ConditionCode::None => {
            conditional(machine, source, instruction)?;
        }
        _ => anything_else(machine, instruction)?,
    }
    Ok(())
}

/// `mov` also names moves of segment and control registers.
fn is_general(instruction: &Instruction) -> bool {
    (0..2).all(|i| {
        instruction.op_kind(i) != OpKind::Register
            || general_register(instruction.op_register(i)).is_some()
    })
}

fn same_register(instruction: &Instruction) -> bool {
    instruction.op_kind(0) == OpKind::Register
        && instruction.op_kind(1) == OpKind::Register
        && instruction.op_register(0) == instruction.op_register(1)
}

fn bitwise(a: &Value, b: &Value, op: fn(u64, u64) -> u64, idempotent: bool) -> Value {
    match (a, b) {
        (Value::Constant(a), Value::Constant(b)) => Value::Constant(op(*a, *b)),
        (a, b) if idempotent && a == b => a.clone(),
        _ => Value::Unknown,
    }
}

fn add_or_subtract(
    machine: &mut Machine,
    source: &dyn CodeSource,
    instruction: &Instruction,
    width: u8,
) -> Result<(), &'static str> {
    let left = read(machine, source, instruction, 0);
    let one = Value::Constant(1);
    let (right, negative) = match instruction.mnemonic() {
        Mnemonic::Inc => (one, false),
        Mnemonic::Dec => (one, true),
        Mnemonic::Sub => (read(machine, source, instruction, 1), true),
        _ => (read(machine, source, instruction, 1), false),
    };
    let value = if negative { left.minus(&right) } else { left.plus(&right) }.zero_extended(width);
    machine.flags = if negative && instruction.mnemonic() == Mnemonic::Sub {
        Flags::Difference { left: left.clone(), right: right.zero_extended(width), width }
    } else {
        Flags::Arithmetic { value: value.clone(), width }
    };
    if instruction.op_kind(0) == OpKind::Memory
        && let Some(field) = left.as_field()
    {
        let amount = if negative { Value::Constant(0).minus(&right) } else { right.clone() };
        let amount = amount.zero_extended(width);
        let (field, at) = (field.clone(), machine.at);
        machine.increments.push(Increment { field, amount, at });
    }
    if instruction.mnemonic() == Mnemonic::Xadd {
        write(machine, instruction, 1, left)?;
    }
    write(machine, instruction, 0, value)
}

fn shift(
    machine: &mut Machine,
    source: &dyn CodeSource,
    instruction: &Instruction,
    width: u8,
) -> Result<(), &'static str> {
    let value = read(machine, source, instruction, 0);
    let count = read(machine, source, instruction, 1);
    let result = match (&value, count) {
        (Value::Constant(value), Value::Constant(count)) => {
            let count = (count & if width == 8 { 63 } else { 31 }) as u32;
            Value::Constant(match instruction.mnemonic() {
                Mnemonic::Shl => value.checked_shl(count).unwrap_or(0),
                Mnemonic::Shr => (value & mask(width)).checked_shr(count).unwrap_or(0),
                _ => {
                    let signed = value::sign_extend(*value, width) as i64;
                    signed.checked_shr(count).unwrap_or(signed >> 63) as u64
                }
            })
        }
        (value, Value::Constant(count))
            if width == 8 && instruction.mnemonic() == Mnemonic::Shr =>
        {
            value.shifted_right((count & 63) as u8)
        }
        _ => Value::Unknown,
    }
    .zero_extended(width);
    machine.flags = Flags::Unknown;
    write(machine, instruction, 0, result)
}

/// `mul` and `div` of 64 bits: `%rdx:%rax = %rax * operand`, and `%rax`, `%rdx` =
/// the quotient and the remainder of `%rdx:%rax` by the operand.
fn multiply_or_divide(machine: &mut Machine, source: &dyn CodeSource, instruction: &Instruction) {
    let operand = read(machine, source, instruction, 0);
    let (low, high) = (machine.register(RAX), machine.register(RDX));
    let (rax, rdx) = if instruction.mnemonic() == Mnemonic::Mul {
        (Value::Unknown, low.multiplied_high(&operand))
    } else if *high == Value::Constant(0) {
        (low.divided_by(&operand), Value::Unknown)
    } else {
        (Value::Unknown, Value::Unknown)
    };
    machine.set_register(RAX, rax);
    machine.set_register(RDX, rdx);
    machine.flags = Flags::Unknown;
}

/// `cmovcc` and `setcc`.
fn conditional(
    machine: &mut Machine,
    source: &dyn CodeSource,
    instruction: &Instruction,
) -> Result<(), &'static str> {
    let holds = condition(machine, instruction.condition_code());
    // `setcc` has one operand, `cmovcc` two.
    if instruction.op_count() == 1 {
        let value = holds.map_or(Value::Unknown, |holds| Value::Constant(u64::from(holds)));
        return write(machine, instruction, 0, value);
    }
    let old = read(machine, source, instruction, 0);
    let new = read(machine, source, instruction, 1);
    let value = match holds {
        Some(true) => new,
        Some(false) => old,
        None if new == old => old,
        None => Value::Unknown,
    };
    write(machine, instruction, 0, value)
}

/// `movs` and `stos`, once or repeated: they write so much of what `%rdi` points
/// into that nothing of it stays known.
fn write_string(machine: &mut Machine) -> Result<(), &'static str> {
    let target = machine.register(RDI).clone();
    if !machine.forget_object(target) {
        return Err("it writes where it is not known");
    }
    for register in [RCX, RSI, RDI] {
        machine.set_register(register, Value::Unknown);
    }
    Ok(())
}

/// An instruction without a rule here: what it writes is not known any more.
fn anything_else(machine: &mut Machine, instruction: &Instruction) -> Result<(), &'static str> {
    if instruction.code() == Code::INVALID {
        return Err("it is not an instruction");
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    for used in info.used_registers() {
        if is_write(used.access())
            && let Some(number) = general_register(used.register())
        {
            machine.set_register(number, Value::Unknown);
        }
    }
    if instruction.rflags_modified() != 0 {
        machine.flags = Flags::Unknown;
    }
    if writes_memory(instruction) {
        if instruction.op_kind(0) != OpKind::Memory {
            return Err("it writes memory in a way that is not followed");
        }
        let width = u8::try_from(instruction.memory_size().size())
            .map_err(|_| "it writes more memory than is followed")?;
        store(machine, instruction, width, Value::Unknown)?;
    }
    Ok(())
}

fn writes_memory(instruction: &Instruction) -> bool {
    InstructionInfoFactory::new()
        .info(instruction)
        .used_memory()
        .iter()
        .any(|memory| is_write(memory.access()))
}

fn push(machine: &mut Machine, value: Value) -> Result<(), &'static str> {
    let top = machine.register(RSP).minus(&Value::Constant(8));
    machine.set_register(RSP, top.clone());
    if machine.store(&top, 8, value) { Ok(()) } else { Err("the stack pointer is not known") }
}

fn pop(machine: &mut Machine, source: &dyn CodeSource) -> Result<Value, &'static str> {
    let top = machine.register(RSP).clone();
    if top == Value::Unknown {
        return Err("the stack pointer is not known");
    }
    machine.set_register(RSP, top.plus(&Value::Constant(8)));
    Ok(machine.load(source, &top, 8))
}

/// Bytes of an operand.
fn operand_width(instruction: &Instruction, operand: u32) -> u8 {
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
fn address(machine: &Machine, instruction: &Instruction) -> Value {
    if instruction.is_ip_rel_memory_operand() {
        return Value::Constant(instruction.ip_rel_memory_address());
    }
    let mut sum = Value::Constant(instruction.memory_displacement64());
    if instruction.memory_base() != Register::None {
        let base = general_register(instruction.memory_base())
            .map_or(Value::Unknown, |number| machine.register(number).clone());
        sum = sum.plus(&base);
    }
    if instruction.memory_index() != Register::None {
        let index = general_register(instruction.memory_index())
            .map_or(&Value::Unknown, |number| machine.register(number));
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
fn read(
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
            if instruction.segment_prefix() == Register::FS {
                let at = address(machine, instruction);
                return if at == Value::Constant(0x28) {
                    Value::Pointer { base: Base::Guard, offset: 0 }
                } else {
                    Value::Unknown
                };
            }
            machine.load(
                source,
                &address(machine, instruction),
                operand_width(instruction, operand),
            )
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
fn write(
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

fn store(
    machine: &mut Machine,
    instruction: &Instruction,
    width: u8,
    value: Value,
) -> Result<(), &'static str> {
    if matches!(instruction.segment_prefix(), Register::FS | Register::GS) {
        return Ok(());
    }
    let at = address(machine, instruction);
    if machine.store(&at, width, value) { Ok(()) } else { Err("it writes where it is not known") }
}

fn condition(machine: &Machine, code: ConditionCode) -> Option<bool> {
    let (condition, negated) = match code {
        ConditionCode::e => (Condition::Equal, false),
        ConditionCode::ne => (Condition::Equal, true),
        ConditionCode::s => (Condition::Negative, false),
        ConditionCode::ns => (Condition::Negative, true),
        ConditionCode::b => (Condition::Below, false),
        ConditionCode::ae => (Condition::Below, true),
        ConditionCode::be => (Condition::BelowOrEqual, false),
        ConditionCode::a => (Condition::BelowOrEqual, true),
        ConditionCode::l => (Condition::Less, false),
        ConditionCode::ge => (Condition::Less, true),
        ConditionCode::le => (Condition::LessOrEqual, false),
        ConditionCode::g => (Condition::LessOrEqual, true),
        _ => (Condition::Other, false),
    };
    machine.holds(condition).map(|holds| holds != negated)
}
