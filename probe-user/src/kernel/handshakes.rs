//! The maps of handshakes: those that have started, and how long others took.

use aya::maps::MapError;
use probe_common::{ConnectionKey, ContextKey, Handshake, Side, Times, TimesKey};

use super::{load::Kernel, table::Table};

/// Handshakes that may be under way on the host.
pub(super) const MOST_UNFINISHED: u32 = 65_536;

/// Both maps.
pub(super) struct HandshakeMaps {
    pub(super) unfinished: Table<ConnectionKey, Handshake>,
    pub(super) times: Table<TimesKey, Times>,
}

impl Kernel {
    /// Handshakes that have started and are not complete.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn unfinished(&self) -> Result<Vec<(ConnectionKey, Handshake)>, MapError> {
        self.handshakes.unfinished.entries()
    }

    /// How long those took that are complete, by context and side.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn times(&self) -> Result<Vec<(TimesKey, Times)>, MapError> {
        self.handshakes.times.entries()
    }

    /// How long those of a context took that has ended; they are told once.
    ///
    /// # Errors
    ///
    /// If the map cannot be read or changed.
    pub fn take_times(
        &mut self,
        context: &ContextKey,
        born_ns: u64,
        side: Side,
    ) -> Result<Option<Times>, MapError> {
        let key = TimesKey { context: *context, born_ns, side: side as u32, pad: 0 };
        let times = self.handshakes.times.get(&key)?;
        if times.is_some() {
            self.handshakes.times.remove(&key)?;
        }
        Ok(times)
    }

    /// Forgets a handshake that will not be complete.
    ///
    /// # Errors
    ///
    /// If the map cannot be changed.
    pub fn forget_handshake(&mut self, connection: &ConnectionKey) -> Result<(), MapError> {
        self.handshakes.unfinished.remove(connection)
    }
}
