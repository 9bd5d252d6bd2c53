//! What a context counted between the first look at it and the last.

use jiff::{SignedDuration, Timestamp};
use probe_common::{COUNTERS, Counter};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    groups::Sums,
    reconstruct::{Observation, Source},
    widen::Widened,
};

/// The first look at a context: its values as its record was made, which is
/// when a counter first moved under a probe. That movement is in them already.
#[derive(Clone, Copy, Debug)]
pub struct FirstLook {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The counters.
    pub counters: Widened,
}

/// What moved between two looks at one context, both exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The first look.
    pub from: Timestamp,
    /// The last one.
    pub until: Timestamp,
    /// By how much each counter is higher, over wraps. Only `accept` can be
    /// lower: a servername callback takes from it (up to OpenSSL 3.1).
    pub counters: Sums,
}

/// Why it is not known what a context counted while it was watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unwatched {
    /// Nothing was read after the first look.
    #[error("it was looked at only once")]
    SeenOnce,
    /// The last values were mirrored by a probe; what came after it was not seen.
    #[error("its last values are those that a probe saw, not a look of their own")]
    LastSeenByProbe,
    /// A counter that OpenSSL never lowers is lower than it was.
    #[error("a counter is lower than at the first look")]
    WentBack,
    /// What was read cannot be a context's.
    #[error("its counters are not believed")]
    Disproved,
}

impl FirstLook {
    /// What moved from the first look to the last, at which the counters,
    /// widened, were `now`, and the wall clock showed `until`.
    ///
    /// # Errors
    ///
    /// If the last look is none, or cannot be one at the same context.
    pub fn growth(
        &self,
        last: &Observation,
        until: Timestamp,
        now: Sums,
    ) -> Result<Growth, Unwatched> {
        if last.source == Source::Probe {
            return Err(Unwatched::LastSeenByProbe);
        }
        // By the clock that nobody sets.
        let lasted = last.at_ns.checked_sub(self.at_ns).filter(|nanoseconds| *nanoseconds > 0);
        let lasted = lasted.and_then(|nanoseconds| i64::try_from(nanoseconds).ok());
        let lasted = SignedDuration::from_nanos(lasted.ok_or(Unwatched::SeenOnce)?);
        let from = until.checked_sub(lasted).map_err(|_| Unwatched::SeenOnce)?;
        let first = self.counters.values();
        let mut counters = Sums::default();
        for counter in COUNTERS {
            let at = counter as usize;
            let moved = now[at].zip(first[at]).map(|(now, first)| now - first);
            if counter != Counter::Accept && moved.is_some_and(|moved| moved < 0) {
                return Err(Unwatched::WentBack);
            }
            counters[at] = moved;
        }
        Ok(Growth { from, until, counters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// From one value of all counters to another, three seconds later.
    fn growth(first: i32, last: i32, source: Source) -> Result<Growth, Unwatched> {
        let mut widened = Widened::starting_at([Some(first); 11]);
        let look = FirstLook { at_ns: 5 * SECOND, counters: widened };
        widened.advance([Some(last); 11]);
        let seen = Observation {
            counters: [Some(last); 11],
            number: None,
            references: None,
            source,
            at_ns: 8 * SECOND,
        };
        look.growth(&seen, Timestamp::UNIX_EPOCH, widened.values())
    }

    #[test]
    fn it_is_the_difference_of_two_looks() {
        let grown = growth(7, 19, Source::Memory).expect("it is known");
        assert_eq!(grown.counters, [Some(12); 11]);
        assert_eq!(grown.until.duration_since(grown.from), SignedDuration::from_secs(3));
        assert_eq!(growth(7, 7, Source::Final).expect("it is known").counters, [Some(0); 11]);
    }

    #[test]
    fn a_wrap_in_between_is_no_step_back() {
        let grown = growth(i32::MAX - 1, i32::MIN + 3, Source::Memory).expect("it is known");
        assert_eq!(grown.counters, [Some(5); 11]);
        // Wrapped before the first look.
        let grown = growth(i32::MIN, i32::MIN + 4, Source::Memory).expect("it is known");
        assert_eq!(grown.counters, [Some(4); 11]);
        let grown = growth(-3, 2, Source::Memory).expect("it is known");
        assert_eq!(grown.counters, [Some(5); 11]);
    }

    #[test]
    fn only_accept_can_step_back() {
        assert_eq!(growth(4, 3, Source::Memory), Err(Unwatched::WentBack));
        let first = Widened::starting_at([Some(4); 11]);
        let look = FirstLook { at_ns: 0, counters: first };
        let mut now = first.values();
        now[Counter::Accept as usize] = Some(3);
        let seen = Observation {
            counters: [Some(4); 11],
            number: None,
            references: None,
            source: Source::Memory,
            at_ns: 1,
        };
        let grown = look.growth(&seen, Timestamp::UNIX_EPOCH, now).expect("it is known");
        assert_eq!(grown.counters[Counter::Accept as usize], Some(-1));
    }

    #[test]
    fn what_a_probe_saw_last_is_no_look() {
        assert_eq!(growth(1, 2, Source::Probe), Err(Unwatched::LastSeenByProbe));
    }

    #[test]
    fn one_look_has_no_difference() {
        let look = FirstLook { at_ns: 9, counters: Widened::starting_at([Some(1); 11]) };
        let seen = Observation {
            counters: [Some(1); 11],
            number: None,
            references: None,
            source: Source::Final,
            at_ns: 9,
        };
        let grown = look.growth(&seen, Timestamp::UNIX_EPOCH, [Some(1); 11]);
        assert_eq!(grown, Err(Unwatched::SeenOnce));
    }

    #[test]
    fn what_is_not_counted_does_not_move() {
        let look = FirstLook { at_ns: 0, counters: Widened::starting_at([None; 11]) };
        let seen = Observation {
            counters: [None; 11],
            number: Some(3),
            references: None,
            source: Source::Memory,
            at_ns: 1,
        };
        let grown = look.growth(&seen, Timestamp::UNIX_EPOCH, [None; 11]).expect("it is known");
        assert_eq!(grown.counters, [None; 11]);
    }
}
