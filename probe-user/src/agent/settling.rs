//! Whether all contexts of a library that live are known.
//!
//! As soon as its probes are there, the births of contexts are seen. Those that are older
//! are in the memory of processes that were there before, and are found (`scan`). When
//! every such process was looked into to its end, the library is *settled*: a handshake
//! can show no context that is not known, and its probes go.
//!
//! A child of a fork has its parent's contexts. If those were all known, the fork gave it
//! their records (the kernel half's `lifecycle::process_forked`); if not, it is looked
//! into, too.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use crate::{
    host::{ProcessFacts, clock},
    snapshot::UnsettledSnapshot,
};

/// What is known of the contexts of a process, of one library.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// It is being looked into.
    Open,
    /// All are known, since this moment in nanoseconds of `CLOCK_BOOTTIME`.
    Known(u64),
    /// Not all can be found, and why.
    Unknown(String),
}

/// A library that is not settled.
struct Library {
    /// Since when births are seen: nanoseconds of `CLOCK_BOOTTIME`.
    since: u64,
    /// Who maps it, each with its start: a pid comes again.
    processes: HashMap<u32, (Option<u64>, Standing)>,
    /// When the last one was looked into.
    changed: Instant,
}

/// The libraries that are not settled.
#[derive(Default)]
pub(super) struct Settling(BTreeMap<u32, Library>);

/// How far a library is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) image: u32,
    /// It is settled, if every process was looked at after this: one that nobody has met
    /// yet may map it.
    pub(super) since: Instant,
}

impl Settling {
    /// The probes of a library are all there.
    pub(super) fn begin(&mut self, image: u32) {
        self.begin_at(image, clock::boottime_ns());
    }

    /// `now`, here and below: nanoseconds of `CLOCK_BOOTTIME`.
    fn begin_at(&mut self, image: u32, now: u64) {
        let library = || Library { since: now, processes: HashMap::new(), changed: Instant::now() };
        self.0.entry(image).or_insert_with(library);
    }

    /// A process maps a library: says whether it is to be looked into.
    /// `forker`: who forked it, with its start.
    pub(super) fn meet(
        &mut self,
        image: u32,
        pid: u32,
        facts: &ProcessFacts,
        forker: Option<(u32, u64)>,
    ) -> bool {
        let Some(library) = self.0.get_mut(&image) else { return false };
        let start = facts.start_time_ticks;
        if library.processes.get(&pid).is_some_and(|(known, _)| *known == start) {
            return false;
        }
        let standing = library.begins_as(facts, forker);
        let is_open = standing == Standing::Open;
        library.processes.insert(pid, (start, standing));
        is_open
    }

    /// A process was looked into, and all contexts have records; or why that is not known.
    pub(super) fn looked_into(&mut self, image: u32, pid: u32, unknown: Option<String>) {
        self.looked_into_at(image, pid, unknown, clock::boottime_ns());
    }

    fn looked_into_at(&mut self, image: u32, pid: u32, unknown: Option<String>, now: u64) {
        let Some(library) = self.0.get_mut(&image) else { return };
        let Some((_, standing)) = library.processes.get_mut(&pid) else { return };
        *standing = unknown.map_or(Standing::Known(now), Standing::Unknown);
        library.changed = Instant::now();
    }

    /// The processes for which a library is not settled, in the order of their pids;
    /// `None`: it is settled, or is not to be.
    pub(super) fn unsettled(&self, image: u32) -> Option<Vec<UnsettledSnapshot>> {
        let processes = self.0.get(&image)?.processes.iter();
        let reason = |standing: &Standing| match standing {
            Standing::Open => Some("it is being looked into".to_owned()),
            Standing::Known(_) => None,
            Standing::Unknown(why) => Some(why.clone()),
        };
        let unsettled = |(pid, (_, standing)): (&u32, &(_, Standing))| {
            Some(UnsettledSnapshot { pid: *pid, reason: reason(standing)? })
        };
        let mut unsettled: Vec<UnsettledSnapshot> = processes.filter_map(unsettled).collect();
        unsettled.sort_unstable_by_key(|process| process.pid);
        Some(unsettled)
    }

    /// A process is gone, or runs another program now.
    pub(super) fn gone(&mut self, pid: u32) {
        for library in self.0.values_mut() {
            library.processes.remove(&pid);
        }
    }

    /// Libraries of which all processes that are known are known to their end.
    pub(super) fn candidates(&self) -> Vec<Settled> {
        let candidates = self.0.iter().filter(|(_, library)| library.is_known());
        candidates
            .map(|(image, library)| Settled { image: *image, since: library.changed })
            .collect()
    }

    /// Whether there are any.
    pub(super) fn has_candidates(&self) -> bool {
        self.0.values().any(Library::is_known)
    }

    /// A library is settled, or has no probes any more.
    pub(super) fn end(&mut self, image: u32) {
        self.0.remove(&image);
    }

    /// Forgets libraries that have no probes any more.
    pub(super) fn retain(&mut self, has_probes: impl Fn(u32) -> bool) {
        self.0.retain(|image, _| has_probes(*image));
    }
}

impl Library {
    /// Whether all processes that are known are known to their end.
    fn is_known(&self) -> bool {
        self.processes.values().all(|(_, standing)| matches!(standing, Standing::Known(_)))
    }

    /// What is known of the contexts of a process without a look.
    fn begins_as(&self, facts: &ProcessFacts, forker: Option<(u32, u64)>) -> Standing {
        // Rounded down: it did not begin before.
        let start = facts.start_time_ticks.map(clock::start_ns);
        let Some(start) = start.filter(|start| *start > self.since) else { return Standing::Open };
        if facts.forked == Some(false) {
            return Standing::Known(0);
        }
        // Not whose child it is now: a parent that ends leaves its children to another.
        let of_parent = forker.and_then(|(forker, start)| {
            self.processes.get(&forker).filter(|(known, _)| *known == Some(start))
        });
        match of_parent.filter(|_| facts.forked == Some(true)) {
            Some((_, Standing::Known(since))) if *since < start => Standing::Known(0),
            // Nothing is won by looking into many children of such a process.
            Some((_, Standing::Unknown(why))) => Standing::Unknown(why.clone()),
            _ => Standing::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBRARY: u32 = 1;
    const TICK: u64 = 10_000_000;

    fn process(start: u64, forked: bool) -> ProcessFacts {
        ProcessFacts {
            start_time_ticks: Some(start),
            forked: Some(forked),
            ..ProcessFacts::default()
        }
    }

    fn settling() -> Settling {
        let mut settling = Settling::default();
        settling.begin_at(LIBRARY, 10 * TICK);
        settling
    }

    fn unknown() -> Option<String> {
        Some("swapped out".to_owned())
    }

    fn is_settled(settling: &Settling) -> bool {
        !settling.candidates().is_empty()
    }

    #[test]
    fn who_was_there_before_is_looked_into() {
        let mut settling = settling();
        assert!(is_settled(&settling), "nobody maps it");
        assert!(settling.meet(LIBRARY, 7, &process(10, false), None), "it began in that tick");
        assert!(!is_settled(&settling));
        assert!(!settling.meet(LIBRARY, 7, &process(10, false), None), "once");
        settling.looked_into_at(LIBRARY, 7, None, 20 * TICK);
        assert!(is_settled(&settling));
        assert!(!settling.meet(LIBRARY, 8, &process(11, false), None), "its contexts are seen");
        assert!(is_settled(&settling));
    }

    #[test]
    fn one_of_which_not_all_is_known_is_waited_for() {
        let mut settling = settling();
        assert!(settling.meet(LIBRARY, 7, &process(1, false), None));
        settling.looked_into_at(LIBRARY, 7, unknown(), 20 * TICK);
        assert!(!is_settled(&settling));
        let why = UnsettledSnapshot { pid: 7, reason: "swapped out".to_owned() };
        assert_eq!(settling.unsettled(LIBRARY), Some(vec![why]));
        settling.gone(7);
        assert!(is_settled(&settling));
        assert_eq!(settling.unsettled(LIBRARY), Some(Vec::new()));
        assert_eq!(settling.unsettled(LIBRARY + 1), None);
        assert!(
            settling.meet(
                LIBRARY,
                8,
                &ProcessFacts { start_time_ticks: Some(25), ..ProcessFacts::default() },
                None
            ),
            "nothing is known of it"
        );
        settling.looked_into_at(LIBRARY, 8, unknown(), 20 * TICK);
        assert!(settling.meet(LIBRARY, 10, &ProcessFacts::default(), None), "not even its start");
        settling.gone(10);
        assert!(
            !settling.meet(LIBRARY, 9, &process(30, true), Some((8, 25))),
            "its children are not looked into"
        );
        settling.gone(8);
        assert!(!is_settled(&settling));
        settling.gone(9);
        assert!(is_settled(&settling));
    }

    #[test]
    fn a_child_has_what_its_parent_had() {
        let mut settling = settling();
        settling.meet(LIBRARY, 7, &process(1, false), None);
        settling.looked_into_at(LIBRARY, 7, None, 20 * TICK);
        assert!(settling.meet(LIBRARY, 8, &process(20, true), Some((7, 1))), "forked before that");
        assert!(!settling.meet(LIBRARY, 9, &process(21, true), Some((7, 1))), "with all records");
        assert!(!settling.meet(LIBRARY, 10, &process(22, true), Some((9, 21))));
        assert!(
            settling.meet(LIBRARY, 11, &process(23, true), Some((8, 20))),
            "its parent's are not known"
        );
        assert!(
            settling.meet(LIBRARY, 13, &process(23, true), Some((7, 2))),
            "another had that pid"
        );
        assert!(
            settling.meet(LIBRARY, 12, &process(23, true), None),
            "whose child it is, is not known"
        );
    }
}
