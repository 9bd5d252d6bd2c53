//! Why sessions are resumed or not: from values and settings to findings.
//!
//! No I/O, and nothing that the values do not say: a finding has a
//! [`Certainty`], and its evidence is named. The rules are about OpenSSL's own
//! code, 1.1.1 to 4.0; `docs/settings.md` explains them.

mod client;
mod server;
mod words;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{
    image::Family,
    snapshot::{ContextSnapshot, SessionStats, Settings, State},
};

/// One thing that was found, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is, for programs.
    pub kind: Kind,
    /// How much of it is proven.
    pub certainty: Certainty,
    /// What it is, in a sentence or two.
    pub summary: String,
    /// The values, settings and other facts that it rests on.
    pub evidence: Vec<String>,
    /// What to change; `null`: nothing.
    pub cure: Option<String>,
}

/// How much of a finding is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// It follows from the values and the settings of the `SSL_CTX`. (A program
    /// can set some of them otherwise for a single connection.)
    Certain,
    /// The values fit it, and little else.
    Likely,
    /// The values fit it, and other things as well.
    Possible,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// At least half of the finished handshakes resumed a session.
    Works,
    /// Fewer than half of them did.
    Low,
    /// None did.
    None,
    /// There was nothing to resume yet.
    TooFew,
    /// The library is one of OpenSSL's relatives, which counts in other ways.
    OtherFamily,
    /// A counter is not known, or has wrapped.
    NotCounted,
    /// The context is a server's and a client's; their hits are one number.
    BothRoles,
    /// A servername callback moves connections from one context to another.
    MovedBySni,
    /// The settings are not known, so that what depends on them is not judged.
    SettingsUnknown,
    /// The cache and tickets are off, or the cache is.
    CacheOff,
    /// Sessions are not put into any cache.
    NothingStored,
    /// No cache is looked at.
    NothingLookedUp,
    /// Sessions are thrown out of the cache before they expire.
    CacheTooSmall,
    /// Clients come back with sessions that have expired.
    Expired,
    /// Several processes serve, and each keeps its sessions for itself.
    NotShared,
    /// A server of TLS 1.3 sends no tickets.
    NoTickets,
    /// A server that asks for certificates has no session id context.
    NoSessionIdContext,
    /// Sessions are offered that this context does not have.
    UnknownSessions,
    /// Misses that a client which can do TLS 1.3 causes in every full handshake.
    MadeUpSessionIds,
    /// No session is offered.
    NeverOffered,
    /// No session is offered, or tickets that cannot be decrypted: neither is counted.
    NothingCounted,
    /// Servers do not take the sessions that this client offers.
    RefusedByServer,
    /// Neither values nor settings say why.
    Unexplained,
}

/// Everything that one context is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// Whose library it is.
    pub family: Option<Family>,
    /// Its values.
    pub stats: &'a SessionStats,
    /// Its settings, if they are known.
    pub settings: Option<&'a Settings>,
    /// Other processes that serve the same program: of the same executable, and
    /// of one family.
    pub peers: &'a [u32],
    /// What all contexts of the process counted as servers: hits, and finished
    /// handshakes.
    pub process: (i64, i64),
}

/// Adds to each context what is found of it. `peers` says which other processes
/// of the same program there are, of a process, and of those that serve.
pub fn explain(contexts: &mut [ContextSnapshot], peers: impl Fn(u32, &[u32]) -> Vec<u32>) {
    let mut sums: HashMap<u32, (i64, i64)> = HashMap::new();
    let mut serving: Vec<u32> = Vec::new();
    for context in contexts.iter().filter(|context| context.state == State::Live) {
        let (hits, good) = sums.entry(context.pid).or_default();
        if context.stats.connect == Some(0) {
            *hits += context.stats.hits.unwrap_or(0);
            *good += context.stats.accept_good.unwrap_or(0);
        }
        if context.stats.accept_good.unwrap_or(0) > 0 {
            serving.push(context.pid);
        }
    }
    let mut known: HashMap<u32, Vec<u32>> = HashMap::new();
    for context in contexts {
        // Of a process that is gone, nobody can say who its peers were.
        let peers = match context.state {
            State::Live | State::Freed => {
                known.entry(context.pid).or_insert_with(|| peers(context.pid, &serving)).as_slice()
            }
            State::Exited => &[],
        };
        let case = Case {
            family: context.library.family,
            stats: &context.stats,
            settings: context.settings.as_ref(),
            peers,
            process: sums.get(&context.pid).copied().unwrap_or_default(),
        };
        context.why = Some(judge(&case));
    }
}

/// What is found of one context: first whether resumption works, then what
/// explains it, the most certain first.
#[must_use]
pub fn judge(case: &Case<'_>) -> Vec<Finding> {
    if let Some(family) = case.family.filter(|family| *family != Family::OpenSsl) {
        let summary = format!(
            "It is not judged: {family} counts, and looks into its cache, in other ways than \
             OpenSSL."
        );
        return vec![Finding::new(Kind::OtherFamily, Certainty::Certain, summary)];
    }
    let Some(counts) = Counts::of(case.stats) else {
        let named = case.stats.named();
        let strange = named.iter().filter(|(_, value)| value.is_none_or(|value| value < 0));
        return vec![
            Finding::new(
                Kind::NotCounted,
                Certainty::Certain,
                "A counter is not known, or below zero (they are C ints, and wrap), so shares \
                 cannot be told.",
            )
            .because(strange.map(|(name, value)| words::value(name, *value))),
        ];
    };
    let mut findings = match (counts.connect + counts.connect_good, counts.accept + counts.good) {
        (0, 0) => vec![
            Finding::new(Kind::TooFew, Certainty::Certain, "No handshake has been started yet.")
                .because(["connect = 0, accept = 0".to_owned()]),
        ],
        (0, _) => server::judge(case, &counts),
        (_, 0) => client::judge(case, &counts),
        _ => vec![both_roles(&counts)],
    };
    // The verdict stays first; the sort is stable.
    if let [_, causes @ ..] = findings.as_mut_slice() {
        causes.sort_by_key(|finding| finding.certainty);
    }
    findings
}

fn both_roles(counts: &Counts) -> Finding {
    Finding::new(
        Kind::BothRoles,
        Certainty::Certain,
        "It is used as a server and as a client: hits and misses of both are one number, so that \
         no share can be told.",
    )
    .because([
        format!("accept_good = {}, connect_good = {}", counts.good, counts.connect_good),
        format!("hits = {}, misses = {}", counts.hits, counts.misses),
    ])
    .cure("use an SSL_CTX for each role")
}

/// The counters, all known and not below zero.
#[derive(Clone, Copy, Debug)]
struct Counts {
    number: Option<i64>,
    connect: i64,
    connect_good: i64,
    accept: i64,
    accept_renegotiate: i64,
    /// `accept_good`.
    good: i64,
    hits: i64,
    cb_hits: i64,
    misses: i64,
    timeouts: i64,
    cache_full: i64,
}

impl Counts {
    fn of(stats: &SessionStats) -> Option<Self> {
        let known = |value: Option<i64>| value.filter(|value| *value >= 0);
        Some(Self {
            number: stats.number,
            connect: known(stats.connect)?,
            connect_good: known(stats.connect_good)?,
            accept: known(stats.accept)?,
            accept_renegotiate: known(stats.accept_renegotiate)?,
            good: known(stats.accept_good)?,
            hits: known(stats.hits)?,
            cb_hits: known(stats.cb_hits)?,
            misses: known(stats.misses)?,
            timeouts: known(stats.timeouts)?,
            cache_full: known(stats.cache_full)?,
        })
    }
}

impl Finding {
    fn new(kind: Kind, certainty: Certainty, summary: impl Into<String>) -> Self {
        Self { kind, certainty, summary: summary.into(), evidence: Vec::new(), cure: None }
    }

    fn because(mut self, evidence: impl IntoIterator<Item = String>) -> Self {
        self.evidence.extend(evidence);
        self
    }

    fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }
}

/// Whether resumption works, by the share of the finished handshakes.
fn verdict(hits: i64, finished: i64, evidence: String) -> Finding {
    let of = format!("{hits} of {finished} finished handshakes resumed a session");
    // Of a large number of handshakes, one too few is not all.
    let percent = (hits.saturating_mul(100) / finished.max(1)).clamp(0, 100);
    let (kind, summary) = match hits {
        0 => (
            Kind::None,
            format!("Resumption does not happen: none of {finished} finished handshakes."),
        ),
        _ if hits.saturating_mul(2) >= finished => {
            (Kind::Works, format!("Resumption works: {of} ({percent} %)."))
        }
        _ => (Kind::Low, format!("Resumption is low: {of} ({percent} %).")),
    };
    Finding::new(kind, Certainty::Certain, summary).because([evidence])
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn stats(values: &[(&str, i64)]) -> SessionStats {
        let get = |name: &str| {
            Some(values.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value))
        };
        SessionStats {
            number: get("number"),
            connect: get("connect"),
            connect_good: get("connect_good"),
            connect_renegotiate: get("connect_renegotiate"),
            accept: get("accept"),
            accept_good: get("accept_good"),
            accept_renegotiate: get("accept_renegotiate"),
            hits: get("hits"),
            cb_hits: get("cb_hits"),
            misses: get("misses"),
            timeouts: get("timeouts"),
            cache_full: get("cache_full"),
        }
    }

    /// What `SSL_CTX_new` sets (3.0).
    pub(super) fn defaults() -> Settings {
        Settings {
            cache_mode: Some(2),
            cache_size: Some(20_480),
            timeout: Some(300),
            num_tickets: Some(2),
            options: Some(0x12_0000),
            min_protocol: Some(0),
            max_protocol: Some(0),
            new_callback: Some(false),
            get_callback: Some(false),
            remove_callback: Some(false),
            session_id_context_length: Some(0),
            verify_mode: Some(0),
        }
    }

    pub(super) fn findings(
        values: &[(&str, i64)],
        settings: Option<Settings>,
        peers: &[u32],
    ) -> Vec<Finding> {
        let stats = stats(values);
        judge(&Case {
            family: None,
            stats: &stats,
            settings: settings.as_ref(),
            peers,
            process: (0, 0),
        })
    }

    /// Kinds and certainties, in order.
    pub(super) fn kinds(
        values: &[(&str, i64)],
        settings: Option<Settings>,
        peers: &[u32],
    ) -> Vec<(Kind, Certainty)> {
        findings(values, settings, peers).iter().map(|f| (f.kind, f.certainty)).collect()
    }

    #[test]
    fn nothing_yet() {
        assert_eq!(kinds(&[], Some(defaults()), &[]), [(Kind::TooFew, Certainty::Certain)]);
    }

    #[test]
    fn what_wrapped_is_not_judged() {
        let found = findings(&[("accept", 5), ("hits", -7)], Some(defaults()), &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].kind, found[0].evidence.as_slice()),
            (Kind::NotCounted, ["hits = -7".to_owned()].as_slice())
        );
        let unknown = SessionStats { misses: None, ..stats(&[("accept", 5)]) };
        let case =
            Case { family: None, stats: &unknown, settings: None, peers: &[], process: (0, 0) };
        assert_eq!(judge(&case)[0].kind, Kind::NotCounted);
    }

    #[test]
    fn relatives_are_not_judged() {
        let stats = stats(&[("accept", 5), ("accept_good", 5), ("hits", 4)]);
        let of = |family| Case {
            family: Some(family),
            stats: &stats,
            settings: None,
            peers: &[],
            process: (0, 0),
        };
        assert_eq!(judge(&of(Family::OpenSsl))[0].kind, Kind::Works);
        let found = judge(&of(Family::AwsLc));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].kind, Kind::OtherFamily);
    }

    #[test]
    fn two_roles_have_no_share() {
        let values = [("accept", 5), ("accept_good", 5), ("connect", 5), ("hits", 9)];
        assert_eq!(kinds(&values, Some(defaults()), &[]), [(Kind::BothRoles, Certainty::Certain)]);
    }

    #[test]
    fn names_of_kinds_are_a_contract() {
        let finding = Finding::new(Kind::NoSessionIdContext, Certainty::Certain, "x");
        let json = serde_json::to_value(&finding).expect("JSON");
        assert_eq!(
            json,
            serde_json::json!({"kind": "no-session-id-context", "certainty": "certain",
                "summary": "x", "evidence": [], "cure": null})
        );
    }
}
