//! The two times that a context is judged by: since it was made, and while it
//! was watched.

use std::ops::Index;

use jiff::SignedDuration;
use probe_common::{COUNTERS, Counter};

use super::Kind;
use crate::{
    context::Unwatched,
    snapshot::{SessionStats, Watched},
};

/// What was counted in a time, of all counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts([i64; 11]);

impl Index<Counter> for Counts {
    type Output = i64;

    fn index(&self, counter: Counter) -> &i64 {
        &self.0[counter as usize]
    }
}

impl Counts {
    /// Since a context was made; `None` if one is not known or has wrapped.
    pub(super) fn since_made(stats: &SessionStats) -> Option<Self> {
        Self::of(stats).filter(|counts| counts.0.iter().all(|count| *count >= 0))
    }

    /// `None` if one is not known.
    fn of(stats: &SessionStats) -> Option<Self> {
        let named = stats.named();
        let mut counts = [0; 11];
        for counter in COUNTERS {
            let (_, value) = named.iter().find(|(name, _)| *name == counter.name())?;
            counts[counter as usize] = (*value)?;
        }
        Some(Self(counts))
    }

    /// The counters that say that a handshake has finished, or that a session
    /// was offered.
    pub(super) fn uses(&self) -> Vec<Counter> {
        use Counter::{AcceptGood, ConnectGood, Hits, Misses, Timeouts};
        let mut uses = vec![Hits, Misses, Timeouts, ConnectGood, AcceptGood];
        uses.retain(|counter| self[*counter] > 0);
        uses
    }

    /// By how much counters moved: `hits +3, misses +0`.
    pub(super) fn moved(&self, counters: &[Counter]) -> String {
        let moved = counters.iter().map(|c| format!("{} {:+}", c.name(), self[*c]));
        moved.collect::<Vec<_>>().join(", ")
    }
}

/// Whether resumption works in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    Fine,
    Bad,
    /// It cannot be told, or nothing was to be resumed.
    Unjudged,
}

impl Share {
    /// By the outcome that was found.
    pub(super) fn of(outcome: Kind) -> Self {
        match outcome {
            Kind::Works => Self::Fine,
            Kind::Low | Kind::None => Self::Bad,
            _ => Self::Unjudged,
        }
    }
}

/// The time that a rule is asked about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Period<'p> {
    /// What was counted in it.
    pub counts: &'p Counts,
    /// Whether resumption worked in it.
    pub share: Share,
    /// What was counted since the context was made; `None` if that has wrapped.
    pub made: Option<&'p Counts>,
    /// Whether resumption works since then.
    pub made_share: Share,
}

impl Period<'_> {
    /// Whether a session was ever resumed, as far as is known.
    pub(super) fn resumed(&self) -> bool {
        self.counts[Counter::Hits] > 0 || self.made.is_none_or(|made| made[Counter::Hits] > 0)
    }
}

/// What a context counted, in both times.
#[derive(Clone, Debug)]
pub(super) struct Periods {
    /// Since it was made.
    pub made: Option<Counts>,
    /// While it was watched, or why that is not known.
    pub watched: Result<Window, Option<Unwatched>>,
}

/// What was counted while a context was watched, from one exact look at it to
/// another. All of it has moved upwards, but for `accept`.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub counts: Counts,
    /// How long it was, in words.
    pub lasted: String,
}

impl Periods {
    pub(super) fn of(stats: &SessionStats, watched: Option<&Watched>) -> Self {
        let watched = match watched {
            Some(Watched::Known { from, until, counted }) => Counts::of(counted)
                .map(|counts| Window { counts, lasted: lasted(until.duration_since(*from)) })
                .ok_or(None),
            Some(Watched::Unknown { unknown }) => Err(Some(*unknown)),
            None => Err(None),
        };
        Self { made: Counts::since_made(stats), watched }
    }

    /// Counters as evidence, of each time for which they are known.
    pub(super) fn evidence(&self, counters: &[Counter]) -> Vec<String> {
        if counters.is_empty() {
            return Vec::new();
        }
        let mut evidence = Vec::new();
        if let Ok(Window { counts, lasted }) = &self.watched {
            evidence.push(format!("in the {lasted} watched: {}", counts.moved(counters)));
        }
        if let Some(counts) = &self.made {
            let values = counters.iter().map(|c| format!("{} = {}", c.name(), counts[*c]));
            let values = values.collect::<Vec<_>>().join(", ");
            evidence.push(format!("since the context was made: {values}"));
        }
        evidence
    }
}

/// `9.8 s`, `350 ms`.
fn lasted(time: SignedDuration) -> String {
    let milliseconds = time.as_millis();
    if milliseconds < 1000 {
        format!("{milliseconds} ms")
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_written_with_its_unit() {
        assert_eq!(lasted(SignedDuration::from_millis(350)), "350 ms");
        assert_eq!(lasted(SignedDuration::from_millis(9_840)), "9.8 s");
    }
}
