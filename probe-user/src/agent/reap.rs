//! Ends that nobody reported.

use std::{collections::HashSet, time::Instant};

use probe_common::ContextKey;
use tracing::warn;

use super::Agent;
use crate::{
    context::{Context, Origin, State},
    host::{ProcessFacts, discovery::ROUND},
    kernel::events::{End, unreported_end},
};

/// A process, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process {
    pid: u32,
    start_time_ticks: Option<u64>,
}

impl Process {
    fn of(context: &Context) -> Self {
        Self { pid: context.key.tgid, start_time_ticks: context.facts.start_time_ticks }
    }
}

impl Agent {
    /// Ends contexts whose process is gone without a report: on kernels whose
    /// exits do not tell, and where a report was lost.
    pub(super) fn reap(&mut self) {
        self.changed = false;
        let processes: HashSet<Process> = self.registry.live().map(Process::of).collect();
        let gone: HashSet<Process> = processes
            .into_iter()
            .filter(|process| !ProcessFacts::is_alive(process.pid, process.start_time_ticks))
            .collect();
        if !gone.is_empty() {
            // Their reports are under way, as a rule.
            self.handle_events();
            let contexts: Vec<(ContextKey, u64)> = self
                .registry
                .live()
                .filter(|context| gone.contains(&Process::of(context)))
                .map(|context| (context.key, context.born_ns))
                .collect();
            for (key, born_ns) in contexts {
                self.end_with_process(&key, born_ns);
            }
        }
        self.registry.retain_processes(|pid| ProcessFacts::is_alive(pid, None));
    }

    /// Every now and then: ends what has ended though nobody said so, and removes from the
    /// kernel half what it keeps of processes that are gone. (To look through the empty
    /// map takes a millisecond, and through the contexts as much for each ten thousand.)
    pub(super) fn sweep(&mut self) {
        if self.swept.elapsed() < ROUND {
            return;
        }
        self.swept = Instant::now();
        self.reap();
        let recorded = self.kernel.processes().unwrap_or_else(|error| {
            warn!(%error, "cannot read the map of processes");
            Vec::new()
        });
        for pid in recorded.into_iter().filter(|pid| !ProcessFacts::is_alive(*pid, None)) {
            if let Err(error) = self.kernel.forget_process(pid) {
                warn!(%error, "cannot remove a process that has ended");
            }
        }
    }

    /// A context whose process is gone, without a report so far.
    fn end_with_process(&mut self, key: &ContextKey, born_ns: u64) {
        match self.kernel.context(key) {
            Ok(Some(record)) if record.born_ns == born_ns => {
                let end = unreported_end(&record).unwrap_or(End::Exited { final_values: false });
                self.registry.end(*key, &record, end, Origin::default);
                self.forget_context(key, born_ns);
            }
            Ok(_) => self.give_up(key, State::Exited),
            Err(error) => warn!(%error, "cannot read the map of contexts"),
        }
    }

    /// There is no record of a context any more, and no report of its end.
    pub(super) fn give_up(&mut self, key: &ContextKey, state: State) {
        if self.registry.missing(key, state) {
            warn!(pid = key.tgid, ctx = format!("{:#x}", key.address), "its end was not reported");
            self.unreported += 1;
        }
    }

    pub(super) fn forget_context(&mut self, key: &ContextKey, born_ns: u64) {
        if let Err(error) = self.kernel.forget_context(key, born_ns) {
            warn!(%error, "cannot remove a context that has ended");
        }
    }
}
