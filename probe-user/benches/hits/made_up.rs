//! The made-up contexts of programs that count as libssl does, and the probes there.

use probe_common::{Action, BlockLayout, Counter, OPENSSL_ORDER};
use sslsess::image::point::{Argument, ProbeKind, ProbePoint};

use crate::pairs::{Pair, Place};

/// As the programs have it.
pub(crate) const LAYOUT: BlockLayout = BlockLayout {
    counters: 0x78,
    references: 0xa4,
    sessions: 0x30,
    num_items: 0x70,
    order: OPENSSL_ORDER,
    count: 11,
};
const CTX_IN_CONNECTION: u32 = 0x9a8;

/// A probe behind an increment in a function, at an address and its place in the file.
pub(crate) fn point(function: String, place: (u64, u64), pair: Pair) -> ProbePoint {
    let (address, file_offset) = place;
    ProbePoint {
        kind: ProbeKind::Increment(Counter::AcceptGood),
        function,
        address,
        file_offset,
        instruction: String::new(),
        class: pair.0,
        argument: argument(pair.1),
        action: Action::Meet,
        follows: None,
        moment: None,
    }
}

/// Where the programs have the context.
fn argument(place: Place) -> Argument {
    match place {
        Place::Register => Argument { register: 0, dereference: None, creates: true },
        Place::Connection => {
            Argument { register: 7, dereference: Some(CTX_IN_CONNECTION), creates: true }
        }
    }
}
