//! Immediates as A64 encodes them.

/// The low `count` bits with their sign.
#[must_use]
pub(super) fn signed(value: u64, count: u32) -> i64 {
    let shift = 64 - count.clamp(1, 64);
    ((value << shift) as i64) >> shift
}

/// The constant of a bitwise instruction: a run of ones, rotated, repeated.
///
/// `None`: there is no such constant (`DecodeBitMasks` of the manual).
#[must_use]
pub(super) fn bitmask(n: bool, imms: u32, immr: u32, width: u8) -> Option<u64> {
    let length = u32::from(n) << 6 | !imms & 0x3f;
    if length < 2 || n && width == 4 {
        return None;
    }
    // The highest bit of the length says how many bits are repeated.
    let size = 1 << (31 - length.leading_zeros());
    let (ones, rotate) = (imms & (size - 1), immr & (size - 1));
    if ones == size - 1 {
        return None;
    }
    let run = (1u64 << (ones + 1)) - 1;
    let whole = if size == 64 { u64::MAX } else { (1 << size) - 1 };
    let turned = if rotate == 0 { run } else { (run >> rotate | run << (size - rotate)) & whole };
    let mut value = turned;
    let mut filled = size;
    while filled < 64 {
        value |= value << filled;
        filled *= 2;
    }
    Some(if width == 4 { value & u64::from(u32::MAX) } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs() {
        assert_eq!(signed(0x3ff_ffff, 26), -1);
        assert_eq!(signed(0x1ff_ffff, 26), 0x1ff_ffff);
    }

    /// What GNU as makes of the constants: `and x0, x0, #...`.
    #[test]
    fn bitmasks() {
        // 121d7822: and w2, w1, #0xfffffffb
        assert_eq!(bitmask(false, 0b01_1110, 0b01_1101, 4), Some(0xffff_fffb));
        // 92403c63: and x3, x3, #0xffff
        assert_eq!(bitmask(true, 0b00_1111, 0, 8), Some(0xffff));
        // 9200f000: and x0, x0, #0x5555555555555555
        assert_eq!(bitmask(false, 0b11_1100, 0, 8), Some(0x5555_5555_5555_5555));
        assert_eq!(bitmask(true, 0b11_1111, 0, 8), None, "all ones are no run");
    }
}
