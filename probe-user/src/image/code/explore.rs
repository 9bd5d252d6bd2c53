//! Follows a function along all its paths, to what it returns.

use std::{collections::BTreeSet, rc::Rc};

pub use super::processor::Stopped;
use super::{
    CodeSource,
    machine::{Call, Flags, Increment, Machine},
    processor::{Convention, Next},
    value::{Base, Field, Value},
};

/// How much work one question may cost.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Instructions, over all paths.
    pub steps: usize,
    /// Paths.
    pub paths: usize,
    /// Calls inside calls that are followed.
    pub depth: usize,
}

/// For the functions that are asked: a few dozen instructions each.
pub const DEFAULT_BOUNDS: Bounds = Bounds { steps: 4096, paths: 128, depth: 3 };

/// For a called function: an accessor or a wrapper is worth following, anything
/// longer is taken as a call whose result is not known.
const CALLEE_STEPS: usize = 256;
const CALLEE_PATHS: usize = 8;

/// How one path through a function ended.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What it returned.
    pub value: Value,
    /// What it added to memory on the way.
    pub increments: Vec<Increment>,
    /// What it called on the way, followed or not.
    pub calls: Vec<Call>,
    /// What it wrote to memory that is not the stack's.
    pub stores: Vec<(Field, Value)>,
    /// The state at its end.
    machine: Machine,
}

/// Instructions of a PLT entry at most: a landing pad, the address, the load,
/// the jump.
const PLT_ENTRY: usize = 6;

/// A machine at the entry of a function that was called with these arguments.
#[must_use]
pub fn called_with(convention: &Convention, arguments: &[Value]) -> Machine {
    let mut machine = Machine::new();
    let top = Value::Pointer { base: Base::Stack, offset: 0 };
    machine.set_register(convention.stack_pointer, top);
    for (register, value) in convention.arguments.iter().zip(arguments) {
        machine.set_register(*register, value.clone());
    }
    machine
}

/// The function of another file that the PLT entry at an address leads to.
#[must_use]
pub fn import_called_at(source: &dyn CodeSource, mut at: u64) -> Option<Rc<str>> {
    let processor = source.processor();
    let mut machine = called_with(processor.convention(), &[]);
    for _ in 0..PLT_ENTRY {
        match processor.step(&mut machine, source, at).ok()? {
            (Next::Fall, next) => at = next,
            (Next::Jump(Value::Pointer { base: Base::Import(name), offset: 0 }), _) => {
                return Some(name);
            }
            _ => return None,
        }
    }
    None
}

/// Follows a function from its entry along every path that the machine's state
/// allows, and collects what each of them returns.
///
/// # Errors
///
/// If any path meets something that cannot be followed, or the bounds.
pub fn explore(
    source: &dyn CodeSource,
    entry: u64,
    machine: Machine,
    bounds: Bounds,
) -> Result<Vec<Answer>, Stopped> {
    let Bounds { steps, paths, depth } = bounds;
    Explorer { source, steps, paths, depth, opaque: BTreeSet::new() }.function(entry, machine)
}

struct Explorer<'s> {
    source: &'s dyn CodeSource,
    steps: usize,
    paths: usize,
    depth: usize,
    /// Called functions that were not followed to one answer: to try again on
    /// every path that calls them would only cost steps.
    opaque: BTreeSet<u64>,
}

impl Explorer<'_> {
    fn function(&mut self, entry: u64, machine: Machine) -> Result<Vec<Answer>, Stopped> {
        let mut answers = Vec::new();
        let mut open = vec![(entry, machine)];
        while let Some((address, machine)) = open.pop() {
            let stopped = |why| Stopped { address, instruction: String::new(), why };
            self.paths = self.paths.checked_sub(1).ok_or_else(|| stopped("too many paths"))?;
            answers.extend(self.path(address, machine, &mut open)?);
        }
        Ok(answers)
    }

    /// Follows one path to its end; where it forks, the other way is left in `open`.
    /// A path on which the process ends has no answer.
    fn path(
        &mut self,
        mut at: u64,
        mut machine: Machine,
        open: &mut Vec<(u64, Machine)>,
    ) -> Result<Option<Answer>, Stopped> {
        let processor = self.source.processor();
        let convention = processor.convention();
        loop {
            let stopped = |why| Stopped { address: at, instruction: String::new(), why };
            self.steps = self.steps.checked_sub(1).ok_or_else(|| stopped("too many steps"))?;
            let (next, behind) = processor.step(&mut machine, self.source, at)?;
            at = match next {
                Next::Fall | Next::Branch(Some(false), _) => behind,
                Next::Branch(Some(true), target) => target,
                Next::Branch(None, target) => {
                    open.push((target, machine.clone()));
                    behind
                }
                Next::Jump(Value::Constant(target)) => target,
                // A tail call to somewhere else: its result is this function's.
                Next::Jump(target) => {
                    note_call(convention, &mut machine, &target);
                    call_opaque(convention, &mut machine, &target);
                    return Ok(Some(ended(convention, machine)));
                }
                Next::Call(target) => {
                    self.call(&mut machine, &target);
                    behind
                }
                Next::Return => return Ok(Some(ended(convention, machine))),
                Next::Stop => return Ok(None),
            };
        }
    }

    /// Follows a call if it is short and has one answer; else its result is opaque.
    fn call(&mut self, machine: &mut Machine, target: &Value) {
        let convention = self.source.processor().convention();
        note_call(convention, machine, target);
        if let Value::Constant(entry) = target
            && self.depth > 0
            && !self.opaque.contains(entry)
        {
            let mut callee = Explorer {
                source: self.source,
                steps: self.steps.min(CALLEE_STEPS),
                paths: CALLEE_PATHS,
                depth: self.depth - 1,
                opaque: std::mem::take(&mut self.opaque),
            };
            let granted = callee.steps;
            let answers = callee.function(*entry, machine.clone());
            // One budget for all, however deep the calls go.
            self.steps -= granted - callee.steps;
            self.opaque = callee.opaque;
            if let Ok([answer]) = answers.as_deref() {
                let stack = machine.register(convention.stack_pointer).clone();
                *machine = answer.machine.clone();
                machine.set_register(convention.stack_pointer, stack);
                return;
            }
            self.opaque.insert(*entry);
        }
        call_opaque(convention, machine, target);
    }
}

fn ended(convention: &Convention, machine: Machine) -> Answer {
    Answer {
        value: machine.register(convention.result).clone(),
        increments: machine.increments.clone(),
        calls: machine.calls.clone(),
        stores: machine.stores.clone(),
        machine,
    }
}

/// Remembers what is called, and with what.
fn note_call(convention: &Convention, machine: &mut Machine, target: &Value) {
    let arguments = [passed(convention, machine, 0), passed(convention, machine, 1)];
    machine.calls.push(Call { target: target.clone(), arguments });
}

/// An argument, at a call.
fn passed(convention: &Convention, machine: &Machine, number: usize) -> Value {
    let register = convention.arguments.get(number);
    register.map_or(Value::Unknown, |register| machine.register(*register).clone())
}

/// A call of which only the name and the first argument are kept.
fn call_opaque(convention: &Convention, machine: &mut Machine, target: &Value) {
    let function = match target {
        Value::Pointer { base: Base::Import(name), offset: 0 } => name.to_string(),
        other => other.to_string(),
    };
    let argument = passed(convention, machine, 0);
    machine.forget_memory();
    machine.flags = Flags::Unknown;
    for register in convention.caller_saved {
        machine.set_register(*register, Value::Unknown);
    }
    machine.set_call_result(convention.result, function, argument);
}
