//! The look at every live context that a snapshot takes.

use std::collections::HashMap;

use anyhow::Context as _;
use probe_common::{ContextKey, record_flags};

use super::Agent;
use crate::{
    context::{Context, Observation, Origin, Source, State, reconstruct, settings::Settings},
    host::Gathered,
    kernel::events::{End, unreported_end},
};

/// Contexts that are read in one go: a kilobyte of each is held for as long.
const TOGETHER: usize = 4096;

/// Parts of a context that are no further apart are read as one.
const NEAR: u32 = 2048;

/// What a context said of itself; `None` where it could not be read.
struct Seen {
    key: ContextKey,
    born_ns: u64,
    seen: Option<Observation>,
    settings: Option<Settings>,
}

impl Agent {
    /// Reads every live context from its process's memory.
    pub(super) fn look(&mut self) -> anyhow::Result<()> {
        let live: Vec<(ContextKey, u64)> =
            self.registry.live().map(|context| (context.key, context.born_ns)).collect();
        live.chunks(TOGETHER).try_for_each(|some| self.look_at(some))
    }

    fn look_at(&mut self, some: &[(ContextKey, u64)]) -> anyhow::Result<()> {
        let still = |(key, born_ns): &(ContextKey, u64)| self.registry.find_live(key, *born_ns);
        let contexts: Vec<&Context> = some.iter().filter_map(still).collect();
        let seen = self.read(&contexts);
        // Whatever ended before it was read has been reported by now, or marked.
        self.handle_events();
        for Seen { key, born_ns, seen, settings } in seen {
            if !self.registry.is_live(&key, born_ns) {
                continue;
            }
            let record = self.kernel.context(&key).context("cannot read the map of contexts")?;
            match record.filter(|record| record.born_ns == born_ns) {
                Some(record) if unreported_end(&record).is_none() => {
                    let sure = record.flags & record_flags::UNSURE == 0;
                    let seen = seen
                        .filter(|_| sure)
                        .unwrap_or_else(|| Observation::of_record(&record, Source::Probe));
                    self.registry.see(&key, born_ns, seen);
                    if let Some(settings) = settings.filter(|_| sure) {
                        self.registry.set(&key, born_ns, settings);
                    }
                }
                Some(record) => {
                    let end = unreported_end(&record).unwrap_or(End::Freed);
                    self.registry.end(key, &record, end, Origin::default);
                    self.forget_context(&key, record.born_ns);
                }
                None => {
                    self.handle_events();
                    if self.registry.is_live(&key, born_ns) {
                        self.give_up(&key, State::Freed);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads some contexts.
    fn read(&self, contexts: &[&Context]) -> Vec<Seen> {
        let mut memory = Gathered::new(&*self.memory);
        let mut places: HashMap<u32, Vec<(u64, usize)>> = HashMap::new();
        for context in contexts {
            let ContextKey { tgid, address, .. } = context.key;
            let block = reconstruct::span(&context.layout);
            let settings = self.images.settings(context.image).span();
            let parts = match (block, settings) {
                (Some(block), Some(settings)) => {
                    let all = block.start.min(settings.start)..block.end.max(settings.end);
                    if all.len() <= NEAR as usize { vec![all] } else { vec![block, settings] }
                }
                (block, settings) => block.into_iter().chain(settings).collect(),
            };
            let of_it = places.entry(tgid).or_default();
            of_it.extend(parts.iter().map(|p| (address.wrapping_add(p.start.into()), p.len())));
        }
        for (pid, places) in &mut places {
            memory.gather(*pid, places);
            places.clear();
        }
        // What is in them says where the number of sessions is.
        for context in contexts {
            let ContextKey { tgid, address, .. } = context.key;
            let place = reconstruct::place_of_number(&memory, tgid, address, &context.layout);
            let of_it = places.entry(tgid).or_default();
            of_it.extend(place.ok().flatten().map(|at| (at, size_of::<u64>())));
        }
        for (pid, places) in &places {
            memory.gather(*pid, places);
        }
        contexts
            .iter()
            .map(|context| {
                let Context { key, born_ns, layout, image, .. } = context;
                let ContextKey { tgid, address, .. } = *key;
                let seen = Observation::read(&memory, tgid, address, layout).ok();
                let places = self.images.settings(*image);
                let settings = Settings::read(&memory, tgid, address, &places).ok();
                Seen { key: *key, born_ns: *born_ns, seen, settings }
            })
            .collect()
    }
}
