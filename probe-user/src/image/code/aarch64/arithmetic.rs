//! Arithmetic on what is known of numbers.

use super::operation::{Arithmetic, Bitwise, FieldMove, Shift};
use crate::image::code::value::{Value, mask, sign_extend};

/// Bits of a value of `width` bytes.
fn size(width: u8) -> u32 {
    u32::from(width) * 8
}

/// All bits turned over.
pub(super) fn inverted(value: &Value, width: u8) -> Value {
    match value {
        Value::Constant(c) => Value::Constant(!c & mask(width)),
        value => value.mixed_with(&Value::Unknown).zero_extended(width),
    }
}

/// Whether a number is neither 0 nor the smallest one.
pub(super) fn has_negative(constant: u64, width: u8) -> bool {
    let constant = constant & mask(width);
    constant != 0 && constant != 1 << (size(width) - 1)
}

pub(super) fn bitwise(kind: Bitwise, a: &Value, b: &Value) -> Value {
    match (kind, a, b) {
        (Bitwise::And, Value::Constant(a), Value::Constant(b)) => Value::Constant(a & b),
        (Bitwise::Or, Value::Constant(a), Value::Constant(b)) => Value::Constant(a | b),
        (Bitwise::Xor, Value::Constant(a), Value::Constant(b)) => Value::Constant(a ^ b),
        (Bitwise::And, _, Value::Constant(0)) | (Bitwise::And, Value::Constant(0), _) => {
            Value::Constant(0)
        }
        (Bitwise::Or | Bitwise::Xor, value, Value::Constant(0))
        | (Bitwise::Or | Bitwise::Xor, Value::Constant(0), value) => value.clone(),
        (Bitwise::And, value, Value::Constant(bits)) => match [1, 2, 4, 8].map(mask) {
            [one, ..] if one == *bits => value.zero_extended(1),
            [_, two, ..] if two == *bits => value.zero_extended(2),
            [.., four, _] if four == *bits => value.zero_extended(4),
            [.., eight] if eight == *bits => value.clone(),
            _ => value.mixed_with(b),
        },
        (Bitwise::And | Bitwise::Or, a, b) if a == b => a.clone(),
        // What is equal need not be the same.
        (Bitwise::Xor, Value::Unknown | Value::Low { .. } | Value::OnStack, _) => a.mixed_with(b),
        (Bitwise::Xor, a, b) if a == b => Value::Constant(0),
        (_, a, b) => a.mixed_with(b),
    }
}

/// A shift by a constant number of bits.
pub(super) fn shifted(shift: Shift, value: &Value, amount: u32, width: u8) -> Value {
    if amount == 0 {
        return value.clone();
    }
    let bits = size(width);
    let amount = amount % bits;
    match value {
        // A step of a division.
        value if shift == Shift::Right && width == 8 => value.shifted_right(amount as u8),
        Value::Constant(c) => {
            let c = c & mask(width);
            let result = match shift {
                Shift::Left => c << amount,
                Shift::Right => c >> amount,
                Shift::Arithmetic => ((sign_extend(c, width) as i64) >> amount) as u64,
                Shift::Rotate if amount == 0 => c,
                Shift::Rotate => c >> amount | c << (bits - amount),
            };
            Value::Constant(result & mask(width))
        }
        value if shift == Shift::Right && width == 8 => value.shifted_right(amount as u8),
        value => value.mixed_with(&Value::Unknown).zero_extended(width),
    }
}

/// `sbfm`, `ubfm`, `bfm`.
pub(super) fn field_move(
    kind: FieldMove,
    old: &Value,
    value: &Value,
    rotate: u32,
    top: u32,
    width: u8,
) -> Value {
    if rotate == 0 && kind != FieldMove::Insert && (top + 1).is_multiple_of(8) {
        let from = ((top + 1) / 8) as u8;
        // Whole bytes from the bottom: `uxtb`, `sxtw` and the like.
        return match kind {
            FieldMove::Signed => value.sign_extended(from).zero_extended(width),
            _ => value.zero_extended(from),
        };
    }
    if kind == FieldMove::Unsigned && top + 1 == size(width) {
        return shifted(Shift::Right, value, rotate, width);
    }
    let Value::Constant(bits) = *value else {
        let other = if kind == FieldMove::Insert { old } else { &Value::Unknown };
        return value.mixed_with(other).zero_extended(width);
    };
    // The field goes from `rotate` to `top` down to 0, or from 0 to `top` up.
    let (field, count, at) = if top >= rotate {
        (bits >> rotate, top - rotate + 1, 0)
    } else {
        (bits, top + 1, size(width) - rotate)
    };
    let ones = if count == 64 { u64::MAX } else { (1 << count) - 1 };
    let field = field & ones;
    let result = match kind {
        FieldMove::Unsigned => field << at,
        FieldMove::Signed => {
            let sign = field >> (count - 1) & 1 == 1;
            (if sign { field | !ones } else { field }) << at
        }
        FieldMove::Insert => match *old {
            Value::Constant(old) => old & !(ones << at) | field << at,
            _ => return old.mixed_with(value).zero_extended(width),
        },
    };
    Value::Constant(result & mask(width))
}

/// `extr`; with one register twice, a rotation.
pub(super) fn extract(upper: &Value, lower: &Value, from: u32, width: u8) -> Value {
    match (upper, lower) {
        (_, lower) if from == 0 => lower.clone(),
        (Value::Constant(upper), Value::Constant(lower)) => {
            let value = lower >> from | upper << (size(width) - from);
            Value::Constant(value & mask(width))
        }
        _ => Value::Unknown,
    }
}

pub(super) fn product(a: &Value, b: &Value) -> Value {
    match (a, b) {
        (Value::Constant(a), Value::Constant(b)) => Value::Constant(a.wrapping_mul(*b)),
        (_, Value::Constant(0)) | (Value::Constant(0), _) => Value::Constant(0),
        (value, Value::Constant(1)) | (Value::Constant(1), value) => value.clone(),
        _ => Value::Unknown,
    }
}

pub(super) fn compute(kind: Arithmetic, a: &Value, b: &Value, width: u8) -> Value {
    if let (Arithmetic::Shift(shift), Value::Constant(amount)) = (kind, b) {
        return shifted(shift, a, (amount % u64::from(size(width))) as u32, width);
    }
    match kind {
        Arithmetic::UpperUnsigned => return a.multiplied_high(b),
        // By zero, it is zero.
        Arithmetic::DivideUnsigned if width == 8 && *b != Value::Constant(0) => {
            return a.divided_by(b);
        }
        _ => {}
    }
    let (Value::Constant(a), Value::Constant(b)) = (a, b) else { return Value::Unknown };
    let (signed_a, signed_b) = (sign_extend(*a, width) as i64, sign_extend(*b, width) as i64);
    let result = match kind {
        // Division by zero gives zero.
        Arithmetic::DivideUnsigned => a.checked_div(*b).unwrap_or(0),
        Arithmetic::DivideSigned if signed_b == 0 => 0,
        Arithmetic::DivideSigned => signed_a.wrapping_div(signed_b) as u64,
        Arithmetic::UpperSigned => ((i128::from(signed_a) * i128::from(signed_b)) >> 64) as u64,
        Arithmetic::UpperUnsigned | Arithmetic::Shift(_) => return Value::Unknown,
    };
    Value::Constant(result & mask(width))
}
