//! Follows a function along all its paths, to what it returns.

use std::{collections::BTreeSet, rc::Rc};

pub use super::processor::Stopped;
use super::{
    CodeSource,
    machine::{Call, Flags, Increment, Machine},
    processor::{Convention, Next},
    value::{Base, Value},
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

/// How often one path may jump back, to a lower address: where it does so more
/// often, it goes round in a loop.
const MAX_BACKWARD: usize = 64;

/// Places of memory that one path may write: the frame of an accessor at -O0
/// has two dozen. Every store and load looks at all of them.
const MAX_WRITTEN: usize = 256;

/// Characters of the expression by which a called function is named that has
/// no name.
const MAX_NAME: usize = 128;

/// How one path through a function ended.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What it returned.
    pub value: Value,
    /// What it added to memory on the way.
    pub increments: Vec<Increment>,
    /// What it called on the way, followed or not.
    pub calls: Vec<Call>,
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
        let mut backward: usize = 0;
        loop {
            let stopped = |why| Stopped { address: at, instruction: String::new(), why };
            self.steps = self.steps.checked_sub(1).ok_or_else(|| stopped("too many steps"))?;
            let (next, behind) = processor.step(&mut machine, self.source, at)?;
            if machine.written() > MAX_WRITTEN {
                return Err(stopped("it writes more memory than is followed"));
            }
            let next = match next {
                Next::Fall | Next::Branch(Some(false), _) => behind,
                Next::Branch(Some(true), target) => target,
                Next::Branch(None, target) => {
                    // One that could not be followed any more needs no memory.
                    if open.len() >= self.paths {
                        return Err(stopped("too many paths"));
                    }
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
            backward += usize::from(next <= at);
            if backward > MAX_BACKWARD {
                return Err(stopped("it goes round in a loop"));
            }
            at = next;
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
            let answers = callee.function(*entry, machine.clone()).unwrap_or_default();
            // One budget for all, however deep the calls go.
            self.steps -= granted - callee.steps;
            self.opaque = callee.opaque;
            if let Ok([answer]) = <[Answer; 1]>::try_from(answers) {
                let stack = machine.register(convention.stack_pointer).clone();
                *machine = answer.machine;
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
    // The result of a longer one is not known: results are equal if names are.
    if function.len() <= MAX_NAME {
        machine.set_call_result(convention.result, function, argument);
    } else {
        machine.set_register(convention.result, Value::Unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::code::{CodeSource, processor::Processor, x86_64::X86_64};

    struct Bytes(Vec<u8>);

    impl CodeSource for Bytes {
        fn processor(&self) -> &'static dyn Processor {
            &X86_64
        }
        fn code(&self, address: u64) -> Option<&[u8]> {
            self.0.get(usize::try_from(address.checked_sub(0x1000)?).ok()?..)
        }
        fn constant(&self, _: u64, _: usize) -> Option<u64> {
            None
        }
        fn import_at(&self, _: u64) -> Option<&str> {
            None
        }
    }

    fn ask(code: Vec<u8>) -> Result<Vec<Answer>, Stopped> {
        let machine = called_with(X86_64.convention(), &[Value::argument(0)]);
        explore(&Bytes(code), 0x1000, machine, DEFAULT_BOUNDS)
    }

    fn why(code: Vec<u8>) -> &'static str {
        ask(code).expect_err("it cannot be followed").why
    }

    /// Found by fuzzing: the name of each call had that of the one before in it,
    /// twice.
    #[test]
    fn a_loop_of_calls_ends_before_it_fills_memory() {
        // 1000: mov %rax,%rdi / 1003: call *%rax / 1005: jmp 1000
        assert_eq!(why(vec![0x48, 0x89, 0xc7, 0xff, 0xd0, 0xeb, 0xf9]), "it goes round in a loop");
    }

    #[test]
    fn a_short_loop_is_followed() {
        // 1000: mov $8,%eax / 1005: sub $1,%eax / 1008: jne 1005 / 100a: ret
        let answers = ask(vec![0xb8, 8, 0, 0, 0, 0x83, 0xe8, 1, 0x75, 0xfb, 0xc3]);
        let values: Vec<Value> = answers.unwrap_or_default().into_iter().map(|a| a.value).collect();
        assert_eq!(values, [Value::Constant(0)]);
    }

    #[test]
    fn what_is_written_is_bounded() {
        // push %rax, again and again
        let pushes = |times: usize| [vec![0x50; times], vec![0xc3]].concat();
        assert_eq!(why(pushes(MAX_WRITTEN + 1)), "it writes more memory than is followed");
        assert!(ask(pushes(MAX_WRITTEN)).is_ok());
    }

    #[test]
    fn paths_that_could_not_be_followed_are_not_kept() {
        // jne to the next instruction, again and again: each way is a path
        let forks = |times: usize| [[0x75, 0].repeat(times), vec![0xc3]].concat();
        assert_eq!(why(forks(1000)), "too many paths");
        assert_eq!(ask(forks(6)).map(|answers| answers.len()), Ok(64));
    }

    #[test]
    fn a_value_is_not_loaded_for_ever() {
        // 1000: mov (%rdi),%rdi, 20 times / mov %rdi,%rax / ret
        let code = [[0x48, 0x8b, 0x3f].repeat(20), vec![0x48, 0x89, 0xf8, 0xc3]].concat();
        let values: Vec<Value> =
            ask(code).unwrap_or_default().into_iter().map(|a| a.value).collect();
        assert_eq!(values, [Value::Unknown]);
    }
}
