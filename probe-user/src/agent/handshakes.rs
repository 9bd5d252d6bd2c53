//! Brings what the kernel half has timed to the contexts that it is of.

use anyhow::Context as _;
use probe_common::{ContextKey, Side};
use tracing::warn;

use super::Agent;

impl Agent {
    /// Takes in how long handshakes took, and which are not complete.
    pub(super) fn time_handshakes(&mut self) -> anyhow::Result<()> {
        if !self.timed {
            return Ok(());
        }
        for (key, times) in self.kernel.times().context("cannot read the map of times")? {
            let Some(side) = side(key.side) else { continue };
            if self.registry.is_live(&key.context, key.born_ns) {
                self.registry.timed(&key.context, key.born_ns, side, &times);
            } else if self.is_past(&key.context, key.born_ns)? {
                self.take_times(&key.context, key.born_ns);
            }
        }
        self.registry.clear_unfinished();
        let unfinished = self.kernel.unfinished().context("cannot read the map of handshakes")?;
        for (connection, handshake) in unfinished {
            let Some(side) = side(handshake.side) else { continue };
            let context = ContextKey { tgid: connection.tgid, pad: 0, address: handshake.context };
            if self.registry.is_live(&context, handshake.born_ns) {
                self.registry.begun(&context, handshake.born_ns, side, handshake.start_ns);
            } else if self.is_past(&context, handshake.born_ns)? {
                self.registry.abandoned(&context, handshake.born_ns, side);
                self.kernel
                    .forget_handshake(&connection)
                    .context("cannot change the map of handshakes")?;
            }
        }
        Ok(())
    }

    /// A context has ended: what its handshakes took is final.
    pub(super) fn take_times(&mut self, key: &ContextKey, born_ns: u64) {
        if !self.timed {
            return;
        }
        for side in Side::BOTH {
            match self.kernel.take_times(key, born_ns, side) {
                Ok(Some(times)) => self.registry.timed(key, born_ns, side, &times),
                Ok(None) => {}
                Err(error) => warn!(%error, "cannot read the times of a context that has ended"),
            }
        }
    }

    /// Whether a context that does not live has, for certain: its birth may not have
    /// been reported yet.
    fn is_past(&self, key: &ContextKey, born_ns: u64) -> anyhow::Result<bool> {
        if self.registry.has_ended(key, born_ns) {
            return Ok(true);
        }
        let record = self.kernel.context(key).context("cannot read the map of contexts")?;
        Ok(record.is_none_or(|record| record.born_ns != born_ns))
    }
}

fn side(number: u32) -> Option<Side> {
    Side::BOTH.into_iter().find(|side| *side as u32 == number)
}
