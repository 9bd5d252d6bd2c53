//! Which places claim which hash of sessions, and who of them owns it.
//!
//! `SSL_CTX_new` makes a hash for each context, and no function gives it to
//! another one (`ssl/ssl_lib.c`, 1.1.1 to 4.0): of two places that claim one, at
//! most one is an `SSL_CTX`.

use std::collections::{HashMap, HashSet};

use super::pattern::{Candidate, Verdict};

/// How many of the places that claim one hash are remembered.
const KEPT: usize = 16;

/// How many addresses are remembered at which there is no hash.
const MAX_REFUSED: usize = 1 << 16;

/// Places, by the hash that they claim.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    by_hash: HashMap<u64, Claim>,
    refused: HashSet<u64>,
    /// Of these, the one that was claimed last: what looks like a context often
    /// comes many times in a row.
    last: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Claim {
    places: Vec<u64>,
    more: u64,
}

/// A hash that more than one place claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contested {
    /// The address of the hash.
    pub sessions: u64,
    /// Some of the places.
    pub places: Vec<u64>,
    /// How many others there are.
    pub more: u64,
}

/// Who owns the hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// The contexts: each claims a hash alone. Sorted.
    pub contexts: Vec<u64>,
    /// Hashes that more than one place claims.
    pub contested: Vec<Contested>,
    /// Places that claim a hash alone, and of which it is not known whether they live.
    pub unproven: Vec<u64>,
}

impl Claims {
    /// Takes in a candidate; `is_hash` says whether there is a hash of sessions at
    /// an address, and is not asked twice.
    pub fn add(&mut self, candidate: Candidate, is_hash: impl FnOnce(u64) -> bool) {
        let Candidate { address, sessions } = candidate;
        if self.last == Some(sessions) || self.refused.contains(&sessions) {
            self.last = Some(sessions);
            return;
        }
        if !self.by_hash.contains_key(&sessions) && !is_hash(sessions) {
            if self.refused.len() >= MAX_REFUSED {
                self.refused.clear();
            }
            self.refused.insert(sessions);
            self.last = Some(sessions);
            return;
        }
        let claim = self.by_hash.entry(sessions).or_default();
        if claim.places.contains(&address) {
            // It was looked at twice.
        } else if claim.places.len() < KEPT {
            claim.places.push(address);
        } else {
            claim.more += 1;
        }
    }

    /// The hashes that are claimed.
    #[must_use]
    pub fn hashes(&self) -> HashSet<u64> {
        self.by_hash.keys().copied().collect()
    }

    /// Decides. Each place is judged once more: one that was freed while others
    /// were looked for claims nothing any more.
    #[must_use]
    pub fn decide(self, mut judge: impl FnMut(u64) -> Verdict) -> Owners {
        let mut owners = Owners::default();
        for (sessions, Claim { places, more }) in self.by_hash {
            let mut judged: Vec<(u64, Verdict)> =
                places.into_iter().map(|place| (place, judge(place))).collect();
            judged.retain(|(_, verdict)| *verdict != Verdict::Not);
            match (&judged[..], more) {
                ([], _) => {}
                ([(place, Verdict::Context)], 0) => owners.contexts.push(*place),
                ([(place, _)], 0) => owners.unproven.push(*place),
                _ => owners.contested.push(Contested {
                    sessions,
                    places: judged.into_iter().map(|(place, _)| place).collect(),
                    more,
                }),
            }
        }
        owners.contexts.sort_unstable();
        owners.unproven.sort_unstable();
        owners.contested.sort_unstable_by_key(|contested| contested.sessions);
        owners
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::pattern::tests::{CONTEXT, HASH, HEAP, Words, heap, make, pattern},
        *,
    };

    fn owners(heap: &Words) -> Owners {
        let pattern = pattern();
        let mut claims = Claims::default();
        for candidate in pattern.candidates(&heap.1, HEAP) {
            claims.add(candidate, |hash| pattern.is_hash(heap, 1, hash));
        }
        claims.decide(|place| pattern.judge(heap, 1, place))
    }

    #[test]
    fn who_claims_a_hash_alone_owns_it() {
        assert_eq!(owners(&heap()), Owners { contexts: vec![CONTEXT], ..Owners::default() });
    }

    #[test]
    fn two_that_claim_one_hash_both_own_nothing() {
        let mut heap = heap();
        make(&mut heap, CONTEXT + 0x600, HASH);
        let places = vec![CONTEXT, CONTEXT + 0x600];
        let contested = vec![Contested { sessions: HASH, places, more: 0 }];
        assert_eq!(owners(&heap), Owners { contested, ..Owners::default() });
    }

    #[test]
    fn a_hash_that_is_none_is_asked_for_once() {
        let mut claims = Claims::default();
        let mut asked = 0;
        for address in 0..1000 {
            claims.add(Candidate { address, sessions: 0x8000 }, |_| {
                asked += 1;
                false
            });
        }
        assert_eq!(asked, 1);
        assert_eq!(claims.decide(|_| Verdict::Context), Owners::default());
    }

    #[test]
    fn of_many_copies_a_few_are_remembered() {
        let mut claims = Claims::default();
        for address in 0..1000 {
            claims.add(Candidate { address, sessions: 0x8000 }, |_| true);
        }
        let owners = claims.decide(|_| Verdict::Context);
        assert!(owners.contexts.is_empty());
        assert_eq!(owners.contested[0].more, 1000 - KEPT as u64);
    }

    #[test]
    fn who_is_gone_claims_nothing() {
        let mut claims = Claims::default();
        for address in [0x100, 0x200] {
            claims.add(Candidate { address, sessions: 0x8000 }, |_| true);
        }
        let alive = |place| if place == 0x200 { Verdict::Context } else { Verdict::Not };
        assert_eq!(claims.decide(alive).contexts, [0x200]);
    }
}
