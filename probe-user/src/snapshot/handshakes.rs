//! How long handshakes took, as outputs see it.

use probe_common::{BOUNDS_NS, Side};
use serde::{Deserialize, Serialize};

use crate::context::{Handshakes, SideHandshakes};

/// Those of a context, or of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakesSnapshot {
    /// As a client; `null`: none.
    pub client: Option<SideSnapshot>,
    /// As a server; `null`: none.
    pub server: Option<SideSnapshot>,
}

/// Those of one side: from when libssl starts a handshake (on a server, before the
/// client's first message has come) until it counts it as good. Those that had started
/// before there were probes, and renegotiations, are not among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideSnapshot {
    /// Those that are complete, by how long they took.
    pub buckets: Vec<Bucket>,
    /// How long all of these took together, in nanoseconds.
    pub sum_ns: u64,
    /// Those that have started and are not complete: under way, or given up by their
    /// program, which nobody has seen.
    pub unfinished: u64,
    /// How long ago the oldest of these started, in nanoseconds; `null`: there is none.
    pub oldest_ns: Option<u64>,
    /// Those that never will be complete: another one has begun on their connection, or
    /// their context has ended.
    pub abandoned: u64,
}

/// Handshakes that took about as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// The longest that is among them, in nanoseconds; `null`: any.
    pub up_to_ns: Option<u64>,
    /// How many took no longer, and longer than those of the bucket before.
    pub count: u64,
}

impl HandshakesSnapshot {
    /// What is known of them at a time; `None` if nothing was timed.
    #[must_use]
    pub fn of(handshakes: &Handshakes, now_ns: u64) -> Option<Self> {
        let [client, server] = Side::BOTH.map(|side| SideSnapshot::of(handshakes.of(side), now_ns));
        (client.is_some() || server.is_some()).then_some(Self { client, server })
    }

    /// Those of each side that has any.
    pub fn sides(&self) -> impl Iterator<Item = (Side, &SideSnapshot)> {
        [(Side::Client, &self.client), (Side::Server, &self.server)]
            .into_iter()
            .filter_map(|(side, of_it)| Some((side, of_it.as_ref()?)))
    }
}

impl SideSnapshot {
    fn of(handshakes: &SideHandshakes, now_ns: u64) -> Option<Self> {
        let SideHandshakes { times, unfinished, oldest_ns } = handshakes;
        let bounds = BOUNDS_NS.into_iter().map(Some).chain([None]);
        (!handshakes.is_empty()).then(|| Self {
            buckets: bounds
                .zip(times.buckets)
                .map(|(up_to_ns, count)| Bucket { up_to_ns, count })
                .collect(),
            sum_ns: times.sum_ns,
            unfinished: *unfinished,
            oldest_ns: oldest_ns.map(|start| now_ns.saturating_sub(start)),
            abandoned: times.abandoned,
        })
    }

    /// How many are complete.
    #[must_use]
    pub fn complete(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.count).sum()
    }

    /// How many of these took no longer than that, which is the bound of a bucket.
    #[must_use]
    pub fn within(&self, nanoseconds: u64) -> u64 {
        let short = |bucket: &&Bucket| bucket.up_to_ns.is_some_and(|bound| bound <= nanoseconds);
        self.buckets.iter().filter(short).map(|bucket| bucket.count).sum()
    }
}
