//! The life of one context: what is known of it from its first sight to its end.

use std::sync::Arc;

use jiff::Timestamp;
use probe_common::{BlockLayout, ContextKey, Counter};
use serde::{Deserialize, Serialize};

use super::{
    groups::{GroupId, Sums},
    growth::{FirstLook, Growth, Unwatched},
    handshakes::Handshakes,
    invariants::{Contradiction, contradiction},
    reconstruct::{Observation, Source, counters_of},
    settings::Settings,
    widen::Widened,
};
use crate::host::{ProcessFacts, clock};

/// Whether a context lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It does.
    Live,
    /// It is gone (freed, or its program was replaced by exec); the values are its last.
    Freed,
    /// Its process is gone; the values are its last.
    Exited,
}

impl State {
    /// Its name, as JSON and metrics have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Freed => "freed",
            Self::Exited => "exited",
        }
    }
}

/// One `SSL_CTX`, from its first sight to its end.
#[derive(Clone, Debug)]
pub struct Context {
    /// Its process and address.
    pub key: ContextKey,
    /// The how-many-th context at this address of this process, from 1.
    pub generation: u32,
    /// Tells it from an earlier one at its address (the kernel half's birth time).
    pub born_ns: u64,
    /// The image whose probes see it.
    pub image: u32,
    /// Its process.
    pub facts: Arc<ProcessFacts>,
    /// The group that it is counted in.
    pub group: GroupId,
    /// Whether it lives.
    pub state: State,
    /// Its latest values.
    pub seen: Observation,
    /// When these were read.
    pub seen_at: Timestamp,
    /// Where its fields are.
    pub layout: BlockLayout,
    /// Its settings, as they were last read while it lived; `None`: it ended
    /// before, or they could not be read.
    pub settings: Option<Settings>,
    /// How long its handshakes took; `None`: none was timed.
    pub handshakes: Option<Box<Handshakes>>,
    /// What of it cannot be: it is not read from where it stands.
    pub contradiction: Option<Contradiction>,
    /// The kernel half has no record of it any more, and no report of its end
    /// has come: it is under way, or lost.
    pub(super) missing: bool,
    pub(super) widened: Widened,
    pub(super) first: FirstLook,
    /// What it began with that its process did not count, for all that is known.
    pub(super) inherited: Option<Box<Sums>>,
    /// Nobody knows whether its process counted that, or the one it was forked from.
    pub(super) is_unproven: bool,
    /// Somebody has tried to find out.
    pub(super) is_examined: bool,
    /// Its counters change without a probe that sees it.
    pub(super) lags: bool,
    /// What it has counted since the last look nobody knows: it could not be read.
    pub(super) is_unread: bool,
}

impl Context {
    /// What this context counted itself, as numbers that do not wrap; `None`
    /// where its library does not count.
    #[must_use]
    pub fn counted(&self) -> Sums {
        let mut counted = self.widened.values();
        for (counted, inherited) in counted.iter_mut().zip(self.inherited.iter().flat_map(|i| **i))
        {
            if let Some(counted) = counted {
                *counted -= inherited.unwrap_or(0);
            }
        }
        counted
    }

    /// How much it was used: how many handshakes were started with it.
    #[must_use]
    pub fn activity(&self) -> i64 {
        let started = [Counter::Connect, Counter::Accept].map(|c| self.seen.counters[c as usize]);
        started.into_iter().flatten().map(i64::from).sum()
    }

    /// What it counted from the first look at it to the last.
    ///
    /// # Errors
    ///
    /// If one of the two is no exact look at it.
    pub fn growth(&self) -> Result<Growth, Unwatched> {
        if self.is_disproved() {
            return Err(Unwatched::Disproved);
        }
        if self.is_unread {
            return Err(Unwatched::LastSeenByProbe);
        }
        self.first.growth(&self.seen, self.seen_at, self.widened.values())
    }

    /// Whether it began with counts of which nobody knows who counted them, its
    /// process or the one that was forked: the sums leave them out.
    #[must_use]
    pub fn is_unproven(&self) -> bool {
        self.is_unproven
    }

    /// Whether its counters are not believed any more.
    #[must_use]
    pub fn is_disproved(&self) -> bool {
        matches!(self.contradiction, Some(Contradiction::References(_)))
    }

    /// Whether its present values, or if it has ended its last ones, could not be read.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        self.is_unread
    }

    /// It was looked at.
    pub(super) fn see(&mut self, seen: Observation) {
        self.is_unread = self.lags && seen.source == Source::Probe;
        // A look that began before the one that is known says nothing new.
        if seen.at_ns >= self.seen.at_ns {
            self.contradiction = self.contradiction.or_else(|| contradiction(&seen));
            if !self.is_disproved() {
                self.widened.advance(seen.counters);
            }
            // The parent's other threads may have counted between the copy of
            // the memory and the look at what was inherited.
            let inherited = self.inherited.iter_mut().flat_map(|inherited| inherited.iter_mut());
            for (inherited, value) in inherited.zip(self.widened.values()) {
                if let (Some(inherited), Some(value)) = (inherited, value) {
                    *inherited = (*inherited).min(value.max(0));
                }
            }
            self.missing = false;
            self.seen = seen;
            self.seen_at = clock::wall_clock(seen.at_ns);
        }
    }
}

/// What is looked up when a context is met for the first time.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// Its process.
    pub facts: Arc<ProcessFacts>,
    /// The path of its library.
    pub library: String,
    /// Whose counts it begins with.
    pub begins: Begins,
    /// Whether its counters change without a probe that sees it.
    pub lags: bool,
}

/// Whose the counts are that a context begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begins {
    /// Its process's own.
    #[default]
    Own,
    /// A fork gave it these, in the order of its block; the rest are its own.
    Inherited([i32; 11]),
    /// Its process was forked, and nobody saw what that gave it: they may be the
    /// parent's. What the process is known to have just counted is its own.
    Unproven {
        /// One was just added to this.
        counted: Option<Counter>,
    },
}

impl Begins {
    /// What a context that is first seen with these values did not count itself.
    pub(super) fn inherited(self, layout: &BlockLayout, seen: &Widened) -> Sums {
        match self {
            Self::Own => Sums::default(),
            Self::Inherited(block) => Widened::starting_at(counters_of(layout, &block)).values(),
            Self::Unproven { counted } => {
                let mut values = seen.values();
                if let Some(counter) = counted
                    && let Some(value) = &mut values[counter as usize]
                {
                    *value -= 1;
                }
                values
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use probe_common::NO_FIELD;

    use super::*;

    /// A live context at an address.
    pub(in crate::context) fn context(address: u64, born_ns: u64, accepts: i32) -> Context {
        let mut counters = [Some(0); 11];
        counters[Counter::Accept as usize] = Some(accepts);
        let seen = Observation {
            counters,
            number: None,
            references: None,
            source: Source::Memory,
            at_ns: born_ns,
        };
        let widened = Widened::starting_at(counters);
        Context {
            key: ContextKey { tgid: 7, pad: 0, address },
            generation: 1,
            born_ns,
            image: 1,
            facts: Arc::default(),
            group: GroupId::default(),
            state: State::Live,
            seen,
            seen_at: Timestamp::UNIX_EPOCH,
            layout: BlockLayout {
                counters: 0,
                references: NO_FIELD,
                sessions: NO_FIELD,
                num_items: NO_FIELD,
                order: probe_common::OPENSSL_ORDER,
                count: 11,
            },
            settings: None,
            handshakes: None,
            contradiction: None,
            missing: false,
            widened,
            first: FirstLook { at_ns: born_ns, counters: widened },
            inherited: None,
            is_unproven: false,
            is_examined: false,
            lags: false,
            is_unread: false,
        }
    }

    /// There may be a hundred thousand of them.
    #[test]
    fn a_context_is_small() {
        assert!(size_of::<Context>() <= 800, "{}", size_of::<Context>());
    }
}
