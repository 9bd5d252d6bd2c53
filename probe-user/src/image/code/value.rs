//! What a register or a memory cell can be known to hold.

use std::{fmt, rc::Rc};

use super::quotient::Division;
/// Loads and calls that one value may be made of, one inside the other: a
/// member of a member of a result is three. Without a bound, code that goes
/// round and round makes expressions that are too large to compare or to show.
const MAX_DEPTH: usize = 8;

/// Something that addresses are counted from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// The value of an argument at the function's entry, counted from 0.
    Argument(u8),
    /// The stack pointer at the function's entry.
    Stack,
    /// What a 64-bit field holds.
    Field(Rc<Field>),
    /// What a function outside of the file returned.
    Result(Rc<CallResult>),
    /// Memory of the file itself that can change while the process runs.
    Image,
    /// The address of a function of another file.
    Import(Rc<str>),
    /// The stack protector's guard, `fs:0x28`.
    Guard,
}

impl Base {
    fn depth(&self) -> usize {
        match self {
            Self::Field(field) => 1 + field.base.depth(),
            Self::Result(call) => 1 + call.argument.depth(),
            _ => 0,
        }
    }
}

/// What stands in memory at an offset from a base.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// What the offset is counted from.
    pub base: Base,
    /// Bytes from the base.
    pub offset: i64,
    /// Bytes: 1, 2, 4 or 8.
    pub width: u8,
}

/// A call that was not followed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallResult {
    /// The name of the function, or its address.
    pub function: String,
    /// What the first argument was.
    pub argument: Value,
}

/// What is known of 64 bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// Exactly this.
    Constant(u64),
    /// A base and a distance from it.
    Pointer {
        /// What the distance is counted from.
        base: Base,
        /// The distance in bytes.
        offset: i64,
    },
    /// A field of less than 64 bits, extended to 64.
    Narrow {
        /// The field.
        field: Rc<Field>,
        /// Extended with its sign, or with zeros.
        signed: bool,
    },
    /// A 64-bit field, divided by a constant.
    Quotient {
        /// The dividend.
        field: Rc<Field>,
        /// How it is divided; by what may be unproven yet.
        division: Division,
    },
    /// The low `width` bytes are exactly this; the others are not known.
    Low {
        /// The value of the low bytes, extended with zeros.
        value: u64,
        /// How many bytes are known: 1, 2 or 4.
        width: u8,
    },
    /// An address somewhere on the stack, at a distance that is not known.
    OnStack,
    /// Nothing.
    Unknown,
}

impl Value {
    /// An argument as the caller passed it.
    #[must_use]
    pub fn argument(number: u8) -> Self {
        Self::Pointer { base: Base::Argument(number), offset: 0 }
    }

    /// What a field holds, extended with zeros; unknown if it takes more loads
    /// to get there than are followed.
    #[must_use]
    pub fn of_field(field: Field) -> Self {
        if field.base.depth() >= MAX_DEPTH {
            return Self::Unknown;
        }
        if field.width == 8 {
            Self::Pointer { base: Base::Field(Rc::new(field)), offset: 0 }
        } else {
            Self::Narrow { field: Rc::new(field), signed: false }
        }
    }

    /// What a call that is not followed returned; unknown if its argument takes
    /// more loads than are followed.
    #[must_use]
    pub fn of_call(call: CallResult) -> Self {
        if call.argument.depth() >= MAX_DEPTH {
            return Self::Unknown;
        }
        Self::Pointer { base: Base::Result(Rc::new(call)), offset: 0 }
    }

    fn depth(&self) -> usize {
        match self {
            Self::Pointer { base, .. } => base.depth(),
            Self::Narrow { field, .. } | Self::Quotient { field, .. } => 1 + field.base.depth(),
            Self::Constant(_) | Self::Low { .. } | Self::OnStack | Self::Unknown => 0,
        }
    }

    /// The field, if this is all of a 64-bit one and nothing else.
    #[must_use]
    pub fn as_field(&self) -> Option<&Field> {
        match self {
            Self::Pointer { base: Base::Field(field), offset: 0 } => Some(field),
            Self::Narrow { field, .. } => Some(field),
            _ => None,
        }
    }

    /// The field whose load made this value, whatever was computed from it since.
    #[must_use]
    pub fn field(&self) -> Option<&Rc<Field>> {
        match self {
            Self::Pointer { base: Base::Field(field), .. }
            | Self::Narrow { field, .. }
            | Self::Quotient { field, .. } => Some(field),
            _ => None,
        }
    }

    /// The sum, as far as it can be known.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Constant(a), Self::Constant(b)) => Self::Constant(a.wrapping_add(*b)),
            (Self::Pointer { base, offset }, Self::Constant(c))
            | (Self::Constant(c), Self::Pointer { base, offset }) => {
                Self::Pointer { base: base.clone(), offset: offset.wrapping_add(*c as i64) }
            }
            (value, Self::Constant(0)) | (Self::Constant(0), value) => value.clone(),
            (a, b) => a.mixed_with(b),
        }
    }

    /// The difference, as far as it can be known.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        match (self, other) {
            // Of these, more than what is compared is not known.
            (Self::Unknown | Self::Low { .. }, Self::Unknown | Self::Low { .. })
            | (Self::OnStack, Self::OnStack) => Self::Unknown,
            (a, b) if a == b => Self::Constant(0),
            (a, Self::Constant(b)) => a.plus(&Self::Constant(b.wrapping_neg())),
            (a, b) => a.mixed_with(b),
        }
    }

    /// Whether it is an address on the stack.
    #[must_use]
    pub fn is_on_stack(&self) -> bool {
        matches!(self, Self::OnStack | Self::Pointer { base: Base::Stack, .. })
    }

    /// What an operation makes of two values that is not followed: an address on
    /// the stack remains one, whatever is added to it or masked.
    #[must_use]
    pub fn mixed_with(&self, other: &Self) -> Self {
        if self.is_on_stack() || other.is_on_stack() { Self::OnStack } else { Self::Unknown }
    }

    /// All 64 bits shifted to the right by fewer than 64, filled with zeros.
    #[must_use]
    pub fn shifted_right(&self, bits: u8) -> Self {
        match self {
            _ if bits >= 64 => Self::Unknown,
            Self::Constant(c) => Self::Constant(c >> bits),
            value => value.divided_as(|division| division.shifted(bits)),
        }
    }

    /// The upper half of the 128-bit product of two unsigned numbers.
    #[must_use]
    pub fn multiplied_high(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Constant(a), Self::Constant(b)) => {
                Self::Constant(((u128::from(*a) * u128::from(*b)) >> 64) as u64)
            }
            (value, Self::Constant(c)) | (Self::Constant(c), value) => {
                value.divided_as(|division| division.multiplied_high(*c))
            }
            _ => Self::Unknown,
        }
    }

    /// The quotient of two unsigned numbers, rounded down.
    #[must_use]
    pub fn divided_by(&self, other: &Self) -> Self {
        match (self, other) {
            (_, Self::Constant(0)) => Self::Unknown,
            (Self::Constant(a), Self::Constant(b)) => Self::Constant(a / b),
            (Self::Pointer { base: Base::Field(field), offset: 0 }, Self::Constant(by)) => {
                Self::Quotient { field: Rc::clone(field), division: Division::By(*by) }
            }
            _ => Self::Unknown,
        }
    }

    /// What becomes of a 64-bit field, or of one that is being divided, by one
    /// more step of a division.
    fn divided_as(&self, step: impl FnOnce(Division) -> Option<Division>) -> Self {
        let (field, division) = match self {
            Self::Pointer { base: Base::Field(field), offset: 0 } => {
                (field, Division::Reciprocal { before: 0, multiplier: 1, after: 0 })
            }
            Self::Quotient { field, division } => (field, *division),
            other => return other.mixed_with(&Self::Unknown),
        };
        step(division)
            .map_or(Self::Unknown, |division| Self::Quotient { field: Rc::clone(field), division })
    }

    /// The low `width` bytes, extended with zeros.
    #[must_use]
    pub fn zero_extended(&self, width: u8) -> Self {
        match self {
            _ if width >= 8 => self.clone(),
            Self::Constant(c) => Self::Constant(c & mask(width)),
            Self::Low { value, width: known } if *known >= width => {
                Self::Constant(value & mask(width))
            }
            Self::Narrow { field, signed }
                if field.width == width || !signed && field.width < width =>
            {
                Self::Narrow { field: Rc::clone(field), signed: false }
            }
            _ => Self::Unknown,
        }
    }

    /// The low `width` bytes, extended with their sign.
    #[must_use]
    pub fn sign_extended(&self, width: u8) -> Self {
        match self {
            _ if width >= 8 => self.clone(),
            Self::Constant(c) => Self::Constant(sign_extend(*c, width)),
            Self::Low { value, width: known } if *known >= width => {
                Self::Constant(sign_extend(*value & mask(width), width))
            }
            Self::Narrow { field, .. } if field.width == width => {
                Self::Narrow { field: Rc::clone(field), signed: true }
            }
            Self::Narrow { field, .. } if field.width < width => self.clone(),
            _ => Self::Unknown,
        }
    }
}

/// The bits of a value of `width` bytes.
#[must_use]
pub fn mask(width: u8) -> u64 {
    if width >= 8 { u64::MAX } else { (1 << (u32::from(width) * 8)) - 1 }
}

/// The low `width` bytes, extended with their sign to 64 bits.
#[must_use]
pub fn sign_extend(value: u64, width: u8) -> u64 {
    if width == 0 || width >= 8 {
        return value;
    }
    let shift = 64 - u32::from(width) * 8;
    (((value << shift) as i64) >> shift) as u64
}

struct Offset(i64);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            offset if offset < 0 => write!(f, "-{:#x}", offset.unsigned_abs()),
            offset => write!(f, "+{offset:#x}"),
        }
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(n) => write!(f, "arg{n}"),
            Self::Stack => f.write_str("stack"),
            Self::Field(field) => field.fmt(f),
            Self::Result(call) => write!(f, "{}({})", call.function, call.argument),
            Self::Image => f.write_str("image"),
            Self::Import(name) => write!(f, "&{name}"),
            Self::Guard => f.write_str("guard"),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.width {
            1 => "u8",
            2 => "u16",
            4 => "u32",
            _ => "u64",
        };
        write!(f, "{kind}[{}{}]", self.base, Offset(self.offset))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(c) if *c < 10 => write!(f, "{c}"),
            Self::Constant(c) => write!(f, "{c:#x}"),
            Self::Pointer { base, offset } => write!(f, "{base}{}", Offset(*offset)),
            Self::Narrow { field, signed: true } => write!(f, "(signed) {field}"),
            Self::Narrow { field, signed: false } => field.fmt(f),
            Self::Quotient { field, division } => match (division.divisor(), division) {
                (Some(divisor), _) => write!(f, "{field} / {divisor}"),
                (None, Division::By(by)) => write!(f, "{field} / {by}"),
                (None, Division::Reciprocal { before, multiplier, after }) => {
                    write!(f, "({field} >> {before}) * {multiplier:#x} >> {after}")
                }
            },
            Self::Low { value, width } => write!(f, "(low u{}) {value:#x}", width * 8),
            Self::OnStack => f.write_str("on the stack"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int_field(offset: i64) -> Field {
        Field { base: Base::Argument(0), offset, width: 4 }
    }

    #[test]
    fn sign_extension_of_an_int_field_is_the_counter_accessor() {
        let value = Value::of_field(int_field(0x78)).sign_extended(4);
        assert_eq!(value.to_string(), "(signed) u32[arg0+0x78]");
        assert_eq!(value.as_field(), Some(&int_field(0x78)));
    }

    #[test]
    fn half_a_pointer_is_unknown() {
        assert_eq!(Value::argument(0).zero_extended(4), Value::Unknown);
    }

    #[test]
    fn the_sign_of_a_constant_follows_its_width() {
        assert_eq!(
            Value::Constant(0x8000_0000).sign_extended(4),
            Value::Constant(0xffff_ffff_8000_0000)
        );
        assert_eq!(Value::Constant(0x8000_0000).sign_extended(8), Value::Constant(0x8000_0000));
        assert_eq!(Value::Constant(0xff).sign_extended(1), Value::Constant(u64::MAX));
    }

    /// `SSL_CTX_get_timeout` since 3.2: nanoseconds to seconds.
    #[test]
    fn a_product_that_is_shifted_is_a_quotient() {
        let field = Field { base: Base::Argument(0), offset: 0x58, width: 8 };
        let value = Value::of_field(field)
            .shifted_right(9)
            .multiplied_high(&Value::Constant(0x0044_b82f_a09b_5a53))
            .shifted_right(11);
        assert_eq!(value.to_string(), "u64[arg0+0x58] / 1000000000");
    }

    #[test]
    fn only_whole_64_bit_fields_are_divided() {
        let by = Value::Constant(1000);
        for value in [Value::of_field(int_field(0x58)), Value::argument(0), Value::Unknown] {
            assert_eq!(value.divided_by(&by), Value::Unknown);
            assert_eq!(value.multiplied_high(&by), Value::Unknown);
            assert_eq!(value.shifted_right(3), Value::Unknown);
        }
        assert_eq!(Value::Constant(7).divided_by(&Value::Constant(0)), Value::Unknown);
    }

    #[test]
    fn a_value_is_made_of_so_many_loads_and_no_more() {
        let load = |value: Value| match value {
            Value::Pointer { base, .. } => Value::of_field(Field { base, offset: 8, width: 8 }),
            _ => Value::Unknown,
        };
        let deepest = (0..MAX_DEPTH).fold(Value::argument(0), |value, _| load(value));
        assert_ne!(deepest, Value::Unknown);
        assert_eq!(load(deepest.clone()), Value::Unknown);
        let call = CallResult { function: "f".to_owned(), argument: deepest };
        assert_eq!(Value::of_call(call), Value::Unknown);
    }

    #[test]
    fn equal_unknowns_do_not_cancel() {
        assert_eq!(Value::Unknown.minus(&Value::Unknown), Value::Unknown);
    }
}
