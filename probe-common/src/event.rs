use core::mem::size_of;

use crate::{ContextKey, ContextRecord};

/// What happened to a context or a process. A plain `u32` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A context was seen for the first time.
    ContextBorn = 1,
    /// `SSL_CTX_free` dropped the last reference; the record holds the final values.
    ContextFreed = 2,
    /// The process ended; the record holds the final values.
    ExitFinal = 3,
    /// The process ended and its memory could not be read any more; the record
    /// holds what the last probe saw.
    ExitMirrored = 4,
    /// The process executed another program; the record holds the last values seen,
    /// which are final if it says so (`record_flags::LAST`).
    ExecMirrored = 5,
    /// The process executed another program. No record: a call to look at its mappings.
    ProcessExec = 6,
    /// A thread of a process with contexts ended, and the kernel does not say
    /// whether it was the last one. No record: a call to look.
    ThreadExit = 7,
}

impl EventKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::ContextBorn,
            2 => Self::ContextFreed,
            3 => Self::ExitFinal,
            4 => Self::ExitMirrored,
            5 => Self::ExecMirrored,
            6 => Self::ProcessExec,
            7 => Self::ThreadExit,
            _ => return None,
        })
    }
}

/// One message of the ring buffer `LIFECYCLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LifecycleEvent {
    /// An [`EventKind`].
    pub kind: u32,
    /// Zero.
    pub pad: u32,
    /// When it happened, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The context; its address is 0 where the event is about a process.
    pub key: ContextKey,
    /// The context's record; all zero where the event is about a process.
    pub record: ContextRecord,
}

const _: () = assert!(size_of::<LifecycleEvent>() == 208);

impl LifecycleEvent {
    /// Reads an event from the bytes of a ring buffer entry.
    ///
    /// `None` if the length is not that of an event: the two halves were not
    /// built from the same source.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, the read is unaligned, and every bit
        // pattern is a valid `LifecycleEvent` (integers only).
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}
