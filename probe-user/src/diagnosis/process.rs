//! The processes of the contexts that are judged: their sums, and their peers.

use std::collections::HashMap;

use super::{Case, judge};
use crate::{
    image::Family,
    snapshot::{ContextSnapshot, SessionStats, State, Watched},
};

/// What the live server contexts of a process counted together: hits, and
/// finished handshakes. A servername callback splits them over its contexts.
/// `None` where one of the contexts does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessSums {
    /// Since each was made.
    pub made: Option<(i64, i64)>,
    /// While each was watched: since the first look at it.
    pub watched: Option<(i64, i64)>,
    /// One of them resumed more sessions than it finished handshakes: as a rule
    /// these were moved to another, and finished there.
    pub splits: bool,
}

/// Adds to each context what is found of it. `peers` says which other processes
/// of the same program there are, of a process, and of those that serve.
pub fn explain(contexts: &mut [ContextSnapshot], peers: impl Fn(u32, &[u32]) -> Vec<u32>) {
    let live = || contexts.iter().filter(|context| context.state == State::Live);
    let sums = sums(live());
    let serving: Vec<u32> = live()
        .filter(|context| context.stats.accept_good.unwrap_or(0) > 0)
        .map(|context| context.pid)
        .collect();
    let mut known: HashMap<u32, Vec<u32>> = HashMap::new();
    for context in contexts {
        // Of a process that is gone, nobody can say who its peers were.
        let peers = match context.state {
            State::Live | State::Freed => {
                known.entry(context.pid).or_insert_with(|| peers(context.pid, &serving)).as_slice()
            }
            State::Exited => &[],
        };
        context.watched = context.grown;
        let case = Case {
            family: context.library.family,
            stats: &context.stats,
            watched: context.watched.as_ref(),
            settings: context.settings.as_ref(),
            peers,
            process: sums.get(&context.pid).copied().unwrap_or_default(),
        };
        context.why = Some(judge(&case));
    }
}

/// The sums of each process, of these contexts.
fn sums<'c>(contexts: impl Iterator<Item = &'c ContextSnapshot>) -> HashMap<u32, ProcessSums> {
    let mut sums: HashMap<u32, ProcessSums> = HashMap::new();
    for context in contexts {
        let ours = context.library.family.is_none_or(|family| family == Family::OpenSsl);
        // One that connects counts hits of its own.
        if !ours || context.stats.connect.is_some_and(|connect| connect != 0) {
            continue;
        }
        let nothing = ProcessSums { made: Some((0, 0)), watched: Some((0, 0)), splits: false };
        let sum = sums.entry(context.pid).or_insert(nothing);
        let known = context.stats.connect.is_some();
        sum.made = sum.made.filter(|_| known).and_then(|sum| add(sum, &context.stats));
        sum.splits |= context.stats.hits.zip(context.stats.accept_good).is_some_and(|(h, g)| h > g);
        sum.watched = match &context.grown {
            Some(Watched::Known { counted, .. }) => sum.watched.and_then(|sum| add(sum, counted)),
            Some(Watched::Unknown { .. }) | None => None,
        };
    }
    sums
}

fn add((hits, good): (i64, i64), stats: &SessionStats) -> Option<(i64, i64)> {
    // Below zero it has wrapped.
    let known = |value: Option<i64>| value.filter(|value| *value >= 0);
    Some((hits + known(stats.hits)?, good + known(stats.accept_good)?))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        context::{Source, Unwatched},
        snapshot::LibrarySnapshot,
    };

    fn stats(connect: i64, good: i64, hits: i64) -> SessionStats {
        let mut counters = [Some(0); 11];
        counters[probe_common::Counter::Connect as usize] = Some(connect);
        counters[probe_common::Counter::AcceptGood as usize] = Some(good);
        counters[probe_common::Counter::Hits as usize] = Some(hits);
        SessionStats::of(counters, None)
    }

    fn watched(counted: SessionStats) -> Watched {
        Watched::Known { from: Timestamp::UNIX_EPOCH, until: Timestamp::UNIX_EPOCH, counted }
    }

    fn context(stats: SessionStats, grown: Watched) -> ContextSnapshot {
        ContextSnapshot {
            pid: 7,
            start_time_ticks: None,
            comm: None,
            exe: None,
            container: None,
            pid_inside: None,
            unit: None,
            user_unit: None,
            ctx: "0x1000".to_owned(),
            generation: 1,
            state: State::Live,
            library: LibrarySnapshot::default(),
            stats,
            handshakes: None,
            settings: None,
            grown: Some(grown),
            watched: None,
            why: None,
            source: Source::Memory,
            observed_at: Timestamp::UNIX_EPOCH,
            born_ns: 0,
            ended: None,
        }
    }

    fn sum(contexts: &[ContextSnapshot]) -> ProcessSums {
        sums(contexts.iter()).get(&7).copied().unwrap_or_default()
    }

    #[test]
    fn sums_are_of_both_times_and_of_servers() {
        let begun = context(stats(0, 3, 80), watched(stats(0, 0, 8)));
        let chosen = context(stats(0, 100, 0), watched(stats(0, 10, 0)));
        let client = context(stats(5, 0, 5), watched(stats(1, 0, 1)));
        assert_eq!(
            sum(&[begun, chosen, client]),
            ProcessSums { made: Some((80, 103)), watched: Some((8, 10)), splits: true }
        );
    }

    #[test]
    fn one_that_does_not_say_leaves_no_sum() {
        let whole = context(stats(0, 90, 80), watched(stats(0, 0, 8)));
        let probe = Watched::Unknown { unknown: Unwatched::LastSeenByProbe };
        let found = sum(&[whole.clone(), context(stats(0, 100, 0), probe)]);
        assert_eq!(found, ProcessSums { made: Some((80, 190)), ..ProcessSums::default() });
        // Its totals have wrapped; how far it moved is known.
        let wrapped = context(stats(0, 100, -3), watched(stats(0, 10, 0)));
        let found = sum(&[whole.clone(), wrapped]);
        assert_eq!(found, ProcessSums { watched: Some((8, 10)), ..ProcessSums::default() });
        let unknown = Watched::Unknown { unknown: Unwatched::Disproved };
        let found = sum(&[whole.clone(), context(SessionStats::default(), unknown)]);
        assert_eq!(found, ProcessSums::default());
        // A relative counts in its own way.
        let mut relative = context(SessionStats::default(), unknown);
        relative.library.family = Some(Family::BoringSsl);
        assert_eq!(sum(&[whole, relative]).watched, Some((8, 0)));
    }
}
