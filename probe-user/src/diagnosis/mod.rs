//! Why sessions are resumed or not: from values and settings to findings.
//!
//! No I/O, and nothing that the values do not say: a finding has a
//! [`Certainty`], and its evidence is named. The rules are about OpenSSL's own
//! code, 1.1.1 to 4.0; `docs/settings.md` explains them.
//!
//! Each rule is asked twice: about what was counted since the context was made,
//! and about what was counted while it was watched. [`merge`] makes one finding
//! of both answers, which says [`When`] it is so.

mod client;
mod draft;
mod merge;
mod period;
mod process;
mod server;
mod words;

use probe_common::Counter;
use serde::{Deserialize, Serialize};

pub use self::process::{ProcessSums, explain};
use self::{
    draft::Draft,
    period::{Counts, Period, Periods, Share},
};
use crate::{
    image::Family,
    snapshot::{SessionStats, Settings, Watched},
};

/// One thing that was found, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is, for programs.
    pub kind: Kind,
    /// How much of it is proven.
    pub certainty: Certainty,
    /// When it is so.
    pub when: When,
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

/// When something is so: in the order of what matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// While the context was watched.
    Now,
    /// Since it was made, by what it counted in all its life and the settings of
    /// now; what it counted while it was watched does not say it, nor that it
    /// is past.
    SinceMade,
    /// Before it was watched. Then its counter did not move, though sessions were used.
    Past,
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
    /// What of them it counted while it was watched.
    pub watched: Option<&'a Watched>,
    /// Its settings, if they are known.
    pub settings: Option<&'a Settings>,
    /// Other processes that serve the same program: of the same executable, and
    /// of one family.
    pub peers: &'a [u32],
    /// What the live server contexts of its process counted.
    pub process: ProcessSums,
}

/// What is found of one context: first whether resumption works, then what
/// explains it: what is so now before what is past, the most certain first.
#[must_use]
pub fn judge(case: &Case<'_>) -> Vec<Finding> {
    let periods = Periods::of(case.stats, case.watched);
    if let Some(family) = case.family.filter(|family| *family != Family::OpenSsl) {
        let summary = format!(
            "It is not judged: {family} counts, and looks into its cache, in other ways than \
             OpenSSL."
        );
        let draft = Draft::new(Kind::OtherFamily, Certainty::Certain, summary);
        return vec![merge::alone(draft, &periods)];
    }
    let Some(role) = Role::of(case.stats) else {
        return vec![merge::alone(not_counted(case), &periods)];
    };
    let draft = match (role, &periods.made) {
        (Role::Unused, _) => {
            Draft::new(Kind::TooFew, Certainty::Certain, "No handshake has been started yet.")
                .counted(&[Counter::Connect, Counter::Accept])
        }
        (Role::Both, Some(_)) => both_roles(),
        (Role::Both, None) | (_, None) => not_counted(case),
        (Role::Server, Some(made)) => server::outcome(case, made),
        (Role::Client, Some(made)) => client::outcome(made),
    };
    let finished = match role {
        Role::Server => Counter::AcceptGood,
        Role::Client => Counter::ConnectGood,
        Role::Unused | Role::Both => return vec![merge::alone(draft, &periods)],
    };
    let causes = |period: &Period<'_>| match role {
        Role::Server => server::causes(case, period),
        _ => client::causes(case, period),
    };
    let made_share = Share::of(draft.kind);
    let made = periods.made.as_ref().map_or_else(Vec::new, |counts| {
        causes(&Period { counts, made: Some(counts), share: made_share, made_share })
    });
    let (outcome, share) = merge::outcome(draft, finished, &periods);
    let watched = periods.watched.as_ref().map_or_else(
        |_| Vec::new(),
        |window| {
            let made = periods.made.as_ref();
            causes(&Period { counts: &window.counts, made, share, made_share })
        },
    );
    let mut findings = vec![outcome];
    findings.extend(merge::causes(made, watched, &periods));
    findings
}

/// What a context is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Unused,
    Server,
    Client,
    Both,
}

impl Role {
    /// `None` if a counter that says it is not known.
    fn of(stats: &SessionStats) -> Option<Self> {
        let client = stats.connect? != 0 || stats.connect_good? != 0;
        // Up to OpenSSL 3.1, a servername callback moves `accept` and `accept_good`
        // to another context; what was looked up stays where it began.
        let looked_up = [stats.hits, stats.misses, stats.timeouts];
        let looked_up = looked_up.iter().any(|count| count.is_some_and(|count| count != 0));
        let server = stats.accept? != 0 || stats.accept_good? != 0 || (!client && looked_up);
        Some(match (client, server) {
            (false, false) => Self::Unused,
            (false, true) => Self::Server,
            (true, false) => Self::Client,
            (true, true) => Self::Both,
        })
    }
}

fn not_counted(case: &Case<'_>) -> Draft {
    let named = case.stats.named();
    let strange = named.iter().filter(|(_, value)| value.is_none_or(|value| value < 0));
    Draft::new(
        Kind::NotCounted,
        Certainty::Certain,
        "A counter is not known, or below zero (they are C ints, and wrap), so shares cannot be \
         told.",
    )
    .counted(&[Counter::Hits, Counter::AcceptGood, Counter::ConnectGood])
    .because(strange.map(|(name, value)| words::value(name, *value)))
}

fn both_roles() -> Draft {
    Draft::new(
        Kind::BothRoles,
        Certainty::Certain,
        "It is used as a server and as a client: hits and misses of both are one number, so that \
         no share can be told.",
    )
    .counted(&[Counter::AcceptGood, Counter::ConnectGood, Counter::Hits, Counter::Misses])
    .cure("use an SSL_CTX for each role")
}

/// Whether resumption works, by the share of the finished handshakes.
fn verdict(hits: i64, finished: i64) -> Draft {
    let of = format!("{hits} of {finished} finished handshakes resumed a session");
    // Of a large number of handshakes, one too few is not all.
    let percent = (hits.saturating_mul(100) / finished.max(1)).clamp(0, 100);
    let (kind, summary) = match hits {
        0 => (
            Kind::None,
            format!("Resumption does not happen: none of {finished} finished handshakes."),
        ),
        _ if hits > finished => (
            Kind::Works,
            format!(
                "Resumption works: {hits} sessions were resumed, and {finished} handshakes finished."
            ),
        ),
        _ if hits.saturating_mul(2) >= finished => {
            (Kind::Works, format!("Resumption works: {of} ({percent} %)."))
        }
        _ => (Kind::Low, format!("Resumption is low: {of} ({percent} %).")),
    };
    Draft::new(kind, Certainty::Certain, summary)
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::{
        When::{Now, SinceMade},
        *,
    };
    use crate::context::Unwatched;

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
        judge(&Case { settings: settings.as_ref(), peers, ..case(&stats) })
    }

    fn case(stats: &SessionStats) -> Case<'_> {
        Case {
            family: None,
            stats,
            watched: None,
            settings: None,
            peers: &[],
            process: ProcessSums::default(),
        }
    }

    /// Watched for ten seconds, in which the counters moved like this.
    pub(super) fn moved(by: &[(&str, i64)]) -> Watched {
        let from = Timestamp::UNIX_EPOCH;
        let counted = SessionStats { number: None, ..stats(by) };
        Watched::Known { from, until: from + SignedDuration::from_secs(10), counted }
    }

    /// What is found of values that moved by so much in ten seconds.
    pub(super) fn watching(
        values: &[(&str, i64)],
        by: &[(&str, i64)],
        settings: Option<Settings>,
    ) -> Vec<Finding> {
        let (stats, watched) = (stats(values), moved(by));
        judge(&Case { watched: Some(&watched), settings: settings.as_ref(), ..case(&stats) })
    }

    /// Kinds, and when they are so, in order.
    pub(super) fn whens(findings: &[Finding]) -> Vec<(Kind, When)> {
        findings.iter().map(|finding| (finding.kind, finding.when)).collect()
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
        assert_eq!(judge(&case(&unknown))[0].kind, Kind::NotCounted);
    }

    /// What moved is known all the same; shares are not, since nobody knows what
    /// was moved here.
    #[test]
    fn of_what_wrapped_the_movements_are_judged() {
        let made = [("accept", i64::from(i32::MIN) + 9), ("accept_good", 7), ("timeouts", 4)];
        let by = [("accept", 20), ("accept_good", 20), ("misses", 3), ("cache_full", 6)];
        let found = watching(&made, &by, Some(defaults()));
        assert_eq!(
            whens(&found),
            [
                (Kind::NotCounted, SinceMade),
                (Kind::UnknownSessions, Now),
                (Kind::CacheTooSmall, Now)
            ]
        );
        assert_eq!(found[0].evidence[1], "accept = -2147483639");
        assert_eq!(found[2].evidence[0], "in the 10.0 s watched: cache_full +6, misses +3");
        // Of a counter that is not known, nothing is.
        let unknown = SessionStats { misses: None, ..stats(&[("accept", 5)]) };
        let watched = Watched::Unknown { unknown: Unwatched::LastSeenByProbe };
        let found = judge(&Case { watched: Some(&watched), ..case(&unknown) });
        assert_eq!(whens(&found), [(Kind::NotCounted, SinceMade)]);
    }

    #[test]
    fn relatives_are_not_judged() {
        let stats = stats(&[("accept", 5), ("accept_good", 5), ("hits", 4)]);
        let of = |family| Case { family: Some(family), ..case(&stats) };
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
    fn what_was_not_watched_is_not_said_to_be_past() {
        let stats = stats(&[("accept", 20), ("accept_good", 20), ("timeouts", 8)]);
        let watched = Watched::Unknown { unknown: Unwatched::LastSeenByProbe };
        let found = judge(&Case { watched: Some(&watched), ..case(&stats) });
        assert_eq!(
            whens(&found),
            [
                (Kind::None, SinceMade),
                (Kind::SettingsUnknown, SinceMade),
                (Kind::Expired, SinceMade)
            ]
        );
        let evidence = "what it counted while it was watched is not known: its last values are \
                        those that a probe saw, not a look of their own";
        assert_eq!(found[0].evidence[1], evidence);
        assert_eq!(found[2].evidence[0], "since the context was made: timeouts = 8");
    }

    #[test]
    fn names_are_a_contract() {
        let finding = Finding {
            kind: Kind::NoSessionIdContext,
            certainty: Certainty::Certain,
            when: SinceMade,
            summary: "x".to_owned(),
            evidence: Vec::new(),
            cure: None,
        };
        assert_eq!(
            serde_json::to_value(&finding).expect("JSON"),
            serde_json::json!({"kind": "no-session-id-context", "certainty": "certain",
                "when": "since-made", "summary": "x", "evidence": [], "cure": null})
        );
        let unknown = Watched::Unknown { unknown: Unwatched::SeenOnce };
        for (watched, json) in [
            (unknown, serde_json::json!({"unknown": "seen-once"})),
            (
                moved(&[("hits", 3)]),
                serde_json::json!({
                    "from": "1970-01-01T00:00:00.000Z",
                    "until": "1970-01-01T00:00:10.000Z",
                    "counted": SessionStats { number: None, ..stats(&[("hits", 3)]) },
                }),
            ),
        ] {
            assert_eq!(serde_json::to_value(watched).expect("JSON"), json);
            assert_eq!(serde_json::from_value::<Watched>(json).expect("it is read"), watched);
        }
    }
}
