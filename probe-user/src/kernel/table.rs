//! A hash map of the kernel half: what aya does with it, and all entries at once.

use std::{
    collections::HashMap,
    hash::Hash,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, Map, MapData, MapError},
};
use tracing::debug;

use super::{batch, load::LoadError};

/// A map from keys to values.
pub(super) struct Table<K, V> {
    map: BpfHashMap<MapData, K, V>,
    /// The same map, for what aya does not do with it.
    fd: OwnedFd,
}

impl<K: Pod + Eq + Hash, V: Pod> Table<K, V> {
    /// # Errors
    ///
    /// If the map is no such map, or no file descriptor is left.
    pub(super) fn new(map: Map, name: &'static str) -> Result<Self, LoadError> {
        let Map::HashMap(data) = &map else { return Err(LoadError::Incomplete(name)) };
        let fd = data.fd().as_fd().try_clone_to_owned().map_err(LoadError::NoFile)?;
        Ok(Self { map: map.try_into()?, fd })
    }

    /// Every entry, as it is now.
    pub(super) fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        match batch::entries(&self.fd) {
            Ok(found) => return Ok(found),
            Err(error) => debug!(%error, "entries are read one by one"),
        }
        // A key that is deleted during the walk makes the kernel begin anew:
        // what is found twice is kept once.
        let mut found = HashMap::new();
        for entry in &self.map {
            match entry {
                Ok((key, value)) => {
                    found.insert(key, value);
                }
                Err(error) => absent_is_fine(Err(error))?,
            }
        }
        Ok(found.into_iter().collect())
    }

    /// One value; `None` if it is not there (any more).
    pub(super) fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(error) => absent_is_fine(Err(error)).map(|()| None),
        }
    }

    pub(super) fn insert(&mut self, key: &K, value: &V, flags: u64) -> Result<(), MapError> {
        self.map.insert(key, value, flags)
    }

    /// Removes an entry, if it is there.
    pub(super) fn remove(&mut self, key: &K) -> Result<(), MapError> {
        absent_is_fine(self.map.remove(key))
    }
}

/// That something is not there (any more) is no error.
pub(super) fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
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
