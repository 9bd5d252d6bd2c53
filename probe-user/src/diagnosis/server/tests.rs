//! Values and settings of a server, and what is found of them.

use super::{
    super::{
        Finding, ProcessSums,
        When::{Now, Past, SinceMade},
        judge,
        tests::{defaults, findings, kinds, moved, stats, watching, whens},
    },
    Certainty::{Certain, Likely, Possible},
    *,
};
use crate::context::settings::{TLS1_2, TLS1_3};

const NO_TICKET: u64 = 0x4000;

fn without_tickets() -> Settings {
    Settings { options: Some(0x12_0000 | NO_TICKET), ..defaults() }
}

fn tls1_2(settings: Settings) -> Settings {
    Settings { max_protocol: Some(TLS1_2), ..settings }
}

/// A server's counters.
fn served(good: i64, hits: i64, more: &[(&'static str, i64)]) -> Vec<(&'static str, i64)> {
    let mut values = vec![("accept", good), ("accept_good", good), ("hits", hits)];
    values.extend(more);
    values
}

#[test]
fn what_works() {
    assert_eq!(kinds(&served(50, 40, &[]), Some(defaults()), &[]), [(Kind::Works, Certain)]);
    assert_eq!(kinds(&served(50, 25, &[]), None, &[7]), [(Kind::Works, Certain)]);
    // HelloRetryRequest: two hits each.
    assert_eq!(kinds(&served(5, 8, &[]), Some(defaults()), &[]), [(Kind::Works, Certain)]);
    let found = findings(&served(50, 40, &[]), Some(defaults()), &[]);
    assert_eq!(
        found[0].summary,
        "Resumption works: 40 of 50 finished handshakes resumed a session (80 %)."
    );
    assert_eq!(
        found[0].evidence,
        ["since the context was made: hits = 40, accept_good = 50, accept = 50"]
    );
}

#[test]
fn the_first_handshake_has_nothing_to_resume() {
    assert_eq!(kinds(&served(1, 0, &[]), Some(defaults()), &[]), [(Kind::TooFew, Certain)]);
    assert_eq!(kinds(&[("accept", 3)], Some(defaults()), &[]), [(Kind::TooFew, Certain)]);
}

#[test]
fn a_cache_that_is_off() {
    let off = Settings { cache_mode: Some(0), ..without_tickets() };
    let expected = [(Kind::None, Certain), (Kind::CacheOff, Certain)];
    assert_eq!(kinds(&served(20, 0, &[]), Some(off), &[]), expected);
    // A client's cache is none of a server's.
    let client = Settings { cache_mode: Some(1), ..without_tickets() };
    assert_eq!(kinds(&served(20, 0, &[]), Some(client), &[]), expected);
    // Something was resumed: it cannot have been so all the time.
    let found = kinds(&served(20, 2, &[]), Some(off), &[]);
    assert_eq!(found, [(Kind::Low, Certain), (Kind::CacheOff, Likely)]);
    // With tickets it is no more than a possible reason.
    let tickets = Settings { cache_mode: Some(0), ..defaults() };
    let found = kinds(&served(20, 0, &[]), Some(tickets), &[]);
    assert_eq!(found, [(Kind::None, Certain), (Kind::CacheOff, Possible)]);
    // With a callback that could give sessions, it is not certain.
    let callback = Settings { get_callback: Some(true), ..off };
    assert_eq!(kinds(&served(20, 0, &[]), Some(callback), &[])[1], (Kind::CacheOff, Likely));
    let unknown = Settings { get_callback: None, ..off };
    assert_eq!(kinds(&served(20, 0, &[]), Some(unknown), &[])[1], (Kind::CacheOff, Likely));
}

#[test]
fn a_cache_without_a_store_or_a_lookup() {
    // nginx's `ssl_session_cache none`.
    let none = Settings { cache_mode: Some(0x282), cache_size: Some(1), ..without_tickets() };
    let found = kinds(&served(20, 0, &[]), Some(none), &[]);
    assert_eq!(found, [(Kind::None, Certain), (Kind::NothingStored, Certain)]);
    let blind = Settings { cache_mode: Some(0x102), ..without_tickets() };
    let found = kinds(&served(20, 0, &[]), Some(blind), &[]);
    assert_eq!(found, [(Kind::None, Certain), (Kind::NothingLookedUp, Certain)]);
    // With callbacks it is an external cache, and nothing is wrong with that.
    let external = Settings {
        cache_mode: Some(0x302),
        new_callback: Some(true),
        get_callback: Some(true),
        ..without_tickets()
    };
    let found = kinds(&served(20, 0, &[]), Some(external), &[8]);
    assert_eq!(found, [(Kind::None, Certain), (Kind::Unexplained, Possible)]);
}

#[test]
fn a_cache_that_is_too_small() {
    let small = Settings { cache_size: Some(3), ..without_tickets() };
    let values = served(50, 2, &[("cache_full", 40), ("misses", 30), ("number", 3)]);
    let found = findings(&values, Some(small), &[]);
    assert_eq!(
        found.iter().map(|f| (f.kind, f.certainty)).collect::<Vec<_>>(),
        [(Kind::Low, Certain), (Kind::UnknownSessions, Likely), (Kind::CacheTooSmall, Likely)]
    );
    assert_eq!(
        found[2].evidence,
        [
            "since the context was made: cache_full = 40, misses = 30",
            "session cache size 3",
            "number = 3"
        ]
    );
    // Nobody missed what was thrown out.
    let found = kinds(&served(50, 45, &[("cache_full", 40)]), Some(small), &[]);
    assert_eq!(found, [(Kind::Works, Certain), (Kind::CacheTooSmall, Certain)]);
}

#[test]
fn sessions_that_expire_too_early() {
    let short = Settings { timeout: Some(1), ..without_tickets() };
    let found = findings(&served(9, 0, &[("timeouts", 8)]), Some(short), &[]);
    assert_eq!((found[1].kind, found[1].certainty), (Kind::Expired, Certain));
    assert_eq!(
        found[1].evidence,
        ["since the context was made: timeouts = 8", "session timeout 1 s, for sessions made now"]
    );
    assert_eq!(found.len(), 2);
    // Also where the settings are not known.
    let found = kinds(&served(9, 0, &[("timeouts", 8)]), None, &[]);
    let expected =
        [(Kind::None, Certain), (Kind::SettingsUnknown, Certain), (Kind::Expired, Certain)];
    assert_eq!(found, expected);
}

#[test]
fn processes_that_share_nothing() {
    let values = served(50, 5, &[("misses", 40)]);
    let found = findings(&values, Some(without_tickets()), &[12, 13]);
    assert_eq!((found[1].kind, found[1].certainty), (Kind::NotShared, Likely));
    assert!(found[1].summary.contains("There are 2 other processes"), "{}", found[1].summary);
    assert!(found[1].evidence[1].ends_with(": 12, 13"), "{:?}", found[1].evidence);
    // Without a miss it is only possible.
    let found = kinds(&served(50, 5, &[]), Some(without_tickets()), &[12]);
    assert_eq!(found, [(Kind::Low, Certain), (Kind::NotShared, Possible)]);
    // Alone, with tickets, or with an external cache, it is not said.
    let external = Settings { get_callback: Some(true), ..without_tickets() };
    for (settings, peers) in [(without_tickets(), &[][..]), (defaults(), &[12]), (external, &[12])]
    {
        let found = kinds(&values, Some(settings), peers);
        assert!(found.iter().all(|(kind, _)| *kind != Kind::NotShared), "{found:?}");
    }
}

#[test]
fn no_tickets_in_tls1_3() {
    let none = Settings { num_tickets: Some(0), ..defaults() };
    let expected = [(Kind::None, Certain), (Kind::NoTickets, Likely)];
    assert_eq!(kinds(&served(20, 0, &[]), Some(none), &[]), expected);
    let only = Settings { min_protocol: Some(TLS1_3), ..none };
    let found = findings(&served(20, 0, &[]), Some(only), &[]);
    assert!(found[1].summary.contains("only TLS 1.3 is allowed"), "{}", found[1].summary);
    // It is of no concern without TLS 1.3.
    let found = kinds(&served(20, 0, &[]), Some(tls1_2(none)), &[]);
    assert_eq!(found, [(Kind::None, Certain), (Kind::NothingCounted, Possible)]);
}

#[test]
fn no_session_id_context() {
    let asks = Settings { verify_mode: Some(3), ..defaults() };
    let mut values = served(4, 0, &[]);
    values[0].1 = 9;
    let found = findings(&values, Some(asks), &[]);
    assert_eq!((found[1].kind, found[1].certainty), (Kind::NoSessionIdContext, Certain));
    assert_eq!(found[1].evidence[2], "5 handshakes were started here and did not finish here");
    // Even where no handshake has finished yet.
    let found = kinds(&[("accept", 3)], Some(asks), &[]);
    assert_eq!(found, [(Kind::TooFew, Certain), (Kind::NoSessionIdContext, Certain)]);
    let named = Settings { session_id_context_length: Some(6), ..asks };
    let unknown = Settings { session_id_context_length: None, ..asks };
    for settings in [named, unknown, defaults()] {
        let found = kinds(&values, Some(settings), &[]);
        assert!(found.iter().all(|(kind, _)| *kind != Kind::NoSessionIdContext), "{found:?}");
    }
    // It was resumed: the connections have one of their own.
    assert_eq!(kinds(&served(9, 8, &[]), Some(asks), &[]), [(Kind::Works, Certain)]);
}

/// One miss per full handshake says nothing of a server without TLS 1.3.
#[test]
fn made_up_session_ids() {
    let values = served(20, 0, &[("misses", 20)]);
    let found = kinds(&values, Some(tls1_2(without_tickets())), &[]);
    assert_eq!(found, [(Kind::None, Certain), (Kind::MadeUpSessionIds, Possible)]);
    let found = kinds(&values, Some(without_tickets()), &[]);
    assert_eq!(found, [(Kind::None, Certain), (Kind::UnknownSessions, Likely)]);
    // What the external cache had was a miss of the internal one.
    let external = served(20, 18, &[("misses", 18), ("cb_hits", 18)]);
    let settings =
        Settings { get_callback: Some(true), new_callback: Some(true), ..without_tickets() };
    assert_eq!(kinds(&external, Some(settings), &[]), [(Kind::Works, Certain)]);
}

#[test]
fn nobody_offers() {
    let found = kinds(&served(20, 0, &[]), Some(without_tickets()), &[]);
    assert_eq!(found, [(Kind::None, Certain), (Kind::NeverOffered, Likely)]);
    let found = kinds(&served(20, 0, &[]), Some(defaults()), &[]);
    assert_eq!(found, [(Kind::None, Certain), (Kind::NothingCounted, Possible)]);
    let found = kinds(&served(20, 0, &[]), None, &[]);
    assert_eq!(found, [(Kind::None, Certain), (Kind::SettingsUnknown, Certain)]);
}

#[test]
fn connections_that_were_moved_here() {
    let mut values = served(20, 0, &[]);
    values[0].1 = 0;
    assert_eq!(kinds(&values, Some(defaults()), &[]), [(Kind::MovedBySni, Certain)]);
    // A renegotiation finishes another time, and was started here.
    values[0].1 = 10;
    values.push(("accept_renegotiate", 10));
    let found = kinds(&values, Some(defaults()), &[]);
    assert_eq!(found[0], (Kind::None, Certain));
}

/// Without settings nothing is said that depends on them.
#[test]
fn settings_that_are_not_known_prove_nothing() {
    let unknown = Settings::default();
    let certain_or_counted = [Kind::None, Kind::Unexplained, Kind::Expired, Kind::CacheTooSmall];
    for more in [&[][..], &[("misses", 9)], &[("timeouts", 3)], &[("cache_full", 3)]] {
        let found = kinds(&served(20, 0, more), Some(unknown), &[4]);
        assert!(found.iter().all(|(kind, _)| certain_or_counted.contains(kind)), "{found:?}");
    }
}

/// A cache that was too small, in a context with such counters.
fn evicting(by: &[(&'static str, i64)]) -> Vec<Finding> {
    let small = Settings { cache_size: Some(3), ..without_tickets() };
    let made = served(500, 20, &[("cache_full", 400), ("misses", 300), ("number", 3)]);
    watching(&made, by, Some(small))
}

#[test]
fn what_grows_now_comes_first() {
    // Sessions are thrown out and missed; none expires any more.
    let made =
        served(900, 20, &[("timeouts", 50), ("cache_full", 400), ("misses", 300), ("number", 3)]);
    let by = served(20, 0, &[("cache_full", 12), ("misses", 5)]);
    let found = watching(&made, &by, Some(without_tickets()));
    assert_eq!(
        whens(&found),
        [
            (Kind::None, Now),
            (Kind::UnknownSessions, Now),
            (Kind::CacheTooSmall, Now),
            (Kind::Expired, Past)
        ]
    );
    assert_eq!(
        found[0].summary,
        "In the 10.0 s watched, resumption does not happen: none of 20 finished handshakes. Since \
         the context was made, resumption is low: 20 of 900 finished handshakes resumed a session \
         (2 %)."
    );
    assert!(found[2].summary.starts_with("Now: 12 sessions were thrown out"), "{found:?}");
    assert_eq!(found[2].evidence[0], "in the 10.0 s watched: cache_full +12, misses +5");
    assert_eq!(found[2].evidence[1], "since the context was made: cache_full = 400, misses = 300");
    // A certain one that is past comes after a likely one of now.
    assert_eq!(found[3].certainty, Certain);
    assert!(found[3].summary.starts_with("Not now, but before: 50 times a client"), "{found:?}");
    assert_eq!(
        found[3].evidence[0],
        "in the 10.0 s watched: timeouts +0 (meanwhile misses +5, accept_good +20)"
    );
}

#[test]
fn what_stopped_is_past() {
    let found = evicting(&served(20, 18, &[]));
    assert_eq!(
        whens(&found),
        [(Kind::Works, Now), (Kind::UnknownSessions, Past), (Kind::CacheTooSmall, Past)]
    );
    assert!(found[0].summary.starts_with("In the 10.0 s watched, resumption works: 18 of 20"));
    assert!(found[2].summary.starts_with("Not now, but before: 400 sessions"), "{found:?}");
}

#[test]
fn what_was_not_used_is_not_past() {
    // A handshake was started, and no more.
    let found = evicting(&[("accept", 1)]);
    assert_eq!(
        whens(&found),
        [
            (Kind::Low, SinceMade),
            (Kind::UnknownSessions, SinceMade),
            (Kind::CacheTooSmall, SinceMade)
        ]
    );
    assert!(found[0].summary.ends_with("None finished in the 10.0 s watched."), "{found:?}");
    assert_eq!(
        found[2].evidence[0],
        "in the 10.0 s watched: cache_full +0, misses +0 (no handshake finished, and no session \
         was offered)"
    );
}

/// Of a few handshakes, all may be of new clients.
#[test]
fn a_few_handshakes_confirm_and_do_not_contradict() {
    let works = served(500, 400, &[]);
    let found = watching(&works, &served(3, 0, &[]), Some(defaults()));
    assert_eq!(whens(&found), [(Kind::Works, SinceMade)]);
    assert!(found[0].summary.ends_with("(80 %). In the 10.0 s watched: 0 of 3."), "{found:?}");
    let found = watching(&works, &served(10, 0, &[]), Some(defaults()));
    assert_eq!(whens(&found), [(Kind::None, Now), (Kind::NothingCounted, Now)]);
    let found = watching(&served(500, 0, &[]), &served(3, 0, &[]), Some(defaults()));
    assert_eq!(whens(&found), [(Kind::None, Now), (Kind::NothingCounted, Now)]);
    // It does better now: what the settings explain is of all its life.
    let off = Settings { cache_mode: Some(0), ..defaults() };
    let found = watching(&served(500, 9, &[]), &served(12, 9, &[]), Some(off));
    assert_eq!(whens(&found), [(Kind::Works, Now), (Kind::CacheOff, SinceMade)]);
}

/// Another reason than that of the past, where both are there.
#[test]
fn now_it_is_something_else() {
    let by = served(20, 0, &[]);
    let found = evicting(&by);
    assert_eq!(
        whens(&found),
        [
            (Kind::None, Now),
            (Kind::NeverOffered, Now),
            (Kind::UnknownSessions, Past),
            (Kind::CacheTooSmall, Past)
        ]
    );
    assert_eq!(found[1].evidence[0], "in the 10.0 s watched: hits +0, misses +0, timeouts +0");
}

/// It was resumed before: what the settings say is not certain of every connection.
#[test]
fn settings_are_held_against_all_its_life() {
    let off = Settings { cache_mode: Some(0), ..without_tickets() };
    let found = watching(&served(500, 9, &[]), &served(20, 0, &[]), Some(off));
    assert_eq!((found[1].kind, found[1].certainty, found[1].when), (Kind::CacheOff, Likely, Now));
    let asks = Settings { verify_mode: Some(3), ..defaults() };
    let found = watching(&served(500, 9, &[]), &served(20, 0, &[]), Some(asks));
    assert!(found.iter().all(|f| f.kind != Kind::NoSessionIdContext), "{found:?}");
    // Nothing was ever resumed.
    let found = watching(&served(500, 0, &[]), &served(20, 0, &[]), Some(asks));
    assert_eq!(whens(&found)[1], (Kind::NoSessionIdContext, Now));
}

/// A servername callback: hits and handshakes of one connection are counted on
/// two contexts, in both times.
#[test]
fn where_names_choose_the_context_the_process_is_shown() {
    let mut made = served(500, 0, &[]);
    made[0].1 = 0;
    let (stats, watched) = (stats(&made), moved(&[("accept_good", 20)]));
    let case = |process| {
        judge(&Case {
            family: None,
            stats: &stats,
            watched: Some(&watched),
            settings: None,
            peers: &[],
            process,
        })
    };
    let sums = ProcessSums { made: Some((400, 500)), watched: Some((15, 20)), splits: true };
    let found = case(sums);
    assert_eq!(whens(&found), [(Kind::MovedBySni, SinceMade)]);
    assert_eq!(
        found[0].evidence,
        [
            "in the 10.0 s watched: hits +0, accept_good +20, accept +0",
            "since the context was made: hits = 0, accept_good = 500, accept = 0",
            "all live server contexts of the process: hits = 400, accept_good = 500",
            "all live server contexts of the process, each since the first look at it: hits +15, \
             accept_good +20"
        ]
    );
    let found = case(ProcessSums::default());
    assert!(found[0].evidence[2].contains("not known"), "{found:?}");
}

/// Up to 3.1 a servername callback takes the start of a handshake along.
#[test]
fn handshakes_that_are_moved_with_their_start() {
    let judge_with = |values: &[(&str, i64)], splits| {
        let process = ProcessSums { made: Some((400, 500)), watched: None, splits };
        let (stats, settings) = (stats(values), defaults());
        let found = judge(&Case {
            family: None,
            stats: &stats,
            watched: None,
            settings: Some(&settings),
            peers: &[],
            process,
        });
        found.iter().map(|f| (f.kind, f.certainty)).collect::<Vec<_>>()
    };
    // Where they go.
    assert_eq!(judge_with(&served(500, 0, &[]), true), [(Kind::MovedBySni, Likely)]);
    assert_eq!(judge_with(&served(500, 0, &[]), false)[0], (Kind::None, Certain));
    // What works here works, whatever comes from elsewhere.
    assert_eq!(judge_with(&served(500, 400, &[]), true), [(Kind::Works, Certain)]);
    // Where they begin.
    assert_eq!(judge_with(&[("hits", 400)], true), [(Kind::MovedBySni, Certain)]);
}

/// Up to 3.1 a servername callback takes from `accept`.
#[test]
fn accept_can_step_back() {
    let by = [("accept", -2), ("hits", 4), ("misses", 1)];
    let found = watching(&served(500, 490, &[("misses", 9)]), &by, Some(without_tickets()));
    assert_eq!(whens(&found), [(Kind::Works, SinceMade), (Kind::UnknownSessions, Now)]);
    assert_eq!(found[0].evidence[0], "in the 10.0 s watched: hits +4, accept_good +0, accept -2");
}
