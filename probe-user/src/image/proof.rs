//! Proves that a context can be had at a place behind an increment, whatever
//! way leads there.

use std::collections::BTreeSet;

use super::{
    code::{
        flow::{Function, Origin},
        instruction::{Control, Effect},
    },
    increments::IncrementSite,
    layout::Layout,
    plan::Argument,
};

/// Where the context comes from at an increment.
pub(super) struct ContextValue {
    creates: bool,
    base: usize,
    base_origins: BTreeSet<Origin>,
    /// The connection it was loaded from, if it was.
    loaded: Option<Loaded>,
}

struct Loaded {
    connection: usize,
    displacement: u32,
    connection_origins: BTreeSet<Origin>,
}

impl ContextValue {
    /// `agree`: that the base register holds a context is certain, since all
    /// increments of the sources were found and this is one of them.
    pub(super) fn at_increment(
        function: &Function,
        site: &IncrementSite,
        layout: &Layout,
        agree: bool,
    ) -> Self {
        let base_origins = function.reaching(site.base, site.base_at);
        let loaded = Loaded::by_all(function, &base_origins, layout);
        let creates = agree || loaded.is_some();
        Self { creates, base: site.base, base_origins, loaded }
    }

    /// Whether the context was loaded from a field of a connection.
    pub(super) fn is_loaded(&self) -> bool {
        self.loaded.is_some()
    }

    /// How the context can be had at a place behind the increment, if whatever
    /// way leads there it is the same kind of thing.
    pub(super) fn available(
        &self,
        function: &Function,
        increment: u64,
        at: u64,
    ) -> Option<Argument> {
        let straight = is_straight(function, increment, at);
        let holds = |register: usize, known: &BTreeSet<Origin>, typed: bool| {
            let origins = function.reaching(register, at);
            let of_one_kind =
                straight || typed || origins.iter().all(|o| is_argument(function, *o));
            origins.is_subset(known) && !origins.contains(&Origin::Outside) && of_one_kind
        };
        if holds(self.base, &self.base_origins, self.loaded.is_some()) {
            let creates = self.creates;
            return Some(Argument { register: self.base, dereference: None, creates });
        }
        let loaded = self.loaded.as_ref()?;
        holds(loaded.connection, &loaded.connection_origins, false).then_some(Argument {
            register: loaded.connection,
            dereference: Some(loaded.displacement),
            creates: self.creates,
        })
    }
}

impl Loaded {
    /// If every origin is a load of the same field of a connection.
    fn by_all(function: &Function, origins: &BTreeSet<Origin>, layout: &Layout) -> Option<Self> {
        let mut found: Option<Self> = None;
        for origin in origins {
            let Origin::Assignment(address) = *origin else { return None };
            let Effect::Load { base: Some(connection), displacement, width: 8, .. } =
                function.at(address)?.effect
            else {
                return None;
            };
            let displacement = u32::try_from(displacement).ok()?;
            let of_a_connection = [layout.ssl_to_ctx, layout.ssl_to_session_ctx];
            if !of_a_connection.contains(&Some(displacement)) {
                return None;
            }
            let reaching = function.reaching(connection, address);
            match &mut found {
                None => {
                    found = Some(Self { connection, displacement, connection_origins: reaching });
                }
                Some(one) => {
                    if (one.connection, one.displacement) != (connection, displacement) {
                        return None;
                    }
                    one.connection_origins.extend(reaching);
                }
            }
        }
        found
    }
}

/// Whether an origin is an argument of the function, as it was passed: the same
/// kind of thing on every path.
fn is_argument(function: &Function, origin: Origin) -> bool {
    match origin {
        Origin::Entry => true,
        Origin::Outside => false,
        Origin::Assignment(address) => {
            matches!(
                function.at(address).map(|copy| copy.effect),
                Some(Effect::Copy { from, .. })
                    if function.reaching(from, address) == BTreeSet::from([Origin::Entry])
            )
        }
    }
}

/// Whether the only way to a place is from an increment, one instruction after
/// the other.
fn is_straight(function: &Function, increment: u64, at: u64) -> bool {
    let mut here = increment;
    while here != at {
        let Some(instruction) = function.at(here) else { return false };
        let next = instruction.end();
        // The increment itself may be a call of an outlined addition, or the end of
        // a loop that adds.
        let falls = instruction.control == Control::Next
            || here == increment
                && matches!(instruction.control, Control::Call(_) | Control::Branch(_));
        if !falls || !function.only_follows(here, next) {
            return false;
        }
        here = next;
    }
    true
}
