//! The layout of a stripped file: what `SSL_CTX_ctrl` says, and what the code
//! around the increments says. They must agree.

use probe_common::COUNTERS;

use super::Recognised;
use crate::image::{
    evidence::{Evidence, ReadAt},
    family::Family,
    functions::Functions,
    gap::{FieldGap, Gap},
    layout::{self, Companion, LearntLayout},
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
    learnt.layout.references = Some(references);
    learnt.layout.ssl_to_ctx = Some(ssl_to_ctx);
    learnt.layout.ssl_to_session_ctx = Some(ssl_to_session_ctx);
    let read_at = |at| ReadAt::of(functions.elf(), at);
    let freed = format!("takes 1 from u32[arg0+{references:#x}], then flushes the cache");
    settle(&mut learnt, "references", "SSL_CTX_free(arg0)", freed, read_at(found.given_up_at));
    let counted = |distance: u32| format!("on u64[ssl+{distance:#x}]");
    let [ctx_at, session_ctx_at] = found.loads.map(|at| at.and_then(read_at));
    let question = "where accept_good is counted";
    settle(&mut learnt, "ssl_to_ctx", question, counted(ssl_to_ctx), ctx_at);
    let (question, answer) = ("where connect_good is counted", counted(ssl_to_session_ctx));
    settle(&mut learnt, "ssl_to_session_ctx", question, answer, session_ctx_at);
    learnt
}

/// Replaces what was said of a field, or why nothing could be said.
fn settle(
    learnt: &mut LearntLayout,
    field: &str,
    question: &str,
    answer: String,
    read_at: Option<ReadAt>,
) {
    learnt.gaps.retain(|gap| gap.field != field);
    learnt.evidence.retain(|evidence| evidence.field != field);
    let (field, question) = (field.to_owned(), question.to_owned());
    learnt.evidence.push(Evidence { field, question, answer, read_at });
}

fn refuse(learnt: &mut LearntLayout, field: &str, reason: Gap) {
    learnt.evidence.retain(|evidence| evidence.field != field);
    learnt.gaps.retain(|gap| gap.field != field);
    learnt.gaps.push(FieldGap { field: field.to_owned(), reason });
}
