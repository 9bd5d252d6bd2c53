//! Loads, stores and atomics, decoded.

use super::{
    decode::{bit, bits, extended, general, or_stack},
    immediate::signed,
    operation::{Atomic, Data, Operation, Place, Update},
};

/// An instruction of the loads and stores.
pub(super) fn decode(word: u32, at: u64) -> Option<Operation> {
    let vector = bit(word, 26);
    match bits(word, 27, 3) {
        0b001 if vector => structures(word),
        0b001 if !bit(word, 24) => ordered(word),
        0b011 if !bit(word, 24) => literal(word, at, vector),
        // `ldapur`, `stlur` and the like.
        0b011 if !vector && !bit(word, 21) && bits(word, 10, 2) == 0 => {
            let offset = signed(u64::from(bits(word, 12, 9)), 9);
            single(word, Place { offset, ..Place::at(or_stack(word, 5)) })
        }
        0b101 => pair(word, vector),
        0b111 => register(word),
        _ => None,
    }
}

/// `ldr`, `str` and the like, of one register.
fn register(word: u32) -> Option<Operation> {
    let base = Place::at(or_stack(word, 5));
    let scale = scale(word);
    if bit(word, 24) {
        let offset = i64::from(bits(word, 10, 12)) << scale;
        return single(word, Place { offset, ..base });
    }
    let offset = signed(u64::from(bits(word, 12, 9)), 9);
    match (bit(word, 21), bits(word, 10, 2)) {
        (false, 0b00 | 0b10) => single(word, Place { offset, ..base }),
        (false, 0b01) => single(word, Place { update: Some(Update::By(offset)), ..base }),
        (false, _) => single(word, Place { offset, update: Some(Update::By(offset)), ..base }),
        (true, 0b10) if bit(word, 14) => {
            let left = if bit(word, 12) { scale } else { 0 };
            let index = extended(general(word, 16), bits(word, 13, 3), left);
            single(word, Place { index: Some(index), ..base })
        }
        (true, 0b00) if !bit(word, 26) => atomic(word),
        _ => None,
    }
}

/// The power of two of a transfer's bytes.
fn scale(word: u32) -> u32 {
    let size = bits(word, 30, 2);
    if bit(word, 26) && bit(word, 23) { size + 4 } else { size }
}

fn single(word: u32, place: Place) -> Option<Operation> {
    let size = bits(word, 30, 2);
    if bit(word, 26) {
        if bit(word, 23) && size != 0 {
            return None;
        }
        let (data, width) = (Data::Vectors(1), 1 << scale(word));
        return Some(if bit(word, 22) {
            Operation::Load { data, place, width, signed: None }
        } else {
            Operation::Store { data, place, width }
        });
    }
    let (data, width) = (Data::One(general(word, 0)), 1 << size);
    let load = |signed| Some(Operation::Load { data, place, width, signed });
    match (bits(word, 22, 2), size) {
        (0b00, _) => Some(Operation::Store { data, place, width }),
        (0b01, _) => load(None),
        (0b10, 0b11) => Some(Operation::Nothing),
        (0b10, _) => load(Some(8)),
        (_, 0b00 | 0b01) => load(Some(4)),
        _ => None,
    }
}

/// `ldp`, `stp` and the like.
fn pair(word: u32, vector: bool) -> Option<Operation> {
    let (width, signed_load) = match (vector, bits(word, 30, 2)) {
        (false, 0b00) => (4, None),
        (false, 0b01) if bit(word, 22) => (4, Some(8)),
        (false, 0b10) => (8, None),
        (true, size @ 0..=2) => (4 << size, None),
        _ => return None,
    };
    let data =
        if vector { Data::Vectors(2) } else { Data::Two(general(word, 0), general(word, 10)) };
    let distance = signed(u64::from(bits(word, 15, 7)), 7) * i64::from(width);
    let base = Place::at(or_stack(word, 5));
    let place = match bits(word, 23, 2) {
        0b01 => Place { update: Some(Update::By(distance)), ..base },
        0b11 => Place { offset: distance, update: Some(Update::By(distance)), ..base },
        _ => Place { offset: distance, ..base },
    };
    Some(if bit(word, 22) {
        Operation::Load { data, place, width, signed: signed_load }
    } else {
        Operation::Store { data, place, width }
    })
}

fn literal(word: u32, at: u64, vector: bool) -> Option<Operation> {
    let distance = signed(u64::from(bits(word, 5, 19)), 19) << 2;
    let address = at.wrapping_add(distance as u64);
    let to = general(word, 0).filter(|_| !vector);
    let load = |width, signed| Some(Operation::LoadFixed { to, address, width, signed });
    match (vector, bits(word, 30, 2)) {
        (false, 0b00) => load(4, false),
        (false, 0b01) => load(8, false),
        (false, 0b10) => load(4, true),
        (false, _) => Some(Operation::Nothing),
        (true, 0b11) => None,
        (true, _) => Some(Operation::Nothing),
    }
}

/// Exclusive and ordered loads and stores, and compare-and-swap.
fn ordered(word: u32) -> Option<Operation> {
    let (base, width) = (or_stack(word, 5), 1 << bits(word, 30, 2));
    let (first, second, status) = (general(word, 0), general(word, 10), general(word, 16));
    let place = Place::at(base);
    let load = |data, width| Some(Operation::Load { data, place, width, signed: None });
    match (bit(word, 23), bit(word, 22), bit(word, 21)) {
        (false, true, false) => {
            Some(Operation::LoadExclusive { data: Data::One(first), base, width })
        }
        (false, false, false) => {
            let data = Data::One(first);
            Some(Operation::StoreExclusive { status, data, base, width })
        }
        // Pairs of 4 or 8 bytes; `casp` has the smaller sizes.
        (false, is_load, true) if bit(word, 31) => {
            let data = Data::Two(first, second);
            if is_load {
                Some(Operation::LoadExclusive { data, base, width })
            } else {
                Some(Operation::StoreExclusive { status, data, base, width })
            }
        }
        (true, true, false) => load(Data::One(first), width),
        (true, false, false) => Some(Operation::Store { data: Data::One(first), place, width }),
        (true, _, true) => Some(Operation::CompareAndSwap { expected: status, base, width }),
        _ => None,
    }
}

fn atomic(word: u32) -> Option<Operation> {
    let (base, width) = (or_stack(word, 5), 1 << bits(word, 30, 2));
    let (to, operand) = (general(word, 0), general(word, 16));
    let kind = match (bit(word, 15), bits(word, 12, 3)) {
        (false, 0b000) => Atomic::Add,
        (false, _) | (true, 0b000) => Atomic::Other,
        // `ldapr`.
        (true, 0b100) if operand.is_none() && bits(word, 22, 2) == 0b10 => {
            let (data, place) = (Data::One(to), Place::at(base));
            return Some(Operation::Load { data, place, width, signed: None });
        }
        _ => return None,
    };
    Some(Operation::Atomic { kind, to, operand, base, width })
}

/// `ld1`, `st1` and their kin: only where they touch memory, and how far.
fn structures(word: u32) -> Option<Operation> {
    if bit(word, 31) {
        return None;
    }
    let (units, width) = if bit(word, 24) { one_lane(word)? } else { whole_registers(word)? };
    let total = i64::from(units) * i64::from(width);
    let register = bits(word, 16, 5);
    let update = match (bit(word, 23), register) {
        (false, 0) => None,
        (true, 31) => Some(Update::By(total)),
        (true, register) => Some(Update::ByRegister(register as usize)),
        _ => return None,
    };
    let place = Place { update, ..Place::at(or_stack(word, 5)) };
    let data = Data::Vectors(units);
    Some(if bit(word, 22) {
        Operation::Load { data, place, width, signed: None }
    } else {
        Operation::Store { data, place, width }
    })
}

fn whole_registers(word: u32) -> Option<(u8, u8)> {
    if bit(word, 21) {
        return None;
    }
    let registers = match bits(word, 12, 4) {
        0b0000 | 0b0010 => 4,
        0b0100 | 0b0110 => 3,
        0b1000 | 0b1010 => 2,
        0b0111 => 1,
        _ => return None,
    };
    Some((registers, if bit(word, 30) { 16 } else { 8 }))
}

fn one_lane(word: u32) -> Option<(u8, u8)> {
    let registers = ((bits(word, 13, 1) << 1 | bits(word, 21, 1)) + 1) as u8;
    let width = match (bits(word, 14, 2), bits(word, 10, 2)) {
        (0b00, _) => 1,
        (0b01, _) => 2,
        (0b10, 0b00) => 4,
        (0b10, 0b01) => 8,
        // One element for all lanes: its size stands where the lane did.
        (0b11, size) if bit(word, 22) => 1 << size,
        _ => return None,
    };
    Some((registers, width))
}
