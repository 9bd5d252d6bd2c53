//! What one A64 instruction does to a [`Machine`].

use super::{
    addition::Loop,
    arithmetic,
    operation::{
        Atomic, ConditionCode, Data, FP, General, LR, Operation, Otherwise, Place, SP, Source,
        Update,
    },
};
use crate::image::code::{
    CodeSource,
    machine::{Condition, Flags, Increment, Machine, REGISTERS},
    processor::Next,
    value::Value,
};

/// Executes an instruction.
///
/// # Errors
///
/// With what cannot be followed.
pub(super) fn step(
    machine: &mut Machine,
    source: &dyn CodeSource,
    operation: &Operation,
) -> Result<Next, &'static str> {
    match *operation {
        Operation::Jump(target) => return Ok(Next::Jump(Value::Constant(target))),
        Operation::JumpRegister(register) => return Ok(Next::Jump(read(machine, register, 8))),
        Operation::Call(target) => {
            machine.set_register(LR, Value::Unknown);
            return Ok(Next::Call(Value::Constant(target)));
        }
        Operation::CallRegister(register) => {
            let target = read(machine, register, 8);
            machine.set_register(LR, Value::Unknown);
            return Ok(Next::Call(target));
        }
        Operation::Return(Some(LR)) => return Ok(Next::Return),
        Operation::Return(register) => return Ok(Next::Jump(read(machine, register, 8))),
        Operation::JumpIf(code, target) => {
            return Ok(Next::Branch(condition(machine, code), target));
        }
        Operation::JumpIfZero { register, width, negated, target } => {
            let zero = machine.is_zero(&read(machine, register, width), width);
            return Ok(Next::Branch(zero.map(|zero| zero != negated), target));
        }
        Operation::JumpIfClear { register, bit, negated, target } => {
            let clear = match read(machine, register, 8) {
                Value::Constant(value) => Some(value >> bit & 1 == 0),
                _ => None,
            };
            return Ok(Next::Branch(clear.map(|clear| clear != negated), target));
        }
        Operation::Trap => return Ok(Next::Stop),
        Operation::System => return Err("it calls the kernel"),
        Operation::LoadExclusive { data, base, width } => {
            load(machine, source, data, Place::at(base), width, None);
        }
        Operation::Load { data, place, width, signed } => {
            load(machine, source, data, place, width, signed);
        }
        Operation::Store { data, place, width } => store(machine, data, place, width)?,
        Operation::LoadFixed { to, address, width, signed } => {
            let value = machine.load(source, &Value::Constant(address), width);
            write(machine, to, if signed { value.sign_extended(width) } else { value });
        }
        Operation::StoreExclusive { status, data, base, width } => {
            store(machine, data, Place::at(base), width)?;
            // Where it is not done, the code tries again.
            write(machine, status, Value::Constant(0));
        }
        Operation::Atomic { kind, to, operand, base, width } => {
            let amount = read(machine, operand, width);
            machine.give_away(&amount);
            let amount = (kind == Atomic::Add).then_some(amount);
            atomic(machine, source, to, amount, base, width)?;
        }
        Operation::CompareAndSwap { expected, base, width } => {
            give_away_registers(machine);
            atomic(machine, source, expected, None, base, width)?;
        }
        _ => compute(machine, operation),
    }
    Ok(Next::Fall)
}

/// What touches neither memory nor the flow of control.
fn compute(machine: &mut Machine, operation: &Operation) {
    match *operation {
        Operation::Address { to, target: value } | Operation::Set { to, value } => {
            write(machine, to, Value::Constant(value));
        }
        Operation::Keep { to, width, bits, shift } => {
            let value = match read(machine, to, width) {
                Value::Constant(old) => Value::Constant(old & !(0xffff << shift) | bits << shift),
                _ => Value::Unknown,
            };
            write(machine, to, value);
        }
        Operation::Add { to, left, right, subtract, flags, width } => {
            let left = read(machine, left, width);
            let right = operand(machine, right, width);
            let value = if subtract { left.minus(&right) } else { left.plus(&right) };
            let value = value.zero_extended(width);
            if flags {
                machine.flags = compared(left, right, !subtract, &value, width);
            }
            write(machine, to, value);
        }
        Operation::Bits { to, left, right, kind, invert, flags, width } => {
            let left = read(machine, left, width);
            let right = operand(machine, right, width);
            let right = if invert { arithmetic::inverted(&right, width) } else { right };
            let value = arithmetic::bitwise(kind, &left, &right).zero_extended(width);
            if flags {
                machine.flags = Flags::Logic { value: value.clone(), width };
            }
            write(machine, to, value);
        }
        Operation::Move { kind, to, from, rotate, top, width } => {
            let (old, value) = (read(machine, to, width), read(machine, from, width));
            let value = arithmetic::field_move(kind, &old, &value, rotate, top, width);
            write(machine, to, value);
        }
        Operation::Extract { to, upper, lower, from, width } => {
            let (upper, lower) = (read(machine, upper, width), read(machine, lower, width));
            write(machine, to, arithmetic::extract(&upper, &lower, from, width));
        }
        Operation::Select { to, when, otherwise, change, condition: code, width } => {
            let (when, otherwise) = (read(machine, when, width), read(machine, otherwise, width));
            let otherwise = match change {
                Otherwise::AsIs => otherwise,
                Otherwise::PlusOne => otherwise.plus(&Value::Constant(1)),
                Otherwise::Inverted => arithmetic::inverted(&otherwise, width),
                Otherwise::Negated => Value::Constant(0).minus(&otherwise),
            }
            .zero_extended(width);
            let value = match condition(machine, code) {
                Some(true) => when,
                Some(false) => otherwise,
                None if when == otherwise => when,
                None => when.mixed_with(&otherwise),
            };
            write(machine, to, value);
        }
        Operation::CompareIf { left, right, add, condition: code, flags, width } => {
            machine.flags = match condition(machine, code) {
                Some(true) => {
                    let left = read(machine, left, width);
                    let right = operand(machine, right, width);
                    let value = left.plus(&right).zero_extended(width);
                    compared(left, right, add, &value, width)
                }
                Some(false) => Flags::Exactly {
                    negative: flags & 8 != 0,
                    zero: flags & 4 != 0,
                    // A carry of a subtraction is the absence of a borrow.
                    below: flags & 2 == 0,
                    overflow: flags & 1 != 0,
                },
                None => Flags::Unknown,
            };
        }
        Operation::Multiply { to, left, right, with, subtract, factors, signed, width } => {
            let extend = |value: Value| if signed { value.sign_extended(factors) } else { value };
            let product = arithmetic::product(
                &extend(read(machine, left, factors)),
                &extend(read(machine, right, factors)),
            );
            let with = read(machine, with, width);
            let value = if subtract { with.minus(&product) } else { with.plus(&product) };
            write(machine, to, value.zero_extended(width));
        }
        Operation::Compute { kind, to, left, right, width } => {
            let (left, right) = (read(machine, left, width), read(machine, right, width));
            write(machine, to, arithmetic::compute(kind, &left, &right, width));
        }
        Operation::Other { writes, flags } => {
            give_away_registers(machine);
            for register in (0..31).filter(|register| writes >> register & 1 == 1) {
                machine.set_register(register, Value::Unknown);
            }
            if flags {
                machine.flags = Flags::Unknown;
            }
        }
        // The others are followed where they are met.
        _ => {}
    }
}

/// What an operation that is not followed makes of an address may go anywhere.
fn give_away_registers(machine: &mut Machine) {
    for number in (0..REGISTERS).filter(|number| ![FP, SP].contains(number)) {
        let value = machine.register(number).clone();
        machine.give_away(&value);
    }
}

/// The flags that a comparison leaves: of a difference, or of a sum.
fn compared(left: Value, right: Value, add: bool, sum: &Value, width: u8) -> Flags {
    if !add {
        return Flags::Difference { left, right, width };
    }
    match right {
        // The sum with a negative number sets the flags as the difference with
        // a positive one does; 0 and the smallest number have no such partner.
        Value::Constant(constant) if arithmetic::has_negative(constant, width) => {
            let right = Value::Constant(0).minus(&Value::Constant(constant)).zero_extended(width);
            Flags::Difference { left, right, width }
        }
        _ => Flags::Arithmetic { value: sum.clone(), width },
    }
}

/// Whether a condition holds; `None` if that is not known.
fn condition(machine: &Machine, code: ConditionCode) -> Option<bool> {
    // The even ones are the opposites of the odd ones; 14 and 15 always hold.
    let negated = code.0 & 1 == 1;
    let holds = match code.0 & 0b1110 {
        0b0000 => machine.holds(Condition::Equal),
        0b0010 => below(machine, Condition::Below).map(|below| !below),
        0b0100 => machine.holds(Condition::Negative),
        0b1000 => below(machine, Condition::BelowOrEqual).map(|below| !below),
        0b1010 => machine.holds(Condition::Less).map(|less| !less),
        0b1100 => machine.holds(Condition::LessOrEqual).map(|less| !less),
        0b1110 => return Some(true),
        // Overflow.
        _ => None,
    };
    holds.map(|holds| holds != negated)
}

/// Bitwise instructions clear the carry, as a difference that is below does.
fn below(machine: &Machine, condition: Condition) -> Option<bool> {
    match machine.flags {
        Flags::Logic { .. } => Some(true),
        _ => machine.holds(condition),
    }
}

/// A register, as wide as the operation.
fn read(machine: &Machine, register: General, width: u8) -> Value {
    register.map_or(Value::Constant(0), |number| machine.register(number).zero_extended(width))
}

/// Writes all of a register: the upper half of a short result is zero.
fn write(machine: &mut Machine, register: General, value: Value) {
    if let Some(number) = register {
        machine.set_register(number, value);
    }
}

fn operand(machine: &Machine, source: Source, width: u8) -> Value {
    match source {
        Source::Constant(value) => Value::Constant(value),
        Source::Shifted { register, shift, amount } => {
            arithmetic::shifted(shift, &read(machine, register, width), amount, width)
        }
        Source::Extended { register, width: from, signed, left } => {
            let value = read(machine, register, 8);
            let value = if signed { value.sign_extended(from) } else { value.zero_extended(from) };
            arithmetic::shifted(super::operation::Shift::Left, &value, left, 8).zero_extended(width)
        }
    }
}

/// The address of an access; the base register is updated.
fn locate(machine: &mut Machine, place: Place) -> Value {
    let base = machine.register(place.base).clone();
    let mut address = base.plus(&Value::Constant(place.offset as u64));
    if let Some(index) = place.index {
        address = address.plus(&operand(machine, index, 8));
    }
    let by = match place.update {
        None => return address,
        Some(Update::By(distance)) => Value::Constant(distance as u64),
        Some(Update::ByRegister(register)) => machine.register(register).clone(),
    };
    machine.set_register(place.base, base.plus(&by));
    address
}

fn load(
    machine: &mut Machine,
    source: &dyn CodeSource,
    data: Data,
    place: Place,
    width: u8,
    signed: Option<u8>,
) {
    let address = locate(machine, place);
    let unit = |machine: &Machine, at: &Value| {
        let value = machine.load(source, at, width);
        match signed {
            Some(to) => value.sign_extended(width).zero_extended(to),
            None => value,
        }
    };
    match data {
        Data::One(register) => {
            let value = unit(machine, &address);
            write(machine, register, value);
        }
        Data::Two(first, second) => {
            let next = address.plus(&Value::Constant(u64::from(width)));
            let (one, two) = (unit(machine, &address), unit(machine, &next));
            write(machine, first, one);
            write(machine, second, two);
        }
        // From there they may go anywhere.
        Data::Vectors(_) => machine.give_away_stored(),
    }
}

fn store(machine: &mut Machine, data: Data, place: Place, width: u8) -> Result<(), &'static str> {
    // What is stored is read first: `str x0, [x0, #8]!` is not defined.
    let one = |register| (register, read(machine, register, width));
    let values = match data {
        Data::One(register) => vec![one(register)],
        Data::Two(first, second) => vec![one(first), one(second)],
        Data::Vectors(units) => vec![(None, Value::Unknown); usize::from(units)],
    };
    let mut address = locate(machine, place);
    for (register, value) in values {
        if !machine.store(&address, width, value) {
            return Err("it writes where it is not known");
        }
        if let Some(number) = register.filter(|_| width == 8) {
            machine.note_saved(&address, number);
        }
        address = address.plus(&Value::Constant(u64::from(width)));
    }
    Ok(())
}

/// Executes a loop that adds to memory.
pub(super) fn add_in_loop(
    machine: &mut Machine,
    source: &dyn CodeSource,
    addition: &Loop,
) -> Result<(), &'static str> {
    let amount = operand(machine, addition.operand, addition.width);
    let (to, base) = (Some(addition.to), addition.base);
    atomic(machine, source, to, Some(amount.clone()), base, addition.width)?;
    let sum = read(machine, to, addition.width).plus(&amount).zero_extended(addition.width);
    machine.set_register(addition.sum, sum);
    machine.set_register(addition.status, Value::Constant(0));
    Ok(())
}

/// Reads memory, and writes it: with this added, or with something unknown.
fn atomic(
    machine: &mut Machine,
    source: &dyn CodeSource,
    to: General,
    amount: Option<Value>,
    base: usize,
    width: u8,
) -> Result<(), &'static str> {
    let address = machine.register(base).clone();
    let old = machine.load(source, &address, width);
    if let (Some(amount), Some(field)) = (&amount, old.as_field()) {
        let (field, amount, at) = (field.clone(), amount.clone(), machine.at);
        machine.increments.push(Increment { field, amount, at });
    }
    let new = amount.map_or(Value::Unknown, |amount| old.plus(&amount).zero_extended(width));
    if !machine.store(&address, width, new) {
        return Err("it writes where it is not known");
    }
    write(machine, to, old);
    Ok(())
}
