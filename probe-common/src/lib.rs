//! What the kernel half and the user half of `sslsess` say to each other.
//!
//! Everything here crosses the boundary as bytes: `repr(C)`, fixed widths, no
//! `bool`, no `enum`, and no padding that is not a named field. The sizes are
//! asserted at compile time, because the two halves are built by different
//! compilers.
#![no_std]

mod block;
mod event;
mod handshake;
mod record;
mod spec;

pub use block::{COUNTERS, Counter, MirroredBlock};
pub use event::{EventKind, LifecycleEvent};
pub use handshake::{BOUNDS_NS, ConnectionKey, Handshake, Moment, Side, Times, TimesKey};
pub use record::{ContextKey, ContextRecord, ExeId, Fork, Inheritance, birth_flags, record_flags};
pub use spec::{
    Action, BlockLayout, NO_COUNTER, NO_FIELD, NO_REGISTER, OPENSSL_ORDER, ProbeSpec, Register,
    argument_flags,
};

/// Names of maps, programs and globals, as they stand in the BPF object.
pub mod names {
    /// Hash: [`ContextKey`](crate::ContextKey) to [`ContextRecord`](crate::ContextRecord).
    pub const CONTEXTS: &str = "CONTEXTS";
    /// Hash: [`ContextKey`](crate::ContextKey) to [`Inheritance`](crate::Inheritance).
    pub const INHERITED: &str = "INHERITED";
    /// LRU hash: tgid of a child to [`Fork`](crate::Fork).
    pub const FORKS: &str = "FORKS";
    /// Hash: tgid to the number of records ever made for it; says which exits matter.
    pub const PROCESSES: &str = "PROCESSES";
    /// Hash: [`ConnectionKey`](crate::ConnectionKey) to [`Handshake`](crate::Handshake).
    pub const HANDSHAKES: &str = "HANDSHAKES";
    /// Hash: [`TimesKey`](crate::TimesKey) to [`Times`](crate::Times).
    pub const TIMES: &str = "TIMES";
    /// Array: probe cookie to [`ProbeSpec`](crate::ProbeSpec).
    pub const PROBE_SPECS: &str = "PROBE_SPECS";
    /// Ring buffer of [`LifecycleEvent`](crate::LifecycleEvent).
    pub const LIFECYCLE: &str = "LIFECYCLE";
    /// Per-CPU array: [`Loss`](crate::Loss) to the number of times it happened.
    pub const LOSSES: &str = "LOSSES";

    /// The one uprobe program.
    pub const PROBE_POINT: &str = "probe_point";
    /// `sched_process_exit` where it says whether the whole group is dead (6.16).
    pub const PROCESS_EXIT: &str = "process_exit";
    /// `sched_process_exit` before 6.16.
    pub const THREAD_EXIT: &str = "thread_exit";
    /// `sched_process_exec`.
    pub const PROCESS_EXEC: &str = "process_exec";
    /// `sched_process_fork`.
    pub const PROCESS_FORK: &str = "process_fork";
    /// `sched_prepare_exec` (6.10): the old memory is still there.
    pub const PREPARE_EXEC: &str = "prepare_exec";

    /// Offset of `task_struct.group_leader`, 0 where unknown.
    pub const TASK_GROUP_LEADER: &str = "TASK_GROUP_LEADER";
    /// Offset of `task_struct.start_boottime`, 0 where unknown.
    pub const TASK_START_BOOTTIME: &str = "TASK_START_BOOTTIME";
    /// Offset of `task_struct.tgid`, 0 where unknown.
    pub const TASK_TGID: &str = "TASK_TGID";
    /// Offset of `task_struct.mm`, 0 where unknown.
    pub const TASK_MM: &str = "TASK_MM";
    /// Offset of `task_struct.signal`, 0 where unknown.
    pub const TASK_SIGNAL: &str = "TASK_SIGNAL";
    /// Offset of `signal_struct.nr_threads`, 0 where unknown.
    pub const SIGNAL_THREADS: &str = "SIGNAL_THREADS";
    /// Offset of `task_struct.flags`, 0 where unknown.
    pub const TASK_FLAGS: &str = "TASK_FLAGS";
    /// Offset of `mm_struct.exe_file`, 0 where unknown.
    pub const MM_EXE_FILE: &str = "MM_EXE_FILE";
    /// Offset of `file.f_inode`, 0 where unknown.
    pub const FILE_INODE: &str = "FILE_INODE";
    /// Offset of `inode.i_ino`, 0 where unknown.
    pub const INODE_NUMBER: &str = "INODE_NUMBER";
    /// Offset of `inode.i_sb`, 0 where unknown.
    pub const INODE_SUPER: &str = "INODE_SUPER";
    /// Offset of the seconds of an inode's `ctime`, 0 where unknown.
    pub const INODE_CTIME: &str = "INODE_CTIME";
    /// Offset of its nanoseconds, 0 where unknown.
    pub const INODE_CTIME_NS: &str = "INODE_CTIME_NS";
    /// Offset of `super_block.s_dev`, 0 where unknown.
    pub const SUPER_DEVICE: &str = "SUPER_DEVICE";
}

/// Things that were lost or refused in the kernel, counted where it happened.
///
/// A plain `u32` index into the map `LOSSES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Loss {
    /// A context was not recorded because `CONTEXTS` was full.
    ContextsFull = 0,
    /// A life-cycle event was not sent because the ring buffer was full.
    RingFull = 1,
    /// The memory of a context could not be read at a probe.
    ReadFailed = 2,
    /// A probe of another image hit a context, and was ignored.
    ForeignImage = 3,
    /// A probe fired whose cookie selects no probe point.
    UnknownProbe = 4,
    /// The final values of a context were overwritten by a new context at its
    /// address before the agent could collect them.
    FinalOverwritten = 5,
    /// Two CPUs kept changing one context; the copy may be older than its time.
    Unsettled = 6,
    /// The memory of a context could not be read where it may have ended; its
    /// last known values are shown as such.
    EndUnread = 7,
    /// A handshake was not timed because `HANDSHAKES` or `TIMES` was full.
    TimesFull = 8,
}

impl Loss {
    /// Every loss, in the order of its index.
    pub const ALL: [Self; 9] = [
        Self::ContextsFull,
        Self::RingFull,
        Self::ReadFailed,
        Self::ForeignImage,
        Self::UnknownProbe,
        Self::FinalOverwritten,
        Self::Unsettled,
        Self::EndUnread,
        Self::TimesFull,
    ];

    /// The name that metrics give it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ContextsFull => "contexts_full",
            Self::RingFull => "ring_full",
            Self::ReadFailed => "read_failed",
            Self::ForeignImage => "foreign_image",
            Self::UnknownProbe => "unknown_probe",
            Self::FinalOverwritten => "final_overwritten",
            Self::Unsettled => "unsettled",
            Self::EndUnread => "end_unread",
            Self::TimesFull => "times_full",
        }
    }
}
