//! What explains the values of a server's context.
//!
//! What counts what, and when a cache is looked at, is `ssl/ssl_sess.c`
//! (`ssl_get_prev_session`, `lookup_sess_in_cache`), `ssl/ssl_lib.c`
//! (`ssl_update_cache`) and `ssl/statem/extensions_srvr.c` (tickets of TLS 1.3).

use probe_common::Counter::{
    Accept, AcceptGood, AcceptRenegotiate, CacheFull, CbHits, Hits, Misses, Timeouts,
};

use super::{Case, Certainty, Counts, Draft, Kind, Period, Share, verdict, words};
use crate::context::settings::{Settings, cache_mode};

const STORE_CURE: &str = "SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER); nginx: \
                          ssl_session_cache shared:SSL:10m; or let clients keep their sessions: \
                          without SSL_OP_NO_TICKET; nginx: ssl_session_tickets on; HAProxy: \
                          without no-tls-tickets";

/// What explains it, in one of the times.
pub(super) fn causes(case: &Case<'_>, period: &Period<'_>) -> Vec<Draft> {
    let counts = period.counts;
    let bad = period.share == Share::Bad;
    let mut causes = Vec::new();
    match case.settings {
        Some(settings) => {
            causes.extend(no_session_id_context(settings, period));
            if bad {
                causes.extend(no_way(settings, period));
                causes.extend(no_tickets(settings));
                causes.extend(not_shared(case, settings, counts));
            }
            causes.extend(misses(settings, counts));
        }
        None if bad => causes.push(Draft::new(
            Kind::SettingsUnknown,
            Certainty::Certain,
            "Its settings are not known, so what depends on them is not judged.",
        )),
        None => {}
    }
    causes.extend(evictions(case, counts));
    causes.extend(expired(case.settings, counts));
    if bad && causes.is_empty() {
        causes.push(nothing_seen(case.settings, counts));
    }
    causes
}

/// Whether it works, since the context was made.
pub(super) fn outcome(case: &Case<'_>, counts: &Counts) -> Draft {
    let (good, hits) = (counts[AcceptGood], counts[Hits]);
    let started = counts[Accept] + counts[AcceptRenegotiate];
    let draft = |summary: &str, kind| {
        Draft::new(kind, Certainty::Certain, summary).counted(&[Hits, AcceptGood, Accept])
    };
    // Every finished handshake was started; those that were not started here
    // were moved here.
    if good > started {
        let summary = "Connections come here from another SSL_CTX (a servername callback). Their \
                       hits are counted on the one that they began with: look at the sums of the \
                       process.";
        return draft(summary, Kind::MovedBySni).because(words::process(&case.process));
    }
    if started == 0 {
        let summary = "Connections that begin here go on in another SSL_CTX (a servername \
                       callback): they are counted there, and their hits here. Look at the sums \
                       of the process.";
        return draft(summary, Kind::MovedBySni).because(words::process(&case.process));
    }
    if good == 0 {
        return draft("No handshake has finished here.", Kind::TooFew);
    }
    if good == 1 && hits == 0 {
        let summary = if started > good {
            format!("Of {started} handshakes that were started here, one finished here.")
        } else {
            "One handshake has finished: there was nothing to resume yet.".to_owned()
        };
        return draft(&summary, Kind::TooFew);
    }
    let mut verdict = verdict(hits, good).counted(&[Hits, AcceptGood, Accept]);
    // Up to 3.1 the callback takes the start of the handshake along, too.
    if case.process.splits && Share::of(verdict.kind) == Share::Bad {
        let summary = "Its share cannot be told: another SSL_CTX of the process resumed more \
                       sessions than it finished handshakes. A servername callback may have moved \
                       them here, while their hits are counted there: look at the sums of the \
                       process.";
        return Draft { certainty: Certainty::Likely, ..draft(summary, Kind::MovedBySni) }
            .because(words::process(&case.process));
    }
    if hits > good {
        verdict.summary = "Resumption works: more sessions were resumed than handshakes finished \
                           here. A handshake that was moved to another SSL_CTX finishes there, and \
                           one with a HelloRetryRequest of TLS 1.3 counts two hits."
            .to_owned();
    }
    verdict
}

/// As it is set, no session can be resumed, or only by some clients.
fn no_way(settings: &Settings, period: &Period<'_>) -> Option<Draft> {
    let tickets = settings.tickets()?;
    let mode = settings.cache_mode?;
    let has = |bit: u32| mode & bit != 0;
    let (kind, what) = if !has(cache_mode::SERVER) {
        (Kind::CacheOff, "the session cache is off")
    } else if has(cache_mode::NO_INTERNAL_STORE) && settings.new_callback == Some(false) {
        (Kind::NothingStored, "sessions are not put into the internal cache, nor into another one")
    } else if has(cache_mode::NO_INTERNAL_LOOKUP) && settings.get_callback == Some(false) {
        (Kind::NothingLookedUp, "the internal cache is not looked at, nor another one")
    } else {
        return None;
    };
    // An application may have sessions of its own to give, whatever was stored.
    let gives = settings.get_callback != Some(false);
    let (certainty, summary) = match (tickets, gives) {
        (true, _) => {
            (Certainty::Possible, format!("Only clients that use tickets can resume: {what}."))
        }
        (false, true) => (
            Certainty::Likely,
            format!("Tickets are off, and {what}; only the callback could give a session."),
        ),
        // Something was resumed: it was set otherwise then, or is for some connections.
        (false, false) if period.resumed() => (
            Certainty::Likely,
            format!("Tickets are off, and {what}: as it is set now, no session can be resumed."),
        ),
        (false, false) => (
            Certainty::Certain,
            format!("Tickets are off, and {what}: as it is set, no session can be resumed."),
        ),
    };
    let evidence =
        [words::cache_mode(settings), words::tickets(settings), words::callbacks(settings)];
    Some(Draft::new(kind, certainty, summary).because(evidence).cure(STORE_CURE))
}

/// A server of TLS 1.3 that sends no tickets.
fn no_tickets(settings: &Settings) -> Option<Draft> {
    if settings.num_tickets? != 0 || !settings.allows_tls1_3()? {
        return None;
    }
    let who = if settings.allows_earlier() == Some(false) {
        "Clients get no ticket, and only TLS 1.3 is allowed"
    } else {
        "A client that speaks TLS 1.3 gets no ticket"
    };
    let summary = format!(
        "{who}: there is nothing to resume with, unless the program sends tickets itself \
         (SSL_new_session_ticket)."
    );
    Some(
        Draft::new(Kind::NoTickets, Certainty::Likely, summary)
            .because(["num_tickets = 0".to_owned(), words::protocols(settings)])
            .cure("SSL_CTX_set_num_tickets(ctx, 2)"),
    )
}

/// Several processes, each with a cache of its own, and no tickets.
fn not_shared(case: &Case<'_>, settings: &Settings, counts: &Counts) -> Option<Draft> {
    let internal = settings.cache_has(cache_mode::SERVER)?
        && !settings.cache_has(cache_mode::NO_INTERNAL_STORE)?
        && !settings.cache_has(cache_mode::NO_INTERNAL_LOOKUP)?;
    if case.peers.is_empty() || settings.tickets()? || settings.get_callback? || !internal {
        return None;
    }
    let peers: Vec<String> = case.peers.iter().map(u32::to_string).collect();
    let summary = format!(
        "This process keeps its sessions for itself: tickets are off, and its cache is in its own \
         memory. {} of the same program; a client that comes back to another one has to shake \
         hands in full.",
        match peers.len() {
            1 => "There is another process".to_owned(),
            count => format!("There are {count} other processes"),
        }
    );
    let certainty = if counts[Misses] > 0 { Certainty::Likely } else { Certainty::Possible };
    Some(
        Draft::new(Kind::NotShared, certainty, summary)
            .counted(&[Misses])
            .because([
                format!("other processes of the executable, of one family: {}", peers.join(", ")),
                words::tickets(settings),
                words::cache_mode(settings),
                words::callbacks(settings),
            ])
            .cure(
                "a cache that all processes share (SSL_CTX_sess_set_new_cb and \
                 SSL_CTX_sess_set_get_cb; nginx: ssl_session_cache shared:SSL:10m), or tickets: \
                 without SSL_OP_NO_TICKET; nginx: ssl_session_tickets on",
            ),
    )
}

/// `ssl_update_cache` keeps no session then, and `ssl_get_prev_session` refuses
/// those that come in tickets, with an error that ends the handshake.
fn no_session_id_context(settings: &Settings, period: &Period<'_>) -> Option<Draft> {
    let unset = settings.session_id_context_length? == 0;
    if !unset || !settings.verifies_peer()? || period.resumed() {
        return None;
    }
    let started = |counts: &Counts| counts[Accept] + counts[AcceptRenegotiate];
    // While nobody comes, nothing can be said of now.
    if started(period.counts) <= 0 && period.counts[AcceptGood] == 0 {
        return None;
    }
    // One that is under way at a look is none that failed: of a short time it
    // cannot be told.
    let made = period.made?;
    let unfinished = (started(made) - made[AcceptGood]).max(0);
    Some(
        Draft::new(
            Kind::NoSessionIdContext,
            Certainty::Certain,
            "It asks clients for certificates and has no session id context. OpenSSL resumes \
             nothing then: it keeps no session, and ends the handshake of a client that offers a \
             ticket (\"session id context uninitialized\").",
        )
        .because([
            "session id context: 0 bytes".to_owned(),
            format!("verify mode {:#x}: with SSL_VERIFY_PEER", settings.verify_mode?),
            format!("{unfinished} handshakes were started here and did not finish here"),
        ])
        .cure("SSL_CTX_set_session_id_context(ctx, name, length), one name for each service"),
    )
}

/// Sessions were thrown out to make room.
fn evictions(case: &Case<'_>, counts: &Counts) -> Option<Draft> {
    if counts[CacheFull] == 0 {
        return None;
    }
    let evidence = [
        match case.settings.and_then(|settings| settings.cache_size) {
            Some(0) => "session cache size 0: it is not limited any more".to_owned(),
            Some(size) => format!("session cache size {size}"),
            None => "the session cache size is not known".to_owned(),
        },
        words::value("number", case.stats.number),
    ];
    let thrown_out = format!("{} sessions were thrown out to make room", counts[CacheFull]);
    // Sessions were thrown out, for certain; that they were wanted again is what
    // the misses speak for.
    let (certainty, summary) = if counts[Misses] > 0 {
        let summary =
            format!("{thrown_out}: the session cache is smaller than what clients come back for.");
        (Certainty::Likely, summary)
    } else {
        let summary =
            format!("{thrown_out}: the session cache was full. None was asked for in that time.");
        (Certainty::Certain, summary)
    };
    let cure = "SSL_CTX_sess_set_cache_size(ctx, more) (0: no limit); nginx: ssl_session_cache \
                shared:SSL:50m instead of builtin:N";
    Some(
        Draft::new(Kind::CacheTooSmall, certainty, summary)
            .counted(&[CacheFull, Misses])
            .because(evidence)
            .cure(cure),
    )
}

/// Sessions had expired when they were offered.
fn expired(settings: Option<&Settings>, counts: &Counts) -> Option<Draft> {
    if counts[Timeouts] == 0 {
        return None;
    }
    let timeout = settings.and_then(|settings| settings.timeout);
    let summary = format!(
        "{} came back with a session that had expired.",
        match counts[Timeouts] {
            1 => "Once a client".to_owned(),
            count => format!("{count} times a client"),
        }
    );
    Some(
        Draft::new(Kind::Expired, Certainty::Certain, summary)
            .counted(&[Timeouts])
            .because([timeout.map_or_else(
                || "the session timeout is not known".to_owned(),
                |seconds| format!("session timeout {seconds} s, for sessions made now"),
            )])
            .cure(
                "SSL_CTX_set_timeout(ctx, longer), in seconds; nginx: ssl_session_timeout 1h; \
                 HAProxy: tune.ssl.lifetime",
            ),
    )
}

/// Session ids that were looked up and not found.
fn misses(settings: &Settings, counts: &Counts) -> Option<Draft> {
    // The internal cache is asked first: what an external one had was a miss as well.
    let lost = counts[Misses] - counts[CbHits];
    if lost <= 0 {
        return None;
    }
    let evidence = [words::protocols(settings)];
    let counters = &[Misses, CbHits, AcceptGood, Hits];
    if settings.allows_tls1_3()? {
        let summary = format!(
            "{lost} times a client offered a session that this process does not have: made by \
             another process or host or before a restart, or removed since."
        );
        let cure = "see what else was found; a cache that all processes and hosts share, or \
                    tickets with the same keys everywhere";
        return Some(
            Draft::new(Kind::UnknownSessions, Certainty::Likely, summary)
                .counted(counters)
                .because(evidence)
                .cure(cure),
        );
    }
    let summary = format!(
        "The {lost} misses need not be lost sessions: a client that can do TLS 1.3 sends a made-up \
         session id in every full handshake, which a server without TLS 1.3 looks up and counts \
         as a miss. One miss for each full handshake is normal here."
    );
    Some(
        Draft::new(Kind::MadeUpSessionIds, Certainty::Possible, summary)
            .counted(counters)
            .because(evidence)
            .cure("allow TLS 1.3: then misses are of sessions that were really offered"),
    )
}

/// Nothing explains it so far.
fn nothing_seen(settings: Option<&Settings>, counts: &Counts) -> Draft {
    let asked = counts[Hits] + counts[Misses] + counts[Timeouts];
    let counted = &[Hits, Misses, Timeouts];
    let Some(settings) = settings else {
        return Draft::new(Kind::Unexplained, Certainty::Possible, "The values do not say why.")
            .counted(counted);
    };
    let lookup = settings.cache_has(cache_mode::NO_INTERNAL_LOOKUP) == Some(false);
    if asked == 0 && settings.tickets() == Some(false) && lookup {
        let summary = "No client offered a session: each was new, or keeps none. What is offered \
                       would count as a hit, a miss or a timeout here.";
        return Draft::new(Kind::NeverOffered, Certainty::Likely, summary)
            .counted(counted)
            .because([words::tickets(settings), words::cache_mode(settings)])
            .cure("look at the clients: they have to keep a session and to offer it");
    }
    if settings.tickets() == Some(true) {
        let summary = "Clients offer no sessions, or tickets that this process cannot decrypt \
                       (made by another process or host, or with older keys). OpenSSL counts \
                       neither, so the values do not tell which.";
        return Draft::new(Kind::NothingCounted, Certainty::Possible, summary)
            .counted(counted)
            .because([words::tickets(settings), words::protocols(settings)])
            .cure(
                "the same ticket keys in all processes and hosts (SSL_CTX_set_tlsext_ticket_keys; \
                 nginx: ssl_session_ticket_key FILE; HAProxy: tls-ticket-keys FILE); and look at \
                 the clients",
            );
    }
    Draft::new(
        Kind::Unexplained,
        Certainty::Possible,
        "Neither values nor settings say why. Clients that are new each time have nothing to resume.",
    )
    .counted(counted)
            .because([words::cache_mode(settings), words::callbacks(settings)])
}

#[cfg(test)]
mod tests;
