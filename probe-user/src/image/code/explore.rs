//! Follows a function along all its paths, to what it returns.

use iced_x86::{Decoder, DecoderOptions};

use super::{
    CodeSource,
    machine::{Increment, Machine, OpaqueCall},
    value::{Base, Value},
    x86_64::{self, ARGUMENTS, CALLER_SAVED, Next, RAX, RSP},
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
    /// What it called on the way that was not followed.
    pub calls: Vec<OpaqueCall>,
    /// The state at its end.
    machine: Machine,
}

/// Where and why following a function ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The address of the instruction.
    pub address: u64,
    /// The instruction.
    pub instruction: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// A machine at the entry of a function that was called with these arguments.
#[must_use]
pub fn called_with(arguments: &[Value]) -> Machine {
    let mut machine = Machine::new();
    machine.set_register(RSP, Value::Pointer { base: Base::Stack, offset: 0 });
    for (register, value) in ARGUMENTS.into_iter().zip(arguments) {
        machine.set_register(register, value.clone());
    }
    machine
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
    Explorer { source, steps: bounds.steps, paths: bounds.paths, depth: bounds.depth }
        .function(entry, machine)
}

struct Explorer<'s> {
    source: &'s dyn CodeSource,
    steps: usize,
    paths: usize,
    depth: usize,
}

impl Explorer<'_> {
    fn function(&mut self, entry: u64, machine: Machine) -> Result<Vec<Answer>, Stopped> {
        let mut answers = Vec::new();
        let mut open = vec![(entry, machine)];
        while let Some((address, machine)) = open.pop() {
            let stopped = |why| Stopped { address, instruction: String::new(), why };
            self.paths = self.paths.checked_sub(1).ok_or_else(|| stopped("too many paths"))?;
            answers.push(self.path(address, machine, &mut open)?);
        }
        Ok(answers)
    }

    /// Follows one path to its end; where it forks, the other way is left in `open`.
    fn path(
        &mut self,
        mut at: u64,
        mut machine: Machine,
        open: &mut Vec<(u64, Machine)>,
    ) -> Result<Answer, Stopped> {
        loop {
            let code = self.source.code(at).ok_or_else(|| Stopped {
                address: at,
                instruction: String::new(),
                why: "there is no code",
            })?;
            let instruction = Decoder::with_ip(64, code, at, DecoderOptions::NONE).decode();
            let stopped =
                |why| Stopped { address: at, instruction: x86_64::text(&instruction), why };
            self.steps = self.steps.checked_sub(1).ok_or_else(|| stopped("too many steps"))?;
            let next = x86_64::step(&mut machine, self.source, &instruction).map_err(stopped)?;
            at = match next {
                Next::Fall => instruction.next_ip(),
                Next::Branch(Some(true), target) => target,
                Next::Branch(Some(false), _) => instruction.next_ip(),
                Next::Branch(None, target) => {
                    open.push((target, machine.clone()));
                    instruction.next_ip()
                }
                Next::Jump(Value::Constant(target)) => target,
                // A tail call to somewhere else: its result is this function's.
                Next::Jump(target) => {
                    call_opaque(&mut machine, &target);
                    return Ok(ended(machine));
                }
                Next::Call(target) => {
                    self.call(&mut machine, &target);
                    instruction.next_ip()
                }
                Next::Return => return Ok(ended(machine)),
            };
        }
    }

    /// Follows a call if it is short and has one answer; else its result is opaque.
    fn call(&mut self, machine: &mut Machine, target: &Value) {
        if let Value::Constant(entry) = target
            && self.depth > 0
        {
            let mut callee = Explorer {
                source: self.source,
                steps: self.steps.min(CALLEE_STEPS),
                paths: CALLEE_PATHS,
                depth: self.depth - 1,
            };
            let granted = callee.steps;
            let answers = callee.function(*entry, machine.clone());
            // One budget for all, however deep the calls go.
            self.steps -= granted - callee.steps;
            if let Ok([answer]) = answers.as_deref() {
                let stack = machine.register(RSP).clone();
                *machine = answer.machine.clone();
                machine.set_register(RSP, stack);
                return;
            }
        }
        call_opaque(machine, target);
    }
}

fn ended(machine: Machine) -> Answer {
    Answer {
        value: machine.register(RAX).clone(),
        increments: machine.increments.clone(),
        calls: machine.calls.clone(),
        machine,
    }
}

/// A call of which only the name and the first argument are kept.
fn call_opaque(machine: &mut Machine, target: &Value) {
    let function = match target {
        Value::Pointer { base: Base::Import(name), offset: 0 } => name.to_string(),
        other => other.to_string(),
    };
    let argument = machine.register(ARGUMENTS[0]).clone();
    let arguments = [argument.clone(), machine.register(ARGUMENTS[1]).clone()];
    machine.calls.push(OpaqueCall { target: target.clone(), arguments });
    machine.forget_memory();
    machine.flags = super::machine::Flags::Unknown;
    for register in CALLER_SAVED {
        machine.set_register(register, Value::Unknown);
    }
    machine.set_call_result(RAX, function, argument);
}
