//! One place for a probe: where it is, why, and what it means.

use probe_common::{
    Action, BlockLayout, Counter, NO_COUNTER, NO_REGISTER, ProbeSpec, argument_flags,
};

pub use super::moments::Moment;
use super::{class::Class, code::instruction::Instruction, elf::Elf};

/// Why a probe stands where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Behind an increment of this counter.
    Increment(Counter),
    /// At the entry of a function that is given a context or a connection.
    Entry,
    /// Where a connection is given another context.
    Switch,
    /// At the entry of the function that every new context is given to.
    Birth,
    /// At the entry of the function that flushes a dying context's cache.
    Death,
}

impl ProbeKind {
    /// The name that `explain` gives it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Increment(_) => "increment",
            Self::Entry => "entry",
            Self::Switch => "switch",
            Self::Birth => "birth",
            Self::Death => "death",
        }
    }
}

/// What the context is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Argument {
    /// The number of a general register.
    pub register: usize,
    /// From the connection that the register holds, to the field that holds the
    /// context; `None`: the register holds the context itself.
    pub dereference: Option<u32>,
    /// Whether it is an `SSL_CTX` beyond doubt.
    pub creates: bool,
}

/// One place for a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePoint {
    /// Why it is there.
    pub kind: ProbeKind,
    /// The function, by name or by address.
    pub function: String,
    /// Address in the file's own address space.
    pub address: u64,
    /// Offset in the file: what the kernel is told.
    pub file_offset: u64,
    /// The instruction under the probe.
    pub instruction: String,
    /// What the kernel does with it.
    pub class: Class,
    /// Where the context is at that moment.
    pub argument: Argument,
    /// What to do.
    pub action: Action,
    /// The counter that the process has just added one to, for certain, and to no
    /// other since its last hit.
    pub follows: Option<Counter>,
    /// What a hit says of a handshake.
    pub moment: Option<Moment>,
}

impl ProbePoint {
    /// The point as the kernel half knows it.
    #[must_use]
    pub fn spec(&self, image: u32, layout: BlockLayout) -> ProbeSpec {
        let mut argument = 0;
        if self.argument.dereference.is_some() {
            argument |= argument_flags::DEREFERENCE;
        }
        if self.argument.creates {
            argument |= argument_flags::CREATES;
        }
        ProbeSpec {
            image,
            action: self.action as u8,
            register: self.argument.register as u8,
            argument,
            follows: self.follows.map_or(NO_COUNTER, |counter| counter as u8),
            displacement: self.argument.dereference.unwrap_or(0) as i32,
            moment: self.moment.map_or(0, |moment| moment.what as u8),
            connection: self.moment.map_or(NO_REGISTER, |moment| moment.connection as u8),
            pad: 0,
            layout,
        }
    }
}

/// A point at an instruction.
pub(super) fn point(
    elf: &Elf,
    kind: ProbeKind,
    function: String,
    instruction: &Instruction,
    argument: Argument,
    action: Action,
) -> Result<ProbePoint, &'static str> {
    let address = instruction.address;
    let file_offset = elf.file_offset(address).ok_or("it is not in an executable segment")?;
    let code = elf.code(address).unwrap_or_default();
    let class = elf.processor().class(code);
    let instruction = elf.processor().text(code, address);
    let (follows, moment) = (None, None);
    Ok(ProbePoint {
        kind,
        function,
        address,
        file_offset,
        instruction,
        class,
        argument,
        action,
        follows,
        moment,
    })
}
