//! Contexts that have ended: kept until a scrape had them and for a while, and
//! no more than so many.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use probe_common::ContextKey;

use super::life::Context;

/// How long ended contexts are kept, and how many of them.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Contexts that have ended, at most.
    pub ended: usize,
    /// How long at least, if there are not too many.
    pub time: Duration,
}

/// One that has ended.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) context: Context,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    ended_ns: u64,
    /// A scrape had the chance to show it.
    scraped: bool,
    /// A scrape has shown it.
    shown: bool,
}

impl Kept {
    /// Whether its last values were in no scrape.
    pub(super) fn is_unshown(&self) -> bool {
        !self.shown
    }
}

/// All of them, in the order in which they ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    by_order: BTreeMap<u64, Kept>,
    by_birth: HashMap<(ContextKey, u64), u64>,
    next: u64,
}

impl Ended {
    pub(super) fn push(&mut self, context: Context, now_ns: u64) {
        let order = self.next;
        self.next += 1;
        self.by_birth.insert((context.key, context.born_ns), order);
        let kept = Kept { context, ended_ns: now_ns, scraped: false, shown: false };
        self.by_order.insert(order, kept);
    }

    pub(super) fn contains(&self, key: &ContextKey, born_ns: u64) -> bool {
        self.by_birth.contains_key(&(*key, born_ns))
    }

    pub(super) fn get_mut(&mut self, key: &ContextKey, born_ns: u64) -> Option<&mut Context> {
        let order = self.by_birth.get(&(*key, born_ns))?;
        self.by_order.get_mut(order).map(|kept| &mut kept.context)
    }

    /// All of them, each with its place in the order of ends.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Context)> {
        self.by_order.iter().map(|(order, kept)| (*order, &kept.context))
    }

    pub(super) fn contexts_mut(&mut self) -> impl Iterator<Item = &mut Context> {
        self.by_order.values_mut().map(|kept| &mut kept.context)
    }

    /// A scrape was made when all before `until` had ended, and has shown these.
    pub(super) fn scraped(&mut self, shown: &[u64], until: u64) {
        for (_, kept) in self.by_order.range_mut(..until) {
            kept.scraped = true;
        }
        for order in shown {
            if let Some(kept) = self.by_order.get_mut(order) {
                kept.shown = true;
            }
        }
    }

    /// The place in the order of ends that the next one will have.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Takes out the oldest ones, if there are too many.
    pub(super) fn beyond(&mut self, retention: Retention) -> Vec<Kept> {
        let mut beyond = Vec::new();
        while self.by_order.len() > retention.ended {
            let Some((_, kept)) = self.by_order.pop_first() else { break };
            self.by_birth.remove(&(kept.context.key, kept.context.born_ns));
            beyond.push(kept);
        }
        beyond
    }

    /// Takes out those that a scrape had, and whose time is over.
    pub(super) fn due(&mut self, retention: Retention, now_ns: u64) -> Vec<Kept> {
        let time = u64::try_from(retention.time.as_nanos()).unwrap_or(u64::MAX);
        let over = |kept: &Kept| now_ns.saturating_sub(kept.ended_ns) >= time;
        // They ended in this order.
        let in_time = self.by_order.iter().take_while(|(_, kept)| over(kept));
        let due: Vec<u64> =
            in_time.filter(|(_, kept)| kept.scraped).map(|(order, _)| *order).collect();
        due.into_iter()
            .filter_map(|order| {
                let kept = self.by_order.remove(&order)?;
                self.by_birth.remove(&(kept.context.key, kept.context.born_ns));
                Some(kept)
            })
            .collect()
    }
}
