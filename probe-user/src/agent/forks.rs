//! Contexts of forked processes that began with counts of unknown origin: were they
//! the parent's?
//!
//! Such a context was not known of the process that forked: no probe had seen it
//! there. If that process still runs, and what is at the context's address there
//! has counted nothing to this day, then it had counted nothing at the fork, and the
//! child began with its own counts alone. (It may have been freed there meanwhile.
//! If it had counted anything, its end was reported; where that is so, or may be,
//! nothing is concluded.) Workers of a server whose master makes the contexts and
//! never uses them are such.

use std::collections::HashMap;

use anyhow::Context as _;
use probe_common::{Fork, Loss};
use tracing::warn;

use super::Agent;
use crate::{
    context::{Context, Observation},
    host::{ProcessFacts, clock},
};

/// Processes that are remembered to have executed a program.
const REMEMBERED: usize = 4096;

/// What must not have happened: with it, a context may have counted without a
/// record, or an end may not have been heard of yet.
const DISTURBING: [Loss; 6] = [
    Loss::ContextsFull,
    Loss::RingFull,
    Loss::ReadFailed,
    Loss::ForeignImage,
    Loss::UnknownProbe,
    Loss::EndUnread,
];

/// When processes executed a program.
#[derive(Debug, Default)]
pub(super) struct Execs {
    by_pid: HashMap<u32, u64>,
    /// What was before that is not remembered.
    from_ns: u64,
}

impl Execs {
    /// Now, or a moment ago.
    pub(super) fn note(&mut self, pid: u32, now_ns: u64) {
        if self.by_pid.len() >= REMEMBERED {
            self.by_pid.clear();
            self.from_ns = now_ns;
        }
        self.by_pid.insert(pid, now_ns);
    }

    /// Whether a process has, for certain, executed nothing since.
    fn none_since(&self, pid: u32, at_ns: u64) -> bool {
        at_ns >= self.from_ns && self.by_pid.get(&pid).is_none_or(|executed| *executed < at_ns)
    }
}

impl Agent {
    /// Finds out, of each context once.
    pub(super) fn examine_forks(&mut self) -> anyhow::Result<()> {
        let examined = self.registry.examine();
        if examined.is_empty() {
            return Ok(());
        }
        let unused: Vec<(Context, Fork)> = examined
            .into_iter()
            .filter_map(|context| {
                let fork = self.seen_fork(&context)?;
                self.is_unused(&fork, &context).then_some((context, fork))
            })
            .collect();
        // Whatever ended there before it was read has been reported by now.
        self.handle_events();
        let losses = self.kernel.losses().context("cannot read the map of losses")?;
        if losses.iter().any(|(loss, count)| DISTURBING.contains(loss) && *count > 0) {
            return Ok(());
        }
        for (context, fork) in unused {
            let start = clock::start_ticks(fork.forker_start_ns);
            let known = self.registry.may_have_met(fork.forker, start, context.key.address);
            if !known
                && self.execs.none_since(fork.forker, fork.at_ns)
                && ProcessFacts::is_alive(fork.forker, Some(start))
            {
                self.registry.inherited_nothing(&context.key, context.born_ns);
            }
        }
        Ok(())
    }

    /// The fork that made a context's process, if everything that either of the two
    /// counted since was seen.
    fn seen_fork(&self, context: &Context) -> Option<Fork> {
        let fork = self.kernel.fork_of(context.key.tgid).unwrap_or_else(|error| {
            warn!(%error, "cannot read the map of forks");
            None
        })?;
        let is_its =
            context.facts.start_time_ticks == Some(clock::start_ticks(fork.child_start_ns));
        let since = self.kernel.attached_since(context.image)?;
        let seen = since < fork.at_ns && !self.images.is_entered(context.image);
        (is_its && seen).then_some(fork)
    }

    /// Whether what is at a context's address in the process that forked has counted
    /// nothing.
    fn is_unused(&self, fork: &Fork, context: &Context) -> bool {
        let read =
            Observation::read(&*self.memory, fork.forker, context.key.address, &context.layout);
        read.is_ok_and(|seen| seen.counters.iter().flatten().all(|counter| *counter == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_executed_a_program_since_is_known_or_not_certain() {
        let mut execs = Execs::default();
        execs.note(7, 50);
        assert!(execs.none_since(8, 10) && execs.none_since(7, 51));
        assert!(!execs.none_since(7, 50) && !execs.none_since(7, 10));
        for pid in 0..REMEMBERED as u32 {
            execs.note(100 + pid, 60);
        }
        assert!(execs.by_pid.len() <= REMEMBERED);
        assert!(!execs.none_since(8, 10), "nobody remembers");
        assert!(execs.none_since(8, 61));
    }
}
