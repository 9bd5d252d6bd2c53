//! Loads the BPF programs, and attaches the tracepoints.

use std::{fs, hash::Hash};

use aya::{
    Btf, Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap as BpfHashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, ProgramError, UProbe},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use probe_common::{ContextKey, ContextRecord, Fork, Inheritance, ProbeSpec, names};
use thiserror::Error;
use tracing::{debug, warn};

use super::{
    attach::{Attachments, LinkChoice},
    btf::{self, BtfError, KernelTypes, TaskOffsets},
    handshakes::{HandshakeMaps, MOST_UNFINISHED},
    multi::MultiProgram,
    table::Table,
};

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SSLSESS_BPF_OBJECT"));

/// Why the kernel half could not be set up.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The kernel does not show its type information.
    #[error("cannot read {}: {source}; the kernel needs CONFIG_DEBUG_INFO_BTF=y", btf::VMLINUX)]
    NoBtf {
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The kernel's type information is not understood.
    #[error(
        "cannot use the kernel's type information: {0}; this version does not know this kernel"
    )]
    Btf(#[from] BtfError),
    /// The kernel's type information is not understood by the loader.
    #[error("cannot use the kernel's type information: {0}")]
    LoaderBtf(#[from] aya::BtfError),
    /// The object or its maps were refused.
    #[error("the kernel refuses the BPF object: {0}; `sslsess check` says what is missing")]
    Object(#[from] aya::EbpfError),
    /// A program was refused.
    #[error("the kernel refuses the BPF program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// Why, with the verifier's words.
        #[source]
        source: ProgramError,
    },
    /// The object lacks a map or a program: it was not built from this source.
    #[error("the BPF object has no {0}: build it anew with `cargo xtask build`")]
    Incomplete(&'static str),
    /// The process has no file descriptor left.
    #[error("no file descriptor is left: {0}; raise the limit (ulimit -n)")]
    NoFile(std::io::Error),
    /// A map is not of the type that it should be.
    #[error("a map of the BPF object is not as expected: {0}")]
    Map(#[from] MapError),
}

/// What can be chosen when loading.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// How many live contexts the kernel keeps records of.
    pub max_contexts: u32,
    /// How probes are attached.
    pub links: LinkChoice,
    /// Whether there is to be room for the times of handshakes.
    pub timed: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { max_contexts: 65_536, links: LinkChoice::Auto, timed: false }
    }
}

/// Log lines of the BPF programs, on their way to the `log` crate's logger.
pub type BpfLog = aya_log::EbpfLogger<&'static dyn log::Log>;

/// The kernel half, loaded.
pub struct Kernel {
    pub(super) ebpf: Ebpf,
    /// `None`: the kernel has no links for many probes.
    pub(super) multi: Option<MultiProgram>,
    pub(super) contexts: Table<ContextKey, ContextRecord>,
    pub(super) handshakes: HandshakeMaps,
    pub(super) inherited: BpfHashMap<MapData, ContextKey, Inheritance>,
    pub(super) processes: BpfHashMap<MapData, u32, u32>,
    pub(super) forks: BpfHashMap<MapData, u32, Fork>,
    pub(super) specs: Array<MapData, ProbeSpec>,
    pub(super) losses: PerCpuArray<MapData, u64>,
    pub(super) lifecycle: RingBuf<MapData>,
    pub(super) attachments: Attachments,
    last_looks: LastLooks,
    /// There is room for the times of handshakes.
    pub(super) timed: bool,
}

/// At which ends of a process the kernel still shows its memory: then the last
/// values of its contexts are final, else what the last probe saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastLooks {
    /// When it exits (Linux 6.16).
    pub exit: bool,
    /// When it executes another program (6.10).
    pub exec: bool,
}

impl Kernel {
    /// Loads all programs, and attaches those that need no library.
    ///
    /// # Errors
    ///
    /// If the kernel lacks something that nothing replaces.
    pub fn load(options: LoadOptions) -> Result<Self, LoadError> {
        // Needed before 5.11 only; where it is refused, it is not needed either.
        if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, u64::MAX, u64::MAX) {
            debug!(%error, "RLIMIT_MEMLOCK stays as it is");
        }
        // Each probe takes two file descriptors.
        let raised = getrlimit(Resource::RLIMIT_NOFILE)
            .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
        if let Err(error) = raised {
            debug!(%error, "RLIMIT_NOFILE stays as it is");
        }
        let data = fs::read(btf::VMLINUX).map_err(|source| LoadError::NoBtf { source })?;
        let offsets = TaskOffsets::of(&KernelTypes::parse(&data)?);
        let btf = Btf::parse(&data, aya::Endianness::default())?;
        let mut ebpf = load_probe(&btf, &options, &offsets).or_else(|error| {
            // What names the program is many pointers away.
            debug!(%error, "once more, without asking for the executable");
            load_probe(&btf, &options, &offsets.without_exe())
        })?;
        let multi = match options.links {
            LinkChoice::OneByOne => None,
            LinkChoice::Auto => MultiProgram::load(OBJECT, &ebpf, names::PROBE_POINT)
                .inspect_err(|error| debug!(%error, "probes are attached one by one"))
                .ok(),
        };
        let last_looks = attach_tracepoints(&mut ebpf, &btf)?;
        Ok(Self {
            contexts: table(&mut ebpf, names::CONTEXTS)?,
            handshakes: HandshakeMaps {
                unfinished: table(&mut ebpf, names::HANDSHAKES)?,
                times: table(&mut ebpf, names::TIMES)?,
            },
            inherited: map(&mut ebpf, names::INHERITED)?.try_into()?,
            processes: map(&mut ebpf, names::PROCESSES)?.try_into()?,
            forks: map(&mut ebpf, names::FORKS)?.try_into()?,
            specs: map(&mut ebpf, names::PROBE_SPECS)?.try_into()?,
            losses: map(&mut ebpf, names::LOSSES)?.try_into()?,
            lifecycle: map(&mut ebpf, names::LIFECYCLE)?.try_into()?,
            attachments: Attachments::default(),
            ebpf,
            multi,
            last_looks,
            timed: options.timed,
        })
    }

    /// At which ends of a process its memory can still be read.
    #[must_use]
    pub fn last_looks(&self) -> LastLooks {
        self.last_looks
    }

    /// Lets the log lines of the BPF programs through to `tracing`.
    pub fn forward_logs(&mut self) -> Option<BpfLog> {
        aya_log::EbpfLogger::init(&mut self.ebpf)
            .inspect_err(|error| debug!(%error, "no log lines from the BPF programs"))
            .ok()
    }
}

/// Loads the object and its uprobe program.
fn load_probe(btf: &Btf, options: &LoadOptions, at: &TaskOffsets) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .map_max_entries(names::CONTEXTS, options.max_contexts)
        .map_max_entries(names::INHERITED, options.max_contexts)
        .map_max_entries(names::PROCESSES, options.max_contexts);
    if options.timed {
        // A context may have both sides.
        let sides = options.max_contexts.saturating_mul(2);
        loader
            .map_max_entries(names::HANDSHAKES, MOST_UNFINISHED)
            .map_max_entries(names::TIMES, sides);
    }
    let globals = [
        (names::TASK_GROUP_LEADER, &at.group_leader),
        (names::TASK_START_BOOTTIME, &at.start_boottime),
        (names::TASK_TGID, &at.tgid),
        (names::TASK_MM, &at.mm),
        (names::TASK_SIGNAL, &at.signal),
        (names::SIGNAL_THREADS, &at.threads),
        (names::TASK_FLAGS, &at.flags),
        (names::MM_EXE_FILE, &at.exe_file),
        (names::FILE_INODE, &at.inode),
        (names::INODE_NUMBER, &at.inode_number),
        (names::INODE_SUPER, &at.inode_super),
        (names::INODE_CTIME, &at.inode_ctime),
        (names::INODE_CTIME_NS, &at.inode_ctime_ns),
        (names::SUPER_DEVICE, &at.super_device),
    ];
    for (name, offset) in globals {
        loader.override_global(name, offset, true);
    }
    let mut ebpf = loader.load(OBJECT)?;
    let probe: &mut UProbe = program(&mut ebpf, names::PROBE_POINT)?;
    probe.load().map_err(|source| LoadError::Program { name: names::PROBE_POINT, source })?;
    Ok(ebpf)
}

fn table<K: Pod + Eq + Hash, V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<Table<K, V>, LoadError> {
    Table::new(map(ebpf, name)?, name)
}

fn map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or(LoadError::Incomplete(name))
}

fn program<'e, P>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut P, LoadError>
where
    &'e mut P: TryFrom<&'e mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(LoadError::Incomplete(name))?
        .try_into()
        .map_err(|source| LoadError::Program { name, source })
}

/// Attaches what watches processes; says which of their ends show final values.
fn attach_tracepoints(ebpf: &mut Ebpf, btf: &Btf) -> Result<LastLooks, LoadError> {
    let mut attach = |name: &'static str, tracepoint: &str| -> Result<(), LoadError> {
        let program: &mut BtfTracePoint = program(ebpf, name)?;
        program
            .load(tracepoint, btf)
            .and_then(|()| program.attach().map(drop))
            .map_err(|source| LoadError::Program { name, source })
    };
    // Before 6.16 the tracepoint has no second argument, and the verifier
    // refuses the program that reads it.
    let exit = match attach(names::PROCESS_EXIT, "sched_process_exit") {
        Ok(()) => true,
        Err(error) => {
            debug!(%error, "the exit of a process does not show its memory");
            attach(names::THREAD_EXIT, "sched_process_exit")?;
            false
        }
    };
    attach(names::PROCESS_EXEC, "sched_process_exec")?;
    attach(names::PROCESS_FORK, "sched_process_fork")?;
    let exec = attach(names::PREPARE_EXEC, "sched_prepare_exec").inspect_err(|error| {
        warn!(%error, "no last look before exec: values of a program that execs may lag");
    });
    Ok(LastLooks { exit, exec: exec.is_ok() })
}
