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
mod layout;
mod origin;
mod sites;

use memchr::memmem;

use self::{death::NoDeath, functions::Functions};
use super::{
    elf::{Elf, Symbol},
    evidence,
    family::Family,
    functions as image_functions,
    gap::{FieldGap, Gap},
    increments::IncrementSite,
    layout::LearntLayout,
    plan::{self, PlanOptions, ProbePlan},
    settings::{self, LearntSettings},
    unwind::FunctionRanges,
};

/// The name of a source file that stands in OpenSSL's error reports (1.1.1 to
/// 4.0), and not in those of its relatives. In two halves: else it would stand
/// in this program too.
const SOURCE_FILE: (&[u8], &[u8]) = (b"ssl/statem/", b"statem_lib.c\0");

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
    /// The address of the instruction that takes 1 from `references`.
    pub given_up_at: u64,
    /// The addresses of loads of `ctx` and of `session_ctx`.
    pub loads: [Option<u64>; 2],
    /// The increments, in the order of their addresses.
    pub increments: Vec<IncrementSite>,
}

/// Whether a file may have OpenSSL's libssl in it: its code can be read, and
/// the name of one of libssl's source files is in it. Costs next to nothing.
#[must_use]
pub fn is_suspected(elf: &Elf) -> bool {
    elf.processor().name() == "x86_64" && names_a_source_file(elf.data())
}

/// Whether the name of one of libssl's source files is in a part of a file.
#[must_use]
pub fn names_a_source_file(bytes: &[u8]) -> bool {
    let (directory, name) = SOURCE_FILE;
    memmem::find_iter(bytes, name).any(|at| bytes[..at].ends_with(directory))
}

/// Learns the OpenSSL in a file that does not name its functions: where the values
/// are, where the settings are, and where probes stand.
#[must_use]
pub fn learn(elf: &Elf, options: PlanOptions) -> (LearntLayout, LearntSettings, ProbePlan) {
    let ranges = FunctionRanges::read(elf);
    match recognise(elf, &ranges) {
        Ok(found) => {
            let named = elf.with_functions(&found.functions);
            let mut code = image_functions::Functions::new(&named, &ranges);
            let mut learnt = layout::learn(&mut code, &found);
            let mut settings = settings::learn(&named, &learnt.layout, Family::OpenSsl);
            let evidence = learnt.evidence.iter_mut().chain(&mut settings.evidence);
            evidence::name_functions(evidence, &ranges);
            let plan = plan::plan_behind(code, &learnt.layout, &found.increments, options);
            (learnt, settings, plan)
        }
        Err(reason) => {
            let gaps = vec![FieldGap { field: "layout".to_owned(), reason }];
            let learnt = LearntLayout { gaps, ..LearntLayout::default() };
            (learnt, LearntSettings::default(), ProbePlan::default())
        }
    }
}

/// Recognises OpenSSL in a file, whatever its symbols and texts say.
///
/// # Errors
///
/// With what was not found.
pub fn recognise(elf: &Elf, ranges: &FunctionRanges<'_>) -> Result<Recognised, Gap> {
    let missing = |what| Gap::NotRecognised { what };
    let sites = sites::find(elf);
    let mut functions = Functions::new(elf, ranges);
    let mut blocks = block::find(&mut functions, &sites);
    let block = blocks.pop().ok_or(missing("all fifteen increments of its counters"))?;
    if !blocks.is_empty() {
        return Err(missing("one block of counters, and not two,"));
    }
    let accessor = accessor::find(&functions, &block)
        .ok_or(missing("SSL_CTX_ctrl, which SSL_CTX_add_session calls,"))?;
    let death = death::find(&mut functions, &sites, block.start).map_err(|why| {
        missing(match why {
            NoDeath::NotFound => "the function that SSL_CTX_free flushes the cache with",
            NoDeath::Ambiguous => "one function that SSL_CTX_free flushes with, and not two,",
        })
    })?;
    let mut named = Vec::new();
    for (name, entry) in [
        ("SSL_CTX_ctrl", accessor),
        ("SSL_CTX_free", death.free),
        ("SSL_CTX_flush_sessions", death.flush),
    ] {
        let range = functions.containing(entry).ok_or(missing("the range of a function"))?;
        named.push((name, Symbol { address: entry, size: range.end - entry, local: false }));
    }
    Ok(Recognised {
        functions: named,
        block: block.start,
        references: death.references,
        sessions: death.sessions,
        ssl_to_ctx: block.to_ctx,
        ssl_to_session_ctx: block.to_session_ctx,
        given_up_at: death.given_up_at,
        loads: block.loads,
        increments: block.increments,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// This very program has the name of OpenSSL's source file in it, and tens
    /// of thousands of functions, but no OpenSSL.
    #[test]
    fn a_program_that_only_speaks_of_openssl_is_not_openssl() {
        let name = std::hint::black_box("../ssl/statem/statem_lib.c\0");
        assert!(names_a_source_file(name.as_bytes()));
        assert!(!names_a_source_file(b"../ssl/statem/statem.c\0statem_lib.c\0"));
        let elf = Elf::open(Path::new("/proc/self/exe")).expect("the test itself");
        assert_eq!(is_suspected(&elf), cfg!(target_arch = "x86_64"));
        let (learnt, _, plan) = learn(&elf, PlanOptions::default());
        assert!(learnt.layout.block().is_none() && plan.points.is_empty());
        assert!(matches!(
            learnt.gaps.as_slice(),
            [FieldGap { reason: Gap::NotRecognised { .. }, .. }]
        ));
    }
}
