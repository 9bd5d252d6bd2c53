//! Reads and prunes the maps.

use std::collections::BTreeMap;

use aya::maps::MapError;
use probe_common::{ContextKey, ContextRecord, Loss};

use super::load::Kernel;

impl Kernel {
    /// Every record, as it is now.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn contexts(&self) -> Result<Vec<(ContextKey, ContextRecord)>, MapError> {
        // A key that is deleted during the walk makes the kernel begin anew:
        // what is found twice is kept once.
        let mut found = BTreeMap::new();
        for entry in &self.contexts {
            match entry {
                Ok((key, record)) => {
                    found.insert(key, record);
                }
                Err(MapError::KeyNotFound | MapError::ElementNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found.into_iter().collect())
    }

    /// One record; `None` if it is not there (any more).
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn context(&self, key: &ContextKey) -> Result<Option<ContextRecord>, MapError> {
        match self.contexts.get(key, 0) {
            Ok(record) => Ok(Some(record)),
            Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a fork gave to a context, which is told once; zeros if nothing.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn take_inheritance(
        &mut self,
        key: &ContextKey,
        born_ns: u64,
    ) -> Result<[i32; 11], MapError> {
        let share = match self.inherited.get(key, 0) {
            Ok(share) => share,
            Err(MapError::KeyNotFound | MapError::ElementNotFound) => return Ok([0; 11]),
            Err(error) => return Err(error),
        };
        absent_is_fine(self.inherited.remove(key))?;
        Ok(if share.born_ns == born_ns { share.counters } else { [0; 11] })
    }

    /// Forgets a context that has ended.
    ///
    /// # Errors
    ///
    /// If the map cannot be changed.
    pub fn forget_context(&mut self, key: &ContextKey) -> Result<(), MapError> {
        absent_is_fine(self.contexts.remove(key))
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

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}
