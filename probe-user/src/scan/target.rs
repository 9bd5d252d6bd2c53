//! A process, and the library in it whose contexts are looked for.

use std::{collections::BTreeSet, fs, io};

use procfs::process::{MMPermissions, Process};

use super::pattern::{Pattern, Verdict};
use crate::{
    host::{ProcessFacts, ProcessMemory, files::FileId, process::live_thread},
    image::Marks,
};

/// Which contexts are looked for: those of one library in one process.
#[derive(Clone, Debug)]
pub struct Target {
    /// The process.
    pub pid: u32,
    /// Its start: another process of this pid is not it.
    pub start_time_ticks: u64,
    /// The image of the library.
    pub image: u32,
    /// The marks, once for each time that the process maps the library.
    pub patterns: Vec<Pattern>,
}

impl Target {
    /// Looks where a process maps a library. `None`: it does not (any more), or is gone.
    #[must_use]
    pub fn of(pid: u32, image: u32, library: FileId, marks: &Marks) -> Option<Self> {
        let start_time_ticks = ProcessFacts::read(pid).start_time_ticks?;
        let bases = bases(pid, library, marks).ok()?;
        let patterns: Vec<Pattern> =
            bases.into_iter().map(|base| Pattern::at(marks, base)).collect();
        (!patterns.is_empty()).then_some(Self { pid, start_time_ticks, image, patterns })
    }

    /// Whether the process that is meant still runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        ProcessFacts::is_alive(self.pid, Some(self.start_time_ticks))
    }

    /// Whether there is an `SSL_CTX` of this library at an address now.
    #[must_use]
    pub fn holds(&self, memory: &dyn ProcessMemory, address: u64) -> bool {
        self.judge(memory, address) == Verdict::Context && self.runs()
    }

    /// What is at an address now.
    pub(super) fn judge(&self, memory: &dyn ProcessMemory, address: u64) -> Verdict {
        let verdicts = self.patterns.iter().map(|p| p.judge(memory, self.pid, address));
        verdicts.into_iter().find(|verdict| *verdict != Verdict::Not).unwrap_or(Verdict::Not)
    }

    /// The hash of sessions of the context at an address.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn sessions_of(&self, memory: &dyn ProcessMemory, address: u64) -> io::Result<u64> {
        let pattern = self.patterns.first().ok_or(io::ErrorKind::NotFound)?;
        pattern.sessions_of(memory, self.pid, address)
    }
}

/// By how much the addresses of a process differ from those of a file that it
/// maps to execute it.
fn bases(pid: u32, library: FileId, marks: &Marks) -> io::Result<BTreeSet<u64>> {
    let maps_of = |task: u32| Process::new(task.cast_signed()).and_then(|task| task.maps());
    let (mut task, mut maps) = (pid, maps_of(pid).map_err(io::Error::other)?);
    if maps.iter().next().is_none()
        && let Some(thread) = live_thread(pid)
    {
        // The main thread has ended before the others: they have the memory.
        (task, maps) = (thread, maps_of(thread).map_err(io::Error::other)?);
    }
    let executable = maps.iter().filter(|map| map.perms.contains(MMPermissions::EXECUTE));
    let of_library = executable.filter(|map| {
        // What maps a file tells more than its name, which can be another's by now.
        let file = format!("/proc/{task}/map_files/{:x}-{:x}", map.address.0, map.address.1);
        map.inode != 0 && fs::metadata(file).is_ok_and(|file| FileId::of(&file) == library)
    });
    Ok(of_library.filter_map(|map| marks.base(map.address.0, map.offset)).collect())
}
