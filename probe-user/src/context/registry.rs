//! The life of contexts: born, seen again, ended, forgotten.

use std::collections::HashMap;

use probe_common::{ContextKey, ContextRecord, Side, Times};

pub use super::ended::Retention;
use super::{
    ended::{Ended, Kept},
    generations::Generations,
    groups::{GroupBy, GroupTotals, Groups, Label, Sums},
    growth::FirstLook,
    handshakes::Handshakes,
    invariants::{Contradiction, contradiction},
    life::{Begins, Context, Origin, State},
    reconstruct::{Observation, Source},
    settings::Settings,
    widen::Widened,
};
use crate::{host::clock, kernel::events::End};

/// All contexts that are known.
#[derive(Debug)]
pub struct Registry {
    live: HashMap<ContextKey, Box<Context>>,
    ended: Ended,
    generations: Generations,
    groups: Groups,
    retention: Retention,
    /// Somebody goes through a list of what lived: nothing is forgotten meanwhile.
    held: bool,
    forgotten: Forgotten,
}

/// How many ended contexts are not kept any more; the groups still count them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// All of them.
    pub contexts: u64,
    /// Those whose last values were in no scrape.
    pub unscraped: u64,
    /// Those that were contradicted.
    pub contradicted: u64,
    /// Those that began with counts of unknown origin.
    pub unproven: u64,
}

impl Registry {
    /// An empty one.
    #[must_use]
    pub fn new(retention: Retention, group_by: GroupBy) -> Self {
        Self {
            live: HashMap::new(),
            ended: Ended::default(),
            generations: Generations::default(),
            groups: Groups::new(group_by),
            retention,
            held: false,
            forgotten: Forgotten::default(),
        }
    }

    /// Whether this very context is known and lives.
    #[must_use]
    pub fn is_live(&self, key: &ContextKey, born_ns: u64) -> bool {
        self.live.get(key).is_some_and(|context| context.born_ns == born_ns)
    }

    /// This very context, if it lives.
    #[must_use]
    pub fn find_live(&self, key: &ContextKey, born_ns: u64) -> Option<&Context> {
        self.live.get(key).map(Box::as_ref).filter(|context| context.born_ns == born_ns)
    }

    /// The context that lives at an address of a process.
    #[must_use]
    pub fn live_at(&self, key: &ContextKey) -> Option<&Context> {
        self.live.get(key).map(Box::as_ref)
    }

    /// Whether the end of this very context is known already. The kernel half
    /// reports an end before it removes the record, so a record may be listed
    /// whose context has ended.
    #[must_use]
    pub fn has_ended(&self, key: &ContextKey, born_ns: u64) -> bool {
        self.ended.contains(key, born_ns)
    }

    /// A context was seen for the first time. Seen again, nothing changes.
    pub fn born(
        &mut self,
        key: ContextKey,
        record: &ContextRecord,
        origin: impl FnOnce() -> Origin,
    ) {
        let is_known = self.is_live(&key, record.born_ns) || self.has_ended(&key, record.born_ns);
        if is_known || self.is_succeeded(&key, record.born_ns) {
            return;
        }
        if self.live.contains_key(&key) {
            // The end of the one before was not reported; what it said last stands.
            self.retire_unseen(&key, State::Freed);
        }
        let seen = Observation::of_record(record, Source::Probe);
        let contradiction = contradiction(&seen);
        let Origin { facts, library, mut begins, lags } = origin();
        let mut counters = seen.counters;
        if matches!(contradiction, Some(Contradiction::References(_))) {
            counters = counters.map(|counter| counter.map(|_| 0));
            begins = Begins::Own;
        }
        let widened = Widened::starting_at(counters);
        let inherited = begins.inherited(&record.layout, &widened);
        let is_unproven = matches!(begins, Begins::Unproven { .. })
            && inherited.iter().any(|inherited| *inherited != Some(0) && inherited.is_some());
        let start = facts.start_time_ticks;
        let live = &self.live;
        let generation = self.generations.next(key.tgid, start, key.address, |address| {
            live.contains_key(&ContextKey { address, ..key })
        });
        let context = Context {
            key,
            generation,
            born_ns: record.born_ns,
            image: record.image,
            group: self.groups.join(&facts, &library),
            facts,
            state: State::Live,
            seen,
            seen_at: clock::wall_clock(seen.at_ns),
            layout: record.layout,
            settings: None,
            handshakes: None,
            contradiction,
            missing: false,
            widened,
            first: FirstLook { at_ns: seen.at_ns, counters: widened },
            inherited: (inherited != Sums::default()).then(|| Box::new(inherited)),
            is_unproven,
            is_examined: false,
            lags,
            // What was read just now is what it had.
            is_unread: false,
        };
        self.live.insert(key, Box::new(context));
    }

    /// A live context was looked at.
    pub fn see(&mut self, key: &ContextKey, born_ns: u64, seen: Observation) {
        if let Some(context) = self.live.get_mut(key).filter(|c| c.born_ns == born_ns) {
            context.see(seen);
        }
    }

    /// The settings of a live context were read.
    pub fn set(&mut self, key: &ContextKey, born_ns: u64, settings: Settings) {
        if let Some(context) = self.live.get_mut(key).filter(|c| c.born_ns == born_ns) {
            context.settings = Some(settings);
        }
    }

    /// How long handshakes of a context took, which lives or is still kept.
    pub fn timed(&mut self, key: &ContextKey, born_ns: u64, side: Side, times: &Times) {
        if let Some(handshakes) = self.handshakes(key, born_ns) {
            // Those that were given up as their context ended are counted here only.
            let abandoned = handshakes.of(side).times.abandoned.max(times.abandoned);
            handshakes.of_mut(side).times = Times { abandoned, ..*times };
        }
    }

    /// A handshake of a live context has started and is not complete.
    pub fn begun(&mut self, key: &ContextKey, born_ns: u64, side: Side, start_ns: u64) {
        if let Some(handshakes) = self.handshakes(key, born_ns) {
            handshakes.of_mut(side).begun(start_ns);
        }
    }

    /// A handshake will never be complete, since its context has ended.
    pub fn abandoned(&mut self, key: &ContextKey, born_ns: u64, side: Side) {
        if let Some(handshakes) = self.handshakes(key, born_ns) {
            handshakes.of_mut(side).times.abandoned += 1;
        }
    }

    /// Those that are not complete are about to be counted anew.
    pub fn clear_unfinished(&mut self) {
        let live = self.live.values_mut().map(Box::as_mut);
        for context in live.chain(self.ended.contexts_mut()) {
            context.handshakes.iter_mut().for_each(|handshakes| handshakes.clear_unfinished());
        }
    }

    fn handshakes(&mut self, key: &ContextKey, born_ns: u64) -> Option<&mut Handshakes> {
        let live = self.live.get_mut(key).map(Box::as_mut);
        let live = live.filter(|context| context.born_ns == born_ns);
        let context = live.or_else(|| self.ended.get_mut(key, born_ns))?;
        Some(context.handshakes.get_or_insert_default())
    }

    /// A context ended; the record holds its last values.
    pub fn end(
        &mut self,
        key: ContextKey,
        record: &ContextRecord,
        end: End,
        origin: impl FnOnce() -> Origin,
    ) {
        let (state, source) = match end {
            End::Freed => (State::Freed, Source::Final),
            End::Exited { final_values: true } => (State::Exited, Source::Final),
            End::Exited { final_values: false } => (State::Exited, Source::Probe),
            End::Executed { final_values: true } => (State::Freed, Source::Final),
            End::Executed { final_values: false } => (State::Freed, Source::Probe),
        };
        let seen = Observation::of_record(record, source);
        if !self.is_live(&key, record.born_ns) {
            // The report of one that was given up, after all.
            if let Some(context) = self.ended.get_mut(&key, record.born_ns) {
                context.see(seen);
                context.state = state;
                return;
            }
            // A later one has the address already: it stays as it is.
            let successor =
                if self.is_succeeded(&key, record.born_ns) { self.live.remove(&key) } else { None };
            self.born(key, record, origin);
            self.finish(&key, seen, state);
            self.live.extend(successor.map(|context| (key, context)));
            return;
        }
        self.finish(&key, seen, state);
    }

    fn finish(&mut self, key: &ContextKey, seen: Observation, state: State) {
        if let Some(context) = self.live.get_mut(key) {
            context.see(seen);
        }
        self.retire(key, state);
    }

    /// Whether a later context is known to have the address: this one is past,
    /// whatever has been heard of it so far.
    fn is_succeeded(&self, key: &ContextKey, born_ns: u64) -> bool {
        self.live.get(key).is_some_and(|context| context.born_ns > born_ns)
    }

    /// The kernel half has no record of a context, and no report of its end has
    /// come. The report may be under way: the first time, the context is left
    /// as it was; the second time, it is given up, and `true` returned.
    pub fn missing(&mut self, key: &ContextKey, state: State) -> bool {
        match self.live.get_mut(key) {
            Some(context) if !context.missing => {
                context.missing = true;
                false
            }
            Some(_) => {
                self.retire_unseen(key, state);
                true
            }
            None => false,
        }
    }

    /// Forgets the processes that do not run any more: whatever comes at their
    /// pids is another one.
    pub fn retain_processes(&mut self, runs: impl Fn(u32) -> bool) {
        self.generations.retain(runs);
    }

    /// It has ended without a last look.
    fn retire_unseen(&mut self, key: &ContextKey, state: State) {
        if let Some(context) = self.live.get_mut(key) {
            context.is_unread = context.lags;
        }
        self.retire(key, state);
    }

    fn retire(&mut self, key: &ContextKey, state: State) {
        let Some(mut context) = self.live.remove(key) else { return };
        context.state = state;
        self.ended.push(*context, clock::monotonic_ns());
        if !self.held {
            self.forget_beyond();
        }
    }

    /// From here on nothing is forgotten: whoever goes through a list of records
    /// that was made before knows of each whether it has ended since.
    pub fn hold(&mut self) {
        self.forget_due(clock::monotonic_ns());
        self.held = true;
    }

    /// It may be forgotten again.
    pub fn release(&mut self) {
        self.held = false;
        self.forget_beyond();
    }

    /// A scrape was made when all before `until`, in the order of ends, had ended,
    /// and has shown these.
    pub fn scraped(&mut self, shown: &[u64], until: u64) {
        self.ended.scraped(shown, until);
        self.forget_due(clock::monotonic_ns());
    }

    /// The place in the order of ends that the next one to end will have.
    #[must_use]
    pub fn ends(&self) -> u64 {
        self.ended.next()
    }

    fn forget_beyond(&mut self) {
        for kept in self.ended.beyond(self.retention) {
            self.forget(&kept);
        }
    }

    fn forget_due(&mut self, now_ns: u64) {
        for kept in self.ended.due(self.retention, now_ns) {
            self.forget(&kept);
        }
    }

    fn forget(&mut self, kept: &Kept) {
        let context = &kept.context;
        self.groups.retire(context);
        self.forgotten.contexts += 1;
        self.forgotten.unscraped += u64::from(kept.is_unshown());
        self.forgotten.contradicted += u64::from(context.contradiction.is_some());
        self.forgotten.unproven += u64::from(context.is_unproven());
    }

    /// Contexts that began with counts of unknown origin, each once.
    pub fn examine(&mut self) -> Vec<Context> {
        let live = self.live.values_mut().map(Box::as_mut);
        let all = live.chain(self.ended.contexts_mut());
        all.filter(|context| context.is_unproven && !context.is_examined)
            .map(|context| {
                context.is_examined = true;
                context.clone()
            })
            .collect()
    }

    /// A fork is known to have given a context nothing.
    pub fn inherited_nothing(&mut self, key: &ContextKey, born_ns: u64) {
        let live = self.live.get_mut(key).map(Box::as_mut);
        let live = live.filter(|context| context.born_ns == born_ns);
        if let Some(context) = live.or_else(|| self.ended.get_mut(key, born_ns)) {
            context.inherited = None;
            context.is_unproven = false;
        }
    }

    /// Whether a process may ever have had a context at an address that was met.
    #[must_use]
    pub fn may_have_met(&self, pid: u32, start_time_ticks: u64, address: u64) -> bool {
        self.generations.may_have_met(pid, start_time_ticks, address)
    }

    /// The contexts that live.
    pub fn live(&self) -> impl Iterator<Item = &Context> {
        self.live.values().map(Box::as_ref)
    }

    /// Those that ended and are still kept, each with its place in the order of ends.
    pub fn ended(&self) -> impl Iterator<Item = (u64, &Context)> {
        self.ended.iter()
    }

    /// Those that live, and those that ended and are still kept.
    pub fn all(&self) -> impl Iterator<Item = &Context> {
        self.live().chain(self.ended().map(|(_, context)| context))
    }

    /// What is not kept any more.
    #[must_use]
    pub fn forgotten(&self) -> Forgotten {
        self.forgotten
    }

    /// What contexts are grouped by.
    #[must_use]
    pub fn group_labels(&self) -> &[Label] {
        self.groups.labels()
    }

    /// How many contexts are in the group for what is beyond the bound.
    #[must_use]
    pub fn beyond_groups(&self) -> u64 {
        self.groups.beyond()
    }

    /// The sums of all groups.
    pub fn group_totals(&mut self) -> Vec<GroupTotals> {
        let live = self.live.values().map(Box::as_ref);
        self.groups.totals(live.chain(self.ended.iter().map(|(_, context)| context)))
    }
}

#[cfg(test)]
mod tests;
