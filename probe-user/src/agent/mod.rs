//! The agent: discovers, attaches, follows lives, and says what is known.

pub mod companion;
pub mod idle;
pub mod images;
mod inodes;
mod learner;
mod look;
mod losses;
pub mod probes;
mod reap;
mod targets;
pub mod task;
mod usage;
pub mod watch;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use anyhow::Context as _;
use probe_common::{ContextKey, ContextRecord, record_flags};
use tracing::{debug, warn};

use self::{
    idle::{Idle, ScanOptions},
    images::Images,
    targets::LastEvents,
};
use crate::{
    context::{
        Context, Contradiction, Growth, Observation, Registry, Source, State,
        groups::GroupKey,
        registry::{Origin, Retention},
        settings::Settings,
    },
    host::{Discovery, LiveMemory, ProcessMemory},
    image::PlanChoice,
    kernel::{Kernel, Lifecycle, LinkChoice, LoadOptions, Mappings, events::unreported_end},
    snapshot::{
        ContextSnapshot, GapSnapshot, GroupSnapshot, Health, Host, SessionStats, Snapshot, Watched,
    },
};

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Only these processes; empty: all.
    pub pids: HashSet<u32>,
    /// Where probes are put.
    pub plan: PlanChoice,
    /// How they are attached.
    pub links: LinkChoice,
    /// How many live contexts are recorded at most.
    pub max_contexts: u32,
    /// How many ended contexts are listed at most.
    pub max_ended: usize,
    /// Whether processes are looked into for contexts that are idle.
    pub scan: Option<ScanOptions>,
    /// How long nobody must have mapped a library before its probes are removed.
    pub release_after: Duration,
}

/// The agent.
pub struct Agent {
    kernel: Kernel,
    discovery: Discovery,
    /// `None`: the kernel does not tell of mappings.
    mappings: Option<Mappings>,
    images: Images,
    release_after: Duration,
    registry: Registry,
    idle: Option<Idle>,
    memory: Box<dyn ProcessMemory + Send>,
    pids: HashSet<u32>,
    release: String,
    /// Processes are to be looked at: one may have ended, or executes another
    /// program and the kernel does not tell what it maps.
    changed: bool,
    last_events: LastEvents,
    /// Contexts that were given up without a report of their end.
    unreported: u64,
}

impl Agent {
    /// Loads the kernel half and attaches to every library that is in use.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn start(options: AgentOptions) -> anyhow::Result<Self> {
        Self::with_memory(options, Box::new(LiveMemory))
    }

    /// As [`Self::start`], with another way to read the memory of processes.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn with_memory(
        options: AgentOptions,
        memory: Box<dyn ProcessMemory + Send>,
    ) -> anyhow::Result<Self> {
        let kernel =
            Kernel::load(LoadOptions { max_contexts: options.max_contexts, links: options.links })?;
        if !kernel.exit_is_final() {
            warn!(
                "before Linux 6.16, values of a process that exits are those that its last probe saw"
            );
        }
        // Before the first look: what is mapped after it is reported.
        let mappings = Mappings::open()
            .inspect_err(|error| {
                warn!(%error, "every process is looked at every second instead");
            })
            .ok();
        let idle = options.scan.as_ref().map(Idle::new).transpose();
        let mut agent = Self {
            kernel,
            discovery: Discovery::new(options.pids.clone()),
            mappings,
            images: Images::new(options.plan, options.release_after),
            release_after: options.release_after,
            registry: Registry::new(Retention { ended: options.max_ended }),
            idle: idle.context("cannot start the scan")?,
            memory,
            pids: options.pids,
            release: kernel_release(),
            changed: false,
            last_events: LastEvents::default(),
            unreported: 0,
        };
        agent.scan();
        agent.learn_all();
        Ok(agent)
    }

    /// The kernel half.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Takes in every event that waits; says whether processes are to be looked
    /// at because of one of them.
    pub fn handle_events(&mut self) -> bool {
        while let Some(event) = self.kernel.next_event() {
            debug!(?event, "event");
            if let Lifecycle::Born(_, record) | Lifecycle::Ended(_, record, _) = &event {
                self.last_events.note(record);
            }
            match event {
                Lifecycle::Born(key, record) if !self.is_believed(&key, &record) => {
                    self.admit_copy(&key, &record);
                }
                Lifecycle::Born(key, record) => {
                    let Self { kernel, images, registry, .. } = self;
                    registry.born(key, &record, || origin(kernel, images, &key, &record));
                    self.read_settings(&key, &record);
                }
                // It ended before the agent could say whether it was one.
                Lifecycle::Ended(key, record, _) if !self.is_believed(&key, &record) => {}
                Lifecycle::Ended(key, record, end) => {
                    let Self { kernel, images, registry, .. } = self;
                    registry.end(key, &record, end, || origin(kernel, images, &key, &record));
                }
                Lifecycle::Executed { tgid } => {
                    self.images.executed(tgid);
                    self.idle.iter_mut().for_each(|idle| idle.forget(tgid));
                    // Else what it maps now is reported.
                    self.changed |= self.mappings.is_none();
                }
                Lifecycle::ThreadExited { .. } => self.changed = true,
            }
        }
        self.changed
    }

    /// Reads the settings of a context that was just met: it may be gone at the
    /// next look.
    fn read_settings(&mut self, key: &ContextKey, record: &ContextRecord) {
        let layout = self.images.settings(record.image);
        let Ok(settings) = Settings::read(&*self.memory, key.tgid, key.address, &layout) else {
            return;
        };
        // The end of a context is reported, or marked, before anything is freed.
        let still = self.kernel.context(key).ok().flatten().is_some_and(|now| {
            now.born_ns == record.born_ns
                && now.flags & record_flags::UNSURE == 0
                && unreported_end(&now).is_none()
        });
        if still {
            self.registry.set(key, record.born_ns, settings);
        }
    }

    /// Everything that is known now.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read.
    pub fn snapshot(&mut self) -> anyhow::Result<Snapshot> {
        let records = self.kernel.contexts().context("cannot read the map of contexts")?;
        // First what was reported: whoever had the address of a listed context
        // before was reported to have ended before that one was recorded. The
        // other way round, the birth of an earlier one would seem to come later.
        self.handle_events();
        for (key, record) in &records {
            let believed = self.is_believed(key, record);
            self.last_events.note(record);
            let Self { kernel, images, registry, .. } = self;
            let origin = || origin(kernel, images, key, record);
            match unreported_end(record) {
                Some(end) => {
                    if believed {
                        registry.end(*key, record, end, origin);
                    }
                    self.forget_context(key);
                }
                None if !believed => self.admit_copy(key, record),
                None => {
                    let known = registry.is_live(key, record.born_ns);
                    if !known && registry.has_ended(key, record.born_ns) {
                        continue;
                    }
                    // Its birth was reported, as a rule; a record says as much.
                    registry.born(*key, record, origin);
                    let seen = Observation::of_record(record, Source::Probe);
                    registry.see(key, record.born_ns, seen);
                }
            }
        }
        self.look()?;
        self.build()
    }

    fn build(&mut self) -> anyhow::Result<Snapshot> {
        let mut contexts: Vec<ContextSnapshot> = self
            .registry
            .all()
            .filter(|context| self.pids.is_empty() || self.pids.contains(&context.key.tgid))
            .map(|context| self.show(context))
            .collect();
        contexts.sort_by(|a, b| (a.pid, &a.ctx, a.generation).cmp(&(b.pid, &b.ctx, b.generation)));
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
        let live = contradictions.len() as u64 + self.registry.contradictions_forgotten();
        gaps.extend(self.ended_unseen());
        gaps.extend(self.unshown());
        let groups = self.groups();
        Ok(Snapshot {
            host: Host {
                kernel: self.release.clone(),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            contexts,
            gaps: gaps.into_iter().collect(),
            targets: self.targets(),
            groups,
            health: Health {
                losses: losses.iter().map(|(loss, count)| (loss.name(), *count)).collect(),
                discovery: self.discovery_health(),
                forgotten: self.registry.forgotten(),
                contradictions: vec![("layout", self.images.contradictions()), ("context", live)],
            },
        })
    }

    /// Contexts that ended without a last look, of libraries that count without
    /// a probe seeing it: a gap for each process.
    fn ended_unseen(&self) -> BTreeSet<GapSnapshot> {
        self.registry
            .all()
            .filter(|context| context.state != State::Live && context.seen.source == Source::Probe)
            .filter(|context| self.pids.is_empty() || self.pids.contains(&context.key.tgid))
            .filter(|context| self.images.changes_unseen(context.image))
            .map(|context| GapSnapshot {
                pid: Some(context.key.tgid),
                library: Some(self.images.library(context.image).path),
                reason: "contexts ended without a last look, and probes stand at function entries \
                         only: their values are those of `observed_at`, and may be too low"
                    .to_owned(),
            })
            .collect()
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
            grown: Some(grown(context)),
            watched: None,
            why: None,
            source: context.seen.source,
            observed_at: context.seen_at,
        }
    }

    fn stats(&self, context: &Context) -> SessionStats {
        if context.is_disproved() {
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
        let mut live: HashMap<GroupKey, Vec<&Context>> = HashMap::new();
        for context in self.registry.live() {
            live.entry(GroupKey::of(context)).or_default().push(context);
        }
        totals
            .into_iter()
            .map(|(key, sums)| {
                let live = live.remove(&key).unwrap_or_default();
                GroupSnapshot {
                    exe: key.exe,
                    totals: probe_common::COUNTERS
                        .into_iter()
                        .filter_map(|c| Some((c.name(), sums[c as usize]?)))
                        .collect(),
                    number: live.iter().map(|context| self.stats(context).number).sum(),
                    live: live.len(),
                }
            })
            .collect()
    }

    /// Removes every probe; returns when the last one is gone.
    pub fn stop(mut self) {
        self.kernel.detach_all();
    }
}

/// What is looked up when a context is met.
fn origin(
    kernel: &mut Kernel,
    images: &Images,
    key: &ContextKey,
    record: &ContextRecord,
) -> Origin {
    let inherited = kernel.take_inheritance(key, record.born_ns).unwrap_or_else(|error| {
        warn!(%error, "cannot read the map of inheritances");
        [0; 11]
    });
    Origin { facts: images.facts(key.tgid), inherited }
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

/// The kernel's release, as `uname -r` shows it.
fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.release().to_string_lossy().into_owned())
}
