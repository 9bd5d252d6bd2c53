//! OpenSSL in a file that names none of its functions: linked statically, and
//! stripped.
//!
//! What is found here is only where a few functions and fields are; what they
//! say is asked of them as in every other file ([`super::layout`]).
//!
//! - [`sites`]: every locked change of an `int`, by its bytes.
//! - [`block`]: which of them are the counters.
//! - [`accessor`]: `SSL_CTX_ctrl`, which must say the same.
//! - [`death`]: `SSL_CTX_free`, and the function that it flushes the cache with.
//! - [`origin`], [`functions`], [`jumps`]: what that rests on.

mod accessor;
mod block;
mod death;
mod functions;
mod jumps;
mod origin;
mod sites;

use std::collections::HashSet;

use memchr::memmem;

use self::{death::NoDeath, functions::Functions};
use super::{
    elf::{Elf, Symbol},
    gap::Gap,
    increments::Sweep,
    unwind::FunctionRanges,
};

/// The name of a source file that stands in OpenSSL's error reports (1.1.1 to
/// 4.0), and not in those of its relatives.
const SOURCE_FILE: &[u8] = b"ssl/statem/statem_lib.c";

/// OpenSSL, recognised by its machine code.
#[derive(Debug)]
pub struct Recognised {
    /// The functions that were found.
    pub functions: Vec<(&'static str, Symbol)>,
    /// From the context to the first counter.
    pub block: u32,
    /// From the context to `references`.
    pub references: u32,
    /// From the context to `sessions`.
    pub sessions: u32,
    /// From the connection to `ctx`.
    pub ssl_to_ctx: u32,
    /// From the connection to `session_ctx`.
    pub ssl_to_session_ctx: u32,
    /// The increments, and what jumps into their functions.
    pub sweep: Sweep,
}

/// Whether a file may have OpenSSL's libssl in it: it has the name of one of
/// its source files. Costs next to nothing.
#[must_use]
pub fn is_suspected(data: &[u8]) -> bool {
    memmem::find(data, SOURCE_FILE).is_some()
}

/// Recognises OpenSSL in a file, whatever its symbols say.
///
/// # Errors
///
/// With what is missing, if there is anything that looks like OpenSSL; `None`
/// if there is not.
pub fn recognise(elf: &Elf, ranges: &FunctionRanges) -> Option<Result<Recognised, Gap>> {
    if elf.processor().name() != "x86_64" || !is_suspected(elf.data()) {
        return None;
    }
    let sites = sites::find(elf);
    let mut functions = Functions::new(elf, ranges);
    let mut blocks = block::find(&mut functions, &sites);
    let Some(block) = blocks.pop() else {
        return Some(Err(Gap::NotRecognised { what: "the fifteen increments of its counters" }));
    };
    if !blocks.is_empty() {
        return Some(Err(Gap::NotRecognised { what: "one block of counters only" }));
    }
    Some(found(&mut functions, &sites, block))
}

fn found(
    functions: &mut Functions<'_>,
    sites: &[sites::Site],
    block: block::Block,
) -> Result<Recognised, Gap> {
    let accessor = accessor::find(functions, &block)
        .ok_or(Gap::NotRecognised { what: "SSL_CTX_ctrl, as SSL_CTX_add_session calls it" })?;
    let death = death::find(functions, sites, block.start).map_err(|why| Gap::NotRecognised {
        what: match why {
            NoDeath::NotFound => "what SSL_CTX_free calls when no reference is left",
            NoDeath::Ambiguous => "only one function that SSL_CTX_free could be",
        },
    })?;
    let names = [
        ("SSL_CTX_ctrl", accessor),
        ("SSL_CTX_free", death.free),
        ("SSL_CTX_flush_sessions", death.flush),
    ];
    let mut named = Vec::new();
    let mut ranges: Vec<_> = block.increments.iter().map(|site| site.function.clone()).collect();
    for (name, entry) in names {
        let range = functions.containing(entry).ok_or(Gap::NoSymbol { function: name.to_owned() })?;
        named.push((name, Symbol { address: entry, size: range.end - entry, local: false }));
        ranges.push(range);
    }
    let outside_targets: HashSet<u64> = functions.outside_targets(&ranges);
    Ok(Recognised {
        functions: named,
        block: block.start,
        references: death.references,
        sessions: death.sessions,
        ssl_to_ctx: block.to_ctx,
        ssl_to_session_ctx: block.to_session_ctx,
        sweep: Sweep { increments: block.increments, outside_targets },
    })
}
