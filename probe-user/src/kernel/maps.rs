//! Reads and prunes the maps.

use aya::maps::MapError;
use probe_common::{ContextKey, ContextRecord, Fork, Loss, record_flags};

use super::{load::Kernel, table::absent_is_fine};

/// "Make it if it is not there" (include/uapi/linux/bpf.h).
const BPF_NOEXIST: u64 = 1;

/// What became of a record that the agent made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It is there.
    Made,
    /// There is one already.
    Known,
    /// There is no room for it.
    NoRoom,
}

impl Kernel {
    /// Every record, as it is now.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn contexts(&self) -> Result<Vec<(ContextKey, ContextRecord)>, MapError> {
        self.contexts.entries()
    }

    /// One record; `None` if it is not there (any more).
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn context(&self, key: &ContextKey) -> Result<Option<ContextRecord>, MapError> {
        self.contexts.get(key)
    }

    /// What a fork gave to a context, which is told once; `None`: no fork that was
    /// seen gave it anything.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn take_inheritance(
        &mut self,
        key: &ContextKey,
        born_ns: u64,
    ) -> Result<Option<[i32; 11]>, MapError> {
        let share = match self.inherited.get(key, 0) {
            Ok(share) => share,
            Err(MapError::KeyNotFound | MapError::ElementNotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        absent_is_fine(self.inherited.remove(key))?;
        Ok((share.born_ns == born_ns).then_some(share.counters))
    }

    /// Who forked a process; `None`: it was not seen, or is forgotten.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn fork_of(&self, child: u32) -> Result<Option<Fork>, MapError> {
        match self.forks.get(&child, 0) {
            Ok(fork) => Ok(Some(fork)),
            Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the record of a context that the agent has found: from here on its end,
    /// its process's end, forks and execs are reported as of any other.
    ///
    /// # Errors
    ///
    /// If the maps cannot be changed.
    pub fn adopt_context(
        &mut self,
        key: &ContextKey,
        record: &ContextRecord,
    ) -> Result<Adopted, MapError> {
        // First the process, as the kernel half does it: its end is looked at if it is there.
        let made = self
            .processes
            .insert(key.tgid, 1, 0)
            .and_then(|()| self.contexts.insert(key, record, BPF_NOEXIST));
        match made {
            Ok(()) => Ok(Adopted::Made),
            Err(MapError::SyscallError(error)) => match error.io_error.raw_os_error() {
                Some(nix::libc::EEXIST) => Ok(Adopted::Known),
                Some(nix::libc::E2BIG) => Ok(Adopted::NoRoom),
                _ => Err(MapError::SyscallError(error)),
            },
            Err(error) => Err(error),
        }
    }

    /// Takes back a record that [`Self::adopt_context`] has made, unless a probe has
    /// seen the context since, or it has ended.
    ///
    /// Between the look and the removal, that context would have to end, another one
    /// be made at its address and finish a handshake: then the newer record would go.
    ///
    /// # Errors
    ///
    /// If the map cannot be changed.
    pub fn take_back_context(&mut self, key: &ContextKey, born_ns: u64) -> Result<(), MapError> {
        let unseen = |record: ContextRecord| {
            record.born_ns == born_ns && record.flags & record_flags::FOUND != 0
        };
        if self.context(key)?.is_some_and(unseen) {
            self.contexts.remove(key)?;
        }
        Ok(())
    }

    /// Forgets a context that has ended, and not another one that has its address by
    /// now.
    ///
    /// # Errors
    ///
    /// If the map cannot be changed.
    pub fn forget_context(&mut self, key: &ContextKey, born_ns: u64) -> Result<(), MapError> {
        if self.context(key)?.is_some_and(|record| record.born_ns == born_ns) {
            self.contexts.remove(key)?;
        }
        Ok(())
    }

    /// The processes of which there were records.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn processes(&self) -> Result<Vec<u32>, MapError> {
        self.processes.keys().collect()
    }

    /// Forgets a process that has ended.
    ///
    /// # Errors
    ///
    /// If the map cannot be changed.
    pub fn forget_process(&mut self, tgid: u32) -> Result<(), MapError> {
        absent_is_fine(self.processes.remove(&tgid))
    }

    /// How often each thing was lost or refused in the kernel, over all CPUs.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn losses(&self) -> Result<Vec<(Loss, u64)>, MapError> {
        Loss::ALL
            .into_iter()
            .map(|loss| Ok((loss, self.losses.get(&(loss as u32), 0)?.iter().sum())))
            .collect()
    }
}
