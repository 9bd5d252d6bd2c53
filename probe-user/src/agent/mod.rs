//! The agent: discovers, attaches, follows lives, and says what is known.

pub mod idle;
pub mod images;
mod losses;
pub mod task;

use std::collections::{BTreeSet, HashMap, HashSet};

use anyhow::Context as _;
use probe_common::{ContextKey, ContextRecord, record_flags};
use tracing::{debug, warn};

use self::{
    idle::{Idle, ScanOptions},
    images::Images,
};
use crate::{
    context::{
        Context, Contradiction, Growth, Observation, Registry, Source, State,
        groups::GroupKey,
        registry::{Origin, Retention},
        settings::Settings,
    },
    host::{Discovery, LiveMemory, ProcessFacts, ProcessMemory},
    image::PlanChoice,
    kernel::{
        Kernel, Lifecycle, LoadOptions,
        events::{End, unreported_end},
    },
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
    /// How many live contexts are recorded at most.
    pub max_contexts: u32,
    /// How many ended contexts are listed at most.
    pub max_ended: usize,
    /// Whether processes are looked into for contexts that are idle.
    pub scan: Option<ScanOptions>,
}

/// The agent.
pub struct Agent {
    kernel: Kernel,
    discovery: Discovery,
    images: Images,
    registry: Registry,
    idle: Option<Idle>,
    memory: Box<dyn ProcessMemory + Send>,
    pids: HashSet<u32>,
    gaps: Vec<GapSnapshot>,
    release: String,
    rescan: bool,
    /// Contexts that were given up without a report of their end.
    unreported: u64,
}

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
        let kernel = Kernel::load(LoadOptions { max_contexts: options.max_contexts })?;
        if !kernel.exit_is_final() {
            warn!(
                "before Linux 6.16, values of a process that exits are those that its last probe saw"
            );
        }
        let idle = options.scan.as_ref().map(Idle::new).transpose();
        let mut agent = Self {
            kernel,
            idle: idle.context("cannot start the scan")?,
            discovery: Discovery::default(),
            images: Images::new(options.plan),
            registry: Registry::new(Retention { ended: options.max_ended }),
            memory,
            pids: options.pids,
            gaps: Vec::new(),
            release: kernel_release(),
            rescan: false,
            unreported: 0,
        };
        agent.scan();
        Ok(agent)
    }

    /// The kernel half.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Looks at the mappings of all processes; attaches what is new. Says
    /// whether to look again soon, since a process is just loading its libraries.
    pub fn scan(&mut self) -> bool {
        self.rescan = false;
        let (libraries, unseen) = self.discovery.scan(&self.pids);
        let mut gaps = self.images.attach(&mut self.kernel, &libraries);
        gaps.extend(unseen.into_iter().map(|gap| GapSnapshot {
            pid: Some(gap.pid),
            library: Some(gap.library),
            reason: gap.reason,
        }));
        gaps.sort();
        gaps.dedup();
        self.gaps = gaps;
        self.look_into(&libraries);
        self.reap();
        self.images.is_loading()
    }

    /// Ends contexts whose process is gone without a report: on kernels whose
    /// exits do not tell, and where a report was lost.
    fn reap(&mut self) {
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
                self.forget_context(key);
            }
            Ok(_) => self.give_up(key, State::Exited),
            Err(error) => warn!(%error, "cannot read the map of contexts"),
        }
    }

    /// There is no record of a context any more, and no report of its end.
    fn give_up(&mut self, key: &ContextKey, state: State) {
        if self.registry.missing(key, state) {
            warn!(pid = key.tgid, ctx = format!("{:#x}", key.address), "its end was not reported");
            self.unreported += 1;
        }
    }

    fn forget_context(&mut self, key: &ContextKey) {
        if let Err(error) = self.kernel.forget_context(key) {
            warn!(%error, "cannot remove a context that has ended");
        }
    }

    /// Takes in every event that waits; says whether processes have changed so
    /// that a scan is due.
    pub fn handle_events(&mut self) -> bool {
        while let Some(event) = self.kernel.next_event() {
            debug!(?event, "event");
            match event {
                Lifecycle::Born(key, record) if !self.is_believed(&key, &record) => {
                    self.admit_copy(&key, &record);
                }
                Lifecycle::Born(key, record) => {
                    self.registry.born(key, &record, || origin(&mut self.kernel, &key, &record));
                    self.read_settings(&key, &record);
                }
                // It ended before the agent could say whether it was one.
                Lifecycle::Ended(key, record, _) if !self.is_believed(&key, &record) => {}
                Lifecycle::Ended(key, record, end) => {
                    let origin = || origin(&mut self.kernel, &key, &record);
                    self.registry.end(key, &record, end, origin);
                }
                Lifecycle::Executed { tgid } => {
                    self.idle.iter_mut().for_each(|idle| idle.executed(tgid));
                    self.rescan = true;
                }
                Lifecycle::ThreadExited { .. } => self.rescan = true,
            }
        }
        self.rescan
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
            let origin = || origin(&mut self.kernel, key, record);
            match unreported_end(record) {
                Some(end) => {
                    if believed {
                        self.registry.end(*key, record, end, origin);
                    }
                    self.forget_context(key);
                }
                None if !believed => self.admit_copy(key, record),
                None => {
                    let known = self.registry.is_live(key, record.born_ns);
                    if !known && self.registry.has_ended(key, record.born_ns) {
                        continue;
                    }
                    // Its birth was reported, as a rule; a record says as much.
                    self.registry.born(*key, record, origin);
                    let seen = Observation::of_record(record, Source::Probe);
                    self.registry.see(key, record.born_ns, seen);
                }
            }
        }
        self.look()?;
        self.build()
    }

    /// Reads every live context from its process's memory.
    fn look(&mut self) -> anyhow::Result<()> {
        let seen: Vec<(ContextKey, u64, Option<Observation>, Option<Settings>)> = self
            .registry
            .live()
            .map(|context| {
                let Context { key, layout, image, .. } = context;
                let ContextKey { tgid, address, .. } = *key;
                let seen = Observation::read(&*self.memory, tgid, address, layout);
                let places = self.images.settings(*image);
                let settings = Settings::read(&*self.memory, tgid, address, &places);
                (*key, context.born_ns, seen.ok(), settings.ok())
            })
            .collect();
        // Whatever ended before it was read has been reported by now, or marked.
        self.handle_events();
        for (key, born_ns, seen, settings) in seen {
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
                    self.forget_context(&key);
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

    fn build(&mut self) -> anyhow::Result<Snapshot> {
        let mut contexts: Vec<ContextSnapshot> = self
            .registry
            .all()
            .filter(|context| self.pids.is_empty() || self.pids.contains(&context.key.tgid))
            .map(|context| self.show(context))
            .collect();
        contexts.sort_by(|a, b| (a.pid, &a.ctx, a.generation).cmp(&(b.pid, &b.ctx, b.generation)));
        let losses = self.kernel.losses().context("cannot read the map of losses")?;
        let mut gaps = self.gaps.clone();
        gaps.extend(losses.iter().filter(|(_, count)| *count > 0).filter_map(losses::gap));
        if self.unreported > 0 {
            let what = "contexts ended without a report: their last values may be too low";
            let reason = format!("{} {what}", self.unreported);
            gaps.push(GapSnapshot { pid: None, library: None, reason });
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
            gaps,
            groups,
            health: Health {
                losses: losses.iter().map(|(loss, count)| (loss.name(), *count)).collect(),
                libraries: self
                    .images
                    .attached()
                    .map(|image| (self.images.library(image), self.kernel.attached(image)))
                    .collect(),
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
        if !self.images.knows_number(context.image, context.key.tgid) {
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
fn origin(kernel: &mut Kernel, key: &ContextKey, record: &ContextRecord) -> Origin {
    let inherited = kernel.take_inheritance(key, record.born_ns).unwrap_or_else(|error| {
        warn!(%error, "cannot read the map of inheritances");
        [0; 11]
    });
    Origin { facts: ProcessFacts::read(key.tgid), inherited }
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
