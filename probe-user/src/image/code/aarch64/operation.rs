//! What an A64 instruction does, with its operands.

/// A general register of an operand; `None` is the zero register: what is
/// written to it is gone, and it reads as 0. 31 is the stack pointer.
pub(super) type General = Option<usize>;

/// The number of the stack pointer.
pub(super) const SP: usize = 31;
/// The number of the link register.
pub(super) const LR: usize = 30;
/// The frame pointer.
pub(super) const FP: usize = 29;

/// The second operand of arithmetic, or an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An immediate, as wide as the operation.
    Constant(u64),
    /// A register, shifted.
    Shifted {
        /// The register.
        register: General,
        /// How.
        shift: Shift,
        /// By how many bits.
        amount: u32,
    },
    /// The low bytes of a register, extended, then shifted left.
    Extended {
        /// The register.
        register: General,
        /// Bytes that are taken.
        width: u8,
        /// Extended with their sign.
        signed: bool,
        /// Bits to the left.
        left: u32,
    },
}

/// A kind of shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shift {
    Left,
    Right,
    Arithmetic,
    Rotate,
}

/// A bitwise operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bitwise {
    And,
    Or,
    Xor,
}

/// How a field of bits is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldMove {
    /// `sbfm`: the rest is filled with the sign.
    Signed,
    /// `ubfm`: the rest is filled with zeros.
    Unsigned,
    /// `bfm`: the rest stays.
    Insert,
}

/// What `csel` and its kin do to the second register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Otherwise {
    AsIs,
    PlusOne,
    Inverted,
    Negated,
}

/// Arithmetic of two registers without flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// `udiv`.
    DivideUnsigned,
    /// `sdiv`.
    DivideSigned,
    /// `lslv` and its kin: shift by a register.
    Shift(Shift),
    /// `umulh`: the upper 64 bits of the product.
    UpperUnsigned,
    /// `smulh`.
    UpperSigned,
}

/// A condition, as encoded in four bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConditionCode(pub(super) u8);

/// An address in memory, and what becomes of the base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The base register; 31 is the stack pointer.
    pub(super) base: usize,
    /// Bytes from the base.
    pub(super) offset: i64,
    /// A register that is added.
    pub(super) index: Option<Source>,
    /// What is added to the base register itself (pre- and post-index).
    pub(super) update: Option<Update>,
}

/// What a load or a store adds to its base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Update {
    /// This.
    By(i64),
    /// A register.
    ByRegister(usize),
}

impl Place {
    /// A base register and nothing else.
    #[must_use]
    pub(super) const fn at(base: usize) -> Self {
        Self { base, offset: 0, index: None, update: None }
    }
}

/// What is loaded to or stored from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// One general register.
    One(General),
    /// Two general registers, one behind the other in memory.
    Two(General, General),
    /// SIMD registers: this many units of the transfer's width.
    Vectors(u8),
}

/// What an atomic instruction does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Atomic {
    /// Adds.
    Add,
    /// Anything else: sets or clears bits, swaps, minimum, maximum.
    Other,
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Nothing to a register or memory: hints, barriers, prefetches.
    Nothing,
    /// `adr`, `adrp`: a register becomes an address of the file.
    Address {
        /// Written.
        to: General,
        /// The address.
        target: u64,
    },
    /// `movz`, `movn`: a register becomes a constant.
    Set {
        /// Written.
        to: General,
        /// What.
        value: u64,
    },
    /// `movk`: 16 bits of a register become constant.
    Keep {
        /// Written.
        to: General,
        /// Bytes.
        width: u8,
        /// The 16 bits.
        bits: u64,
        /// Where they go.
        shift: u32,
    },
    /// `add`, `sub`, `cmp`, `cmn` and the like.
    Add {
        /// Written.
        to: General,
        /// The first operand.
        left: General,
        /// The second.
        right: Source,
        /// It is subtracted.
        subtract: bool,
        /// The flags are set.
        flags: bool,
        /// Bytes.
        width: u8,
    },
    /// `and`, `orr`, `eor`, `bic`, `mov`, `tst` and the like.
    Bits {
        /// Written.
        to: General,
        /// The first operand.
        left: General,
        /// The second.
        right: Source,
        /// Which.
        kind: Bitwise,
        /// The second operand is inverted first.
        invert: bool,
        /// The flags are set.
        flags: bool,
        /// Bytes.
        width: u8,
    },
    /// `sbfm`, `ubfm`, `bfm`: shifts by a constant, extensions, bit fields.
    Move {
        /// Which.
        kind: FieldMove,
        /// Written.
        to: General,
        /// Read.
        from: General,
        /// Rotation to the right.
        rotate: u32,
        /// The field's uppermost bit.
        top: u32,
        /// Bytes.
        width: u8,
    },
    /// `extr`: bits of two registers, one behind the other.
    Extract {
        /// Written.
        to: General,
        /// The upper half.
        upper: General,
        /// The lower half.
        lower: General,
        /// The first bit.
        from: u32,
        /// Bytes.
        width: u8,
    },
    /// `csel`, `csinc`, `csinv`, `csneg`, `cset` and the like.
    Select {
        /// Written.
        to: General,
        /// If the condition holds.
        when: General,
        /// If not.
        otherwise: General,
        /// What is done to the latter.
        change: Otherwise,
        /// The condition.
        condition: ConditionCode,
        /// Bytes.
        width: u8,
    },
    /// `ccmp`, `ccmn`: compares, or sets the flags to these.
    CompareIf {
        /// The first operand.
        left: General,
        /// The second.
        right: Source,
        /// Their sum is looked at.
        add: bool,
        /// The condition under which they are compared.
        condition: ConditionCode,
        /// The flags if not: negative, zero, carry, overflow from bit 3 down.
        flags: u8,
        /// Bytes.
        width: u8,
    },
    /// `madd`, `msub`, `mul` and the long ones.
    Multiply {
        /// Written.
        to: General,
        /// A factor.
        left: General,
        /// The other.
        right: General,
        /// What it is added to, or taken from.
        with: General,
        /// It is taken from it.
        subtract: bool,
        /// Bytes of the factors; `signed` if they are extended to 64 bits.
        factors: u8,
        /// The factors are extended with their sign.
        signed: bool,
        /// Bytes of the result.
        width: u8,
    },
    /// Two registers make a third.
    Compute {
        /// Which.
        kind: Arithmetic,
        /// Written.
        to: General,
        /// The first operand.
        left: General,
        /// The second.
        right: General,
        /// Bytes.
        width: u8,
    },
    /// A load.
    Load {
        /// Written.
        data: Data,
        /// From.
        place: Place,
        /// Bytes of each unit.
        width: u8,
        /// Extended with their sign, to this many bytes.
        signed: Option<u8>,
    },
    /// `ldr` of a constant behind the code.
    LoadFixed {
        /// Written; `None` for a SIMD register too.
        to: General,
        /// From.
        address: u64,
        /// Bytes.
        width: u8,
        /// Extended with its sign to 64 bits.
        signed: bool,
    },
    /// `ldxr` and its kin.
    LoadExclusive {
        /// Written.
        data: Data,
        /// The register that holds the address.
        base: usize,
        /// Bytes.
        width: u8,
    },
    /// A store.
    Store {
        /// Read.
        data: Data,
        /// To.
        place: Place,
        /// Bytes of each unit.
        width: u8,
    },
    /// `stxr` and its kin: a store that says whether it was done.
    StoreExclusive {
        /// Written: 0 if it was done.
        status: General,
        /// Read.
        data: Data,
        /// The register that holds the address.
        base: usize,
        /// Bytes.
        width: u8,
    },
    /// `ldadd`, `stadd`, `swp` and the like: reads and writes memory at once.
    Atomic {
        /// Which.
        kind: Atomic,
        /// Written: what was there before.
        to: General,
        /// The operand.
        operand: General,
        /// The register that holds the address.
        base: usize,
        /// Bytes.
        width: u8,
    },
    /// `cas`: stores if memory is as expected.
    CompareAndSwap {
        /// Expected; written: what was there before.
        expected: General,
        /// The register that holds the address.
        base: usize,
        /// Bytes.
        width: u8,
    },
    /// `b`.
    Jump(u64),
    /// `b.cond`.
    JumpIf(ConditionCode, u64),
    /// `cbz`, `cbnz`.
    JumpIfZero {
        /// Looked at.
        register: General,
        /// Bytes.
        width: u8,
        /// It jumps if it is not zero.
        negated: bool,
        /// Where to.
        target: u64,
    },
    /// `tbz`, `tbnz`.
    JumpIfClear {
        /// Looked at.
        register: General,
        /// Which bit.
        bit: u32,
        /// It jumps if it is set.
        negated: bool,
        /// Where to.
        target: u64,
    },
    /// `bl`.
    Call(u64),
    /// `blr`.
    CallRegister(General),
    /// `br`.
    JumpRegister(General),
    /// `ret`.
    Return(General),
    /// `brk`, `hlt`, `udf`: the process ends.
    Trap,
    /// `svc`: the kernel is called, and returns with another `x0`.
    System,
    /// Something of which only this is known: the registers that it writes (a bit
    /// for each), and whether it sets the flags. It writes no memory.
    Other {
        /// Written.
        writes: u32,
        /// The flags are set.
        flags: bool,
    },
}
