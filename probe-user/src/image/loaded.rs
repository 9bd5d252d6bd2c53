//! From which fields of a connection the increments take their context: `ctx`
//! or `session_ctx`, as the sources have it for each counter.

use std::collections::BTreeMap;

use probe_common::Counter;

use super::{
    code::{flow::Origin, instruction::Effect},
    functions::Functions,
    increments::MAX_SITES,
};

/// Counters that count on the context that the connection has now
/// (`ssl/statem/statem_lib.c`, 1.1.1 to 4.0).
pub(super) const ON_CTX: [Counter; 2] = [Counter::AcceptGood, Counter::AcceptRenegotiate];

/// Counters that count on the context that the connection began with
/// (`ssl/statem/statem_lib.c`, `ssl/ssl_sess.c`, 1.1.1 to 4.0).
pub(super) const ON_SESSION_CTX: [Counter; 5] =
    [Counter::Connect, Counter::ConnectGood, Counter::Hits, Counter::Timeouts, Counter::CbHits];

/// The offsets of the fields that the context of these counters' increments is
/// loaded from, each with the number of increments that say so, and the address
/// of a load of the first.
///
/// `block` is the offset of the first counter in the `SSL_CTX`.
pub(super) fn fields(
    functions: &mut Functions<'_>,
    block: u32,
    counters: &[Counter],
) -> BTreeMap<i64, (usize, u64)> {
    let sites = functions.increments(block);
    let of_these = || sites.iter().filter(|site| counters.contains(&site.counter));
    if of_these().count() > MAX_SITES * counters.len() {
        return BTreeMap::new();
    }
    functions.prepare(&of_these().map(|site| site.function.clone()).collect::<Vec<_>>());
    let mut found = BTreeMap::new();
    for site in of_these() {
        let Some(function) = functions.get(&site.function) else { continue };
        let origins = function.reaching(site.base, site.base_at);
        let loads: Option<BTreeMap<i64, u64>> = origins
            .into_iter()
            .map(|origin| match origin {
                Origin::Assignment(address) => match function.at(address)?.effect {
                    Effect::Load { base: Some(_), displacement, width: 8, .. } => {
                        Some((displacement, address))
                    }
                    _ => None,
                },
                Origin::Entry | Origin::Outside => None,
            })
            .collect();
        if let Some(loads) = loads
            && let [(offset, at)] = Vec::from_iter(loads)[..]
        {
            found.entry(offset).or_insert((0, at)).0 += 1;
        }
    }
    found
}

/// The one field that at least two increments say, and none contradicts; and the
/// address of a load of it.
pub(super) fn only_field(
    functions: &mut Functions<'_>,
    block: u32,
    counters: &[Counter],
) -> Option<(i64, u64)> {
    let found = fields(functions, block, counters);
    match Vec::from_iter(found)[..] {
        [(offset, (sites, at))] if sites > 1 => Some((offset, at)),
        _ => None,
    }
}
