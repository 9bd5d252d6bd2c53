//! Which cookies are free.

use std::collections::VecDeque;

/// The cookies of probes: the places of the map `PROBE_SPECS`.
///
/// A cookie is given out again only when it was given back, and whoever gives it
/// back has seen the end of the probe that had it.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// The first that was never given out.
    next: u32,
    free: VecDeque<u32>,
}

impl Slots {
    /// A cookie that no probe has; `None` if all `limit` are in use.
    pub(super) fn take(&mut self, limit: u32) -> Option<u32> {
        // New ones first, then the one that came back the longest time ago.
        if self.next < limit {
            self.next += 1;
            return Some(self.next - 1);
        }
        self.free.pop_front()
    }

    /// Gives a cookie back.
    pub(super) fn give_back(&mut self, cookie: u32) {
        self.free.push_back(cookie);
    }

    /// How many can be taken.
    pub(super) fn room(&self, limit: u32) -> usize {
        (limit - self.next.min(limit)) as usize + self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cookie_is_given_out_twice_before_it_comes_back() {
        let mut slots = Slots::default();
        assert_eq!(slots.room(3), 3);
        assert_eq!([0; 4].map(|_| slots.take(3)), [Some(0), Some(1), Some(2), None]);
        assert_eq!(slots.room(3), 0);
        slots.give_back(1);
        slots.give_back(0);
        assert_eq!(slots.room(3), 2);
        assert_eq!([0; 3].map(|_| slots.take(3)), [Some(1), Some(0), None]);
    }
}
