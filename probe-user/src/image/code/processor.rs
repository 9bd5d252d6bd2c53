//! What the reading of code has to know of a kind of processor.

use std::{collections::BTreeSet, fmt::Debug, ops::Range};

use object::Architecture;

use super::{
    CodeSource,
    aarch64::Aarch64,
    flow::{FlowProblem, Function},
    instruction::Instruction,
    machine::Machine,
    value::Value,
    x86_64::X86_64,
};
use crate::image::class::Class;

/// A kind of processor: how its instructions are decoded, and what they do.
pub trait Processor: Debug + Sync {
    /// As `sslsess explain` shows it.
    fn name(&self) -> &'static str;

    /// Whether its code can be read at all.
    fn is_read(&self) -> bool {
        true
    }

    /// How functions are called.
    fn convention(&self) -> &'static Convention;

    /// The name of a general register.
    fn register_name(&self, number: usize) -> &'static str;

    /// Executes the instruction at an address; also returns the address behind it.
    ///
    /// # Errors
    ///
    /// With what cannot be followed.
    fn step(
        &self,
        machine: &mut Machine,
        source: &dyn CodeSource,
        at: u64,
    ) -> Result<(Next, u64), Stopped>;

    /// The instructions of a piece of code, one behind the other, to its end;
    /// `None` ends them early, at the first thing that is not an instruction.
    fn decode<'c>(
        &self,
        code: &'c [u8],
        at: u64,
    ) -> Box<dyn Iterator<Item = Option<Instruction>> + 'c>;

    /// An instruction as it is in its surroundings: one that leads to a jump in
    /// disguise (see `x86_64::thunk`) is that jump.
    ///
    /// # Errors
    ///
    /// If it then goes where no [`Control`](super::instruction::Control) says.
    fn undisguised(
        &self,
        source: &dyn CodeSource,
        instruction: Instruction,
    ) -> Result<Instruction, FlowProblem> {
        let _ = source;
        Ok(instruction)
    }

    /// Whether an instruction may be the last part of a change by one that takes
    /// several instructions; [`Processor::change`] then looks closer.
    fn may_change(&self, _: &dyn CodeSource, _: &Instruction) -> bool {
        false
    }

    /// The change by one that several instructions make, the last of which, or
    /// the first of a loop, stands at an address.
    fn change(&self, _: &dyn CodeSource, _: &Function, _: u64) -> Option<Change> {
        None
    }

    /// What the jump tables of a function say.
    fn tables(&self, source: &dyn CodeSource, instructions: &[Instruction]) -> Tables;

    /// The address that an instruction makes, if it is that of a label where it
    /// leads into a function. `None` also where entries of tables are counted
    /// from such addresses.
    fn label(&self, instruction: &Instruction) -> Option<u64> {
        let _ = instruction;
        None
    }

    /// The addresses in a piece of code at which there may be an atomic
    /// [`Effect::Change`](super::instruction::Effect::Change) at one of these
    /// distances: too many, but never too few. `None`: only decoding tells.
    fn possible_changes(&self, code: &[u8], at: u64, distances: &Range<i64>) -> Option<Vec<u64>> {
        let _ = (code, at, distances);
        None
    }

    /// The addresses in a piece of code at which there may be a jump or a branch
    /// into one of these ranges, or what makes an address there or that of a table
    /// that leads there: too many, but never too few. `None`: only decoding tells.
    ///
    /// The ranges are sorted and do not overlap. What is inside of a range and
    /// jumps into the same one may be missing.
    fn possible_jumps(
        &self,
        source: &dyn CodeSource,
        code: &[u8],
        at: u64,
        into: &[Range<u64>],
    ) -> Option<Vec<u64>> {
        let _ = (source, code, at, into);
        None
    }

    /// What the kernel does with the instruction at the start of a piece of code if
    /// there is a probe on it.
    fn class(&self, code: &[u8]) -> Class;

    /// The instruction at the start of a piece of code, in GNU syntax.
    fn text(&self, code: &[u8], at: u64) -> String;
}

/// What the jump tables of a function say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Every place that one may lead to, inside of the function or not: too many
    /// at times, never too few, unless it is `endless`.
    pub targets: BTreeSet<u64>,
    /// The memory of those that hold addresses, and that nothing but a jump names.
    pub cells: Vec<Range<u64>>,
    /// How many entries were read.
    pub entries: usize,
    /// Whether there are more than are read.
    pub endless: bool,
}

/// A change by one of an `int` in memory, atomic, made by several instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The register that the address is counted from.
    pub base: usize,
    /// The instruction before which that register holds it.
    pub base_at: u64,
    /// The distance from it.
    pub displacement: i64,
    /// 1 or -1.
    pub amount: i8,
    /// The last of the instructions: behind it, memory has changed.
    pub last: u64,
}

/// How functions are called, in numbers of general registers.
#[derive(Debug)]
pub struct Convention {
    /// Those that hold the first arguments.
    pub arguments: &'static [usize],
    /// The one that holds what a function returns.
    pub result: usize,
    /// The stack pointer.
    pub stack_pointer: usize,
    /// Those that a called function may change.
    pub caller_saved: &'static [usize],
    /// The frame's address at a function's entry, as unwind tables have it: the
    /// stack pointer's DWARF number, and the distance.
    pub frame_at_entry: (u16, i64),
}

impl Convention {
    /// Bytes that a call pushes: the return address, or nothing. They are all
    /// there is between a frame's address and the stack pointer at its entry.
    #[must_use]
    pub fn pushed(&self) -> u8 {
        self.frame_at_entry.1.unsigned_abs() as u8
    }
}

/// Where control goes after an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// To the instruction that follows.
    Fall,
    /// There.
    Jump(Value),
    /// There if the condition holds, else on; `None`: it is not known which.
    Branch(Option<bool>, u64),
    /// There, and back.
    Call(Value),
    /// Back to the caller.
    Return,
    /// Nowhere: it raises an exception that ends the process.
    Stop,
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

/// The processor that a file's code is for.
#[must_use]
pub fn of(architecture: Architecture) -> &'static dyn Processor {
    match architecture {
        Architecture::X86_64 => &X86_64,
        Architecture::Aarch64 => &Aarch64,
        _ => &Unread,
    }
}

/// A processor whose code is not read.
#[derive(Debug)]
struct Unread;

impl Processor for Unread {
    fn name(&self) -> &'static str {
        "unknown"
    }

    fn is_read(&self) -> bool {
        false
    }

    fn convention(&self) -> &'static Convention {
        const {
            &Convention {
                arguments: &[],
                result: 0,
                stack_pointer: 0,
                caller_saved: &[],
                frame_at_entry: (0, 0),
            }
        }
    }

    fn register_name(&self, _: usize) -> &'static str {
        "?"
    }

    fn step(&self, _: &mut Machine, _: &dyn CodeSource, at: u64) -> Result<(Next, u64), Stopped> {
        let why = "this processor's code is not read";
        Err(Stopped { address: at, instruction: String::new(), why })
    }

    fn decode<'c>(
        &self,
        _: &'c [u8],
        _: u64,
    ) -> Box<dyn Iterator<Item = Option<Instruction>> + 'c> {
        Box::new(std::iter::once(None))
    }

    fn tables(&self, _: &dyn CodeSource, _: &[Instruction]) -> Tables {
        Tables::default()
    }

    fn class(&self, _: &[u8]) -> Class {
        Class::Stepped
    }

    fn text(&self, _: &[u8], _: u64) -> String {
        String::new()
    }
}
