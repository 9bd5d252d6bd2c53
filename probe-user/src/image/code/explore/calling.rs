//! What a call does to a machine: what is passed, and what is known behind a
//! call that is not followed.

use crate::image::code::{
    machine::{Call, Flags, Machine},
    processor::Convention,
    value::{Base, Value},
};

/// Characters of the expression by which a called function is named that has
/// no name.
const MAX_NAME: usize = 128;

/// Remembers what is called, and with what.
pub(super) fn note_call(convention: &Convention, machine: &mut Machine, target: &Value) {
    let arguments = [passed(convention, machine, 0), passed(convention, machine, 1)];
    machine.calls.push(Call { target: target.clone(), arguments, at: machine.at });
}

/// An argument, at a call.
fn passed(convention: &Convention, machine: &Machine, number: usize) -> Value {
    let register = convention.arguments.get(number);
    register.map_or(Value::Unknown, |register| machine.register(*register).clone())
}

/// The state at the entry of a function that is called now: where a call pushes
/// the return address, that is on the stack. `None` if it is not known where the
/// stack is.
pub(super) fn entered(convention: &Convention, machine: &Machine) -> Option<Machine> {
    let mut inside = machine.clone();
    let pushed = convention.pushed();
    let top = machine.register(convention.stack_pointer).minus(&Value::Constant(pushed.into()));
    inside.set_register(convention.stack_pointer, top.clone());
    let is_known = pushed == 0 || inside.store(&top, pushed, Value::Unknown);
    (is_known && inside.open_frame(&top, convention)).then_some(inside)
}

/// The state of the caller behind a call: what the called function left, but its
/// own part of the stack.
pub(super) fn returned(convention: &Convention, caller: &Machine, mut left: Machine) -> Machine {
    let stack = caller.register(convention.stack_pointer).clone();
    left.close_frame(&stack);
    left.set_register(convention.stack_pointer, stack);
    left
}

/// A call of which only the name and the first argument are kept.
pub(super) fn call_opaque(convention: &Convention, machine: &mut Machine, target: &Value) {
    let function = match target {
        Value::Pointer { base: Base::Import(name), offset: 0 } => name.to_string(),
        other => other.to_string(),
    };
    let argument = passed(convention, machine, 0);
    if !is_told_where_to_write(convention, machine, &function) {
        machine.give_away_passed(convention);
    }
    machine.forget_memory(convention);
    machine.flags = Flags::Unknown;
    for register in convention.caller_saved {
        machine.set_register(*register, Value::Unknown);
    }
    // The result of a longer one is not known: results are equal if names are.
    if function.len() <= MAX_NAME {
        machine.set_call_result(convention.result, function, argument);
    } else {
        machine.set_register(convention.result, Value::Unknown);
    }
}

/// Functions of the C library that write as many bytes as their third argument
/// says to where their first one points, and keep no address (C11, 7.24.2 and
/// 7.24.6.1; glibc's with `-D_FORTIFY_SOURCE`).
const WRITERS: [&str; 6] =
    ["memcpy", "memmove", "memset", "__memcpy_chk", "__memmove_chk", "__memset_chk"];

/// Whether a function is one that changes nothing but what it is told to, and
/// that is known; forgets what it changes of the stack.
fn is_told_where_to_write(convention: &Convention, machine: &mut Machine, function: &str) -> bool {
    let argument = |number| passed(convention, machine, number);
    let (to, from, length) = (argument(0), argument(1), argument(2));
    let Value::Constant(length) = length else { return false };
    if !WRITERS.contains(&function) || !machine.overwrite(&to, length) {
        return false;
    }
    // Addresses that stand there are copied.
    if from.is_on_stack() {
        machine.give_away_stored();
    }
    true
}
