//! Follows a function along all its paths, to what it returns.

mod calling;

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use self::calling::{call_opaque, entered, note_call, returned};

pub use super::processor::Stopped;
use super::{
    CodeSource,
    history::History,
    loads::Loads,
    machine::{Call, Increment, Machine, Store},
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
    /// Answers of called functions, besides the first of each, that are followed on
    /// to what the caller makes of them.
    pub forks: usize,
}

/// For the functions that are asked: a few dozen instructions each.
pub const DEFAULT_BOUNDS: Bounds = Bounds { steps: 4096, paths: 128, depth: 3, forks: 8 };

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

/// How one path through a function ended.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What it returned.
    pub value: Value,
    /// What it added to memory on the way.
    pub increments: History<Increment>,
    /// What it called on the way, followed or not.
    pub calls: History<Call>,
    /// What it wrote to memory that is not the stack's.
    pub stores: History<Store>,
    /// The instruction that set the register of the result last.
    pub made_at: Option<u64>,
    /// Why the called function whose result became unknown last was not followed.
    pub unfollowed: Option<Rc<Stopped>>,
    /// The state at its end.
    machine: Machine,
}

impl Answer {
    /// The address of the instruction that loaded the field that this value of
    /// the path is made of.
    #[must_use]
    pub fn loaded_at(&self, value: &Value) -> Option<u64> {
        self.machine.loads.of(value)
    }
}

/// Instructions of a PLT entry at most: a landing pad, the address, the load,
/// the jump.
const PLT_ENTRY: usize = 6;

/// For a function of which only the traces are wanted: it may be long.
pub const TRACE_BOUNDS: Bounds = Bounds { steps: 4096, paths: 64, depth: 2, forks: 0 };

/// How often a trace goes to one place: once more for a loop.
const TRACE_VISITS: usize = 2;

/// What a function does, as far as it can be followed: not all that it does,
/// and on no path in particular.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// What it can return.
    pub answers: Vec<Value>,
    /// What it calls.
    pub calls: Vec<Call>,
    /// What it adds to memory.
    pub changes: Vec<Increment>,
    /// Which instruction loaded what.
    pub loads: Loads,
    /// What it writes to memory that is not the stack's.
    pub stores: Vec<Store>,
}

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
/// If it cannot be followed where each answer of what it calls is one more path,
/// it is asked once more, with results that are not known instead.
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
    let mut explorer = Explorer::new(source, bounds, &machine);
    let answers = explorer.function(entry, machine.clone());
    if answers.is_ok() || !explorer.has_forked {
        return answers;
    }
    let bounds = Bounds { forks: 0, ..bounds };
    Explorer::new(source, bounds, &machine).function(entry, machine)
}

/// Follows a function from its entry along as many paths as the bounds allow,
/// each for as far as it can be followed.
#[must_use]
pub fn trace(source: &dyn CodeSource, entry: u64, machine: Machine, bounds: Bounds) -> Trace {
    let mut explorer = Explorer::new(source, bounds, &machine);
    explorer.inside.push(entry);
    let loads = machine.loads.clone();
    let mut visits: HashMap<u64, usize> = HashMap::new();
    let mut open = vec![(entry, machine)];
    while let Some((address, machine)) = open.pop() {
        let visits = visits.entry(address).or_default();
        *visits += 1;
        if *visits > TRACE_VISITS {
            continue;
        }
        if explorer.paths == 0 || explorer.steps == 0 {
            break;
        }
        explorer.paths -= 1;
        if let Ok(Some(answer)) = explorer.path(address, machine, &mut open) {
            explorer.seen.answers.push(answer.value);
        }
    }
    Trace { loads, ..explorer.seen }
}

struct Explorer<'s> {
    source: &'s dyn CodeSource,
    /// The stack pointer at the function's entry.
    stack: Value,
    steps: usize,
    paths: usize,
    depth: usize,
    forks: usize,
    /// Whether there were any.
    has_forked: bool,
    /// The functions that are followed now, the outermost first, by their entries.
    inside: Vec<u64>,
    /// What was met on the way, also on paths that could not be followed to their ends.
    seen: Trace,
    /// Called functions that were not followed to answers, and why: to try again on
    /// every path that calls them would only cost steps.
    opaque: BTreeMap<u64, Rc<Stopped>>,
}

impl<'s> Explorer<'s> {
    fn new(source: &'s dyn CodeSource, bounds: Bounds, machine: &Machine) -> Self {
        let Bounds { steps, paths, depth, forks } = bounds;
        let stack = machine.register(source.processor().convention().stack_pointer).clone();
        let (inside, seen, opaque) = (Vec::new(), Trace::default(), BTreeMap::new());
        let has_forked = false;
        Self { source, stack, steps, paths, depth, forks, has_forked, inside, seen, opaque }
    }
}

impl Explorer<'_> {
    fn function(&mut self, entry: u64, machine: Machine) -> Result<Vec<Answer>, Stopped> {
        self.inside.push(entry);
        let mut answers = Vec::new();
        let mut open = vec![(entry, machine)];
        while let Some((address, machine)) = open.pop() {
            let too_many = || stopped_at(address, "too many paths");
            self.paths = self.paths.checked_sub(1).ok_or_else(too_many)?;
            answers.extend(self.path(address, machine, &mut open)?);
        }
        self.inside.pop();
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
            let stopped = |why| stopped_at(at, why);
            self.steps = self.steps.checked_sub(1).ok_or_else(|| stopped("too many steps"))?;
            let known = (machine.increments.len(), machine.stores.len());
            machine.at = at;
            let (next, behind) = processor.step(&mut machine, self.source, at)?;
            self.seen.changes.extend(machine.increments.since(known.0).cloned());
            self.seen.stores.extend(machine.stores.since(known.1).cloned());
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
                    self.note_call(&mut machine, &target);
                    call_opaque(convention, &mut machine, &target);
                    return Ok(Some(ended(convention, machine)));
                }
                Next::Call(target) => {
                    let room = self.paths.saturating_sub(open.len());
                    let others = self.call(&mut machine, &target, room);
                    open.extend(others.into_iter().map(|machine| (behind, machine)));
                    behind
                }
                // Else it is a jump in disguise.
                Next::Return if *machine.register(convention.stack_pointer) != self.stack => {
                    return Err(stopped("it returns with another stack pointer"));
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

    fn note_call(&mut self, machine: &mut Machine, target: &Value) {
        note_call(self.source.processor().convention(), machine, target);
        self.seen.calls.extend(machine.calls.last().cloned());
    }

    /// Follows a call if it is short and has one answer, or is an accessor that has a
    /// few: the paths of the caller that go on with the others are returned. Else its
    /// result is opaque.
    fn call(&mut self, machine: &mut Machine, target: &Value, room: usize) -> Vec<Machine> {
        self.note_call(machine, target);
        if let Value::Constant(entry) = target {
            match self.called(machine, *entry, room) {
                Ok((first, others)) => {
                    *machine = first;
                    return others;
                }
                Err(why) => machine.unfollowed = Some(why),
            }
        }
        call_opaque(self.source.processor().convention(), machine, target);
        Vec::new()
    }

    /// The state behind a call of a function of this file, for each of its answers.
    fn called(
        &mut self,
        machine: &Machine,
        entry: u64,
        room: usize,
    ) -> Result<(Machine, Vec<Machine>), Rc<Stopped>> {
        if let Some(why) = self.opaque.get(&entry) {
            return Err(Rc::clone(why));
        }
        let convention = self.source.processor().convention();
        let refused = |why| Rc::new(stopped_at(machine.at, why));
        if self.inside.contains(&entry) {
            return Err(refused("it calls a function that it is called by"));
        }
        if self.depth == 0 {
            return Err(refused("it is a call inside of too many others"));
        }
        let inside = entered(convention, machine)
            .ok_or_else(|| refused("it calls with a stack that is not known"))?;
        self.follow(entry, inside, room)
            .map(|(first, others)| {
                let behind = |answer: Answer| returned(convention, machine, answer.machine);
                (behind(first), others.into_iter().map(behind).collect())
            })
            .map_err(|why| {
                let why = Rc::new(why);
                self.opaque.insert(entry, Rc::clone(&why));
                why
            })
    }

    /// The answers of a called function: the first, and the others, if there is
    /// room for so many.
    fn follow(
        &mut self,
        entry: u64,
        inside: Machine,
        room: usize,
    ) -> Result<(Answer, Vec<Answer>), Stopped> {
        let mut callee = Explorer {
            source: self.source,
            stack: inside.register(self.source.processor().convention().stack_pointer).clone(),
            steps: self.steps.min(CALLEE_STEPS),
            paths: CALLEE_PATHS,
            depth: self.depth - 1,
            forks: self.forks,
            has_forked: self.has_forked,
            inside: self.inside.clone(),
            seen: std::mem::take(&mut self.seen),
            opaque: std::mem::take(&mut self.opaque),
        };
        let written = (inside.stores.len(), inside.increments.len());
        let granted = callee.steps;
        let answers = callee.function(entry, inside);
        // One budget for all, however deep the calls go.
        self.steps -= granted - callee.steps;
        self.seen = callee.seen;
        self.opaque = callee.opaque;
        self.has_forked = callee.has_forked;
        let mut others = answers?;
        let first = others.pop().ok_or_else(|| stopped_at(entry, "it never returns"))?;
        if !others.is_empty() {
            // What is not made of a field says little, and costs as much.
            let is_of_field = |answer: &Answer| answer.value.field().is_some();
            if !is_of_field(&first) && !others.iter().any(is_of_field) {
                return Err(stopped_at(entry, "it returns one thing or another"));
            }
            // It is an accessor. What changes something, or not, has not one effect.
            let only_reads =
                |answer: &Answer| (answer.stores.len(), answer.increments.len()) == written;
            if !only_reads(&first) || !others.iter().all(only_reads) {
                return Err(stopped_at(entry, "it writes, and not on all ways the same"));
            }
            if others.len() > room.min(callee.forks) {
                return Err(stopped_at(entry, "it has too many answers"));
            }
            self.has_forked = true;
        }
        self.forks = callee.forks - others.len();
        Ok((first, others))
    }
}

fn stopped_at(address: u64, why: &'static str) -> Stopped {
    Stopped { address, instruction: String::new(), why }
}

fn ended(convention: &Convention, machine: Machine) -> Answer {
    Answer {
        value: machine.register(convention.result).clone(),
        increments: machine.increments.clone(),
        calls: machine.calls.clone(),
        stores: machine.stores.clone(),
        made_at: machine.set_at(convention.result),
        unfollowed: machine.unfollowed.clone(),
        machine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::code::{processor::Processor as _, specimen::Bytes, x86_64::X86_64};

    fn traced(bytes: &'static [u8]) -> Trace {
        let machine = called_with(X86_64.convention(), &[Value::argument(0)]);
        trace(&Bytes::new(bytes), 0x1000, machine, TRACE_BOUNDS)
    }

    /// 1000: mov 0x30(%rdi),%rcx / 1004: cmpq $0,0x30(%rdi) / 1009: je 1014 /
    /// 100b: mov 0x30(%rdi),%rax / 100f: push %rax / 1010: xor %eax,%eax /
    /// 1012: pop %rax / 1013: ret / 1014: xor %eax,%eax / 1016: ret
    #[test]
    fn of_three_loads_of_a_field_the_one_is_told_whose_value_is_returned() {
        let bytes = &[
            0x48, 0x8b, 0x4f, 0x30, 0x48, 0x83, 0x7f, 0x30, 0, 0x74, 9, 0x48, 0x8b, 0x47, 0x30,
            0x50, 0x31, 0xc0, 0x58, 0xc3, 0x31, 0xc0, 0xc3,
        ];
        let machine = called_with(X86_64.convention(), &[Value::argument(0)]);
        let answers = explore(&Bytes::new(bytes), 0x1000, machine, DEFAULT_BOUNDS);
        let mut told: Vec<(String, Option<u64>)> = answers
            .expect("it is followed")
            .iter()
            .map(|answer| (answer.value.to_string(), answer.loaded_at(&answer.value)))
            .collect();
        told.sort();
        let expected = [("0", None), ("u64[arg0+0x30]", Some(0x100b))];
        assert_eq!(told, expected.map(|(value, at)| (value.to_owned(), at)));
        let trace = traced(bytes);
        let loaded = trace.answers.iter().filter_map(|answer| trace.loads.of(answer));
        assert_eq!(loaded.collect::<Vec<_>>(), [0x100b]);
    }

    fn changes(bytes: &'static [u8]) -> Vec<String> {
        let seen = traced(bytes).changes;
        seen.iter().map(|change| format!("{} {}", change.field, change.amount)).collect()
    }

    /// `SSL_CTX_free` of Debian's 3.0.19, its beginning:
    /// mov $-1,%eax / lock xadd %eax,0xa4(%rdi) / ret
    #[test]
    fn an_atomic_decrement_is_a_change() {
        let bytes = &[0xb8, 255, 255, 255, 255, 0xf0, 0x0f, 0xc1, 0x87, 0xa4, 0, 0, 0, 0xc3];
        assert_eq!(changes(bytes), ["u32[arg0+0xa4] 0xffffffff"]);
        assert_eq!(traced(bytes).changes[0].at, 0x1005);
    }

    /// `OPENSSL_LH_delete` of Debian's 3.0.19, in its middle:
    /// mov 0x38(%rdi),%rax / sub $1,%rax / mov %rax,0x38(%rdi) / ud2
    #[test]
    fn a_decrement_in_three_instructions_is_one_also_if_the_path_ends_badly() {
        let bytes =
            &[0x48, 0x8b, 0x47, 0x38, 0x48, 0x83, 0xe8, 1, 0x48, 0x89, 0x47, 0x38, 0x0f, 0x0b];
        assert_eq!(changes(bytes), ["u64[arg0+0x38] 0xffffffffffffffff"]);
    }

    /// addq $1,0x38(%rdi) / ret
    #[test]
    fn one_instruction_is_one_change() {
        assert_eq!(changes(&[0x48, 0x83, 0x47, 0x38, 1, 0xc3]), ["u64[arg0+0x38] 1"]);
    }

    /// 1000: test %esi,%esi / 1002: jne 1000 / 1004: mov 0x30(%rdi),%rax / 1008: ret
    #[test]
    fn a_loop_ends() {
        let trace = traced(&[0x85, 0xf6, 0x75, 0xfc, 0x48, 0x8b, 0x47, 0x30, 0xc3]);
        assert!(trace.answers.iter().all(|answer| answer.to_string() == "u64[arg0+0x30]"));
        assert!(!trace.answers.is_empty());
    }
}
