//! What explains the values of a server's context.
//!
//! What counts what, and when a cache is looked at, is `ssl/ssl_sess.c`
//! (`ssl_get_prev_session`, `lookup_sess_in_cache`), `ssl/ssl_lib.c`
//! (`ssl_update_cache`) and `ssl/statem/extensions_srvr.c` (tickets of TLS 1.3).

use super::{Case, Certainty, Counts, Finding, Kind, verdict, words};
use crate::context::settings::{Settings, cache_mode};

const STORE_CURE: &str = "SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER); nginx: \
                          ssl_session_cache shared:SSL:10m; or let clients keep their sessions: \
                          without SSL_OP_NO_TICKET; nginx: ssl_session_tickets on; HAProxy: \
                          without no-tls-tickets";

pub(super) fn judge(case: &Case<'_>, counts: &Counts) -> Vec<Finding> {
    let mut findings = vec![outcome(case, counts)];
    let works = matches!(findings[0].kind, Kind::Works | Kind::TooFew | Kind::MovedBySni);
    match case.settings {
        Some(settings) => {
            findings.extend(no_session_id_context(settings, counts));
            if !works {
                findings.extend(no_way(settings, counts));
                findings.extend(no_tickets(settings));
                findings.extend(not_shared(case, settings, counts));
            }
            findings.extend(misses(settings, counts));
        }
        None if !works => findings.push(Finding::new(
            Kind::SettingsUnknown,
            Certainty::Certain,
            "Its settings are not known, so what depends on them is not judged.",
        )),
        None => {}
    }
    findings.extend(evictions(case.settings, counts));
    findings.extend(expired(case.settings, counts));
    if !works && findings.len() == 1 {
        findings.push(nothing_seen(case.settings, counts));
    }
    findings
}

/// Whether it works.
fn outcome(case: &Case<'_>, counts: &Counts) -> Finding {
    let Counts { accept, good, hits, .. } = *counts;
    let started = accept + counts.accept_renegotiate;
    let evidence = format!("hits = {hits}, accept_good = {good}, accept = {accept}");
    // Every finished handshake was started; those that were not started here
    // were moved here.
    if good > started {
        let (process_hits, process_good) = case.process;
        return Finding::new(
            Kind::MovedBySni,
            Certainty::Certain,
            "Connections come here from another SSL_CTX (a servername callback). Their hits are \
             counted on the one that they began with: look at the sums of the process.",
        )
        .because([
            evidence,
            format!(
                "all contexts of the process: hits = {process_hits}, accept_good = {process_good}"
            ),
        ]);
    }
    if good == 0 {
        return Finding::new(Kind::TooFew, Certainty::Certain, "No handshake has finished here.")
            .because([evidence]);
    }
    if good == 1 && hits == 0 {
        let summary = if started > good {
            format!("Of {started} handshakes that were started here, one finished here.")
        } else {
            "One handshake has finished: there was nothing to resume yet.".to_owned()
        };
        return Finding::new(Kind::TooFew, Certainty::Certain, summary).because([evidence]);
    }
    let mut finding = verdict(hits, good, evidence);
    if hits > good {
        finding.summary = "Resumption works: more sessions were resumed than handshakes finished \
                           here. A handshake that was moved to another SSL_CTX finishes there, and \
                           one with a HelloRetryRequest of TLS 1.3 counts two hits."
            .to_owned();
    }
    finding
}

/// As it is set, no session can be resumed, or only by some clients.
fn no_way(settings: &Settings, counts: &Counts) -> Option<Finding> {
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
        (false, false) if counts.hits > 0 => (
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
    Some(Finding::new(kind, certainty, summary).because(evidence).cure(STORE_CURE))
}

/// A server of TLS 1.3 that sends no tickets.
fn no_tickets(settings: &Settings) -> Option<Finding> {
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
        Finding::new(Kind::NoTickets, Certainty::Likely, summary)
            .because(["num_tickets = 0".to_owned(), words::protocols(settings)])
            .cure("SSL_CTX_set_num_tickets(ctx, 2)"),
    )
}

/// Several processes, each with a cache of its own, and no tickets.
fn not_shared(case: &Case<'_>, settings: &Settings, counts: &Counts) -> Option<Finding> {
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
    let certainty = if counts.misses > 0 { Certainty::Likely } else { Certainty::Possible };
    Some(
        Finding::new(Kind::NotShared, certainty, summary)
            .because([
                words::value("misses", Some(counts.misses)),
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
fn no_session_id_context(settings: &Settings, counts: &Counts) -> Option<Finding> {
    let unset = settings.session_id_context_length? == 0;
    if !unset || !settings.verifies_peer()? || counts.hits > 0 {
        return None;
    }
    let unfinished = (counts.accept + counts.accept_renegotiate - counts.good).max(0);
    Some(
        Finding::new(
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
fn evictions(settings: Option<&Settings>, counts: &Counts) -> Option<Finding> {
    if counts.cache_full == 0 {
        return None;
    }
    let size = settings.and_then(|settings| settings.cache_size);
    let evidence = [
        words::value("cache_full", Some(counts.cache_full)),
        match size {
            Some(0) => "session cache size 0: it is not limited any more".to_owned(),
            Some(size) => format!("session cache size {size}"),
            None => "the session cache size is not known".to_owned(),
        },
        words::value("number", counts.number),
        words::value("misses", Some(counts.misses)),
    ];
    let summary = format!(
        "The session cache is smaller than what clients come back for: {} sessions were thrown \
         out to make room.",
        counts.cache_full
    );
    // Sessions were thrown out, for certain; that they were wanted again is what
    // the misses speak for.
    let (certainty, summary) = if counts.misses > 0 {
        (Certainty::Likely, summary)
    } else {
        let summary = format!(
            "The session cache was full: {} sessions were thrown out to make room. None was asked \
             for since.",
            counts.cache_full
        );
        (Certainty::Certain, summary)
    };
    let cure = "SSL_CTX_sess_set_cache_size(ctx, more) (0: no limit); nginx: ssl_session_cache \
                shared:SSL:50m instead of builtin:N";
    Some(Finding::new(Kind::CacheTooSmall, certainty, summary).because(evidence).cure(cure))
}

/// Sessions had expired when they were offered.
fn expired(settings: Option<&Settings>, counts: &Counts) -> Option<Finding> {
    if counts.timeouts == 0 {
        return None;
    }
    let timeout = settings.and_then(|settings| settings.timeout);
    let summary = format!(
        "{} came back with a session that had expired.",
        match counts.timeouts {
            1 => "Once a client".to_owned(),
            count => format!("{count} times a client"),
        }
    );
    Some(
        Finding::new(Kind::Expired, Certainty::Certain, summary)
            .because([
                words::value("timeouts", Some(counts.timeouts)),
                timeout.map_or_else(
                    || "the session timeout is not known".to_owned(),
                    |seconds| format!("session timeout {seconds} s, for sessions made now"),
                ),
            ])
            .cure(
                "SSL_CTX_set_timeout(ctx, longer), in seconds; nginx: ssl_session_timeout 1h; \
                 HAProxy: tune.ssl.lifetime",
            ),
    )
}

/// Session ids that were looked up and not found.
fn misses(settings: &Settings, counts: &Counts) -> Option<Finding> {
    // The internal cache is asked first: what an external one had was a miss as well.
    let lost = counts.misses - counts.cb_hits;
    if lost <= 0 {
        return None;
    }
    let full = (counts.good - counts.hits).max(0);
    let evidence = [
        format!("misses = {}, cb_hits = {}", counts.misses, counts.cb_hits),
        format!("full handshakes: accept_good - hits = {full}"),
        words::protocols(settings),
    ];
    if settings.allows_tls1_3()? {
        let summary = format!(
            "{lost} times a client offered a session that this process does not have: made by \
             another process or host or before a restart, or removed since."
        );
        let cure = "see what else was found; a cache that all processes and hosts share, or \
                    tickets with the same keys everywhere";
        return Some(
            Finding::new(Kind::UnknownSessions, Certainty::Likely, summary)
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
        Finding::new(Kind::MadeUpSessionIds, Certainty::Possible, summary)
            .because(evidence)
            .cure("allow TLS 1.3: then misses are of sessions that were really offered"),
    )
}

/// Nothing explains it so far.
fn nothing_seen(settings: Option<&Settings>, counts: &Counts) -> Finding {
    let asked = counts.hits + counts.misses + counts.timeouts;
    let counted = format!(
        "hits = {}, misses = {}, timeouts = {}",
        counts.hits, counts.misses, counts.timeouts
    );
    let Some(settings) = settings else {
        return Finding::new(Kind::Unexplained, Certainty::Possible, "The values do not say why.")
            .because([counted]);
    };
    let lookup = settings.cache_has(cache_mode::NO_INTERNAL_LOOKUP) == Some(false);
    if asked == 0 && settings.tickets() == Some(false) && lookup {
        let summary = "No client offered a session: each was new, or keeps none. What is offered \
                       would count as a hit, a miss or a timeout here.";
        return Finding::new(Kind::NeverOffered, Certainty::Likely, summary)
            .because([counted, words::tickets(settings), words::cache_mode(settings)])
            .cure("look at the clients: they have to keep a session and to offer it");
    }
    if settings.tickets() == Some(true) {
        let summary = "Clients offer no sessions, or tickets that this process cannot decrypt \
                       (made by another process or host, or with older keys). OpenSSL counts \
                       neither, so the values do not tell which.";
        return Finding::new(Kind::NothingCounted, Certainty::Possible, summary)
            .because([counted, words::tickets(settings), words::protocols(settings)])
            .cure(
                "the same ticket keys in all processes and hosts (SSL_CTX_set_tlsext_ticket_keys; \
                 nginx: ssl_session_ticket_key FILE; HAProxy: tls-ticket-keys FILE); and look at \
                 the clients",
            );
    }
    Finding::new(
        Kind::Unexplained,
        Certainty::Possible,
        "Neither values nor settings say why. Clients that are new each time have nothing to resume.",
    )
    .because([counted, words::cache_mode(settings), words::callbacks(settings)])
}

#[cfg(test)]
mod tests;
