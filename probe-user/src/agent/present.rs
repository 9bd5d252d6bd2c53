//! From what the agent knows to the snapshot that outputs see.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::Context as _;

use super::{Agent, losses};
use crate::{
    context::{
        Choice, Context, Contradiction, Growth, Handshakes, Observation,
        groups::{GroupId, GroupTotals},
    },
    host::clock,
    snapshot::{
        ContextSnapshot, GapSnapshot, GroupSnapshot, HandshakesSnapshot, Health, Host, OVERFLOW,
        Omitted, SessionStats, Snapshot, Wanted, Watched,
    },
};

impl Agent {
    /// Everything that the registry knows, in the form that outputs see.
    pub(super) fn build(&mut self, wanted: Wanted) -> anyhow::Result<Snapshot> {
        let (contexts, omitted) = self.contexts(wanted);
        let losses = self.kernel.losses().context("cannot read the map of losses")?;
        let mut gaps: BTreeSet<GapSnapshot> = self.images.gaps().cloned().collect();
        gaps.extend(losses.iter().filter(|(_, count)| *count > 0).filter_map(losses::gap));
        if self.unreported > 0 {
            let what = "contexts ended without a report: their last values may be too low";
            let reason = format!("{} {what}", self.unreported);
            gaps.insert(GapSnapshot { pid: None, library: None, reason });
        }
        let contradictions: Vec<(&Context, Contradiction)> =
            self.registry.all().filter_map(|c| Some((c, c.contradiction?))).collect();
        gaps.extend(contradictions.iter().map(|(context, contradiction)| GapSnapshot {
            pid: Some(context.key.tgid),
            library: Some(self.images.library(context.image).path),
            reason: format!("context {:#x}: {contradiction}", context.key.address),
        }));
        let forgotten = self.registry.forgotten();
        let contradicted = contradictions.len() as u64 + forgotten.contradicted;
        gaps.extend(self.unread());
        gaps.extend(self.unshown());
        gaps.extend(self.of_unknown_origin());
        gaps.extend(self.beyond_groups());
        let groups = self.groups();
        Ok(Snapshot {
            host: Host {
                kernel: self.release.clone(),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            contexts,
            omitted,
            gaps: gaps.into_iter().collect(),
            targets: self.targets(),
            ends: self.registry.ends(),
            group_by: self.registry.group_labels().iter().map(|label| label.name()).collect(),
            groups,
            health: Health {
                losses: losses.iter().map(|(loss, count)| (loss.name(), *count)).collect(),
                discovery: self.discovery_health(),
                forgotten: forgotten.contexts,
                unscraped: forgotten.unscraped,
                unproven: self.unproven(),
                beyond_groups: self.registry.beyond_groups(),
                contradictions: vec![
                    ("layout", self.images.contradictions()),
                    ("context", contradicted),
                ],
            },
        })
    }

    /// The contexts that are wanted, in the order of their processes and addresses.
    fn contexts(&self, wanted: Wanted) -> (Vec<ContextSnapshot>, Omitted) {
        let ended = self.registry.ended().map(|(order, context)| (context, Some(order)));
        let all = self.registry.live().map(|context| (context, None)).chain(ended);
        let is_asked_for = |(context, _): &(&Context, Option<u64>)| {
            self.pids.is_empty() || self.pids.contains(&context.key.tgid)
        };
        let all: Vec<(&Context, Option<u64>)> = all.filter(is_asked_for).collect();
        let (mut chosen, omitted) = match wanted {
            Wanted::All => (all, Omitted::default()),
            Wanted::Series(most) => {
                let choice = Choice::among(all, most, |(context, _)| context);
                let omitted = Omitted { live: choice.live_omitted, ended: choice.ended_omitted };
                (choice.chosen, omitted)
            }
        };
        chosen.sort_unstable_by_key(|(context, _)| (context.key, context.generation));
        let shown = chosen.into_iter();
        let shown = shown.map(|(context, ended)| ContextSnapshot { ended, ..self.show(context) });
        (shown.collect(), omitted)
    }

    /// Contexts whose memory could not be read when it was asked for, of libraries
    /// that count without a probe seeing it: a gap for each process.
    fn unread(&self) -> BTreeSet<GapSnapshot> {
        const WHY: &str = "the memory of SSL_CTXs could not be read, and not every change of \
                           their counters has a probe: their values are not known, and the sums \
                           have those of `observed_at`";
        self.registry
            .all()
            .filter(|context| context.is_unread())
            .filter(|context| self.pids.is_empty() || self.pids.contains(&context.key.tgid))
            .map(|context| {
                let cure = if self.images.is_entered(context.image) {
                    ""
                } else {
                    "; with --probe-points all they would be"
                };
                GapSnapshot {
                    pid: Some(context.key.tgid),
                    library: Some(self.images.library(context.image).path),
                    reason: format!("{WHY}{cure}"),
                }
            })
            .collect()
    }

    /// Contexts that began with counts of which nobody knows who counted them: a
    /// gap for each process, and one for those that are not listed any more.
    fn of_unknown_origin(&self) -> Vec<GapSnapshot> {
        const WHY: &str = "SSL_CTXs of a process that was forked, and of which nobody saw what the \
                           fork gave them: the sums leave out what they had counted when they were \
                           first seen, by this process or by the one that forked";
        let mut processes: BTreeMap<u32, u64> = BTreeMap::new();
        for context in self.registry.all().filter(|context| context.is_unproven()) {
            *processes.entry(context.key.tgid).or_default() += 1;
        }
        let gap = |pid, count| GapSnapshot { pid, library: None, reason: format!("{count} {WHY}") };
        let forgotten = self.registry.forgotten().unproven;
        processes
            .into_iter()
            .map(|(pid, count)| gap(Some(pid), count))
            .chain((forgotten > 0).then(|| gap(None, forgotten)))
            .collect()
    }

    /// How many contexts ever began so.
    fn unproven(&self) -> u64 {
        let listed = self.registry.all().filter(|context| context.is_unproven()).count();
        listed as u64 + self.registry.forgotten().unproven
    }

    /// There was no room for all groups.
    fn beyond_groups(&self) -> Option<GapSnapshot> {
        let count = self.registry.beyond_groups();
        let what = "SSL_CTXs are summed up together, since there was no room for a group of their \
                    own; raise --max-groups, or choose other labels with --group-by";
        let reason = format!("{count} {what}");
        (count > 0).then_some(GapSnapshot { pid: None, library: None, reason })
    }

    fn show(&self, context: &Context) -> ContextSnapshot {
        ContextSnapshot {
            pid: context.key.tgid,
            start_time_ticks: context.facts.start_time_ticks,
            comm: context.facts.comm.clone(),
            exe: context.facts.exe.clone(),
            container: context.facts.cgroups.container.clone(),
            pid_inside: context.facts.pid_inside,
            unit: context.facts.cgroups.units.unit.clone(),
            user_unit: context.facts.cgroups.units.user_unit.clone(),
            ctx: format!("{:#x}", context.key.address),
            generation: context.generation,
            state: context.state,
            library: self.images.library(context.image),
            stats: self.stats(context),
            settings: context.settings,
            handshakes: context.handshakes.as_ref().and_then(|of_it| timed(of_it)),
            grown: Some(grown(context)),
            watched: None,
            why: None,
            source: context.seen.source,
            observed_at: context.seen_at,
            born_ns: context.born_ns,
            ended: None,
        }
    }

    fn stats(&self, context: &Context) -> SessionStats {
        if context.is_disproved() || context.is_unread() {
            return SessionStats::default();
        }
        let mut stats = stats(&context.seen);
        if context.contradiction.is_some() {
            stats.number = None;
        }
        let (pid, started) = (context.key.tgid, context.facts.start_time_ticks);
        if !self.images.knows_number(context.image, pid, started) {
            stats.number = None;
        }
        stats
    }

    fn groups(&mut self) -> Vec<GroupSnapshot> {
        let totals = self.registry.group_totals();
        let mut live: HashMap<GroupId, Vec<&Context>> = HashMap::new();
        for context in self.registry.live() {
            live.entry(context.group).or_default().push(context);
        }
        let names: Vec<&'static str> =
            self.registry.group_labels().iter().map(|label| label.name()).collect();
        totals
            .into_iter()
            .map(|GroupTotals { id, key, sums, handshakes }| {
                let live = live.remove(&id).unwrap_or_default();
                let overflow = key.is_none();
                let beyond = || vec![Some(OVERFLOW.to_owned()); names.len()];
                GroupSnapshot {
                    labels: names.iter().copied().zip(key.unwrap_or_else(beyond)).collect(),
                    overflow,
                    totals: probe_common::COUNTERS
                        .into_iter()
                        .filter_map(|c| Some((c.name(), sums[c as usize]?)))
                        .collect(),
                    number: live.iter().map(|context| self.stats(context).number).sum(),
                    live: live.len(),
                    handshakes: timed(&handshakes),
                }
            })
            .collect()
    }
}

fn timed(handshakes: &Handshakes) -> Option<HandshakesSnapshot> {
    HandshakesSnapshot::of(handshakes, clock::monotonic_ns())
}

/// The values as the functions of the manual page would return them.
fn stats(seen: &Observation) -> SessionStats {
    let counters = seen.counters.map(|counter| counter.map(i64::from));
    SessionStats::of(counters, seen.number.map(|number| number as i64))
}

/// What a context counted while it was watched.
fn grown(context: &Context) -> Watched {
    match context.growth() {
        Ok(Growth { from, until, counters }) => {
            Watched::Known { from, until, counted: SessionStats::of(counters, None) }
        }
        Err(unknown) => Watched::Unknown { unknown },
    }
}
