//! What explains the values of a client's context.
//!
//! A client counts a miss if the server does not take the session that it
//! offered (`tls_process_server_hello` in `ssl/statem/statem_clnt.c`), and a hit
//! if it does (`tls_finish_handshake`): both together are what it offered.

use probe_common::Counter::{Connect, ConnectGood, Hits, Misses};

use super::{Case, Certainty, Counts, Draft, Kind, Period, Share, verdict, words};
use crate::context::settings::{Settings, cache_mode};

/// Whether it works, since the context was made.
pub(super) fn outcome(counts: &Counts) -> Draft {
    let too_few = |summary: &str| {
        Draft::new(Kind::TooFew, Certainty::Certain, summary).counted(&[
            Hits,
            ConnectGood,
            Connect,
            Misses,
        ])
    };
    let good = counts[ConnectGood];
    if good == 0 {
        return too_few("No handshake has finished here.");
    }
    if good == 1 && counts[Hits] + counts[Misses] == 0 {
        return too_few("One handshake has finished: there was nothing to resume yet.");
    }
    verdict(counts[Hits], good).counted(&[Hits, ConnectGood, Connect])
}

/// What explains it, in one of the times.
pub(super) fn causes(case: &Case<'_>, period: &Period<'_>) -> Vec<Draft> {
    let mut causes = Vec::new();
    if period.share == Share::Bad {
        causes.extend(never_offered(case.settings, period.counts));
    }
    // Whatever the share of a short time is: what was refused in it is told.
    if period.share == Share::Bad || period.made_share == Share::Bad || period.made.is_none() {
        causes.extend(refused(period.counts));
    }
    causes
}

/// Handshakes without a session to resume.
fn never_offered(settings: Option<&Settings>, counts: &Counts) -> Option<Draft> {
    let good = counts[ConnectGood];
    let without = good - counts[Hits] - counts[Misses];
    // The first handshake with each server has none; one of many is no reason.
    if without.saturating_mul(2) < good {
        return None;
    }
    let summary = if without == good {
        format!("This client never offered a session, in {good} finished handshakes.")
    } else {
        format!("In {without} of its {good} finished handshakes this client offered no session.")
    };
    let mut evidence =
        vec!["each session that a client offers counts as a hit or as a miss".to_owned()];
    evidence.extend(settings.map(words::cache_mode));
    evidence.extend(settings.map(words::callbacks));
    // A program can ask a connection for its session; with TLS 1.3 it has to ask late.
    let keeps = settings.is_some_and(|settings| {
        settings.cache_has(cache_mode::CLIENT) != Some(false)
            || settings.new_callback != Some(false)
    });
    let cure = if keeps {
        "keep the session of a connection (in TLS 1.3 it comes after the handshake: \
         SSL_CTX_sess_set_new_cb) and give it to the next one to the same server: SSL_set_session; \
         nginx: proxy_ssl_session_reuse on"
    } else {
        "SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT) and SSL_CTX_sess_set_new_cb, to \
         get sessions to keep; SSL_set_session, to offer one; nginx: proxy_ssl_session_reuse on; or \
         keep connections open"
    };
    Some(
        Draft::new(Kind::NeverOffered, Certainty::Certain, summary)
            .counted(&[Hits, Misses, ConnectGood])
            .because(evidence)
            .cure(cure),
    )
}

/// Sessions that were offered in vain.
fn refused(counts: &Counts) -> Option<Draft> {
    if counts[Misses] == 0 {
        return None;
    }
    let summary = format!(
        "{} of the {} sessions that this client offered were not taken by the server: expired \
         there, unknown to the process or host that answered, or tickets that it cannot decrypt.",
        counts[Misses],
        counts[Misses] + counts[Hits]
    );
    Some(
        Draft::new(Kind::RefusedByServer, Certainty::Certain, summary)
            .counted(&[Misses, Hits])
            .cure("look at the server: `sslsess show --why` there"),
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            When::{Now, Past, SinceMade},
            tests::{defaults, findings, kinds, watching, whens},
        },
        Certainty::Certain,
        *,
    };

    fn connected(good: i64, hits: i64, misses: i64) -> [(&'static str, i64); 4] {
        [("connect", good), ("connect_good", good), ("hits", hits), ("misses", misses)]
    }

    #[test]
    fn what_works() {
        assert_eq!(kinds(&connected(50, 49, 0), Some(defaults()), &[]), [(Kind::Works, Certain)]);
        assert_eq!(kinds(&connected(2, 1, 0), None, &[]), [(Kind::Works, Certain)]);
    }

    #[test]
    fn the_first_handshake_has_nothing_to_resume() {
        assert_eq!(kinds(&connected(1, 0, 0), Some(defaults()), &[]), [(Kind::TooFew, Certain)]);
        let started = [("connect", 4)];
        assert_eq!(kinds(&started, Some(defaults()), &[]), [(Kind::TooFew, Certain)]);
    }

    #[test]
    fn a_client_that_never_offers() {
        let found = findings(&connected(9, 0, 0), Some(defaults()), &[]);
        assert_eq!(
            found.iter().map(|f| f.kind).collect::<Vec<_>>(),
            [Kind::None, Kind::NeverOffered]
        );
        assert_eq!(
            found[1].summary,
            "This client never offered a session, in 9 finished handshakes."
        );
        let cure = found[1].cure.as_deref().expect("there is one");
        assert!(cure.starts_with("SSL_CTX_set_session_cache_mode"), "{cure}");
        // One that is told of its sessions only has to offer them.
        let keeps = Settings { new_callback: Some(true), ..defaults() };
        let found = findings(&connected(9, 0, 0), Some(keeps), &[]);
        let cure = found[1].cure.as_deref().expect("there is one");
        assert!(cure.starts_with("keep the session"), "{cure}");
    }

    #[test]
    fn a_client_that_is_refused() {
        let found = kinds(&connected(9, 1, 7), Some(defaults()), &[]);
        assert_eq!(found, [(Kind::Low, Certain), (Kind::RefusedByServer, Certain)]);
        let found = kinds(&connected(9, 1, 2), None, &[]);
        let both =
            [(Kind::Low, Certain), (Kind::NeverOffered, Certain), (Kind::RefusedByServer, Certain)];
        assert_eq!(found, both);
        // One handshake, and its session was refused.
        let found = kinds(&connected(1, 0, 1), None, &[]);
        assert_eq!(found, [(Kind::None, Certain), (Kind::RefusedByServer, Certain)]);
    }

    #[test]
    fn what_is_refused_now_comes_before_what_was_refused() {
        // Nothing is offered any more.
        let made = connected(100, 5, 90);
        let found = watching(&made, &connected(12, 0, 0), Some(defaults()));
        assert_eq!(
            whens(&found),
            [(Kind::None, Now), (Kind::NeverOffered, Now), (Kind::RefusedByServer, Past)]
        );
        assert!(found[2].summary.starts_with("Not now, but before: 90 of the 95"), "{found:?}");
        // All is offered, and refused.
        let made = connected(100, 2, 20);
        let found = watching(&made, &connected(12, 0, 12), Some(defaults()));
        assert_eq!(
            whens(&found),
            [(Kind::None, Now), (Kind::RefusedByServer, Now), (Kind::NeverOffered, SinceMade)]
        );
        assert!(found[1].summary.starts_with("Now: 12 of the 12 sessions"), "{found:?}");
        // It works, mostly: what moved is not called past.
        let found = watching(&connected(100, 20, 70), &connected(12, 10, 2), None);
        assert_eq!(whens(&found), [(Kind::Works, Now), (Kind::RefusedByServer, Now)]);
    }
}
