//! What one x86-64 instruction does to a [`Machine`].

use iced_x86::{
    Code, ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind,
};

use super::{
    RAX, RBP, RCX, RDI, RDX, RSI, RSP,
    decode::is_write,
    general_register,
    operand::{address, operand_width, read, store, write},
    whole_register,
};
use crate::image::code::{
    CodeSource,
    machine::{Condition, Flags, Increment, Machine},
    processor::Next,
    value::{self, Value, mask},
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
        FlowControl::XbeginXabortXend if instruction.mnemonic() == Mnemonic::Xbegin => {
            Err("it begins a transaction")
        }
        FlowControl::Next | FlowControl::XbeginXabortXend => {
            compute(machine, source, instruction)?;
            Ok(Next::Fall)
        }
        FlowControl::UnconditionalBranch => {
            Ok(Next::Jump(Value::Constant(instruction.near_branch_target())))
        }
        FlowControl::IndirectBranch => Ok(Next::Jump(read(machine, source, instruction, 0))),
        // These count `%rcx` down, and look at it and at the flags.
        FlowControl::ConditionalBranch if instruction.is_loop() || instruction.is_loopcc() => {
            machine.set_register(RCX, Value::Unknown);
            Ok(Next::Branch(None, instruction.near_branch_target()))
        }
        FlowControl::ConditionalBranch => Ok(Next::Branch(
            condition(machine, instruction.condition_code()),
            instruction.near_branch_target(),
        )),
        FlowControl::Call if instruction.is_call_near() => {
            Ok(Next::Call(Value::Constant(instruction.near_branch_target())))
        }
        FlowControl::Call => Err("it calls the kernel"),
        FlowControl::IndirectCall => Ok(Next::Call(read(machine, source, instruction, 0))),
        FlowControl::Return
            if instruction.mnemonic() == Mnemonic::Ret && instruction.op_count() == 0 =>
        {
            Ok(Next::Return)
        }
        FlowControl::Return => Err("it returns in a way that is not followed"),
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
            if instruction.op0_kind() == OpKind::Memory
                && let Some(number) = whole_register(instruction.op1_register())
            {
                let at = address(machine, instruction);
                machine.note_saved(&at, number);
            }
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
        Mnemonic::Push | Mnemonic::Pop if instruction.stack_pointer_increment().abs() != 8 => {
            return Err("it moves the stack pointer by less than a word");
        }
        Mnemonic::Push => {
            let value = read(machine, source, instruction, 0);
            push(machine, value)?;
            if let Some(number) = whole_register(instruction.op0_register()) {
                let top = machine.register(RSP).clone();
                machine.note_saved(&top, number);
            }
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
            if instruction.op0_kind() != OpKind::MemoryESRDI {
                return Err("it writes where it is not known");
            }
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
        (a, b) => a.mixed_with(b),
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
    if instruction.mnemonic() != Mnemonic::Xadd {
        return write(machine, instruction, 0, value);
    }
    // The register may be part of the address; of one register, the sum stays.
    if instruction.op0_kind() == OpKind::Memory {
        write(machine, instruction, 0, value)?;
        write(machine, instruction, 1, left)
    } else {
        write(machine, instruction, 1, left)?;
        write(machine, instruction, 0, value)
    }
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
        (value, count) => value.mixed_with(&count),
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
        None => new.mixed_with(&old),
    };
    write(machine, instruction, 0, value)
}

/// `movs` and `stos`, once or repeated: they write so much of what `%rdi` points
/// into that nothing of it stays known.
fn write_string(machine: &mut Machine) -> Result<(), &'static str> {
    let target = machine.register(RDI).clone();
    // It may copy from anywhere.
    machine.give_away_stored();
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
    // What it makes of an address is not followed: that may go anywhere.
    for used in info.used_registers().iter().filter(|used| is_read(used.access())) {
        let is_counted_from = used.register() == instruction.memory_base();
        if let Some(number) = general_register(used.register())
            && number != RSP
            && !is_counted_from
        {
            let value = machine.register(number).clone();
            machine.give_away(&value);
        }
    }
    if info.used_memory().iter().any(|memory| is_read(memory.access())) {
        machine.give_away_stored();
    }
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

fn is_read(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
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
