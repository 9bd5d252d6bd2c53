//! A finding before both times are put together in it.

use probe_common::Counter;

use super::{Certainty, Kind};

/// What one rule found in the counters of one time.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub kind: Kind,
    pub certainty: Certainty,
    /// What it is, in a sentence or two.
    pub summary: String,
    /// The counters that it rests on.
    pub counters: &'static [Counter],
    /// What else it rests on.
    pub facts: Vec<String>,
    /// What to change.
    pub cure: Option<String>,
}

impl Draft {
    pub(super) fn new(kind: Kind, certainty: Certainty, summary: impl Into<String>) -> Self {
        let summary = summary.into();
        Self { kind, certainty, summary, counters: &[], facts: Vec::new(), cure: None }
    }

    pub(super) fn counted(mut self, counters: &'static [Counter]) -> Self {
        self.counters = counters;
        self
    }

    pub(super) fn because(mut self, facts: impl IntoIterator<Item = String>) -> Self {
        self.facts.extend(facts);
        self
    }

    pub(super) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }
}
