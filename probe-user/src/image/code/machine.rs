//! Registers, flags and memory, made of what is known of them.

mod stack;

use std::rc::Rc;

use super::{
    CodeSource,
    frames::Frames,
    history::History,
    loads::Loads,
    processor::Stopped,
    value::{Base, CallResult, Field, Value, mask, sign_extend},
};

/// How many general registers a machine can have.
pub const REGISTERS: usize = 32;

/// What the flags were last set by.
#[derive(Clone, Debug)]
pub enum Flags {
    /// Something that is not followed.
    Unknown,
    /// `left - right`.
    Difference {
        /// The minuend.
        left: Value,
        /// The subtrahend.
        right: Value,
        /// Bytes compared.
        width: u8,
    },
    /// The value itself; carry and overflow are clear.
    Logic {
        /// The value.
        value: Value,
        /// Its bytes.
        width: u8,
    },
    /// Each of them is known.
    Exactly {
        /// The sign.
        negative: bool,
        /// Zero.
        zero: bool,
        /// A borrow: the unsigned difference is below zero.
        below: bool,
        /// The signed difference does not fit.
        overflow: bool,
    },
    /// The value itself; carry and overflow are not known.
    Arithmetic {
        /// The value.
        value: Value,
        /// Its bytes.
        width: u8,
    },
}

/// A condition on the flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the conditions' usual names")]
pub enum Condition {
    Equal,
    Negative,
    Below,
    BelowOrEqual,
    Less,
    LessOrEqual,
    /// One that is not followed (parity, overflow).
    Other,
}

/// A change of memory that is not the stack's, as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Increment {
    /// What was added to.
    pub field: Field,
    /// How much.
    pub amount: Value,
    /// The address of the instruction; where it takes several, of the last one,
    /// and of a loop, of the first.
    pub at: u64,
}

/// A call, as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was called.
    pub target: Value,
    /// Its first two arguments.
    pub arguments: [Value; 2],
    /// The address of the instruction.
    pub at: u64,
}

/// A write to memory that is not the stack's, as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Where to.
    pub field: Field,
    /// What.
    pub value: Value,
    /// The address of the instruction.
    pub at: u64,
}

#[derive(Clone, Debug)]
struct Cell {
    base: Base,
    offset: i64,
    width: u8,
    value: Value,
    /// Whether it is a register of the caller's, which gets it back.
    is_saved: bool,
}

/// Registers, flags and memory of one path through a function.
#[derive(Clone, Debug)]
pub struct Machine {
    registers: [Value; REGISTERS],
    /// The addresses of the instructions that set them last.
    set_at: [u64; REGISTERS],
    /// What the flags were last set by.
    pub flags: Flags,
    /// The address of the instruction that is executed.
    pub at: u64,
    /// What was loaded from memory that nothing was written to.
    pub loads: Loads,
    cells: Vec<Cell>,
    frames: Frames,
    /// Read-modify-write changes of memory that is not the stack's.
    pub increments: History<Increment>,
    /// Calls that were made, also those that were followed.
    pub calls: History<Call>,
    /// Why the last call of a function of this file that was not followed was not.
    pub unfollowed: Option<Rc<Stopped>>,
    /// What was written to memory that is not the stack's.
    pub stores: History<Store>,
    /// Objects of which more was written than is followed.
    overwritten: Vec<Base>,
    /// 64-bit fields that are known not to be null.
    pub non_null: Vec<Field>,
}

impl Machine {
    /// A machine of which nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self {
            registers: [const { Value::Unknown }; REGISTERS],
            set_at: [0; REGISTERS],
            flags: Flags::Unknown,
            at: 0,
            loads: Loads::default(),
            cells: Vec::new(),
            frames: Frames::new(),
            increments: History::new(),
            calls: History::new(),
            unfollowed: None,
            stores: History::new(),
            overwritten: Vec::new(),
            non_null: Vec::new(),
        }
    }

    /// All 64 bits of a register.
    #[must_use]
    pub fn register(&self, number: usize) -> &Value {
        self.registers.get(number).unwrap_or(&Value::Unknown)
    }

    /// Sets all 64 bits of a register.
    pub fn set_register(&mut self, number: usize, value: Value) {
        if let Some(register) = self.registers.get_mut(number) {
            *register = value;
            self.set_at[number] = self.at;
            self.frames.touch(number);
        }
    }

    /// The address of the instruction that set a register last, if it was set by one.
    #[must_use]
    pub fn set_at(&self, number: usize) -> Option<u64> {
        self.set_at.get(number).copied().filter(|at| *at != 0)
    }

    /// What stands in memory, extended with zeros.
    #[must_use]
    pub fn load(&self, source: &dyn CodeSource, address: &Value, width: u8) -> Value {
        let (base, offset) = match address {
            Value::Constant(address) => {
                if let Some(value) = source.constant(*address, usize::from(width)) {
                    return Value::Constant(value);
                }
                if width == 8
                    && let Some(name) = source.import_at(*address)
                {
                    return Value::Pointer { base: Base::Import(Rc::from(name)), offset: 0 };
                }
                (Base::Image, *address as i64)
            }
            Value::Pointer { base, offset } => (base.clone(), *offset),
            Value::Narrow { .. }
            | Value::Low { .. }
            | Value::Quotient { .. }
            | Value::OnStack
            | Value::Unknown => {
                return Value::Unknown;
            }
        };
        for cell in self.cells.iter().rev().filter(|cell| cell.base == base) {
            if cell.offset == offset && cell.width == width {
                return cell.value.clone();
            }
            if cell.offset < offset.saturating_add(i64::from(width))
                && offset < cell.offset.saturating_add(i64::from(cell.width))
            {
                return Value::Unknown;
            }
        }
        // The caller's part of the stack, or a slot that was never written.
        let unknown = base == Base::Stack || self.overwritten.contains(&base);
        if unknown || !matches!(width, 1 | 2 | 4 | 8) {
            return Value::Unknown;
        }
        let value = Value::of_field(Field { base, offset, width });
        self.loads.note(&value, self.at);
        value
    }

    /// Writes memory; `false` if it is not known where.
    ///
    /// Two different bases are taken to be two different objects.
    #[must_use]
    pub fn store(&mut self, address: &Value, width: u8, value: Value) -> bool {
        let (base, offset) = match address {
            Value::Constant(address) => (Base::Image, *address as i64),
            Value::Pointer { base, offset } => (base.clone(), *offset),
            Value::Narrow { .. }
            | Value::Low { .. }
            | Value::Quotient { .. }
            | Value::OnStack
            | Value::Unknown => {
                return false;
            }
        };
        self.note_change(&base, offset, width, &value);
        self.cells.retain(|cell| cell.base != base || cell.offset != offset || cell.width != width);
        if base != Base::Stack {
            self.frames.give_away(&value);
            let field = Field { base: base.clone(), offset, width };
            self.stores.push(Store { field, value: value.clone(), at: self.at });
        }
        self.cells.push(Cell { base, offset, width, value, is_saved: false });
        true
    }

    /// A field that is written with its own value and a bit more was changed, in
    /// however many instructions.
    fn note_change(&mut self, base: &Base, offset: i64, width: u8, value: &Value) {
        let Value::Pointer { base: Base::Field(field), offset: amount } = value else { return };
        if *amount == 0 || field.base != *base || field.offset != offset || field.width != width {
            return;
        }
        let amount = Value::Constant(*amount as u64);
        // The instruction may have said so itself.
        if self.increments.last().is_some_and(|i| i.field == **field && i.amount == amount) {
            return;
        }
        self.increments.push(Increment { field: (**field).clone(), amount, at: self.at });
    }

    /// How many places of memory are known to hold something.
    #[must_use]
    pub fn written(&self) -> usize {
        self.cells.len()
    }

    /// Forgets what stands in the object that an address lies in; `false` if it
    /// is not known which that is.
    #[must_use]
    pub fn forget_object(&mut self, address: Value) -> bool {
        let base = match address {
            Value::Constant(_) => Base::Image,
            Value::Pointer { base, .. } => base,
            _ => return false,
        };
        self.cells.retain(|cell| cell.base != base);
        self.overwritten.push(base);
        true
    }

    /// Makes a register hold what an opaque call returned.
    pub fn set_call_result(&mut self, register: usize, function: String, argument: Value) {
        self.set_register(register, Value::of_call(CallResult { function, argument }));
    }

    /// Whether a condition holds; `None` if that is not known.
    #[must_use]
    pub fn holds(&self, condition: Condition) -> Option<bool> {
        match &self.flags {
            Flags::Unknown => None,
            Flags::Difference { left, right, width } => {
                self.compare(condition, left, right, *width)
            }
            Flags::Logic { value, width } => {
                self.compare(condition, value, &Value::Constant(0), *width)
            }
            Flags::Exactly { negative, zero, below, overflow } => match condition {
                Condition::Equal => Some(*zero),
                Condition::Negative => Some(*negative),
                Condition::Below => Some(*below),
                Condition::BelowOrEqual => Some(*below || *zero),
                Condition::Less => Some(negative != overflow),
                Condition::LessOrEqual => Some(*zero || negative != overflow),
                Condition::Other => None,
            },
            Flags::Arithmetic { value, width } => match condition {
                Condition::Equal | Condition::Negative => {
                    self.compare(condition, value, &Value::Constant(0), *width)
                }
                _ => None,
            },
        }
    }

    /// Whether the low `width` bytes of a value are zero; `None` if that is not known.
    #[must_use]
    pub fn is_zero(&self, value: &Value, width: u8) -> Option<bool> {
        self.compare(Condition::Equal, value, &Value::Constant(0), width)
    }

    fn compare(
        &self,
        condition: Condition,
        left: &Value,
        right: &Value,
        width: u8,
    ) -> Option<bool> {
        if let (Value::Constant(left), Value::Constant(right)) = (left, right) {
            let (left, right) = (left & mask(width), right & mask(width));
            let (signed_left, signed_right) =
                (sign_extend(left, width) as i64, sign_extend(right, width) as i64);
            let difference = sign_extend(left.wrapping_sub(right) & mask(width), width) as i64;
            return match condition {
                Condition::Equal => Some(left == right),
                Condition::Negative => Some(difference < 0),
                Condition::Below => Some(left < right),
                Condition::BelowOrEqual => Some(left <= right),
                Condition::Less => Some(signed_left < signed_right),
                Condition::LessOrEqual => Some(signed_left <= signed_right),
                Condition::Other => None,
            };
        }
        if width != 8 {
            return None;
        }
        let equal = match (left, right) {
            (Value::Pointer { base: a, offset: x }, Value::Pointer { base: b, offset: y })
                if a == b =>
            {
                x == y
            }
            (pointer, Value::Constant(0)) | (Value::Constant(0), pointer)
                if self.is_non_null(pointer) =>
            {
                false
            }
            _ => return None,
        };
        match (condition, equal) {
            (Condition::Equal, equal) => Some(equal),
            (Condition::BelowOrEqual | Condition::LessOrEqual, true) => Some(true),
            (Condition::Below | Condition::Less | Condition::Negative, true) => Some(false),
            _ => None,
        }
    }

    fn is_non_null(&self, value: &Value) -> bool {
        match value {
            Value::Pointer { base: Base::Argument(_) | Base::Stack | Base::Import(_), .. } => true,
            Value::Pointer { base: Base::Field(field), offset: 0 } => {
                self.non_null.iter().any(|known| *known == **field)
            }
            _ => false,
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}
