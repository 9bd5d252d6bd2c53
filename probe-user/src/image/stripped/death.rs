//! `SSL_CTX_free` and the function that it flushes the cache with, by what they
//! do (`ssl/ssl_lib.c`, 1.1.1 to 4.0):
//!
//! ```c
//! CRYPTO_DOWN_REF(&a->references, &i, a->lock);
//! if (i > 0) return;
//! X509_VERIFY_PARAM_free(a->param); ...
//! if (a->sessions != NULL)
//!     SSL_CTX_flush_sessions(a, 0);
//! CRYPTO_free_ex_data(...);
//! ```
//!
//! The compiler may put all behind the `return` into a function of its own.

use std::collections::BTreeSet;

use super::{
    functions::Functions,
    origin::{self, Held},
    sites::{Change, Site},
};
use crate::image::code::instruction::{Control, Effect, Instruction};

/// From the first counter to `references`, where no lock is needed to count.
pub(super) const TO_REFERENCES: u32 = 0x2c;

/// The end of a context, as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Death {
    /// The function that gives up a reference.
    pub(super) free: u64,
    /// What is called when none is left, before anything is freed.
    pub(super) flush: u64,
    /// From the context to `references`.
    pub(super) references: u32,
    /// The address of the instruction that takes 1 from it.
    pub(super) given_up_at: u64,
    /// From the context to `sessions`.
    pub(super) sessions: u32,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoDeath {
    /// Nothing gives up a reference and flushes the cache.
    NotFound,
    /// More than one function could be the one.
    Ambiguous,
}

/// Finds the end of contexts whose counters begin at `block`.
pub(super) fn find(
    functions: &mut Functions<'_>,
    sites: &[Site],
    block: u32,
) -> Result<Death, NoDeath> {
    let references = block + TO_REFERENCES;
    let mut found = BTreeSet::new();
    let with_references = sites.iter().filter(|site| site.displacement == references);
    let ranges: Vec<_> =
        with_references.filter_map(|site| functions.containing(site.address)).collect();
    functions.prepare(&ranges);
    for site in sites.iter().filter(|site| site.displacement == references) {
        let Some(free) = functions.containing(site.address).map(|range| range.start) else {
            continue;
        };
        if !gives_up_its_argument(functions, free, site) {
            continue;
        }
        let mut flushes: Vec<(u64, u32)> = flush_in(functions, free).into_iter().collect();
        if flushes.is_empty() {
            // The rest of it may be a function of its own.
            let parts = parts_of(functions, free);
            let ranges: Vec<_> =
                parts.iter().filter_map(|part| functions.containing(*part)).collect();
            functions.prepare(&ranges);
            flushes.extend(parts.into_iter().filter_map(|part| flush_in(functions, part)));
        }
        found.extend(
            flushes.into_iter().map(|(flush, sessions)| (flush, sessions, free, site.address)),
        );
    }
    let ends: BTreeSet<(u64, u32)> = found.iter().map(|(flush, s, ..)| (*flush, *s)).collect();
    if ends.len() > 1 {
        return Err(NoDeath::Ambiguous);
    }
    let (flush, sessions, free, given_up_at) = found.into_iter().next().ok_or(NoDeath::NotFound)?;
    Ok(Death { free, flush, references, given_up_at, sessions })
}

/// The functions that a function calls or jumps to and that look at a pointer
/// in something.
fn parts_of(functions: &Functions<'_>, entry: u64) -> BTreeSet<u64> {
    let Some(range) = functions.containing(entry) else { return BTreeSet::new() };
    let looks = |target: &u64| {
        functions.containing(*target).is_some_and(|part| {
            let instructions = functions.instructions(&part);
            instructions.iter().any(|i| origin::compared_with_null(functions.elf, i).is_some())
        })
    };
    let instructions = functions.instructions(&range);
    let targets = instructions.iter().filter_map(|instruction| match instruction.control {
        Control::Call(target) | Control::Jump(target) | Control::Branch(target) => Some(target),
        _ => None,
    });
    let outside: BTreeSet<u64> = targets.filter(|target| !range.contains(target)).collect();
    outside.into_iter().filter(looks).collect()
}

/// Whether a function takes 1 from an `int` of its first argument.
fn gives_up_its_argument(functions: &mut Functions<'_>, entry: u64, site: &Site) -> bool {
    let first = functions.elf.processor().convention().arguments[0];
    let Some(range) = functions.entered(entry) else { return false };
    let held = |register| functions.held(&range, register, site.address);
    let down = match site.change {
        Change::ByOne(amount) => amount == -1,
        Change::FetchAdd(amount) => {
            matches!(held(amount), Held::Constant(c) if c as u32 == u32::MAX)
        }
    };
    down && held(site.base) == Held::Entry(first)
}

/// The one function that a function calls with its first argument and 0, where
/// it has made sure that a pointer in it is not NULL; and where that pointer is.
fn flush_in(functions: &mut Functions<'_>, entry: u64) -> Option<(u64, u32)> {
    let elf = functions.elf;
    let arguments = elf.processor().convention().arguments;
    let context = Held::Entry(arguments[0]);
    let range = functions.entered(entry)?;
    let held = |register, at: &Instruction| functions.held(&range, register, at.address);
    let instructions = functions.instructions(&range);
    let mut compared = BTreeSet::new();
    let mut flushes = BTreeSet::new();
    for instruction in &instructions {
        if let Some((base, distance)) = origin::compared_with_null(elf, instruction)
            && held(base, instruction) == context
        {
            compared.insert(distance);
        }
        let Control::Call(target) = instruction.control else { continue };
        if held(arguments[0], instruction) != context {
            continue;
        }
        if held(arguments[1], instruction) == Held::Constant(0) {
            flushes.insert(target);
        } else if flushes.is_empty() {
            // Something else is done with the context first: it could be freed.
            return None;
        }
    }
    let mut flushes = flushes.into_iter();
    let (flush, None) = (flushes.next()?, flushes.next()) else { return None };
    // It uses the same pointer of the context that it is called with.
    let range = functions.entered(flush)?;
    let mut sessions = BTreeSet::new();
    for instruction in functions.instructions(&range) {
        if let Effect::Load { base: Some(base), displacement, width: 8, .. } = instruction.effect
            && functions.held(&range, base, instruction.address) == context
            && let Ok(distance) = u32::try_from(displacement)
            && compared.contains(&distance)
        {
            sessions.insert(distance);
        }
    }
    let mut sessions = sessions.into_iter();
    let (sessions, None) = (sessions.next()?, sessions.next()) else { return None };
    Some((flush, sessions))
}
