//! The counters are C `int`s and wrap; sums of them must not.

use probe_common::{COUNTERS, Counter};

use super::reconstruct::Counters;

/// Counters as 64-bit numbers that go on where the `int` wraps, indexed by
/// [`Counter`]; `None` for one that the library does not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Widened {
    last: Counters,
    /// How often each has wrapped, forwards: there are many contexts, and this takes
    /// less room than the numbers.
    wraps: [i32; 11],
}

impl Widened {
    /// Begins with the values of the first look.
    ///
    /// A negative value has wrapped, but for `accept`, which some releases
    /// count below zero when SNI meets a HelloRetryRequest (openssl #13183).
    #[must_use]
    pub fn starting_at(counters: Counters) -> Self {
        let mut wraps = [0; 11];
        for counter in COUNTERS {
            let at = counter as usize;
            let is_negative = counters[at].is_some_and(|value| value < 0);
            wraps[at] = i32::from(is_negative && counter != Counter::Accept);
        }
        Self { last: counters, wraps }
    }

    /// Goes on to the values of the next look: each moved by less than 2^31,
    /// in either direction.
    pub fn advance(&mut self, counters: Counters) {
        for ((wraps, last), now) in self.wraps.iter_mut().zip(self.last).zip(counters) {
            if let (Some(last), Some(now)) = (last, now) {
                let moved = i64::from(now.wrapping_sub(last));
                *wraps += ((i64::from(last) + moved - i64::from(now)) >> 32) as i32;
            }
        }
        self.last = counters;
    }

    /// The values now.
    #[must_use]
    pub fn values(&self) -> [Option<i64>; 11] {
        let mut values = self.last.map(|last| last.map(i64::from));
        for (value, wraps) in values.iter_mut().zip(self.wraps) {
            *value = value.map(|value| value + (i64::from(wraps) << 32));
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrap_goes_on() {
        let mut widened = Widened::starting_at([Some(i32::MAX); 11]);
        widened.advance([Some(i32::MIN); 11]);
        assert_eq!(widened.values(), [Some(i64::from(i32::MAX) + 1); 11]);
        widened.advance([Some(-1); 11]);
        assert_eq!(widened.values(), [Some(i64::from(u32::MAX)); 11]);
        widened.advance([Some(5); 11]);
        assert_eq!(widened.values(), [Some((1 << 32) + 5); 11]);
    }

    #[test]
    fn a_backward_step_is_one() {
        let mut widened = Widened::starting_at([Some(3); 11]);
        widened.advance([Some(2); 11]);
        assert_eq!(widened.values(), [Some(2); 11]);
    }

    #[test]
    fn a_first_look_below_zero_has_wrapped_except_for_accept() {
        let values = Widened::starting_at([Some(-1); 11]).values();
        assert_eq!(values[Counter::Hits as usize], Some(i64::from(u32::MAX)));
        assert_eq!(values[Counter::Accept as usize], Some(-1));
    }

    #[test]
    fn what_is_not_kept_stays_unknown() {
        let mut widened = Widened::starting_at([None; 11]);
        widened.advance([None; 11]);
        assert_eq!(widened.values(), [None; 11]);
    }
}
