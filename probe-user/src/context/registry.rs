//! The life of contexts: born, seen again, ended, forgotten.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use probe_common::{ContextKey, ContextRecord};
use serde::{Deserialize, Serialize};

use super::{
    groups::{Groups, Sums},
    growth::{FirstLook, Growth, Unwatched},
    invariants::{Contradiction, contradiction},
    reconstruct::{Observation, Source, counters_of},
    settings::Settings,
    widen::Widened,
};
use crate::{
    host::{ProcessFacts, clock},
    kernel::events::End,
};

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
    pub facts: ProcessFacts,
    /// Whether it lives.
    pub state: State,
    /// Its latest values.
    pub seen: Observation,
    /// When these were read.
    pub seen_at: Timestamp,
    /// Where its fields are.
    pub layout: probe_common::BlockLayout,
    /// Its settings, as they were last read while it lived; `None`: it ended
    /// before, or they could not be read.
    pub settings: Option<Settings>,
    /// What of it cannot be: it is not read from where it stands.
    pub contradiction: Option<Contradiction>,
    /// The kernel half has no record of it any more, and no report of its end
    /// has come: it is under way, or lost.
    missing: bool,
    widened: Widened,
    first: FirstLook,
    /// What a fork gave it at its birth, which another process counted.
    inherited: [Option<i64>; 11],
}

impl Context {
    /// What this context counted itself, as numbers that do not wrap; `None`
    /// where its library does not count.
    #[must_use]
    pub fn counted(&self) -> Sums {
        let mut counted = self.widened.values();
        for (counted, inherited) in counted.iter_mut().zip(self.inherited) {
            if let Some(counted) = counted {
                *counted -= inherited.unwrap_or(0);
            }
        }
        counted
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
        self.first.growth(&self.seen, self.seen_at, self.widened.values())
    }

    /// Whether its counters are not believed any more.
    #[must_use]
    pub fn is_disproved(&self) -> bool {
        matches!(self.contradiction, Some(Contradiction::References(_)))
    }

    fn see(&mut self, seen: Observation) {
        // A look that began before the one that is known says nothing new.
        if seen.at_ns >= self.seen.at_ns {
            self.contradiction = self.contradiction.or_else(|| contradiction(&seen));
            if !self.is_disproved() {
                self.widened.advance(seen.counters);
            }
            // The parent's other threads may have counted between the copy of
            // the memory and the look at what was inherited.
            for (inherited, value) in self.inherited.iter_mut().zip(self.widened.values()) {
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
    pub facts: ProcessFacts,
    /// What a fork gave it, in the order of its block.
    pub inherited: [i32; 11],
}

/// How long ended contexts are kept, and how many of them.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Contexts that have ended, at most.
    pub ended: usize,
}

/// All contexts that are known.
#[derive(Debug)]
pub struct Registry {
    live: HashMap<ContextKey, Context>,
    ended: VecDeque<Context>,
    /// By process (pid and start, in the ticks that both the kernel half and `/proc`
    /// tell): how many contexts each address had.
    generations: HashMap<(u32, Option<u64>), HashMap<u64, u32>>,
    groups: Groups,
    retention: Retention,
    forgotten: u64,
    contradictions_forgotten: u64,
}

impl Registry {
    /// An empty one.
    #[must_use]
    pub fn new(retention: Retention) -> Self {
        Self {
            live: HashMap::new(),
            ended: VecDeque::new(),
            generations: HashMap::new(),
            groups: Groups::default(),
            retention,
            forgotten: 0,
            contradictions_forgotten: 0,
        }
    }

    /// Whether this very context is known and lives.
    #[must_use]
    pub fn is_live(&self, key: &ContextKey, born_ns: u64) -> bool {
        self.live.get(key).is_some_and(|context| context.born_ns == born_ns)
    }

    /// Whether the end of this very context is known already. The kernel half
    /// reports an end before it removes the record, so a record may be listed
    /// whose context has ended.
    #[must_use]
    pub fn has_ended(&self, key: &ContextKey, born_ns: u64) -> bool {
        self.ended.iter().rev().any(|c| c.key == *key && c.born_ns == born_ns)
    }

    /// A context was seen for the first time. Seen again, nothing changes.
    pub fn born(
        &mut self,
        key: ContextKey,
        record: &ContextRecord,
        origin: impl FnOnce() -> Origin,
    ) {
        if self.is_live(&key, record.born_ns) || self.is_succeeded(&key, record.born_ns) {
            return;
        }
        if self.live.contains_key(&key) {
            // The end of the one before was not reported; what it said last stands.
            self.retire(&key, State::Freed);
        }
        let seen = Observation::of_record(record, Source::Probe);
        let contradiction = contradiction(&seen);
        let Origin { mut facts, mut inherited } = origin();
        let mut counters = seen.counters;
        if matches!(contradiction, Some(Contradiction::References(_))) {
            counters = counters.map(|counter| counter.map(|_| 0));
            inherited = [0; 11];
        }
        let widened = Widened::starting_at(counters);
        complete(&mut facts, record);
        let generation = self
            .generations
            .entry((key.tgid, facts.start_time_ticks))
            .or_default()
            .entry(key.address)
            .or_insert(0);
        *generation += 1;
        let generation = *generation;
        let context = Context {
            key,
            generation,
            born_ns: record.born_ns,
            image: record.image,
            facts,
            state: State::Live,
            seen,
            seen_at: clock::wall_clock(seen.at_ns),
            layout: record.layout,
            settings: None,
            contradiction,
            missing: false,
            widened,
            first: FirstLook { at_ns: seen.at_ns, counters: widened.values() },
            inherited: Widened::starting_at(counters_of(&record.layout, &inherited)).values(),
        };
        self.live.insert(key, context);
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
            End::Executed => (State::Freed, Source::Probe),
        };
        let seen = Observation::of_record(record, source);
        if !self.is_live(&key, record.born_ns) {
            // The report of one that was given up, after all.
            let given_up = |c: &&mut Context| c.key == key && c.born_ns == record.born_ns;
            if let Some(context) = self.ended.iter_mut().rev().find(given_up) {
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
                self.retire(key, state);
                true
            }
            None => false,
        }
    }

    /// Forgets the processes that do not run any more: whatever comes at their
    /// pids is another one.
    pub fn retain_processes(&mut self, runs: impl Fn(u32) -> bool) {
        self.generations.retain(|(tgid, _), _| runs(*tgid));
    }

    fn retire(&mut self, key: &ContextKey, state: State) {
        let Some(mut context) = self.live.remove(key) else { return };
        context.state = state;
        self.ended.push_back(context);
        while self.ended.len() > self.retention.ended {
            if let Some(context) = self.ended.pop_front() {
                self.groups.retire(&context);
                self.forgotten += 1;
                self.contradictions_forgotten += u64::from(context.contradiction.is_some());
            }
        }
    }

    /// The contexts that live.
    pub fn live(&self) -> impl Iterator<Item = &Context> {
        self.live.values()
    }

    /// Those that live, and those that ended and are still kept.
    pub fn all(&self) -> impl Iterator<Item = &Context> {
        self.live.values().chain(&self.ended)
    }

    /// How many ended contexts are not kept any more; the groups still count them.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// How many of these were contradicted.
    #[must_use]
    pub fn contradictions_forgotten(&self) -> u64 {
        self.contradictions_forgotten
    }

    /// The sums of all groups.
    pub fn group_totals(&mut self) -> Vec<(super::groups::GroupKey, Sums)> {
        self.groups.totals(self.live.values().chain(&self.ended))
    }
}

/// What the kernel half knows of a process that `/proc` does not show any more;
/// and what `/proc` shows, if it is not about that process.
fn complete(facts: &mut ProcessFacts, record: &ContextRecord) {
    if record.process_start_ns != 0 {
        let ticks = clock::start_ticks(record.process_start_ns);
        if facts.start_time_ticks.is_some_and(|seen| seen != ticks) {
            *facts = ProcessFacts::default();
        }
        facts.start_time_ticks = Some(ticks);
    }
    if facts.comm.is_none() {
        let comm = record.comm.split(|byte| *byte == 0).next().unwrap_or_default();
        facts.comm = (!comm.is_empty()).then(|| String::from_utf8_lossy(comm).into_owned());
    }
}

#[cfg(test)]
mod tests {
    use probe_common::{BlockLayout, MirroredBlock, NO_COUNTER, OPENSSL_ORDER};

    use super::*;

    const KEY: ContextKey = ContextKey { tgid: 7, pad: 0, address: 0x1000 };

    fn record(born_ns: u64, hits: i32) -> ContextRecord {
        let mut block = MirroredBlock::default();
        block.counters[probe_common::Counter::Hits as usize] = hits;
        ContextRecord {
            process_start_ns: 0,
            born_ns,
            observed_ns: born_ns,
            hits: 1,
            block,
            image: 1,
            flags: 0,
            comm: *b"test\0\0\0\0\0\0\0\0\0\0\0\0",
            layout: BlockLayout {
                counters: 0,
                references: 0,
                sessions: 0,
                num_items: 0,
                order: OPENSSL_ORDER,
                count: 11,
            },
            pad: 0,
        }
    }

    fn origin(inherited: [i32; 11]) -> Origin {
        let exe = Some("/bin/test".into());
        Origin { facts: ProcessFacts { exe, ..ProcessFacts::default() }, inherited }
    }

    fn facts() -> Origin {
        origin([0; 11])
    }

    fn hits(registry: &mut Registry) -> i64 {
        let totals = registry.group_totals();
        totals.iter().filter_map(|(_, sum)| sum[probe_common::Counter::Hits as usize]).sum()
    }

    #[test]
    fn an_address_that_is_used_again_is_another_generation() {
        let mut registry = Registry::new(Retention { ended: 10 });
        registry.born(KEY, &record(1, 3), facts);
        registry.end(KEY, &record(1, 5), End::Freed, facts);
        registry.born(KEY, &record(2, 1), facts);
        let mut seen: Vec<_> =
            registry.all().map(|c| (c.generation, c.state, c.seen.source)).collect();
        seen.sort_by_key(|(generation, ..)| *generation);
        assert_eq!(seen, [(1, State::Freed, Source::Final), (2, State::Live, Source::Probe)]);
        assert_eq!(hits(&mut registry), 6);
    }

    /// The agent knows a process's start in ticks only, the kernel half in nanoseconds.
    #[test]
    fn a_record_of_the_agent_is_of_the_same_process_as_one_of_a_probe() {
        let mut registry = Registry::new(Retention { ended: 10 });
        let started = 12_345_678_901;
        let found = ContextRecord {
            process_start_ns: clock::start_ns(clock::start_ticks(started)),
            ..record(1, 3)
        };
        registry.born(KEY, &found, facts);
        registry.end(KEY, &found, End::Freed, facts);
        registry.born(KEY, &ContextRecord { process_start_ns: started, ..record(2, 1) }, facts);
        let mut seen: Vec<_> =
            registry.all().map(|c| (c.generation, c.facts.start_time_ticks)).collect();
        seen.sort_unstable();
        assert_eq!(seen, [(1, Some(1234)), (2, Some(1234))]);
    }

    #[test]
    fn totals_survive_what_is_forgotten() {
        let mut registry = Registry::new(Retention { ended: 1 });
        for born in 1..=100 {
            registry.born(KEY, &record(born, 1), facts);
            registry.end(KEY, &record(born, 2), End::Freed, facts);
        }
        assert_eq!(registry.all().count(), 1);
        assert_eq!(registry.forgotten(), 99);
        assert_eq!(hits(&mut registry), 200);
    }

    /// Another context at the address begins anew.
    #[test]
    fn growth_is_of_one_generation() {
        let mut registry = Registry::new(Retention { ended: 10 });
        let at = |observed_ns: u64, hits| {
            let mut record = record(1, hits);
            record.observed_ns = observed_ns;
            Observation::of_record(&record, Source::Memory)
        };
        registry.born(KEY, &record(1, 3), facts);
        let context = registry.live().next().expect("it lives");
        assert_eq!(context.growth(), Err(Unwatched::LastSeenByProbe));
        registry.see(&KEY, 1, at(2, 7));
        let mut last = record(1, 8);
        last.observed_ns = 3;
        registry.end(KEY, &last, End::Freed, facts);
        registry.born(KEY, &record(4, 20), facts);
        registry.see(&KEY, 4, at(5, 21));
        let mut grown: Vec<_> = registry
            .all()
            .map(|c| (c.generation, c.growth().map(|grown| grown.counters[9])))
            .collect();
        grown.sort_by_key(|(generation, _)| *generation);
        assert_eq!(grown, [(1, Ok(Some(5))), (2, Ok(Some(1)))]);
    }

    #[test]
    fn what_a_child_inherits_is_counted_once() {
        let mut registry = Registry::new(Retention { ended: 10 });
        registry.born(KEY, &record(1, 1000), facts);
        let child = ContextKey { tgid: 8, ..KEY };
        let inherited = record(2, 1000);
        registry.born(child, &inherited, || origin(inherited.block.counters));
        registry.see(&child, 2, Observation::of_record(&record(3, 1001), Source::Memory));
        assert_eq!(hits(&mut registry), 1001);
        let shown: Vec<i32> = registry.all().filter_map(|c| c.seen.counters[9]).collect();
        assert!(shown.contains(&1001) && shown.contains(&1000));
    }

    #[test]
    fn what_cannot_be_is_not_counted() {
        let mut registry = Registry::new(Retention { ended: 10 });
        registry.born(KEY, &record(1, 3), facts);
        let mut wild = record(1, 1 << 30);
        wild.flags = probe_common::record_flags::REFERENCES_KNOWN;
        wild.block.references = -7;
        registry.see(&KEY, 1, Observation::of_record(&wild, Source::Memory));
        registry.see(&KEY, 1, Observation::of_record(&record(1, 1 << 30), Source::Memory));
        assert_eq!(hits(&mut registry), 3);
        let other = ContextKey { tgid: 8, ..KEY };
        registry.born(other, &wild, || origin([5; 11]));
        assert_eq!(hits(&mut registry), 3);
        assert!(registry.live().all(Context::is_disproved));
    }

    #[test]
    fn an_end_of_something_never_seen_is_an_end() {
        let mut registry = Registry::new(Retention { ended: 10 });
        registry.end(KEY, &record(1, 4), End::Freed, facts);
        let context = registry.all().next().expect("it is kept");
        assert_eq!((context.state, context.seen.counters[9]), (State::Freed, Some(4)));
        assert_eq!(context.facts.comm.as_deref(), Some("test"));
    }

    #[test]
    fn a_report_that_comes_late_is_not_another_context() {
        let mut registry = Registry::new(Retention { ended: 10 });
        registry.born(KEY, &record(1, 3), facts);
        assert!(!registry.missing(&KEY, State::Freed));
        assert!(registry.missing(&KEY, State::Freed));
        let mut last = record(1, 5);
        last.observed_ns = 9;
        registry.end(KEY, &last, End::Exited { final_values: true }, facts);
        assert_eq!(registry.all().count(), 1);
        assert_eq!(hits(&mut registry), 5);
        let context = registry.all().next().expect("it is kept");
        assert_eq!((context.state, context.seen.source), (State::Exited, Source::Final));
    }

    #[test]
    fn lives_that_are_told_of_after_a_later_one_was_seen_are_past() {
        let mut registry = Registry::new(Retention { ended: 10 });
        registry.born(KEY, &record(1, 0), facts);
        // The third at the address is met before anything is heard of the second.
        registry.born(KEY, &record(3, 1), facts);
        registry.end(KEY, &record(1, 5), End::Freed, facts);
        registry.born(KEY, &record(2, 0), facts);
        registry.end(KEY, &record(2, 7), End::Freed, facts);
        registry.born(KEY, &record(3, 1), facts);
        assert!(registry.is_live(&KEY, 3));
        assert!(registry.has_ended(&KEY, 1) && registry.has_ended(&KEY, 2));
        assert_eq!(registry.all().count(), 3, "each is there once");
        assert_eq!(hits(&mut registry), 5 + 7 + 1);
    }

    #[test]
    fn an_end_is_remembered_by_birth_and_not_by_address() {
        let mut registry = Registry::new(Retention { ended: 10 });
        registry.born(KEY, &record(1, 3), facts);
        assert!(!registry.has_ended(&KEY, 1));
        registry.end(KEY, &record(1, 3), End::Freed, facts);
        assert!(registry.has_ended(&KEY, 1) && !registry.has_ended(&KEY, 2));
    }

    #[test]
    fn settings_stay_after_the_end_and_do_not_pass_to_the_next_context() {
        let mut registry = Registry::new(Retention { ended: 10 });
        let settings = Settings { timeout: Some(300), ..Settings::default() };
        registry.born(KEY, &record(1, 3), facts);
        registry.set(&KEY, 1, settings);
        registry.end(KEY, &record(1, 3), End::Freed, facts);
        registry.born(KEY, &record(2, 0), facts);
        // Read of the one before, too late.
        registry.set(&KEY, 1, settings);
        let kept: Vec<_> = registry.all().map(|c| (c.generation, c.settings)).collect();
        assert_eq!(kept, [(2, None), (1, Some(settings))]);
    }

    #[test]
    fn what_was_inherited_is_at_most_what_is_there() {
        let mut registry = Registry::new(Retention { ended: 10 });
        let inherited = record(1, 1001).block.counters;
        registry.born(KEY, &record(1, 1000), || origin(inherited));
        registry.see(&KEY, 1, Observation::of_record(&record(2, 1000), Source::Memory));
        assert_eq!(hits(&mut registry), 0);
        registry.see(&KEY, 1, Observation::of_record(&record(3, 1002), Source::Memory));
        assert_eq!(hits(&mut registry), 2);
    }

    #[test]
    fn a_counter_that_no_context_keeps_has_no_sum() {
        let mut registry = Registry::new(Retention { ended: 10 });
        let mut kept_none = record(1, 3);
        kept_none.layout.order = [NO_COUNTER; 11];
        kept_none.layout.count = 0;
        registry.born(KEY, &kept_none, facts);
        assert!(registry.group_totals().iter().all(|(_, sums)| *sums == [None; 11]));
        // One of OpenSSL's in the same program has.
        registry.born(ContextKey { address: 0x2000, ..KEY }, &record(2, 4), facts);
        assert_eq!(hits(&mut registry), 4);
    }

    #[test]
    fn totals_never_fall() {
        let mut registry = Registry::new(Retention { ended: 10 });
        registry.born(KEY, &record(1, 5), facts);
        assert_eq!(hits(&mut registry), 5);
        registry.see(&KEY, 1, Observation::of_record(&record(2, 4), Source::Memory));
        assert_eq!(hits(&mut registry), 5);
        registry.see(&KEY, 1, Observation::of_record(&record(3, 7), Source::Memory));
        assert_eq!(hits(&mut registry), 7);
    }
}
