//! Births and deaths, as the kernel half reports them.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use probe_common::{ContextKey, ContextRecord, EventKind, LifecycleEvent, record_flags};

use super::load::Kernel;

/// What happened, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// A context was seen for the first time.
    Born(ContextKey, ContextRecord),
    /// A context ended; the record holds its last values.
    Ended(ContextKey, ContextRecord, End),
    /// A process executed another program.
    Executed {
        /// Its thread group id.
        tgid: u32,
    },
    /// A thread of a process with contexts ended, perhaps the last one.
    ThreadExited {
        /// Its thread group id.
        tgid: u32,
    },
}

/// How a context ended, and how good its last values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `SSL_CTX_free` dropped the last reference: the values are final.
    Freed,
    /// The process exited; `final_values`: it was looked at after its last
    /// instruction, else the values are what the last probe saw.
    Exited {
        /// Whether the values are final.
        final_values: bool,
    },
    /// The process executed another program; `final_values`: it was looked at just
    /// before, and no other thread was left, else the values are what was last seen.
    Executed {
        /// Whether the values are final.
        final_values: bool,
    },
}

impl Lifecycle {
    /// Decodes the bytes of a ring buffer entry; `None` if they are none of ours.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let LifecycleEvent { kind, key, record, .. } = LifecycleEvent::from_bytes(bytes)?;
        let tgid = key.tgid;
        Some(match EventKind::from_raw(kind)? {
            EventKind::ContextBorn => Self::Born(key, record),
            EventKind::ContextFreed => Self::Ended(key, record, End::Freed),
            EventKind::ExitFinal => Self::Ended(key, record, End::Exited { final_values: true }),
            EventKind::ExitMirrored => {
                Self::Ended(key, record, End::Exited { final_values: false })
            }
            EventKind::ExecMirrored => {
                let final_values = record.flags & record_flags::LAST != 0;
                Self::Ended(key, record, End::Executed { final_values })
            }
            EventKind::ProcessExec => Self::Executed { tgid },
            EventKind::ThreadExit => Self::ThreadExited { tgid },
        })
    }
}

/// How the kernel half marked a record that it could not report.
#[must_use]
pub fn unreported_end(record: &ContextRecord) -> Option<End> {
    if record.flags & record_flags::ENDED == 0 {
        None
    } else if record.flags & record_flags::REFERENCES_KNOWN != 0 && record.block.references == 0 {
        Some(End::Freed)
    } else {
        // It ended with its process.
        Some(End::Exited { final_values: record.flags & record_flags::LAST != 0 })
    }
}

impl Kernel {
    /// The next event, if one is waiting; entries that are none of ours are skipped.
    pub fn next_event(&mut self) -> Option<Lifecycle> {
        while let Some(entry) = self.lifecycle.next() {
            if let Some(event) = Lifecycle::decode(&entry) {
                return Some(event);
            }
        }
        None
    }

    /// A file descriptor that becomes readable when events wait.
    ///
    /// # Errors
    ///
    /// If the process has no file descriptor left.
    pub fn event_fd(&self) -> io::Result<OwnedFd> {
        self.lifecycle.as_fd().try_clone_to_owned()
    }
}
