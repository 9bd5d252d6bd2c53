//! One instruction made into another one of the same length.

use iced_x86::{ConstantOffsets, Decoder, DecoderOptions, FlowControl, Instruction, OpKind};
use object::Architecture;

use crate::random::Random;

/// Attempts to find another instruction of the same length.
const ATTEMPTS: usize = 24;

/// The length of the instruction at the start of `code`.
pub(crate) fn length(architecture: Architecture, code: &[u8], at: u64) -> Option<usize> {
    match architecture {
        Architecture::Aarch64 => (code.len() >= 4).then_some(4),
        _ => decode(code, at).map(|(instruction, _)| instruction.len()),
    }
}

fn decode(code: &[u8], at: u64) -> Option<(Instruction, ConstantOffsets)> {
    let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then(|| (instruction, decoder.get_constant_offsets(&instruction)))
}

fn word(code: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(code.get(..4)?.try_into().ok()?))
}

/// Adds to a little-endian number of 1 to 8 bytes.
fn add_to(bytes: &mut [u8], delta: i64) {
    let mut value = [0; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    let sum = i64::from_le_bytes(value).wrapping_add(delta).to_le_bytes();
    bytes.copy_from_slice(&sum[..bytes.len()]);
}

fn little(random: &mut Random) -> i64 {
    [-8, -4, 4, 8][random.below(4)]
}

/// Its displacement is another one.
pub(crate) fn displacement(
    architecture: Architecture,
    code: &[u8],
    at: u64,
    random: &mut Random,
) -> Option<Vec<u8>> {
    let delta = little(random);
    if architecture == Architecture::Aarch64 {
        let word = word(code)?;
        // Loads and stores with an unsigned offset; add and sub of a constant.
        let memory = word & 0x3b00_0000 == 0x3900_0000;
        let constant = word & 0x1f80_0000 == 0x1100_0000;
        let unscaled = word & 0x3b20_0000 == 0x3800_0000;
        return if memory {
            let unit = 1 << (word >> 30);
            let scaled = (i64::from(word >> 10 & 0xfff) + (delta / unit).clamp(-8, 8)) & 0xfff;
            Some((word & !(0xfff << 10) | (scaled as u32) << 10).to_le_bytes().to_vec())
        } else if constant {
            let value = (i64::from(word >> 10 & 0xfff) + delta) & 0xfff;
            Some((word & !(0xfff << 10) | (value as u32) << 10).to_le_bytes().to_vec())
        } else if unscaled {
            let value = (i64::from(word >> 12 & 0x1ff) + delta) & 0x1ff;
            Some((word & !(0x1ff << 12) | (value as u32) << 12).to_le_bytes().to_vec())
        } else {
            None
        };
    }
    let (instruction, offsets) = decode(code, at)?;
    if !offsets.has_displacement() {
        return None;
    }
    let mut bytes = code.get(..instruction.len())?.to_vec();
    let from = offsets.displacement_offset();
    add_to(bytes.get_mut(from..from + offsets.displacement_size())?, delta);
    Some(bytes)
}

/// Its immediate operand is another one.
pub(crate) fn immediate(
    architecture: Architecture,
    code: &[u8],
    at: u64,
    random: &mut Random,
) -> Option<Vec<u8>> {
    let delta = [-8, -4, -2, -1, 1, 2, 4, 8][random.below(8)];
    if architecture == Architecture::Aarch64 {
        let word = word(code)?;
        // movz, movk, movn; add, sub, cmp of a constant.
        let (shift, mask) = if word & 0x1f80_0000 == 0x1280_0000 {
            (5, 0xffff)
        } else if word & 0x1f80_0000 == 0x1100_0000 {
            (10, 0xfff)
        } else {
            return None;
        };
        let value = (i64::from(word >> shift & mask) + delta) as u32 & mask;
        return Some((word & !(mask << shift) | value << shift).to_le_bytes().to_vec());
    }
    let (instruction, offsets) = decode(code, at)?;
    if !offsets.has_immediate() || is_branch(&instruction) {
        return None;
    }
    let mut bytes = code.get(..instruction.len())?.to_vec();
    let from = offsets.immediate_offset();
    add_to(bytes.get_mut(from..from + offsets.immediate_size())?, delta);
    Some(bytes)
}

fn is_branch(instruction: &Instruction) -> bool {
    matches!(
        instruction.op0_kind(),
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
    )
}

/// The same instruction with another register.
pub(crate) fn register(
    architecture: Architecture,
    code: &[u8],
    at: u64,
    random: &mut Random,
) -> Option<Vec<u8>> {
    if architecture == Architecture::Aarch64 {
        let bit = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 18, 19, 20][random.below(15)];
        return Some((word(code)? ^ 1 << bit).to_le_bytes().to_vec());
    }
    another(code, at, random, |old, new| old.mnemonic() == new.mnemonic())
}

/// Another instruction, mostly with the same operands.
pub(crate) fn opcode(
    architecture: Architecture,
    code: &[u8],
    at: u64,
    random: &mut Random,
) -> Option<Vec<u8>> {
    if architecture == Architecture::Aarch64 {
        let bit = 21 + random.below(11);
        return Some((word(code)? ^ 1 << bit).to_le_bytes().to_vec());
    }
    another(code, at, random, |old, new| old.mnemonic() != new.mnemonic())
}

/// One that differs in one bit before its constants, and is as `fits` says.
fn another(
    code: &[u8],
    at: u64,
    random: &mut Random,
    fits: impl Fn(&Instruction, &Instruction) -> bool,
) -> Option<Vec<u8>> {
    let (old, offsets) = decode(code, at)?;
    let constants = [
        offsets.has_displacement().then(|| offsets.displacement_offset()),
        offsets.has_immediate().then(|| offsets.immediate_offset()),
    ];
    let end = constants.into_iter().flatten().min().unwrap_or(old.len());
    (0..ATTEMPTS).find_map(|_| {
        let mut bytes = code.get(..old.len())?.to_vec();
        *bytes.get_mut(random.below(end))? ^= 1 << random.below(8);
        let (new, _) = decode(&bytes, at)?;
        (new.len() == old.len() && fits(&old, &new)).then_some(bytes)
    })
}

/// A conditional instruction does the opposite.
pub(crate) fn condition(
    architecture: Architecture,
    code: &[u8],
    at: u64,
    _: &mut Random,
) -> Option<Vec<u8>> {
    if architecture == Architecture::Aarch64 {
        let word = word(code)?;
        let inverted = if word & 0xff00_0010 == 0x5400_0000 {
            word ^ 1
        } else if word & 0x7e00_0000 == 0x3400_0000 || word & 0x7e00_0000 == 0x3600_0000 {
            word ^ 1 << 24
        } else if word & 0x1fe0_0000 == 0x1a80_0000 || word & 0x3fe0_0000 == 0x3a40_0000 {
            word ^ 1 << 12
        } else {
            return None;
        };
        return Some(inverted.to_le_bytes().to_vec());
    }
    let (instruction, _) = decode(code, at)?;
    if instruction.condition_code() == iced_x86::ConditionCode::None {
        return None;
    }
    let bytes = code.get(..instruction.len())?;
    (0..bytes.len().min(4)).find_map(|i| {
        let mut inverted = bytes.to_vec();
        inverted[i] ^= 1;
        let (new, _) = decode(&inverted, at)?;
        let mut negated = instruction;
        negated.negate_condition_code();
        (new.code() == negated.code()).then_some(inverted)
    })
}

/// A jump or a call leads to somewhere near its target.
pub(crate) fn target(
    architecture: Architecture,
    code: &[u8],
    at: u64,
    random: &mut Random,
) -> Option<Vec<u8>> {
    if architecture == Architecture::Aarch64 {
        let word = word(code)?;
        let delta = [-4, -2, -1, 1, 2, 4][random.below(6)];
        let (shift, mask) = if word & 0x7c00_0000 == 0x1400_0000 {
            (0, 0x3ff_ffff)
        } else if word & 0xff00_0010 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 {
            (5, 0x7_ffff)
        } else {
            return None;
        };
        let value = (i64::from(word >> shift & mask) + delta) as u32 & mask;
        return Some((word & !(mask << shift) | value << shift).to_le_bytes().to_vec());
    }
    let (instruction, offsets) = decode(code, at)?;
    if !is_branch(&instruction) || instruction.flow_control() == FlowControl::Next {
        return None;
    }
    let delta = [-32, -16, -8, -5, -4, -3, -2, 2, 3, 4, 5, 8, 16, 32][random.below(14)];
    let mut bytes = code.get(..instruction.len())?.to_vec();
    let from = offsets.immediate_offset();
    add_to(bytes.get_mut(from..from + offsets.immediate_size())?, delta);
    Some(bytes)
}

/// It does nothing.
pub(crate) fn nothing(
    architecture: Architecture,
    code: &[u8],
    at: u64,
    _: &mut Random,
) -> Option<Vec<u8>> {
    if architecture == Architecture::Aarch64 {
        return Some(0xd503_201f_u32.to_le_bytes().to_vec());
    }
    Some(vec![0x90; length(architecture, code, at)?])
}
