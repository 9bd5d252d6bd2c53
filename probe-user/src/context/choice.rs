//! Which contexts get series of their own.

use std::{
    cmp::Reverse,
    collections::{HashMap, hash_map::Entry},
};

use super::{Context, State};

/// The contexts that get series.
#[derive(Debug)]
pub struct Choice<C> {
    /// Those, the most active first.
    pub chosen: Vec<C>,
    /// Live contexts without.
    pub live_omitted: usize,
    /// Ended contexts without.
    pub ended_omitted: usize,
}

impl<'c, C: Copy> Choice<C> {
    /// Chooses the most active of those that live and, with what room they leave, of
    /// those that have ended. One series is of one context: the newest at its address.
    pub fn among(contexts: Vec<C>, most: usize, of: impl Fn(C) -> &'c Context) -> Self {
        let is_live = |candidate: C| of(candidate).state == State::Live;
        let all = contexts.len();
        let all_live = contexts.iter().filter(|candidate| is_live(**candidate)).count();
        let mut newest = HashMap::with_capacity(all);
        for candidate in contexts {
            let age = |candidate: C| (of(candidate).born_ns, of(candidate).generation);
            match newest.entry(of(candidate).key) {
                Entry::Vacant(place) => {
                    place.insert(candidate);
                }
                Entry::Occupied(mut place) if age(*place.get()) < age(candidate) => {
                    place.insert(candidate);
                }
                Entry::Occupied(_) => {}
            }
        }
        let mut chosen: Vec<C> = newest.into_values().collect();
        let rank = |candidate: &C| {
            let context = of(*candidate);
            (!is_live(*candidate), Reverse(context.activity()), context.key)
        };
        if chosen.len() > most {
            // Not all of them are to be sorted.
            chosen.select_nth_unstable_by_key(most, rank);
            chosen.truncate(most);
        }
        chosen.sort_unstable_by_key(rank);
        let live = chosen.iter().filter(|candidate| is_live(**candidate)).count();
        Self {
            live_omitted: all_live - live,
            ended_omitted: (all - all_live) - (chosen.len() - live),
            chosen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::life::tests::context;

    fn at(address: u64, born_ns: u64, state: State, accepts: i32) -> Context {
        let mut context = context(address, born_ns, accepts);
        context.state = state;
        context
    }

    #[test]
    fn one_series_is_of_the_newest_at_an_address() {
        let contexts = [
            at(0x10, 1, State::Freed, 9),
            at(0x10, 3, State::Live, 1),
            at(0x10, 2, State::Freed, 5),
            at(0x20, 1, State::Exited, 2),
        ];
        let choice = Choice::among(contexts.iter().collect(), 10, |context| context);
        let births: Vec<u64> = choice.chosen.iter().map(|context| context.born_ns).collect();
        assert_eq!(births, [3, 1]);
        assert_eq!((choice.live_omitted, choice.ended_omitted), (0, 2));
    }

    #[test]
    fn what_has_ended_gets_the_room_that_is_left() {
        let contexts = [
            at(0x10, 1, State::Freed, 9),
            at(0x20, 2, State::Live, 1),
            at(0x30, 3, State::Live, 2),
            at(0x40, 4, State::Freed, 10),
        ];
        let choose = |most| Choice::among(contexts.iter().collect(), most, |context| context);
        let choice = choose(3);
        let shown: Vec<u64> = choice.chosen.iter().map(|context| context.key.address).collect();
        assert_eq!(shown, [0x30, 0x20, 0x40]);
        assert_eq!((choice.live_omitted, choice.ended_omitted), (0, 1));
        let choice = choose(1);
        assert_eq!((choice.live_omitted, choice.ended_omitted), (1, 2));
    }
}
