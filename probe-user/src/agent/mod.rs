//! The agent: discovers, attaches, follows lives, and says what is known.

mod alarm;
pub mod companion;
mod forks;
mod handshakes;
pub mod idle;
pub mod images;
mod inodes;
mod learner;
mod look;
mod losses;
mod present;
pub mod probes;
mod ready;
mod reap;
mod settling;
mod targets;
pub mod task;
mod usage;
pub mod watch;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use probe_common::{ContextKey, ContextRecord, Counter, birth_flags, record_flags};
use tracing::{debug, info, warn};

use self::{
    forks::Execs,
    idle::{Idle, ScanOptions},
    images::Images,
    settling::Settling,
    targets::LastEvents,
};
use crate::{
    context::{
        Begins, Observation, Origin, Registry, Source, groups::GroupBy, registry::Retention,
        settings::Settings,
    },
    host::{Discovery, LiveMemory, ProcessMemory, Programs, clock},
    image::{PlanOptions, ProbePoints},
    kernel::{
        Kernel, LastLooks, Lifecycle, LinkChoice, LoadOptions, Mappings,
        events::{End, unreported_end},
    },
    snapshot::{Scraped, Snapshot, Wanted},
};

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Only these processes; empty: all.
    pub pids: HashSet<u32>,
    /// Which probes there are.
    pub plan: PlanOptions,
    /// How they are attached.
    pub links: LinkChoice,
    /// How many live contexts are recorded at most.
    pub max_contexts: u32,
    /// How long ended contexts are kept, and how many of them.
    pub retention: Retention,
    /// What the sums are by.
    pub group_by: GroupBy,
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
    programs: Programs,
    execs: Execs,
    idle: Option<Idle>,
    settling: Settling,
    memory: Box<dyn ProcessMemory + Send>,
    pids: HashSet<u32>,
    /// Handshakes are timed.
    timed: bool,
    release: String,
    /// Processes are to be looked at: one may have ended, or executes another
    /// program and the kernel does not tell what it maps.
    changed: bool,
    last_events: LastEvents,
    /// When what the kernel half keeps of processes was looked through.
    swept: Instant,
    /// When the last tick was, and the last listing of the processes.
    ticked: Instant,
    listed: Instant,
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
        let kernel = Kernel::load(LoadOptions {
            max_contexts: options.max_contexts,
            links: options.links,
            timed: options.plan.points.time_handshakes(),
        })?;
        let mut plan = options.plan;
        let LastLooks { exit, exec } = kernel.last_looks();
        if !exit {
            warn!(
                "before Linux 6.16, values of a process that exits are those that its last probe saw"
            );
        }
        if !(exit && exec) && plan.points != ProbePoints::All {
            info!("this kernel shows no memory of processes that end: all changes have probes");
            plan.points = ProbePoints::All;
        }
        if plan.points == ProbePoints::Auto && options.scan.is_none() {
            // Nobody would find out when all contexts are known.
            plan.points = ProbePoints::Starts;
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
            images: Images::new(plan, options.release_after),
            release_after: options.release_after,
            registry: Registry::new(options.retention, options.group_by),
            programs: Programs::default(),
            execs: Execs::default(),
            idle: idle.context("cannot start the scan")?,
            settling: Settling::default(),
            memory,
            pids: options.pids,
            timed: options.plan.points.time_handshakes(),
            release: kernel_release(),
            changed: false,
            last_events: LastEvents::default(),
            swept: Instant::now(),
            ticked: Instant::now(),
            listed: Instant::now(),
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
                    self.admit(key, &record);
                    self.read_settings(&key, &record);
                }
                // It ended before the agent could say whether it was one.
                Lifecycle::Ended(key, record, _) if !self.is_believed(&key, &record) => {}
                Lifecycle::Ended(key, record, end) => self.conclude(key, &record, end),
                Lifecycle::Executed { tgid } => {
                    self.programs.executed(tgid);
                    self.execs.note(tgid, clock::monotonic_ns());
                    self.images.executed(tgid);
                    self.idle.iter_mut().for_each(|idle| idle.forget(tgid));
                    self.settling.gone(tgid);
                    // Else what it maps now is reported.
                    self.changed |= self.mappings.is_none();
                }
                Lifecycle::ThreadExited { .. } => self.changed = true,
            }
        }
        self.changed
    }

    /// A context is met, if it is not known yet.
    fn admit(&mut self, key: ContextKey, record: &ContextRecord) {
        let Self { kernel, programs, images, registry, .. } = self;
        registry.born(key, record, || origin(kernel, programs, images, &key, record));
    }

    /// A context has ended; it may not be known yet.
    fn conclude(&mut self, key: ContextKey, record: &ContextRecord, end: End) {
        // Before it ends, if it is known: then it may be forgotten.
        let known = self.registry.is_live(&key, record.born_ns);
        if known {
            self.take_times(&key, record.born_ns);
        }
        let Self { kernel, programs, images, registry, .. } = self;
        registry.end(key, record, end, || origin(kernel, programs, images, &key, record));
        if !known {
            self.take_times(&key, record.born_ns);
        }
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
        self.snapshot_of(Wanted::All)
    }

    /// As [`Self::snapshot`], with the contexts that are wanted. Sums and counts are
    /// of all.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read.
    pub fn snapshot_of(&mut self, wanted: Wanted) -> anyhow::Result<Snapshot> {
        self.list_anew();
        // What is listed here may end before its turn comes.
        self.registry.hold();
        let snapshot = self.take_stock().and_then(|()| self.build(wanted));
        self.registry.release();
        snapshot
    }

    /// A scrape has shown these of the contexts that had ended when its snapshot
    /// was taken.
    pub fn scraped(&mut self, scraped: &Scraped) {
        self.registry.scraped(&scraped.shown, scraped.until);
    }

    /// Brings the registry up to date.
    fn take_stock(&mut self) -> anyhow::Result<()> {
        let records = self.kernel.contexts().context("cannot read the map of contexts")?;
        // First what was reported: whoever had the address of a listed context
        // before was reported to have ended before that one was recorded. The
        // other way round, the birth of an earlier one would seem to come later.
        self.handle_events();
        for (key, record) in &records {
            let believed = self.is_believed(key, record);
            self.last_events.note(record);
            match unreported_end(record) {
                Some(end) => {
                    if believed {
                        self.conclude(*key, record, end);
                    }
                    self.forget_context(key, record.born_ns);
                }
                None if !believed => self.admit_copy(key, record),
                None => {
                    let known = self.registry.is_live(key, record.born_ns);
                    if !known && self.registry.has_ended(key, record.born_ns) {
                        continue;
                    }
                    // Its birth was reported, as a rule; a record says as much.
                    self.admit(*key, record);
                    let seen = Observation::of_record(record, Source::Probe);
                    self.registry.see(key, record.born_ns, seen);
                }
            }
        }
        self.look()?;
        self.time_handshakes()?;
        self.examine_forks()
    }

    /// Removes every probe; returns when the last one is gone.
    pub fn stop(mut self) {
        self.kernel.detach_all();
    }
}

/// What is looked up when a context is met.
fn origin(
    kernel: &mut Kernel,
    programs: &mut Programs,
    images: &Images,
    key: &ContextKey,
    record: &ContextRecord,
) -> Origin {
    let facts = programs.of(key.tgid, record, || images.facts(key.tgid));
    let path = images.image(record.image).map(|image| image.path.to_string_lossy());
    let begins = match kernel.take_inheritance(key, record.born_ns) {
        Ok(Some(block)) => Begins::Inherited(block),
        Ok(None) => begins(record, facts.forked),
        Err(error) => {
            warn!(%error, "cannot read the map of inheritances");
            Begins::Unproven { counted: None }
        }
    };
    let lags = images.changes_unseen(record.image);
    Origin { facts, library: path.unwrap_or_default().into_owned(), begins, lags }
}

/// Whose the counts are of a context to which no fork that was seen gave anything:
/// those of a process that was forked before the agent came, or whose parent had
/// contexts that no probe had seen yet, may be the parent's.
fn begins(record: &ContextRecord, forked: Option<bool>) -> Begins {
    let birth = record.birth;
    // What the kernel half says was so at that very moment.
    let told = birth & birth_flags::FORKED_KNOWN != 0;
    let forked = if told { Some(birth & birth_flags::FORKED != 0) } else { forked };
    if forked == Some(false) {
        return Begins::Own;
    }
    let counted = (birth >> birth_flags::COUNTED_SHIFT).checked_sub(1);
    let counted = counted.and_then(|counter| Counter::from_raw(u8::try_from(counter).ok()?));
    Begins::Unproven { counted }
}

/// The kernel's release, as `uname -r` shows it.
fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.release().to_string_lossy().into_owned())
}
