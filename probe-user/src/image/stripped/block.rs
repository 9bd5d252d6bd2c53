//! Which of a file's locked changes are OpenSSL's counters: eleven `int`s in a
//! row, changed as often, by functions grouped, and on the contexts as in the
//! sources (`ssl/statem/statem_lib.c`, `statem_clnt.c`, `extensions.c`,
//! `ssl/ssl_sess.c`; 1.1.1 to 4.0).

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use probe_common::{COUNTERS, Counter};

use super::{
    functions::Functions,
    origin::Held,
    sites::{Change, Site},
};
use crate::image::{
    increments::IncrementSite,
    sources::{self, CounterChange, On, in_the_sources},
};

/// How far apart libssl's functions can be: all of it has less than 1 MiB.
const SPREAD: u64 = 4 << 20;

/// Files in which more functions than this could be libssl's are not believed.
const MAX_FUNCTIONS: usize = 4096;

/// The eleven counters, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The distance from the context to the first one.
    pub(super) start: u32,
    /// From the connection to `ctx`.
    pub(super) to_ctx: u32,
    /// From the connection to `session_ctx`.
    pub(super) to_session_ctx: u32,
    /// The addresses of loads of `ctx` and of `session_ctx`.
    pub(super) loads: [Option<u64>; 2],
    /// All increments that were found, in the order of their addresses.
    pub(super) increments: Vec<IncrementSite>,
}

/// One change of a counter, in a function that decodes.
#[derive(Clone, Debug)]
struct Counted {
    counter: Counter,
    amount: i8,
    function: Range<u64>,
    address: u64,
    base: usize,
}

/// Every row of eleven `int`s of the file that is changed like the counters.
pub(super) fn find(functions: &mut Functions<'_>, sites: &[Site]) -> Vec<Block> {
    let mut by_distance: BTreeMap<u32, Vec<&Site>> = BTreeMap::new();
    for site in sites.iter().filter(|site| matches!(site.change, Change::ByOne(_))) {
        by_distance.entry(site.displacement).or_default().push(site);
    }
    by_distance
        .keys()
        .filter_map(|distance| distance.checked_sub(4 * Counter::AcceptGood as u32))
        .filter_map(|start| fitting(functions, &by_distance, start))
        .collect()
}

/// The block that begins at a distance, if everything agrees.
fn fitting(
    functions: &mut Functions<'_>,
    by_distance: &BTreeMap<u32, Vec<&Site>>,
    start: u32,
) -> Option<Block> {
    let mut counted: Vec<Counted> = Vec::new();
    for (index, counter) in (0..).zip(COUNTERS) {
        let sites = by_distance.get(&(start + 4 * index)).map_or(&[][..], Vec::as_slice);
        if sites.len() < in_the_sources(counter) && !may_be_computed(counter) {
            return None;
        }
        for site in sites {
            let Change::ByOne(amount) = site.change else { continue };
            let Some(function) = functions.containing(site.address) else { continue };
            let (address, base) = (site.address, site.base);
            counted.push(Counted { counter, amount, function, address, base });
        }
    }
    counted.sort_by_key(|counted| counted.address);
    // By the addresses alone, which costs nothing: the ends of handshakes are
    // counted in one function, and their beginnings in one.
    let finish =
        only_function(&counted, &[Counter::AcceptGood, Counter::ConnectGood, Counter::Hits])?;
    only_function(&counted, &[Counter::Accept, Counter::AcceptRenegotiate])?;
    counted.retain(|counted| counted.address.abs_diff(finish) <= SPREAD);
    let ranges: BTreeSet<u64> = counted.iter().map(|counted| counted.function.start).collect();
    if ranges.len() > MAX_FUNCTIONS {
        return None;
    }
    let ranges: Vec<Range<u64>> =
        ranges.into_iter().filter_map(|start| functions.containing(start)).collect();
    functions.prepare(&ranges);
    agreeing(functions, &counted, start, finish)
}

/// clang computes one address for both of these: `lock incl (%rcx,%rax,1)`.
fn may_be_computed(counter: Counter) -> bool {
    matches!(counter, Counter::Connect | Counter::ConnectRenegotiate)
}

/// The start of the one function that changes all of these counters.
fn only_function(counted: &[Counted], counters: &[Counter]) -> Option<u64> {
    let mut by_function: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
    for one in counted.iter().filter(|one| counters.contains(&one.counter)) {
        by_function.entry(one.function.start).or_default().insert(one.counter as usize);
    }
    let mut all = by_function.iter().filter(|(_, set)| set.len() == counters.len());
    let (start, _) = all.next()?;
    all.next().is_none().then_some(*start)
}

/// The block, if the contexts that are counted on are those of the sources.
fn agreeing(
    functions: &Functions<'_>,
    counted: &[Counted],
    start: u32,
    finish: u64,
) -> Option<Block> {
    let held = |one: &Counted| functions.held(&one.function, one.base, one.address);
    let field_at_finish = |counter: Counter| {
        let mut fields = counted
            .iter()
            .filter(|one| one.counter == counter && one.function.start == finish)
            .map(|one| match held(one) {
                Held::Field(distance) => Some(distance),
                _ => None,
            });
        let first = fields.next()??;
        fields.all(|field| field == Some(first)).then_some(first)
    };
    let to_ctx = field_at_finish(Counter::AcceptGood)?;
    let to_session_ctx = field_at_finish(Counter::ConnectGood)?;
    if to_ctx == to_session_ctx {
        return None;
    }
    // What is changed through another pointer is another program's.
    let (ours, changes): (Vec<&Counted>, Vec<CounterChange>) = counted
        .iter()
        .filter_map(|one| {
            let on = match held(one) {
                Held::Field(distance) if distance == to_ctx => On::Chosen,
                Held::Field(distance) if distance == to_session_ctx => On::Session,
                Held::Entry(_) if one.counter == Counter::CacheFull => On::Given,
                _ => return None,
            };
            let Counted { counter, amount, ref function, .. } = *one;
            Some((one, CounterChange { counter, amount, on, function: function.start }))
        })
        .unzip();
    if !sources::are_those_of_the_sources(&changes) {
        return None;
    }
    let loads = [Counter::AcceptGood, Counter::ConnectGood].map(|counter| {
        let at_finish = |one: &&&Counted| one.counter == counter && one.function.start == finish;
        let one = ours.iter().find(at_finish)?;
        functions.loaded_at(&one.function, one.base, one.address)
    });
    let increments = ours
        .into_iter()
        .map(|one| IncrementSite {
            counter: one.counter,
            amount: one.amount,
            address: one.address,
            function: one.function.clone(),
            base: one.base,
            base_at: one.address,
        })
        .collect();
    Some(Block { start, to_ctx, to_session_ctx, loads, increments })
}
