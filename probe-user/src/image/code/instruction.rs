//! What is the same about the instructions of every processor: where control
//! goes, which registers are assigned, and the few effects that matter to a proof.

/// One instruction, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Where it is.
    pub address: u64,
    /// Its length in bytes.
    pub length: u8,
    /// Where control goes.
    pub control: Control,
    /// The general registers that it assigns, wholly or in part, as bits. For a
    /// call, all those that the called function may change.
    pub assigns: u32,
    /// What it does besides.
    pub effect: Effect,
    /// Where it writes memory; what a called function writes is not meant.
    pub writes: Writes,
    /// Whether the kernel emulates it under a uprobe, in place of executing it
    /// out of line.
    pub emulated: bool,
    /// Whether a probe may stand on it where no emulated one is near: the kernel
    /// then executes it out of line.
    pub steppable: bool,
}

/// Where control goes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// To the instruction that follows.
    Next,
    /// There.
    Jump(u64),
    /// There, or on.
    Branch(u64),
    /// There, and back.
    Call(u64),
    /// To where a memory cell or a register says, and back; the cell's address,
    /// where it is a constant.
    CallThrough(Option<u64>),
    /// To where something else says.
    JumpThrough(Through),
    /// Back to the caller.
    Return,
    /// Nowhere: it raises an exception.
    Stop,
}

/// What a computed jump goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// A memory cell that no index picks: a pointer to a function. Its address,
    /// where it is a constant.
    Cell(Option<u64>),
    /// A register.
    Register(usize),
    /// A table of 64-bit addresses at a constant place, picked by an index.
    Table(u64),
    /// Anything else.
    Other,
}

/// Where an instruction writes memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Nowhere, or only where the stack pointer points.
    Nothing,
    /// At a distance from a register.
    At {
        /// The register that the address is counted from.
        base: usize,
        /// The distance from it.
        displacement: i64,
        /// Bytes written.
        width: u16,
    },
    /// Somewhere.
    Somewhere,
}

impl Writes {
    /// Whether it may write the pointer at a distance from a register, if
    /// different registers point to different things.
    #[must_use]
    pub fn may_hit_pointer(self, register: usize, at: i64) -> bool {
        match self {
            Self::At { base, displacement, width } => {
                let end = displacement.saturating_add(i64::from(width));
                base == register && displacement < at.saturating_add(8) && at < end
            }
            Self::Nothing | Self::Somewhere => false,
        }
    }
}

/// What an instruction does, as far as a proof can rest on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Something else, or nothing.
    Other,
    /// All of a register goes to another one.
    Copy {
        /// The assigned register.
        to: usize,
        /// The one that it is copied from.
        from: usize,
    },
    /// A register is loaded from memory that no index picks.
    Load {
        /// The assigned register.
        to: usize,
        /// The register that the address is counted from; `None`: a constant address.
        base: Option<usize>,
        /// The distance from that register, or the constant address.
        displacement: i64,
        /// Bytes loaded.
        width: u8,
    },
    /// All of a register goes to memory that no index picks.
    Store {
        /// The register.
        from: usize,
        /// The register that the address is counted from.
        base: usize,
        /// The distance from that register.
        displacement: i64,
    },
    /// A register is made a constant address of the file.
    Address {
        /// The assigned register.
        to: usize,
        /// The address.
        target: u64,
    },
    /// An `int` in memory goes up or down by one.
    Change {
        /// The register that the address is counted from.
        base: usize,
        /// The distance from it.
        displacement: i64,
        /// 1 or -1.
        amount: i8,
        /// Whether it is atomic.
        atomic: bool,
    },
}

impl Instruction {
    /// The address behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.address.wrapping_add(u64::from(self.length))
    }

    /// Whether it assigns a register, or a part of one.
    #[must_use]
    pub fn assigns(&self, register: usize) -> bool {
        u32::try_from(register).is_ok_and(|bit| self.assigns.checked_shr(bit).unwrap_or(0) & 1 == 1)
    }

    /// Where a direct jump or branch goes.
    #[must_use]
    pub fn jump_target(&self) -> Option<u64> {
        match self.control {
            Control::Jump(target) | Control::Branch(target) => Some(target),
            _ => None,
        }
    }
}
