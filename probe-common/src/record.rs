use core::mem::size_of;

use crate::{BlockLayout, MirroredBlock};

/// Which context of which process: the key of the map `CONTEXTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct ContextKey {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Zero.
    pub pad: u32,
    /// Address of the `SSL_CTX` in that process.
    pub address: u64,
}

const _: () = assert!(size_of::<ContextKey>() == 16);

/// What is known in the kernel of one live context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ContextRecord {
    /// `start_boottime` of the thread group's leader, nanoseconds of
    /// `CLOCK_BOOTTIME`; 0 where the kernel's layout could not be learnt. In a
    /// record that the agent made, rounded down to the tick that `/proc` shows.
    pub process_start_ns: u64,
    /// When the record was made, nanoseconds of `CLOCK_MONOTONIC`; tells two
    /// contexts at one address apart.
    pub born_ns: u64,
    /// Just before the block was read, nanoseconds of `CLOCK_MONOTONIC`.
    pub observed_ns: u64,
    /// How many probes have hit this context.
    pub hits: u64,
    /// When the last one did, nanoseconds of `CLOCK_MONOTONIC`.
    pub hit_ns: u64,
    /// The values at `observed_ns`: the present ones if every change has a probe
    /// (`Action::Mirror`).
    pub block: MirroredBlock,
    /// The image of the library; no other image's probe may change the record.
    pub image: u32,
    /// See [`record_flags`].
    pub flags: u32,
    /// `comm` of the thread that was seen first.
    pub comm: [u8; 16],
    /// Where this context's fields are: what the image's probes know, kept for
    /// looks that no probe of the image causes (exit, exec, fork).
    pub layout: BlockLayout,
    /// See [`birth_flags`]: what was so when the record was made.
    pub birth: u32,
    /// What the process executed then; all zero where it could not be learnt.
    pub exe: ExeId,
}

const _: () = assert!(size_of::<ContextRecord>() == 176);

/// An executable file. A file that gets another one's inode number later was
/// changed later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct ExeId {
    /// `i_ino`.
    pub inode: u64,
    /// Seconds of `ctime`.
    pub changed_s: u64,
    /// Nanoseconds of `ctime`.
    pub changed_ns: u32,
    /// `s_dev` of its file system.
    pub device: u32,
}

const _: () = assert!(size_of::<ExeId>() == 24);

/// What a fork gave to a context of the child: another process counted that.
/// The value of the map `INHERITED`, which has the same keys as `CONTEXTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Inheritance {
    /// `ContextRecord::born_ns` of the context that it is about; a later one at
    /// the same address inherited nothing.
    pub born_ns: u64,
    /// The counters at the fork, in the order of the record's block.
    pub counters: [i32; 11],
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Inheritance>() == 56);

/// Which process forked which: the value of the map `FORKS`, by the child's tgid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fork {
    /// Start of the child, nanoseconds of `CLOCK_BOOTTIME`.
    pub child_start_ns: u64,
    /// Start of the process that forked.
    pub forker_start_ns: u64,
    /// When it forked, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The process that forked, which need not be the parent.
    pub forker: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Fork>() == 32);

/// Bits of [`ContextRecord::birth`].
pub mod birth_flags {
    /// The process was forked and has not executed a program since: what its
    /// memory holds may be its parent's.
    pub const FORKED: u32 = 1 << 0;
    /// Whether it was is known.
    pub const FORKED_KNOWN: u32 = 1 << 1;
    /// From this bit on stands one more than the [`Counter`](crate::Counter) that
    /// the process had just added one to, as the record was made, for certain and
    /// no other; 0: not known.
    pub const COUNTED_SHIFT: u32 = 8;
}

/// Bits of [`ContextRecord::flags`].
pub mod record_flags {
    /// `block.number` was read.
    pub const NUMBER_KNOWN: u32 = 1 << 0;
    /// `block.references` was read.
    pub const REFERENCES_KNOWN: u32 = 1 << 1;
    /// The context is gone and these are its last values; they stay in the map
    /// because the event that carries them could not be sent.
    pub const ENDED: u32 = 1 << 2;
    /// The memory at the address may not be the context's any more: its process
    /// is about to execute another program, or the look at what may have been
    /// its end failed. The next probe that sees it clears this.
    pub const UNSURE: u32 = 1 << 3;
    /// The agent made the record, of a context that it found in memory, or a fork
    /// copied such a record; no probe has seen the context since. Whether it is
    /// one, the agent alone says: it looks once more after it has made the record.
    pub const FOUND: u32 = 1 << 4;
    /// The block was read when nobody could count any more: as the process ended, or
    /// as its only thread was about to execute another program.
    pub const LAST: u32 = 1 << 5;
}
