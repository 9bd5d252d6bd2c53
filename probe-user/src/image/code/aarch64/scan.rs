//! Where in A64 code something may stand. Every word is looked at, whatever it is
//! a part of: what is found may be data.

use std::ops::Range;

use super::facts::{Instructions, LENGTH};
use crate::image::{code::instruction::Control, jumps::containing};

/// Jumps and branches into ranges that are sorted, and all computed jumps.
pub(super) fn jumps(code: &[u8], at: u64, into: &[Range<u64>]) -> Vec<u64> {
    let skipped = (at.wrapping_neg() % u64::from(LENGTH)) as usize;
    let (words, _) = code.get(skipped..).unwrap_or_default().as_chunks::<{ LENGTH as usize }>();
    let first = at.wrapping_add(skipped as u64);
    let addresses = (0..).map(|i: u64| first.wrapping_add(i * u64::from(LENGTH)));
    let jumps = |bytes: &[u8; LENGTH as usize], address: u64| {
        let instruction = Instructions::new(bytes, address).next().flatten();
        instruction.is_some_and(|instruction| match instruction.control {
            Control::JumpThrough(_) => true,
            _ => instruction.jump_target().is_some_and(|t| containing(into, t).is_some()),
        })
    };
    let words = words.iter().zip(addresses);
    words
        .filter(|(word, address)| may_jump(u32::from_le_bytes(**word)) && jumps(word, *address))
        .map(|(_, address)| address)
        .collect()
}

/// Whether a word is a branch of any kind (the manual's section C4.1.67).
fn may_jump(word: u32) -> bool {
    // b; b.cond; cbz, cbnz; tbz, tbnz; br and its like.
    word >> 26 == 0b00_0101
        || word >> 24 == 0b0101_0100
        || word >> 25 & 0b11_1111 == 0b01_1010
        || word >> 25 & 0b11_1111 == 0b01_1011
        || word >> 25 == 0b110_1011
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_found_whatever_stands_around_them() {
        let words: [u32; 8] = [
            0xffff_ffff, // 1000: no instruction
            0x1400_0007, // 1004: b 1020
            0x5400_00c1, // 1008: b.ne 1020
            0xb400_00a0, // 100c: cbz x0, 1020
            0x3600_0080, // 1010: tbz w0, #0, 1020
            0xd61f_0200, // 1014: br x16
            0x1400_000a, // 1018: b 1040
            0xd65f_03c0, // 101c: ret
        ];
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let into = 0x1020..0x1024;
        let found = jumps(&code, 0x1000, std::slice::from_ref(&into));
        assert_eq!(found, [0x1004, 0x1008, 0x100c, 0x1010, 0x1014]);
    }
}
