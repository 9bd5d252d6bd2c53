//! Sums over the contexts of a group that never fall, whatever ends.

use std::collections::BTreeMap;

use super::registry::Context;

/// What contexts are grouped by: the executable. It does not churn.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// Path of the executable, or empty where the process was gone before it
    /// could be read.
    pub exe: String,
}

impl GroupKey {
    /// The group of a context.
    #[must_use]
    pub fn of(context: &Context) -> Self {
        let exe = context.facts.exe.as_ref();
        Self { exe: exe.map_or_else(String::new, |exe| exe.to_string_lossy().into_owned()) }
    }
}

/// Sums over the contexts whose library keeps the counter, indexed by
/// `Counter`; `None` where no context's does.
pub type Sums = [Option<i64>; 11];

/// The sums of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupTotals {
    /// Counts of the contexts that are gone and not kept any more.
    retired: Sums,
    /// The largest sums that were ever shown.
    shown: Sums,
}

/// All groups.
#[derive(Clone, Debug, Default)]
pub struct Groups(BTreeMap<GroupKey, GroupTotals>);

impl Groups {
    /// Takes in a context that is about to be forgotten.
    pub fn retire(&mut self, context: &Context) {
        let totals = self.0.entry(GroupKey::of(context)).or_default();
        add(&mut totals.retired, context.counted());
    }

    /// The sums with the contexts that are still kept; each is at least what it
    /// was the last time.
    ///
    /// Up to OpenSSL 3.1 a servername callback that changes the context counts
    /// `accept` on the new one and then takes it from the old one. A look in
    /// between sees one too many; the sum stays there until the next handshake.
    pub fn totals<'c>(&mut self, kept: impl Iterator<Item = &'c Context>) -> Vec<(GroupKey, Sums)> {
        let mut sums: BTreeMap<GroupKey, Sums> =
            self.0.iter().map(|(key, totals)| (key.clone(), totals.retired)).collect();
        for context in kept {
            add(sums.entry(GroupKey::of(context)).or_default(), context.counted());
        }
        sums.into_iter()
            .map(|(key, sum)| {
                let shown = &mut self.0.entry(key.clone()).or_default().shown;
                for (shown, sum) in shown.iter_mut().zip(sum) {
                    // Nothing is less than any sum.
                    *shown = (*shown).max(sum);
                }
                (key, *shown)
            })
            .collect()
    }
}

fn add(sum: &mut Sums, more: Sums) {
    for (sum, more) in sum.iter_mut().zip(more) {
        if let Some(more) = more {
            *sum = Some(sum.unwrap_or(0) + more);
        }
    }
}
