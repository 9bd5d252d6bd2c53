//! A64 instructions, decoded: 32 bits in, an [`Operation`] out.
//!
//! The tables are those of the Arm Architecture Reference Manual (DDI 0487),
//! section C4.1 "A64 instruction set encoding". What has no rule here (SVE, SME,
//! memory tags, memory copies) is `None`: it is not followed.

use super::{
    immediate::{bitmask, signed},
    memory,
    operation::{
        Arithmetic, Bitwise, ConditionCode, FieldMove, General, Operation, Otherwise, Shift, Source,
    },
};

/// The bits `low..low + count` of an instruction.
pub(super) fn bits(word: u32, low: u32, count: u32) -> u32 {
    word >> low & ((1 << count) - 1)
}

pub(super) fn bit(word: u32, at: u32) -> bool {
    word >> at & 1 == 1
}

/// A register where 31 is the zero register.
pub(super) fn general(word: u32, low: u32) -> General {
    Some(bits(word, low, 5) as usize).filter(|number| *number != 31)
}

/// A register where 31 is the stack pointer.
pub(super) fn or_stack(word: u32, low: u32) -> usize {
    bits(word, low, 5) as usize
}

/// Bytes of a general register, by the bit `sf`.
fn register_width(word: u32) -> u8 {
    if bit(word, 31) { 8 } else { 4 }
}

/// The instruction at an address; `None`: it is none that is known.
#[must_use]
pub(super) fn decode(word: u32, at: u64) -> Option<Operation> {
    match bits(word, 25, 4) {
        0b1000 | 0b1001 => immediate(word, at),
        0b1010 | 0b1011 => branch(word, at),
        0b0100 | 0b0110 | 0b1100 | 0b1110 => memory::decode(word, at),
        0b0101 | 0b1101 => registers(word),
        0b0111 | 0b1111 => Some(simd(word)),
        // `udf`.
        0b0000 if word >> 16 == 0 => Some(Operation::Trap),
        _ => None,
    }
}

/// Data processing, immediate.
fn immediate(word: u32, at: u64) -> Option<Operation> {
    let width = register_width(word);
    let to = general(word, 0);
    match bits(word, 23, 3) {
        0b000 | 0b001 => {
            let low = u64::from(bits(word, 29, 2));
            let distance = signed(u64::from(bits(word, 5, 19)) << 2 | low, 21);
            let target = if bit(word, 31) {
                (at & !0xfff).wrapping_add((distance << 12) as u64)
            } else {
                at.wrapping_add(distance as u64)
            };
            Some(Operation::Address { to, target })
        }
        0b010 => {
            let flags = bit(word, 29);
            let shift = if bit(word, 22) { 12 } else { 0 };
            Some(Operation::Add {
                to: if flags { to } else { Some(or_stack(word, 0)) },
                left: Some(or_stack(word, 5)),
                right: Source::Constant(u64::from(bits(word, 10, 12)) << shift),
                subtract: bit(word, 30),
                flags,
                width,
            })
        }
        0b100 => {
            let value = bitmask(bit(word, 22), bits(word, 10, 6), bits(word, 16, 6), width)?;
            let (kind, flags) = bitwise(word);
            Some(Operation::Bits {
                to: if flags { to } else { Some(or_stack(word, 0)) },
                left: general(word, 5),
                right: Source::Constant(value),
                kind,
                invert: false,
                flags,
                width,
            })
        }
        0b101 => {
            let shift = bits(word, 21, 2) * 16;
            if width == 4 && shift >= 32 {
                return None;
            }
            let bits_16 = u64::from(bits(word, 5, 16));
            let whole = if width == 8 { u64::MAX } else { u64::from(u32::MAX) };
            match bits(word, 29, 2) {
                0b00 => Some(Operation::Set { to, value: !(bits_16 << shift) & whole }),
                0b10 => Some(Operation::Set { to, value: bits_16 << shift }),
                0b11 => Some(Operation::Keep { to, width, bits: bits_16, shift }),
                _ => None,
            }
        }
        0b110 => {
            let kind = match bits(word, 29, 2) {
                0b00 => FieldMove::Signed,
                0b01 => FieldMove::Insert,
                0b10 => FieldMove::Unsigned,
                _ => return None,
            };
            let (rotate, top) = (bits(word, 16, 6), bits(word, 10, 6));
            // Bit 22 repeats `sf`; a 32-bit field has no bit 32.
            if bit(word, 22) != bit(word, 31) || width == 4 && (rotate > 31 || top > 31) {
                return None;
            }
            Some(Operation::Move { kind, to, from: general(word, 5), rotate, top, width })
        }
        0b111 if bits(word, 29, 2) == 0 && !bit(word, 21) => {
            let from = bits(word, 10, 6);
            if bit(word, 22) != bit(word, 31) || width == 4 && from > 31 {
                return None;
            }
            let (upper, lower) = (general(word, 5), general(word, 16));
            Some(Operation::Extract { to, upper, lower, from, width })
        }
        _ => None,
    }
}

fn bitwise(word: u32) -> (Bitwise, bool) {
    match bits(word, 29, 2) {
        0b00 => (Bitwise::And, false),
        0b01 => (Bitwise::Or, false),
        0b10 => (Bitwise::Xor, false),
        _ => (Bitwise::And, true),
    }
}

fn shift(word: u32, low: u32) -> Shift {
    match bits(word, low, 2) {
        0b00 => Shift::Left,
        0b01 => Shift::Right,
        0b10 => Shift::Arithmetic,
        _ => Shift::Rotate,
    }
}

/// A register that is extended, by the three bits of its option.
pub(super) fn extended(register: General, option: u32, left: u32) -> Source {
    Source::Extended { register, width: 1 << (option & 3), signed: option & 4 != 0, left }
}

/// Data processing, registers.
fn registers(word: u32) -> Option<Operation> {
    let width = register_width(word);
    let (to, left, second) = (general(word, 0), general(word, 5), general(word, 16));
    let amount = bits(word, 10, 6);
    let shifted = Source::Shifted { register: second, shift: shift(word, 22), amount };
    if bits(word, 24, 5) == 0b01010 {
        if width == 4 && amount > 31 {
            return None;
        }
        let (kind, flags) = bitwise(word);
        let invert = bit(word, 21);
        return Some(Operation::Bits { to, left, right: shifted, kind, invert, flags, width });
    }
    let (subtract, flags) = (bit(word, 30), bit(word, 29));
    if bits(word, 24, 5) == 0b01011 {
        if !bit(word, 21) {
            if shift(word, 22) == Shift::Rotate || width == 4 && amount > 31 {
                return None;
            }
            return Some(Operation::Add { to, left, right: shifted, subtract, flags, width });
        }
        let left_by = bits(word, 10, 3);
        if bits(word, 22, 2) != 0 || left_by > 4 {
            return None;
        }
        return Some(Operation::Add {
            to: if flags { to } else { Some(or_stack(word, 0)) },
            left: Some(or_stack(word, 5)),
            right: extended(second, bits(word, 13, 3), left_by),
            subtract,
            flags,
            width,
        });
    }
    match bits(word, 21, 8) {
        // `adc`, `sbc`.
        0b1101_0000 if bits(word, 10, 6) == 0 => other(to, flags),
        // `rmif`, `setf8`, `setf16`.
        0b1101_0000 => other(None, true),
        0b1101_0010 if !bit(word, 4) && flags && !bit(word, 10) => {
            let right = if bit(word, 11) {
                Source::Constant(u64::from(bits(word, 16, 5)))
            } else {
                Source::Shifted { register: second, shift: Shift::Left, amount: 0 }
            };
            let condition = ConditionCode(bits(word, 12, 4) as u8);
            let flags = bits(word, 0, 4) as u8;
            Some(Operation::CompareIf { left, right, add: !subtract, condition, flags, width })
        }
        0b1101_0100 if !flags && !bit(word, 11) => {
            let change = match (subtract, bit(word, 10)) {
                (false, false) => Otherwise::AsIs,
                (false, true) => Otherwise::PlusOne,
                (true, false) => Otherwise::Inverted,
                (true, true) => Otherwise::Negated,
            };
            let condition = ConditionCode(bits(word, 12, 4) as u8);
            Some(Operation::Select { to, when: left, otherwise: second, change, condition, width })
        }
        0b1101_0110 if !flags && subtract => other(to, false),
        0b1101_0110 if !flags => {
            let kind = match bits(word, 10, 6) {
                0b00_0010 => Arithmetic::DivideUnsigned,
                0b00_0011 => Arithmetic::DivideSigned,
                0b00_1000..=0b00_1011 => Arithmetic::Shift(shift(word, 10)),
                _ => return other(to, false),
            };
            Some(Operation::Compute { kind, to, left, right: second, width })
        }
        // `subps` is of the memory tags.
        0b1101_0110 => other(to, true),
        0b1101_1000..=0b1101_1111 => multiply(word, width),
        _ => None,
    }
}

fn multiply(word: u32, width: u8) -> Option<Operation> {
    let (to, left, right, with) =
        (general(word, 0), general(word, 5), general(word, 16), general(word, 10));
    let subtract = bit(word, 15);
    let compute = |kind| Some(Operation::Compute { kind, to, left, right, width });
    let product = |factors, signed| {
        Some(Operation::Multiply { to, left, right, with, subtract, factors, signed, width })
    };
    match bits(word, 21, 3) {
        0b000 => product(width, false),
        0b001 if width == 8 => product(4, true),
        0b101 if width == 8 => product(4, false),
        0b010 if width == 8 => compute(Arithmetic::UpperSigned),
        0b110 if width == 8 => compute(Arithmetic::UpperUnsigned),
        _ => None,
    }
}

fn other(to: General, flags: bool) -> Option<Operation> {
    Some(Operation::Other { writes: to.map_or(0, |number| 1 << number), flags })
}

/// Branches, exceptions, system.
fn branch(word: u32, at: u64) -> Option<Operation> {
    let to = |low, count, scale: u32| {
        let distance = signed(u64::from(bits(word, low, count)), count) << scale;
        at.wrapping_add(distance as u64)
    };
    match bits(word, 29, 3) {
        0b000 => Some(Operation::Jump(to(0, 26, 2))),
        0b100 => Some(Operation::Call(to(0, 26, 2))),
        0b001 | 0b101 => {
            let (register, negated) = (general(word, 0), bit(word, 24));
            if bit(word, 25) {
                let bit = bits(word, 31, 1) << 5 | bits(word, 19, 5);
                let target = to(5, 14, 2);
                return Some(Operation::JumpIfClear { register, bit, negated, target });
            }
            let (width, target) = (register_width(word), to(5, 19, 2));
            Some(Operation::JumpIfZero { register, width, negated, target })
        }
        0b010 if bits(word, 24, 2) == 0 => {
            Some(Operation::JumpIf(ConditionCode(bits(word, 0, 4) as u8), to(5, 19, 2)))
        }
        0b110 if bits(word, 24, 2) == 0 => match (bits(word, 21, 3), bits(word, 0, 5)) {
            (0b000, 0b00001) => Some(Operation::System),
            (0b001 | 0b010, 0b00000) => Some(Operation::Trap),
            _ => None,
        },
        0b110 if bits(word, 24, 2) == 1 => system(word),
        0b110 if bits(word, 16, 5) == 0b11111 => {
            let register = general(word, 5);
            match (bits(word, 21, 4), bits(word, 10, 6)) {
                (0b0000, 0) => Some(Operation::JumpRegister(register)),
                (0b0001, 0) => Some(Operation::CallRegister(register)),
                (0b0010, 0) => Some(Operation::Return(register)),
                // `retaa`, `retab`: the address is checked, and the same.
                (0b0010, 2 | 3) if register.is_none() => Some(Operation::Return(Some(30))),
                // `braaz`, `blraaz` and the like.
                (0b0000 | 0b1000, 2 | 3) => Some(Operation::JumpRegister(register)),
                (0b0001 | 0b1001, 2 | 3) => Some(Operation::CallRegister(register)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn system(word: u32) -> Option<Operation> {
    let nothing = Some(Operation::Nothing);
    match bits(word, 19, 5) {
        // Hints; those that sign `x17` with `x16` change it.
        0b00000 if bits(word, 12, 4) == 2 && bits(word, 0, 5) == 31 => match bits(word, 5, 7) {
            8 | 10 | 12 | 14 => Some(Operation::Other { writes: 1 << 17, flags: false }),
            _ => nothing,
        },
        // Barriers.
        0b00000 if bits(word, 12, 4) == 3 => nothing,
        // `msr` of a field of the processor's state; `cfinv` and its like.
        0b00000 if bits(word, 12, 4) == 4 => Some(Operation::Other { writes: 0, flags: true }),
        // `mrs`.
        0b00110 | 0b00111 => {
            let written = general(word, 0).map_or(0, |number| 1 << number);
            Some(Operation::Other { writes: written, flags: false })
        }
        // `msr`: the flags are such a register too.
        0b00010 | 0b00011 => Some(Operation::Other { writes: 0, flags: true }),
        _ => None,
    }
}

/// Floating point and vectors: none of them touches memory; a few write a
/// general register or the flags.
fn simd(word: u32) -> Operation {
    let to_general = || Operation::Other {
        writes: general(word, 0).map_or(0, |number| 1 << number),
        flags: false,
    };
    let nothing = Operation::Nothing;
    // Scalar floating point: `x00 11110`.
    if bits(word, 24, 5) == 0b11110 && !bit(word, 30) {
        if !bit(word, 29) {
            let (rounding, operation) = (bits(word, 19, 2), bits(word, 16, 3));
            if !bit(word, 21) {
                // Fixed point: `fcvtzs`, `fcvtzu`.
                return if rounding == 3 { to_general() } else { nothing };
            }
            if bits(word, 10, 6) == 0 {
                // `fcvt*`, and `fmov` to a general register.
                let writes = matches!(operation, 0 | 1 | 4 | 5)
                    || operation == 6 && matches!(rounding, 0 | 1 | 3);
                return if writes { to_general() } else { nothing };
            }
            // `fcmp`, `fccmp`.
            if bits(word, 10, 4) == 0b1000 || bits(word, 10, 2) == 0b01 {
                return Operation::Other { writes: 0, flags: true };
            }
        }
        return nothing;
    }
    // `umov`, `smov`.
    let copies = bits(word, 21, 8) == 0b0111_0000 && !bit(word, 31) && bit(word, 10);
    if copies && !bit(word, 29) && !bit(word, 15) && matches!(bits(word, 11, 4), 0b0101 | 0b0111) {
        return to_general();
    }
    nothing
}
