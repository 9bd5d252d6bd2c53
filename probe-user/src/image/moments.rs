//! Which probes tell that a handshake has started, and that it is complete: those
//! behind `connect` and `accept` in `tls_setup_handshake`, and behind `connect_good`
//! and `accept_good` in `tls_finish_handshake`. Renegotiations are not among them.

use probe_common::{Counter, Moment as What};

use super::{follows::Placed, layout::Layout, sources::On};

/// What a hit says of a handshake, and of which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What.
    pub what: What,
    /// The number of the register that holds the connection.
    pub connection: usize,
}

/// For each, what its probe tells: all four, or none.
///
/// `certain`: whether a hit of its probe means that its increment was just made.
///
/// # Errors
///
/// With an increment and why its probe does not tell.
pub(super) fn moments(
    placed: &[Placed<'_>],
    certain: &[bool],
    layout: &Layout,
) -> Result<Vec<Option<Moment>>, (u64, &'static str)> {
    let completions = |one: &Placed<'_>| -> Vec<u64> {
        let of_it = placed.iter().filter(|other| other.site.function == one.site.function);
        of_it.filter(|other| is_completion(other)).map(|other| other.site.address).collect()
    };
    let mut found = Vec::new();
    for (one, certain) in placed.iter().zip(certain) {
        let what = match one.site.counter {
            Counter::Connect => What::ClientStart,
            // The others move one from one context to another.
            Counter::Accept if one.on(layout) == Some(On::Session) && one.site.amount == 1 => {
                What::ServerStart
            }
            _ if is_completion(one) => What::Completion,
            _ => {
                found.push(None);
                continue;
            }
        };
        let refused = |why| (one.site.address, why);
        let probe = one.probe.ok_or(refused("it has no probe"))?;
        // Both ends may come to the place behind a completion, but not without one.
        let tells = match what {
            What::Completion => one.function.only_through(&completions(one), probe).is_some(),
            _ => *certain,
        };
        if !tells {
            return Err(refused("its probe is hit without it, too"));
        }
        let connection = one.connection().ok_or(refused("the connection is in no register"))?;
        found.push(Some(Moment { what, connection }));
    }
    Ok(found)
}

fn is_completion(one: &Placed<'_>) -> bool {
    matches!(one.site.counter, Counter::ConnectGood | Counter::AcceptGood)
}
