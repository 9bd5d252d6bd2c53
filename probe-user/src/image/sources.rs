//! What OpenSSL's sources change a counter with: how often, on which context,
//! and in which functions together (`ssl/statem/statem_lib.c`, `statem_clnt.c`,
//! `extensions.c`, `ssl/ssl_sess.c`; 1.1.1 to 4.0).

use probe_common::Counter;

/// How often the sources change each counter (OpenSSL 1.1.1 to 4.0: 15 lines).
#[must_use]
pub const fn in_the_sources(counter: Counter) -> usize {
    match counter {
        // `tls_setup_handshake`; `final_server_name` adds one and takes one.
        Counter::Accept => 3,
        // A server's in `lookup_sess_in_cache`, a client's in `tls_process_server_hello`.
        Counter::Misses => 2,
        // A server's in `ssl_get_prev_session`, a client's in `tls_finish_handshake`.
        Counter::Hits => 2,
        _ => 1,
    }
}

/// On which of a connection's contexts the sources count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// `ctx`: what SNI chose.
    Chosen,
    /// `session_ctx`: what the connection began with.
    Session,
    /// A context that the function was given.
    Given,
}

/// One change of a counter, as the machine code makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterChange {
    /// The counter.
    pub counter: Counter,
    /// 1 or -1.
    pub amount: i8,
    /// The context that it is made on.
    pub on: On,
    /// The start of the function that makes it.
    pub function: u64,
}

/// Whether changes are all those of the sources: as many, on the contexts, and
/// in the functions. clang makes one address of `connect` and
/// `connect_renegotiate`: they may be missing, both or none.
pub(super) fn are_those_of_the_sources(changes: &[CounterChange]) -> bool {
    let of = |counter: Counter, amount: i8, on: On| -> Vec<u64> {
        let wanted =
            |one: &&CounterChange| (one.counter, one.amount, one.on) == (counter, amount, on);
        changes.iter().filter(wanted).map(|one| one.function).collect()
    };
    let session = |counter| of(counter, 1, On::Session);
    let chosen = |counter| of(counter, 1, On::Chosen);
    let [connect, renegotiate] = [Counter::Connect, Counter::ConnectRenegotiate].map(session);
    let (began, moved) = (session(Counter::Accept), chosen(Counter::Accept));
    let began_again = chosen(Counter::AcceptRenegotiate);
    let taken_back = of(Counter::Accept, -1, On::Session);
    let (accepted, connected) = (chosen(Counter::AcceptGood), session(Counter::ConnectGood));
    let (hits, misses) = (session(Counter::Hits), session(Counter::Misses));
    let (timeouts, cb_hits) = (session(Counter::Timeouts), session(Counter::CbHits));
    let full =
        [On::Given, On::Session, On::Chosen].map(|on| of(Counter::CacheFull, 1, on)).concat();
    let once = [&began, &moved, &began_again, &taken_back, &accepted, &connected, &timeouts, &full];
    let counts = once.iter().all(|sites| sites.len() == 1)
        && cb_hits.len() == 1
        && hits.len() == in_the_sources(Counter::Hits)
        && misses.len() == in_the_sources(Counter::Misses);
    // Both, in the function where a server begins too, or neither.
    let client = match (connect.as_slice(), renegotiate.as_slice()) {
        ([one], [other]) => one == other && connect == began,
        ([], []) => true,
        _ => false,
    };
    let total = once.len() + 1 + hits.len() + misses.len() + connect.len() + renegotiate.len();
    counts
        && client
        && total == changes.len()
        // `tls_setup_handshake`, `tls_finish_handshake`, `final_server_name`,
        // `ssl_get_prev_session`, `lookup_sess_in_cache`.
        && began == began_again
        && accepted == connected
        && hits.contains(&accepted[0])
        && moved == taken_back
        && hits.contains(&timeouts[0])
        && misses.contains(&cb_hits[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETUP: u64 = 0x1000;
    const FINISH: u64 = 0x2000;
    const SERVER_NAME: u64 = 0x3000;
    const PREVIOUS: u64 = 0x4000;
    const LOOKUP: u64 = 0x5000;
    const SERVER_HELLO: u64 = 0x6000;
    const ADD: u64 = 0x7000;

    fn change(counter: Counter, amount: i8, on: On, function: u64) -> CounterChange {
        CounterChange { counter, amount, on, function }
    }

    /// The fifteen lines.
    fn sources() -> Vec<CounterChange> {
        use Counter::{
            Accept, AcceptGood, AcceptRenegotiate, CacheFull, CbHits, Connect, ConnectGood,
            ConnectRenegotiate, Hits, Misses, Timeouts,
        };
        vec![
            change(Connect, 1, On::Session, SETUP),
            change(ConnectRenegotiate, 1, On::Session, SETUP),
            change(Accept, 1, On::Session, SETUP),
            change(AcceptRenegotiate, 1, On::Chosen, SETUP),
            change(Accept, 1, On::Chosen, SERVER_NAME),
            change(Accept, -1, On::Session, SERVER_NAME),
            change(AcceptGood, 1, On::Chosen, FINISH),
            change(ConnectGood, 1, On::Session, FINISH),
            change(Hits, 1, On::Session, FINISH),
            change(Hits, 1, On::Session, PREVIOUS),
            change(Timeouts, 1, On::Session, PREVIOUS),
            change(Misses, 1, On::Session, LOOKUP),
            change(CbHits, 1, On::Session, LOOKUP),
            change(Misses, 1, On::Session, SERVER_HELLO),
            change(CacheFull, 1, On::Given, ADD),
        ]
    }

    #[test]
    fn the_sources_agree_with_themselves() {
        assert!(are_those_of_the_sources(&sources()));
        let without_client: Vec<CounterChange> = sources().split_off(2);
        assert!(are_those_of_the_sources(&without_client));
        assert!(!are_those_of_the_sources(&sources()[1..]), "one of the two");
    }

    /// Two of another program stand in for two that were not found.
    #[test]
    fn as_many_are_not_the_same() {
        const OTHER: u64 = 0x8000;
        for replaced in 0..sources().len() {
            let mut changes = sources();
            changes[replaced].function = OTHER;
            let moved = changes[replaced];
            // These two are in functions of their own.
            let is_alone = moved.counter == Counter::CacheFull || replaced == 13;
            assert_eq!(are_those_of_the_sources(&changes), is_alone, "{moved:?}");
            let mut changes = sources();
            let on = if changes[replaced].on == On::Chosen { On::Session } else { On::Chosen };
            changes[replaced].on = on;
            let any = changes[replaced].counter == Counter::CacheFull;
            assert_eq!(are_those_of_the_sources(&changes), any, "{:?}", changes[replaced]);
        }
    }
}
