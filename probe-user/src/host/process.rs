//! One process: what does not change while it runs a program.

use std::path::PathBuf;

use procfs::process::Process;

/// What `/proc` says of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Start in ticks since boot; with the pid, it names the process for good.
    pub start_time_ticks: Option<u64>,
    /// The name of its main thread.
    pub comm: Option<String>,
    /// The file that it executes.
    pub exe: Option<PathBuf>,
}

impl ProcessFacts {
    /// Reads them; what cannot be read, since the process is gone, is absent.
    #[must_use]
    pub fn read(pid: u32) -> Self {
        let Ok(process) = Process::new(pid.cast_signed()) else { return Self::default() };
        // The directory is held open: all of this is one process's, or an error.
        let stat = process.stat().ok();
        Self {
            start_time_ticks: stat.as_ref().map(|stat| stat.starttime),
            comm: stat.map(|stat| stat.comm),
            exe: process.exe().ok(),
        }
    }

    /// Whether the process that started then still runs.
    #[must_use]
    pub fn is_alive(pid: u32, start_time_ticks: Option<u64>) -> bool {
        let Ok(stat) = Process::new(pid.cast_signed()).and_then(|process| process.stat()) else {
            return false;
        };
        start_time_ticks.is_none_or(|ticks| ticks == stat.starttime)
            && (is_running(stat.state) || live_thread(pid).is_some())
    }
}

/// A zombie has no memory and makes no handshakes.
fn is_running(state: char) -> bool {
    !matches!(state, 'Z' | 'X' | 'x')
}

/// A thread of a process that runs, where the main thread has ended before the
/// others and is a zombie.
#[must_use]
pub fn live_thread(pid: u32) -> Option<u32> {
    let tasks = Process::new(pid.cast_signed()).ok()?.tasks().ok()?;
    tasks
        .flatten()
        .find(|task| task.stat().is_ok_and(|stat| is_running(stat.state)))
        .map(|task| task.tid.cast_unsigned())
}
