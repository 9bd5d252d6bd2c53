//! How many contexts each address of a process had.

use std::collections::HashMap;

/// Addresses that are remembered of a process. An allocator gives the same ones
/// again and again; one that does not must not fill the agent's memory.
const ADDRESSES: usize = 65_536;

/// The addresses of one process.
#[derive(Debug, Default)]
struct Addresses {
    /// The process's start, in the ticks that both the kernel half and `/proc` tell.
    start_time_ticks: Option<u64>,
    seen: HashMap<u64, u32>,
    /// The largest of what is not remembered any more.
    forgotten: u32,
}

/// All processes, by pid.
#[derive(Debug, Default)]
pub(super) struct Generations(HashMap<u32, Addresses>);

impl Generations {
    /// A context at an address is met: the how-many-th is it there? After too many
    /// addresses, those that are not in use are forgotten, and begin anew behind
    /// the largest: no two contexts have the same number.
    pub(super) fn next(
        &mut self,
        pid: u32,
        start_time_ticks: Option<u64>,
        address: u64,
        is_in_use: impl Fn(u64) -> bool,
    ) -> u32 {
        let addresses = self.0.entry(pid).or_default();
        if addresses.start_time_ticks != start_time_ticks {
            // The pid is another process's by now.
            *addresses = Addresses { start_time_ticks, ..Addresses::default() };
        }
        if addresses.seen.len() >= ADDRESSES && !addresses.seen.contains_key(&address) {
            let forgotten = &mut addresses.forgotten;
            addresses.seen.retain(|address, generation| {
                let kept = is_in_use(*address);
                if !kept {
                    *forgotten = (*forgotten).max(*generation);
                }
                kept
            });
        }
        let generation = addresses.seen.entry(address).or_insert(addresses.forgotten);
        *generation += 1;
        *generation
    }

    /// Whether a process may have had a context at an address.
    pub(super) fn may_have_met(&self, pid: u32, start_time_ticks: u64, address: u64) -> bool {
        self.0.get(&pid).is_some_and(|addresses| {
            let other = addresses.start_time_ticks.is_some_and(|ticks| ticks != start_time_ticks);
            !other && (addresses.forgotten > 0 || addresses.seen.contains_key(&address))
        })
    }

    /// Forgets the processes that do not run any more: whatever comes at their
    /// pids is another one.
    pub(super) fn retain(&mut self, runs: impl Fn(u32) -> bool) {
        self.0.retain(|pid, _| runs(*pid));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn contexts_at_one_address_are_counted() {
        let mut generations = Generations::default();
        let mut next = |start, address| generations.next(7, Some(start), address, |_| true);
        assert_eq!([next(1, 16), next(1, 32), next(1, 16), next(1, 16)], [1, 1, 2, 3]);
        // Another process with that pid.
        assert_eq!([next(2, 16), next(2, 16), next(1, 16)], [1, 2, 1]);
    }

    #[test]
    fn a_process_with_ever_new_addresses_is_bounded_and_none_is_named_twice() {
        let mut generations = Generations::default();
        let mut named = HashSet::new();
        let in_use = |address: u64| address == 0;
        for round in 0..3 {
            for address in 0..ADDRESSES as u64 {
                let address = if address == 0 { 0 } else { address + round * 1000 };
                let generation = generations.next(7, Some(1), address, in_use);
                assert!(named.insert((address, generation)), "{address} {generation}");
            }
        }
        assert!(generations.0[&7].seen.len() <= ADDRESSES);
        // What is in use is counted on.
        assert_eq!(generations.next(7, Some(1), 0, in_use), 4);
    }
}
