//! How long the handshakes of a context took, and how many are not complete.

use probe_common::{Side, Times};

/// Those of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SideHandshakes {
    /// Those that are complete, and those that never will be.
    pub times: Times,
    /// Those that have started and are not complete: under way, or given up by their
    /// program without anybody having seen it yet.
    pub unfinished: u64,
    /// When the oldest of these started, nanoseconds of `CLOCK_MONOTONIC`.
    pub oldest_ns: Option<u64>,
}

/// Those of both sides, by [`Side`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes([SideHandshakes; 2]);

impl Handshakes {
    /// Those of a side.
    #[must_use]
    pub fn of(&self, side: Side) -> &SideHandshakes {
        &self.0[side as usize]
    }

    pub(super) fn of_mut(&mut self, side: Side) -> &mut SideHandshakes {
        &mut self.0[side as usize]
    }

    /// Adds what another one has.
    pub(super) fn add(&mut self, more: &Self) {
        for (all, more) in self.0.iter_mut().zip(&more.0) {
            for (all, more) in all.times.buckets.iter_mut().zip(more.times.buckets) {
                *all += more;
            }
            all.times.sum_ns += more.times.sum_ns;
            all.times.abandoned += more.times.abandoned;
            all.unfinished += more.unfinished;
            all.oldest_ns = [all.oldest_ns, more.oldest_ns].into_iter().flatten().min();
        }
    }

    /// Forgets what is not complete: it is counted anew, or nobody can complete it
    /// any more.
    pub(super) fn clear_unfinished(&mut self) {
        for side in &mut self.0 {
            (side.unfinished, side.oldest_ns) = (0, None);
        }
    }
}

impl SideHandshakes {
    /// Whether nothing is known of any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// One more has started at that time and is not complete.
    pub(super) fn begun(&mut self, start_ns: u64) {
        self.unfinished += 1;
        self.oldest_ns = Some(self.oldest_ns.map_or(start_ns, |oldest| oldest.min(start_ns)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_of_both_sides_and_the_oldest_is_the_oldest() {
        let mut one = Handshakes::default();
        one.of_mut(Side::Server).times.buckets[3] = 2;
        one.of_mut(Side::Server).times.sum_ns = 70;
        one.of_mut(Side::Server).begun(500);
        let mut other = Handshakes::default();
        other.of_mut(Side::Server).times.buckets[3] = 1;
        other.of_mut(Side::Server).begun(400);
        other.of_mut(Side::Server).begun(600);
        other.of_mut(Side::Client).times.abandoned = 4;
        one.add(&other);
        let server = one.of(Side::Server);
        assert_eq!((server.times.buckets[3], server.times.sum_ns), (3, 70));
        assert_eq!((server.unfinished, server.oldest_ns), (3, Some(400)));
        assert_eq!(one.of(Side::Client).times.abandoned, 4);
        one.clear_unfinished();
        assert_eq!((one.of(Side::Server).unfinished, one.of(Side::Server).oldest_ns), (0, None));
        assert_eq!(one.of(Side::Server).times.buckets[3], 3);
    }
}
