//! The state of every library that was met, as it is shown.

use std::collections::HashMap;

use probe_common::ContextRecord;

use super::Agent;
use crate::{
    context::State,
    host::clock,
    snapshot::{TargetContexts, TargetSnapshot},
};

/// When a probe of each image last saw a context, in nanoseconds of
/// `CLOCK_MONOTONIC`.
#[derive(Default)]
pub(super) struct LastEvents(HashMap<u32, u64>);

impl LastEvents {
    /// Takes in what a probe recorded.
    pub(super) fn note(&mut self, record: &ContextRecord) {
        // What the agent itself has recorded was no event.
        if record.hits > 0 {
            let last = self.0.entry(record.image).or_default();
            *last = (*last).max(record.hit_ns);
        }
    }

    /// Forgets images that are no more.
    pub(super) fn retain(&mut self, is_known: impl Fn(u32) -> bool) {
        self.0.retain(|image, _| is_known(*image));
    }
}

impl Agent {
    /// The libraries that processes map, and what has become of each.
    pub(super) fn targets(&self) -> Vec<TargetSnapshot> {
        let mut contexts: HashMap<u32, TargetContexts> = HashMap::new();
        for context in self.registry.all() {
            let counts = contexts.entry(context.image).or_default();
            match context.state {
                State::Live => counts.live += 1,
                State::Freed | State::Exited => counts.ended += 1,
            }
        }
        let of_image = |target: crate::agent::images::targets::Target| {
            let image = target.image;
            TargetSnapshot {
                library: target.library,
                state: target.state,
                reason: target.reason,
                probes: image.map_or(0, |image| self.kernel.attached(image)),
                processes: target.processes.into_iter().collect(),
                contexts: image.and_then(|image| contexts.get(&image)).copied().unwrap_or_default(),
                last_event: image
                    .and_then(|image| self.last_events.0.get(&image))
                    .map(|at| clock::wall_clock(*at)),
                unsettled: image.and_then(|image| {
                    let settled = self.images.is_settled(image).then(Vec::new);
                    settled.or_else(|| self.settling.unsettled(image))
                }),
            }
        };
        self.images.targets().into_iter().map(of_image).collect()
    }
}
