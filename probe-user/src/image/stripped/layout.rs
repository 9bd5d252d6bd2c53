//! The layout of a stripped file: what `SSL_CTX_ctrl` says, and what the code
//! around the increments says. They must agree.

use probe_common::COUNTERS;

use super::Recognised;
use crate::image::{
    evidence::{Evidence, ReadAt},
    family::Family,
    functions::Functions,
    gap::{FieldGap, Gap},
    layout::{self, Companion, Layout, LearntLayout},
};

/// Learns the layout; the file names the functions that were found.
pub(super) fn learn(functions: &mut Functions<'_>, found: &Recognised) -> LearntLayout {
    let mut learnt = layout::learn(functions, &Companion::Within, Family::OpenSsl);
    let block = learnt.layout.block();
    if block != Some(found.block) {
        let reason = Gap::Contradiction {
            one: format!("what SSL_CTX_ctrl says ({block:x?})"),
            other: format!("the increments, which are of a block at {:#x}", found.block),
        };
        learnt.layout.counters = [None; COUNTERS.len()];
        for counter in COUNTERS {
            refuse(&mut learnt, counter.name(), reason.clone());
        }
        return learnt;
    }
    if let Some(said) = learnt.layout.sessions
        && said != found.sessions
    {
        let reason = Gap::Contradiction {
            one: format!("SSL_CTX_ctrl, with sessions at {said:#x}"),
            other: format!("SSL_CTX_free, with sessions at {:#x}", found.sessions),
        };
        learnt.layout.sessions = None;
        learnt.layout.num_items = None;
        refuse(&mut learnt, "sessions", reason.clone());
        refuse(&mut learnt, "num_items", reason);
    }
    let Recognised { references, ssl_to_ctx, ssl_to_session_ctx, .. } = *found;
    let read_at = |at| ReadAt::of(functions.elf(), at);
    let [ctx_at, session_ctx_at] = found.loads.map(|at| at.and_then(read_at));
    let counted = |distance: u32| format!("on u64[ssl+{distance:#x}]");
    let Layout { references: said, ssl_to_ctx: ctx, ssl_to_session_ctx: session_ctx, .. } =
        learnt.layout;
    let evidence = Evidence {
        field: "references".to_owned(),
        question: "SSL_CTX_free(arg0)".to_owned(),
        answer: format!("takes 1 from u32[arg0+{references:#x}], then flushes the cache"),
        read_at: read_at(found.given_up_at),
    };
    learnt.layout.references = settle(&mut learnt, said, references, evidence);
    let evidence = Evidence {
        field: "ssl_to_ctx".to_owned(),
        question: "where accept_good is counted".to_owned(),
        answer: counted(ssl_to_ctx),
        read_at: ctx_at,
    };
    learnt.layout.ssl_to_ctx = settle(&mut learnt, ctx, ssl_to_ctx, evidence);
    let evidence = Evidence {
        field: "ssl_to_session_ctx".to_owned(),
        question: "where connect_good is counted".to_owned(),
        answer: counted(ssl_to_session_ctx),
        read_at: session_ctx_at,
    };
    learnt.layout.ssl_to_session_ctx =
        settle(&mut learnt, session_ctx, ssl_to_session_ctx, evidence);
    learnt
}

/// What the code around the increments says of a field, in place of what was said,
/// or of why nothing could be said; a gap, if the two disagree.
fn settle(
    learnt: &mut LearntLayout,
    said: Option<u32>,
    found: u32,
    evidence: Evidence,
) -> Option<u32> {
    if let Some(said) = said.filter(|said| *said != found) {
        let reason = Gap::Contradiction {
            one: format!("its own functions, with {} at {said:#x}", evidence.field),
            other: format!("{}: {}", evidence.question, evidence.answer),
        };
        refuse(learnt, &evidence.field, reason);
        return None;
    }
    learnt.gaps.retain(|gap| gap.field != evidence.field);
    learnt.evidence.retain(|known| known.field != evidence.field);
    learnt.evidence.push(evidence);
    Some(found)
}

fn refuse(learnt: &mut LearntLayout, field: &str, reason: Gap) {
    learnt.evidence.retain(|evidence| evidence.field != field);
    learnt.gaps.retain(|gap| gap.field != field);
    learnt.gaps.push(FieldGap { field: field.to_owned(), reason });
}
