//! Whether a task has begun or ended anywhere on the host.

use std::{fs::File, os::unix::fs::FileExt as _};

/// What tells: `0.17 1.23 1.72 1/90 18648` are three loads, how many tasks run, how many
/// there are, and the newest pid.
const LOADAVG: &str = "/proc/loadavg";

/// A line of it is shorter than this.
const LONGEST: usize = 128;

/// How many tasks there are and which is the newest, when it was last looked at.
///
/// Every task takes a number in the namespace of `/proc`, also one that has a namespace
/// of its own. This is asked every few seconds, for good: it is one system call, and
/// nothing is parsed.
#[derive(Default)]
pub(super) struct Census {
    file: Option<File>,
    seen: Option<Vec<u8>>,
}

impl Census {
    /// Whether a task has begun or ended since the last time; also if that cannot be told.
    pub(super) fn has_changed(&mut self) -> bool {
        let now = self.take();
        let changed = now.is_none() || now != self.seen;
        self.seen = now;
        changed
    }

    /// The next time, something has changed.
    pub(super) fn forget(&mut self) {
        self.seen = None;
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        if self.file.is_none() {
            self.file = File::open(LOADAVG).ok();
        }
        let mut line = [0; LONGEST];
        let length = self.file.as_ref()?.read_at(&mut line, 0).ok()?;
        // How many run is before the slash.
        let slash = line[..length].iter().position(|byte| *byte == b'/')?;
        Some(line[slash..length].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_task_changes_it() {
        let mut census = Census::default();
        assert!(census.has_changed());
        for _ in 0..3 {
            Command::new("/bin/true").status().expect("it runs");
            assert!(census.has_changed());
        }
    }

    /// Others begin and end tasks here, too: it is quiet at some time.
    #[test]
    fn without_one_it_is_the_same() {
        let mut census = Census::default();
        assert!((0..100_000).any(|_| !census.has_changed()));
        census.forget();
        assert!(census.has_changed());
    }
}
