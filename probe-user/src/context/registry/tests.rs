use std::{sync::Arc, time::Duration};

use probe_common::{BlockLayout, ExeId, MirroredBlock, NO_COUNTER, OPENSSL_ORDER};

use super::*;
use crate::{context::growth::Unwatched, host::ProcessFacts};

const KEY: ContextKey = ContextKey { tgid: 7, pad: 0, address: 0x1000 };

fn record(born_ns: u64, hits: i32) -> ContextRecord {
    let mut block = MirroredBlock::default();
    block.counters[probe_common::Counter::Hits as usize] = hits;
    ContextRecord {
        process_start_ns: 0,
        born_ns,
        observed_ns: born_ns,
        hits: 1,
        hit_ns: born_ns,
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
        birth: 0,
        exe: ExeId::default(),
    }
}

fn registry(ended: usize) -> Registry {
    Registry::new(Retention { ended, time: Duration::ZERO }, GroupBy::default())
}

fn origin(begins: Begins) -> Origin {
    let facts = ProcessFacts {
        exe: Some("/bin/test".into()),
        comm: Some("test".to_owned()),
        start_time_ticks: Some(1234),
        ..ProcessFacts::default()
    };
    Origin { facts: Arc::new(facts), library: String::new(), begins, lags: false }
}

fn inherited(counters: [i32; 11]) -> Origin {
    origin(Begins::Inherited(counters))
}

fn facts() -> Origin {
    origin(Begins::Own)
}

fn hits(registry: &mut Registry) -> i64 {
    let totals = registry.group_totals();
    totals.iter().filter_map(|totals| totals.sums[probe_common::Counter::Hits as usize]).sum()
}

#[test]
fn an_address_that_is_used_again_is_another_generation() {
    let mut registry = registry(10);
    registry.born(KEY, &record(1, 3), facts);
    registry.end(KEY, &record(1, 5), End::Freed, facts);
    registry.born(KEY, &record(2, 1), facts);
    let mut seen: Vec<_> = registry.all().map(|c| (c.generation, c.state, c.seen.source)).collect();
    seen.sort_by_key(|(generation, ..)| *generation);
    assert_eq!(seen, [(1, State::Freed, Source::Final), (2, State::Live, Source::Probe)]);
    assert_eq!(hits(&mut registry), 6);
}

/// The agent knows a process's start in ticks only, the kernel half in nanoseconds.
#[test]
fn a_record_of_the_agent_is_of_the_same_process_as_one_of_a_probe() {
    let mut registry = registry(10);
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
    let mut registry = registry(1);
    for born in 1..=100 {
        registry.born(KEY, &record(born, 1), facts);
        registry.end(KEY, &record(born, 2), End::Freed, facts);
    }
    assert_eq!(registry.all().count(), 1);
    assert_eq!(registry.forgotten().contexts, 99);
    assert_eq!(hits(&mut registry), 200);
}

/// Another context at the address begins anew.
#[test]
fn growth_is_of_one_generation() {
    let mut registry = registry(10);
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
    let mut grown: Vec<_> =
        registry.all().map(|c| (c.generation, c.growth().map(|grown| grown.counters[9]))).collect();
    grown.sort_by_key(|(generation, _)| *generation);
    assert_eq!(grown, [(1, Ok(Some(5))), (2, Ok(Some(1)))]);
}

#[test]
fn what_a_child_inherits_is_counted_once() {
    let mut registry = registry(10);
    registry.born(KEY, &record(1, 1000), facts);
    let child = ContextKey { tgid: 8, ..KEY };
    let copy = record(2, 1000);
    registry.born(child, &copy, || inherited(copy.block.counters));
    registry.see(&child, 2, Observation::of_record(&record(3, 1001), Source::Memory));
    assert_eq!(hits(&mut registry), 1001);
    let shown: Vec<i32> = registry.all().filter_map(|c| c.seen.counters[9]).collect();
    assert!(shown.contains(&1001) && shown.contains(&1000));
}

#[test]
fn what_cannot_be_is_not_counted() {
    let mut registry = registry(10);
    registry.born(KEY, &record(1, 3), facts);
    let mut wild = record(1, 1 << 30);
    wild.flags = probe_common::record_flags::REFERENCES_KNOWN;
    wild.block.references = -7;
    registry.see(&KEY, 1, Observation::of_record(&wild, Source::Memory));
    registry.see(&KEY, 1, Observation::of_record(&record(1, 1 << 30), Source::Memory));
    assert_eq!(hits(&mut registry), 3);
    let other = ContextKey { tgid: 8, ..KEY };
    registry.born(other, &wild, || inherited([5; 11]));
    assert_eq!(hits(&mut registry), 3);
    assert!(registry.live().all(Context::is_disproved));
}

#[test]
fn an_end_of_something_never_seen_is_an_end() {
    let mut registry = registry(10);
    registry.end(KEY, &record(1, 4), End::Freed, facts);
    let context = registry.all().next().expect("it is kept");
    assert_eq!((context.state, context.seen.counters[9]), (State::Freed, Some(4)));
    assert_eq!(context.facts.comm.as_deref(), Some("test"));
}

#[test]
fn a_report_that_comes_late_is_not_another_context() {
    let mut registry = registry(10);
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
    let mut registry = registry(10);
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
    let mut registry = registry(10);
    registry.born(KEY, &record(1, 3), facts);
    assert!(!registry.has_ended(&KEY, 1));
    registry.end(KEY, &record(1, 3), End::Freed, facts);
    assert!(registry.has_ended(&KEY, 1) && !registry.has_ended(&KEY, 2));
}

#[test]
fn settings_stay_after_the_end_and_do_not_pass_to_the_next_context() {
    let mut registry = registry(10);
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
    let mut registry = registry(10);
    let gave = record(1, 1001).block.counters;
    registry.born(KEY, &record(1, 1000), || inherited(gave));
    registry.see(&KEY, 1, Observation::of_record(&record(2, 1000), Source::Memory));
    assert_eq!(hits(&mut registry), 0);
    registry.see(&KEY, 1, Observation::of_record(&record(3, 1002), Source::Memory));
    assert_eq!(hits(&mut registry), 2);
}

#[test]
fn a_counter_that_no_context_keeps_has_no_sum() {
    let mut registry = registry(10);
    let mut kept_none = record(1, 3);
    kept_none.layout.order = [NO_COUNTER; 11];
    kept_none.layout.count = 0;
    registry.born(KEY, &kept_none, facts);
    assert!(registry.group_totals().iter().all(|totals| totals.sums == [None; 11]));
    // One of OpenSSL's in the same program has.
    registry.born(ContextKey { address: 0x2000, ..KEY }, &record(2, 4), facts);
    assert_eq!(hits(&mut registry), 4);
}

#[test]
fn totals_never_fall() {
    let mut registry = registry(10);
    registry.born(KEY, &record(1, 5), facts);
    assert_eq!(hits(&mut registry), 5);
    registry.see(&KEY, 1, Observation::of_record(&record(2, 4), Source::Memory));
    assert_eq!(hits(&mut registry), 5);
    registry.see(&KEY, 1, Observation::of_record(&record(3, 7), Source::Memory));
    assert_eq!(hits(&mut registry), 7);
}

fn unproven(counted: Option<probe_common::Counter>) -> Origin {
    origin(Begins::Unproven { counted })
}

/// Forked before the agent came: nobody knows who counted what was there then.
#[test]
fn what_may_be_the_parents_is_not_in_the_sums() {
    let mut registry = registry(10);
    registry.born(KEY, &record(1, 1000), || unproven(None));
    assert_eq!(hits(&mut registry), 0);
    registry.see(&KEY, 1, Observation::of_record(&record(2, 1003), Source::Memory));
    assert_eq!(hits(&mut registry), 3);
    let context = registry.live().next().expect("it lives");
    assert!(context.is_unproven());
    assert_eq!(context.seen.counters[9], Some(1003), "it is shown as the process says");
}

#[test]
fn what_a_forked_process_is_seen_to_count_is_its_own() {
    use probe_common::Counter::Hits;
    let mut registry = registry(0);
    // Made by itself: all that it has is what was just counted.
    registry.born(KEY, &record(1, 1), || unproven(Some(Hits)));
    assert!(!registry.live().next().expect("it lives").is_unproven());
    registry.end(KEY, &record(1, 2), End::Freed, facts);
    assert_eq!(hits(&mut registry), 2);
    assert_eq!(registry.forgotten().unproven, 0);
    // One of two is.
    registry.born(KEY, &record(2, 2), || unproven(Some(Hits)));
    assert_eq!(hits(&mut registry), 3);
    registry.end(KEY, &record(2, 2), End::Freed, facts);
    assert_eq!(registry.forgotten().unproven, 1);
}

#[test]
fn what_has_ended_is_kept_until_a_scrape_had_it_and_its_time_is_over() {
    let mut registry = registry(10);
    registry.born(KEY, &record(1, 1), facts);
    registry.end(KEY, &record(1, 2), End::Freed, facts);
    registry.hold();
    assert_eq!(registry.ended().count(), 1, "no scrape had it");
    let until = registry.ends();
    // Ends while the scrape is made.
    registry.born(KEY, &record(2, 1), facts);
    registry.end(KEY, &record(2, 5), End::Freed, facts);
    registry.release();
    registry.scraped(&[0], until);
    let kept: Vec<u64> = registry.ended().map(|(_, context)| context.born_ns).collect();
    assert_eq!(kept, [2]);
    let until = registry.ends();
    registry.scraped(&[], until);
    assert_eq!(registry.ended().count(), 0);
    let forgotten = registry.forgotten();
    assert_eq!((forgotten.contexts, forgotten.unscraped), (2, 1), "one had no series");
    assert_eq!(hits(&mut registry), 7);

    let hour = Retention { ended: 10, time: Duration::from_secs(3600) };
    let mut registry = Registry::new(hour, GroupBy::default());
    registry.end(KEY, &record(1, 2), End::Freed, facts);
    registry.scraped(&[0], registry.ends());
    assert_eq!(registry.ended().count(), 1, "its time is not over");
}

/// A record that was listed before its context ended must not bring it back.
#[test]
fn nothing_is_forgotten_while_a_list_is_gone_through() {
    let mut registry = registry(1);
    registry.hold();
    for born in 1..=5 {
        registry.born(KEY, &record(born, 1), facts);
        registry.end(KEY, &record(born, 1), End::Freed, facts);
    }
    assert!((1..=5).all(|born| registry.has_ended(&KEY, born)));
    registry.born(KEY, &record(3, 1), facts);
    assert_eq!(registry.live().count(), 0);
    registry.release();
    assert_eq!(registry.ended().count(), 1);
    assert_eq!(hits(&mut registry), 5);
}
