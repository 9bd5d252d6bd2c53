//! What is known at one moment: the only type that outputs see.
//!
//! Its JSON form is a contract: `sslsess show --json`, `GET /api/v1/contexts`.

mod handshakes;

use std::path::PathBuf;

use jiff::Timestamp;
use probe_common::Counter;
use serde::{Deserialize, Serialize, Serializer};

pub use self::handshakes::{Bucket, HandshakesSnapshot, SideSnapshot};
pub use crate::{
    context::{Settings, Source, State, Unwatched},
    diagnosis::Finding,
    host::container::ContainerFacts,
    image::Family,
};

/// Everything, at one moment. Immutable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// The host that was looked at.
    pub host: Host,
    /// The contexts that live, and those that ended a short while ago; or those of
    /// them that were [`Wanted`].
    pub contexts: Vec<ContextSnapshot>,
    /// How many there are besides; not part of the JSON contract.
    #[serde(skip)]
    pub omitted: Omitted,
    /// What is not known, and why.
    pub gaps: Vec<GapSnapshot>,
    /// The libraries that processes map, and what has become of each.
    #[serde(default)]
    pub targets: Vec<TargetSnapshot>,
    /// Sums that never fall.
    #[serde(default, skip_deserializing)]
    pub groups: Vec<GroupSnapshot>,
    /// The labels of the groups, in their order; not part of the JSON contract.
    #[serde(skip)]
    pub group_by: Vec<&'static str>,
    /// The place in the order of ends that the next context to end will have; not
    /// part of the JSON contract.
    #[serde(skip)]
    pub ends: u64,
    /// How the agent itself fares; not part of the JSON contract.
    #[serde(skip)]
    pub health: Health,
}

/// Which contexts a snapshot is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of them.
    All,
    /// Those that get series of their own, so many at most
    /// ([`Choice`](crate::context::Choice)).
    Series(usize),
}

/// Contexts that a snapshot does not have, since not all were [`Wanted`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Omitted {
    /// Those that live.
    pub live: usize,
    /// Those that ended and are kept.
    pub ended: usize,
}

/// The host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// The version of this program.
    pub agent_version: String,
}

/// One `SSL_CTX`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextSnapshot {
    /// Process id.
    pub pid: u32,
    /// Start of the process, in ticks since boot; with the pid it names the
    /// process for good. `null` where neither the kernel nor `/proc` told it.
    pub start_time_ticks: Option<u64>,
    /// Name of the process's main thread.
    pub comm: Option<String>,
    /// The executable. `null` where the process was gone before it could be read.
    pub exe: Option<PathBuf>,
    /// The innermost container that its process is in, by the names of its
    /// cgroups when the context was met; `null` outside of one, and where they do
    /// not tell, or could not be read before the process was gone.
    pub container: Option<ContainerFacts>,
    /// The process's pid in its innermost pid namespace, as the program says of
    /// itself; `null` where that is the agent's namespace, or not known.
    #[serde(default)]
    pub pid_inside: Option<u32>,
    /// The unit of systemd, as `nginx.service`: of the host's manager, or of one
    /// within the container. `null`: in none, or not known.
    #[serde(default)]
    pub unit: Option<String>,
    /// Where `unit` is `user@UID.service`: the unit of that user's manager.
    #[serde(default)]
    pub user_unit: Option<String>,
    /// The address of the `SSL_CTX`.
    pub ctx: String,
    /// The how-many-th context at that address, from 1.
    pub generation: u32,
    /// Whether it lives.
    pub state: State,
    /// The library that it belongs to.
    pub library: LibrarySnapshot,
    /// The values.
    pub stats: SessionStats,
    /// The settings that explain the values, as they were last read while the
    /// context lived; `null`: they were not read before it ended, or cannot be read.
    #[serde(default)]
    pub settings: Option<Settings>,
    /// How long its handshakes took; `null`: none was timed (`--probe-points
    /// handshakes` does it).
    #[serde(default)]
    pub handshakes: Option<HandshakesSnapshot>,
    /// What it counted between the first look at it and the last; not part of
    /// the JSON contract.
    #[serde(skip)]
    pub grown: Option<Watched>,
    /// The same, where it goes with `why`: `show --why` adds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched: Option<Watched>,
    /// Why resumption is as it is: `show --why` adds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Vec<Finding>>,
    /// Where the values come from.
    pub source: Source,
    /// When they were read.
    #[serde(serialize_with = "milliseconds")]
    pub observed_at: Timestamp,
    /// Tells the newest of those at one address; not part of the JSON contract.
    #[serde(skip)]
    pub born_ns: u64,
    /// Its place in the order of ends, if it has ended; not part of the JSON contract.
    #[serde(skip)]
    pub ended: Option<u64>,
}

/// What a context counted while it was watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are the large one")]
pub enum Watched {
    /// Both looks at it were exact.
    Known {
        /// The first look: when a counter first moved, which is not in `counted`.
        #[serde(serialize_with = "milliseconds")]
        from: Timestamp,
        /// The last look.
        #[serde(serialize_with = "milliseconds")]
        until: Timestamp,
        /// By how much each counter is higher, over wraps of the `int`;
        /// `number` is no counter, and `null`.
        counted: SessionStats,
    },
    /// Why it is not known.
    Unknown {
        /// One of them was none.
        unknown: Unwatched,
    },
}

/// The library of a context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibrarySnapshot {
    /// Its file, as the process sees it.
    pub path: PathBuf,
    /// Its GNU build id.
    pub build_id: Option<String>,
    /// What its libcrypto calls itself.
    pub version: Option<String>,
    /// Whose it is: by what it exports and does, not by its name or version.
    #[serde(default)]
    pub family: Option<Family>,
}

/// The twelve values of `SSL_CTX_sess_number(3)`, as the function would return
/// them: C `int`s, but for `number`. `null`: not known, and a gap says why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the manual page's own names")]
pub struct SessionStats {
    pub number: Option<i64>,
    pub connect: Option<i64>,
    pub connect_good: Option<i64>,
    pub connect_renegotiate: Option<i64>,
    pub accept: Option<i64>,
    pub accept_good: Option<i64>,
    pub accept_renegotiate: Option<i64>,
    pub hits: Option<i64>,
    pub cb_hits: Option<i64>,
    pub misses: Option<i64>,
    pub timeouts: Option<i64>,
    pub cache_full: Option<i64>,
}

impl SessionStats {
    /// Counters, indexed by [`Counter`], and the number of sessions in the
    /// internal cache.
    #[must_use]
    pub fn of(counters: [Option<i64>; 11], number: Option<i64>) -> Self {
        let counter = |counter: Counter| counters[counter as usize];
        Self {
            number,
            connect: counter(Counter::Connect),
            connect_good: counter(Counter::ConnectGood),
            connect_renegotiate: counter(Counter::ConnectRenegotiate),
            accept: counter(Counter::Accept),
            accept_good: counter(Counter::AcceptGood),
            accept_renegotiate: counter(Counter::AcceptRenegotiate),
            hits: counter(Counter::Hits),
            cb_hits: counter(Counter::CbHits),
            misses: counter(Counter::Misses),
            timeouts: counter(Counter::Timeouts),
            cache_full: counter(Counter::CacheFull),
        }
    }

    /// The values in the order of the manual page, with their names.
    #[must_use]
    pub fn named(&self) -> [(&'static str, Option<i64>); 12] {
        [
            ("number", self.number),
            ("connect", self.connect),
            ("connect_good", self.connect_good),
            ("connect_renegotiate", self.connect_renegotiate),
            ("accept", self.accept),
            ("accept_good", self.accept_good),
            ("accept_renegotiate", self.accept_renegotiate),
            ("hits", self.hits),
            ("cb_hits", self.cb_hits),
            ("misses", self.misses),
            ("timeouts", self.timeouts),
            ("cache_full", self.cache_full),
        ]
    }
}

/// Something that is not known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GapSnapshot {
    /// The process it concerns; `null`: all of them.
    pub pid: Option<u32>,
    /// The library it concerns; `null`: none in particular.
    pub library: Option<PathBuf>,
    /// Why it is not known.
    pub reason: String,
}

/// A library file that processes map, or that still has probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetSnapshot {
    /// The file.
    pub library: LibrarySnapshot,
    /// What has become of it.
    pub state: TargetState,
    /// Why it is not observed; `null` if it is, or is being learnt.
    pub reason: Option<String>,
    /// How many probes it has.
    pub probes: usize,
    /// The pids of the processes that map it.
    pub processes: Vec<u32>,
    /// Its contexts.
    pub contexts: TargetContexts,
    /// When one of its probes last saw a context; `null`: not yet.
    #[serde(serialize_with = "milliseconds_or_null")]
    pub last_event: Option<Timestamp>,
    /// The processes that may have contexts that are not known: as long as there is one,
    /// handshakes keep the probes that would see such a context. `null`: nobody looks for
    /// them, and the probes stay as they are.
    #[serde(default)]
    pub unsettled: Option<Vec<UnsettledSnapshot>>,
}

/// A process that may have contexts of a library that are not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsettledSnapshot {
    /// The process.
    pub pid: u32,
    /// Why that is so.
    pub reason: String,
}

/// What has become of a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetState {
    /// Its probes are attached.
    Observed,
    /// It is being learnt: it was met a moment ago.
    Learning,
    /// It is not observed.
    Refused,
}

impl TargetState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Observed, Self::Learning, Self::Refused];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observed => "observed",
            Self::Learning => "learning",
            Self::Refused => "refused",
        }
    }
}

/// How many contexts a library has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetContexts {
    /// Those that live.
    pub live: usize,
    /// Those that ended and are still listed.
    pub ended: usize,
}

/// The value of every label of the group for which there was no room: longer than
/// a `comm`, with a character that no name of a container, pod or unit can have,
/// and not the beginning of a path.
pub const OVERFLOW: &str = "overflow/--max-groups";

/// The sums of a group of contexts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupSnapshot {
    /// What its contexts have in common, by the names of the labels; `null`: not
    /// known. In JSON, each is a field of the group.
    #[serde(flatten, serialize_with = "map")]
    pub labels: Vec<(&'static str, Option<String>)>,
    /// Whether it is the one for contexts for whose own group there was no room.
    pub overflow: bool,
    /// Sums of what the contexts counted, by name; each only grows. Without
    /// those that none of the contexts' libraries counts.
    #[serde(serialize_with = "map")]
    pub totals: Vec<(&'static str, i64)>,
    /// Sessions in the internal caches of the live contexts now; `None` if it
    /// is not known of one of them.
    pub number: Option<i64>,
    /// Contexts that live.
    pub live: usize,
    /// How long the handshakes of its contexts took; `null`: none was timed.
    pub handshakes: Option<HandshakesSnapshot>,
}

/// How the agent itself fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Things that were lost or refused in the kernel, and how often.
    pub losses: Vec<(&'static str, u64)>,
    /// How libraries are found.
    pub discovery: DiscoveryHealth,
    /// Ended contexts that are not listed any more.
    pub forgotten: u64,
    /// Those of them whose last values were in no scrape.
    pub unscraped: u64,
    /// Contexts that began with counts of which nobody knows who counted them.
    pub unproven: u64,
    /// Contexts for whose own group there was no room.
    pub beyond_groups: u64,
    /// How often two witnesses disagreed, by what it was about.
    pub contradictions: Vec<(&'static str, u64)>,
}

/// What a scrape has shown of the contexts that had ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scraped {
    /// Their places in the order of ends.
    pub shown: Vec<u64>,
    /// All before this place had ended when its snapshot was taken.
    pub until: u64,
}

/// Pairs as a map, in their order.
fn map<V: Serialize, S: Serializer>(
    pairs: &[(&'static str, V)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// How the agent keeps up with what processes map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryHealth {
    /// Executable mappings that the kernel reported; `None`: it does not tell.
    pub mappings: Option<u64>,
    /// Reports of mappings that were lost.
    pub lost: Option<u64>,
    /// How often a process was looked at.
    pub looks: u64,
    /// Files of libraries that are held open.
    pub held: usize,
}

/// As [`milliseconds`], or `null`.
fn milliseconds_or_null<S: Serializer>(
    at: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => milliseconds(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// `2026-01-01T00:00:00.000Z`: the same width always.
fn milliseconds<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"))
}
