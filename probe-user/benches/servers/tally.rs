//! How often the contexts of processes were hit, also those that are gone.

use std::collections::HashMap;

use sslsess::kernel::{Kernel, Lifecycle};

/// Hits of contexts that ended, by process.
#[derive(Default)]
pub(crate) struct Tally(HashMap<u32, u64>);

impl Tally {
    /// All that a process was hit until now.
    pub(crate) fn hits(&mut self, kernel: &mut Kernel, pid: u32) -> u64 {
        // One that ends between the two would be missing; the process is at rest.
        while let Some(event) = kernel.next_event() {
            if let Lifecycle::Ended(key, record, _) = event {
                *self.0.entry(key.tgid).or_default() += record.hits;
            }
        }
        let live = kernel.contexts().expect("they can be read");
        let live: u64 =
            live.iter().filter(|(key, _)| key.tgid == pid).map(|(_, record)| record.hits).sum();
        self.0.get(&pid).copied().unwrap_or(0) + live
    }
}
