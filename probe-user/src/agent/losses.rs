//! What was lost in the kernel half, and what is not known because of it.

use probe_common::Loss;

use crate::snapshot::GapSnapshot;

/// What a loss leaves unknown; `None` if it leaves nothing unknown.
pub(super) fn gap((loss, count): &(Loss, u64)) -> Option<GapSnapshot> {
    let what = match loss {
        Loss::ContextsFull => "contexts are not shown: the map is full; raise --max-contexts",
        Loss::RingFull => "reports of the kernel half came late: the agent was too slow for them",
        Loss::FinalOverwritten => "contexts ended and their last values were lost",
        Loss::EndUnread => {
            "times a context's memory could not be read where it may have ended: its last values \
             are those of an earlier probe"
        }
        Loss::TimesFull => "handshakes were not timed: there was no room; raise --max-contexts",
        Loss::UnknownProbe => "probes fired that nobody placed",
        // Their values are read again at the next look.
        Loss::ReadFailed | Loss::ForeignImage | Loss::Unsettled => return None,
    };
    Some(GapSnapshot { pid: None, library: None, reason: format!("{count} {what}") })
}
