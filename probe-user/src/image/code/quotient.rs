//! Divisions by a constant, which compilers make of a multiplication and
//! shifts: what such code divides by, proven for every dividend.

/// What was done to a 64-bit number to divide it, rounding down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Division {
    /// An instruction that divides, by this.
    By(u64),
    /// `((n >> before) * multiplier) >> after`, where the product does not
    /// lose its upper half.
    Reciprocal {
        /// Bits that are shifted out first.
        before: u8,
        /// The multiplier, about `2^after / divisor`.
        multiplier: u64,
        /// Bits of the product that are shifted out.
        after: u8,
    },
}

impl Division {
    /// What every 64-bit number is divided by; `None` where that is not proven.
    #[must_use]
    pub fn divisor(self) -> Option<u64> {
        match self {
            Self::By(divisor) => (divisor != 0).then_some(divisor),
            Self::Reciprocal { before, multiplier, after } => {
                let width = 64_u32.checked_sub(u32::from(before))?;
                let divisor = divisor(multiplier, u32::from(after), width)?;
                // Rounding down twice is rounding down once.
                divisor.checked_mul(1_u64.checked_shl(u32::from(before))?)
            }
        }
    }

    /// The division, followed by a shift to the right.
    #[must_use]
    pub fn shifted(self, bits: u8) -> Option<Self> {
        match self {
            Self::By(_) => None,
            // Nothing was multiplied yet.
            Self::Reciprocal { before, multiplier: 1, after: 0 } => {
                let before = before.checked_add(bits).filter(|bits| *bits < 64)?;
                Some(Self::Reciprocal { before, multiplier: 1, after: 0 })
            }
            Self::Reciprocal { before, multiplier, after } => {
                let after = after.checked_add(bits).filter(|bits| *bits < 128)?;
                Some(Self::Reciprocal { before, multiplier, after })
            }
        }
    }

    /// The upper half of the 128-bit product with a number.
    #[must_use]
    pub fn multiplied_high(self, by: u64) -> Option<Self> {
        match self {
            Self::Reciprocal { before, multiplier: 1, after: 0 } => {
                Some(Self::Reciprocal { before, multiplier: by, after: 64 })
            }
            _ => None,
        }
    }
}

/// The `d` for which `(n * multiplier) >> shift == n / d` for every `n` of
/// `width` bits; `None` if there is none, or it is not proven.
///
/// With `multiplier * d = 2^shift + e` and `e >= 0`, the product is
/// `n / d + n * e / (d * 2^shift)`. What `n / d` lacks to the next whole number
/// is at least `1 / d`; so rounding down gives the same as long as
/// `n * e < 2^shift`, which holds for all `n` if it does for the largest.
#[must_use]
pub fn divisor(multiplier: u64, shift: u32, width: u32) -> Option<u64> {
    if multiplier == 0 || shift > 127 || width == 0 || width > 64 {
        return None;
    }
    let power = 1_u128 << shift;
    let multiplier = u128::from(multiplier);
    let divisor = u64::try_from(power.div_ceil(multiplier)).ok()?;
    // Less than the multiplier, since the divisor was rounded up.
    let excess = multiplier.checked_mul(u128::from(divisor))?.checked_sub(power)?;
    let largest = (1_u128 << width) - 1;
    (largest.checked_mul(excess)? < power).then_some(divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Does it as the machine does.
    fn compute(division: Division, n: u64) -> u64 {
        match division {
            Division::By(divisor) => n / divisor,
            Division::Reciprocal { before, multiplier, after } => {
                let product = u128::from(n >> before) * u128::from(multiplier);
                u64::try_from(product >> after).expect("it fits")
            }
        }
    }

    /// Dividends where a wrong division shows first.
    fn hard(divisor: u64) -> impl Iterator<Item = u64> {
        let last = u64::MAX / divisor;
        [0, 1, 2, 3, 1 << 20, last / 3, last / 2, last - 1, last]
            .into_iter()
            .flat_map(move |q| {
                let n = q.min(last) * divisor;
                [n.wrapping_sub(1), n, n.saturating_add(1), n.saturating_add(divisor - 1)]
            })
            .chain([u64::MAX, u64::MAX - 1, 1 << 63])
    }

    #[test]
    fn compilers_divide_nanoseconds_by_these() {
        let reciprocal =
            |before, multiplier, after| Division::Reciprocal { before, multiplier, after };
        let table = [
            // gcc 12 and clang 22: shr $9; mul; shr $11.
            (reciprocal(9, 0x0044_b82f_a09b_5a53, 64 + 11), SECOND),
            // -Os: div.
            (Division::By(SECOND), SECOND),
            // Microseconds and milliseconds, as gcc divides by 1000: shr $3; mul; shr $4.
            (reciprocal(3, 0x20c4_9ba5_e353_f7cf, 64 + 4), 1000),
            // By 10: mul; shr $3.
            (reciprocal(0, 0xcccc_cccc_cccc_cccd, 64 + 3), 10),
        ];
        for (division, divisor) in table {
            assert_eq!(division.divisor(), Some(divisor), "{division:?}");
            for n in hard(divisor) {
                assert_eq!(compute(division, n), n / divisor, "{division:?} of {n}");
            }
        }
    }

    /// 2^93 / 10^9, rounded up, fits into 64 bits, and is not exact enough for
    /// all dividends of 64 bits: therefore compilers shift first.
    #[test]
    fn a_division_that_is_right_for_most_numbers_is_none() {
        let division =
            Division::Reciprocal { before: 0, multiplier: 0x8970_5f41_36b4_a598, after: 64 + 29 };
        assert_eq!(division.divisor(), None);
        assert!(hard(SECOND).any(|n| compute(division, n) != n / SECOND));
    }

    /// Whatever is said to be a division is one.
    #[test]
    fn what_is_proven_is_so() {
        let mut proven = 0;
        for by in (1..3000).chain([SECOND - 1, SECOND, SECOND + 1, 1 << 40, u64::MAX / 3]) {
            for after in 60..128 {
                // Rounded up as compilers do, and wrong by one in both directions.
                let Ok(rounded) = u64::try_from((1_u128 << after).div_ceil(u128::from(by))) else {
                    continue;
                };
                for multiplier in [rounded.saturating_sub(1), rounded, rounded.saturating_add(1)] {
                    let division = Division::Reciprocal { before: 0, multiplier, after };
                    let Some(divisor) = division.divisor() else { continue };
                    proven += 1;
                    for n in hard(divisor) {
                        assert_eq!(compute(division, n), n / divisor, "{division:?} of {n}");
                    }
                }
            }
        }
        assert!(proven > 3000, "{proven}");
    }

    #[test]
    fn a_multiplier_that_is_wrong_by_one_divides_by_nothing() {
        for multiplier in [0x0044_b82f_a09b_5a52, 0x0044_b82f_a09b_5a54] {
            let division = Division::Reciprocal { before: 9, multiplier, after: 75 };
            assert_eq!(division.divisor(), None);
        }
    }

    /// Right for 32-bit numbers, wrong for some larger ones.
    #[test]
    fn the_width_of_the_dividend_matters() {
        // gcc's division of an unsigned int by 10.
        assert_eq!(divisor(0xcccc_cccd, 35, 32), Some(10));
        assert_eq!(divisor(0xcccc_cccd, 35, 64), None);
    }

    #[test]
    fn a_shift_is_a_division() {
        let shifted = Division::Reciprocal { before: 0, multiplier: 1, after: 0 }.shifted(10);
        assert_eq!(shifted.and_then(Division::divisor), Some(1024));
    }

    #[test]
    fn nothing_overflows() {
        for shift in 0..200 {
            for width in 0..70 {
                for multiplier in [0, 1, 2, 3, u64::MAX - 1, u64::MAX] {
                    let _ = divisor(multiplier, shift, width);
                }
            }
        }
        let huge = Division::Reciprocal { before: 63, multiplier: u64::MAX, after: 127 };
        assert_eq!(huge.shifted(1), None);
        let _ = huge.divisor();
        assert_eq!(Division::By(0).divisor(), None);
    }
}
