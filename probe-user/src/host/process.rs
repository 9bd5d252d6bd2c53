//! One process: what does not change while it runs a program.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use procfs::{
    FromRead, ProcResult,
    process::{Process, Task},
};

use super::container::CgroupFacts;

/// What `/proc` says of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Start in ticks since boot; with the pid, it names the process for good.
    pub start_time_ticks: Option<u64>,
    /// The name of its main thread.
    pub comm: Option<String>,
    /// The file that it executes.
    pub exe: Option<PathBuf>,
    /// What `stat` says of that file; absent where it is not allowed to.
    pub exe_file: Option<ExeFile>,
    /// Its container and its units, as its cgroups were when this was read.
    pub cgroups: CgroupFacts,
    /// Its pid in the innermost pid namespace that it is in; absent if that is
    /// the agent's own.
    pub pid_inside: Option<u32>,
    /// Whether it was forked and has not executed a program since: what is in its
    /// memory may be its parent's.
    pub forked: Option<bool>,
    /// The process that forked it, or that has taken it over since.
    pub parent: Option<u32>,
}

impl ProcessFacts {
    /// Reads them; what cannot be read, since the process is gone, is absent.
    #[must_use]
    pub fn read(pid: u32) -> Self {
        let Ok(process) = Process::new(pid.cast_signed()) else { return Self::default() };
        // The directory is held open: all of this is one process's, or an error.
        let stat = process.stat().ok();
        // v1 shows the root for a main thread that has ended before the others.
        let is_over = stat.as_ref().is_some_and(|stat| !is_running(stat.state));
        let other = if is_over { live_task(&process) } else { None };
        let cgroups = match other {
            Some(task) => task.read("cgroup"),
            None => process.cgroups(),
        };
        // In this order: what is executed in between shows another file.
        let exe = process.exe().ok();
        let exe_file = exe.is_some().then(|| ExeFile::of(pid));
        let is_gone = matches!(&exe_file, Some(Err(error)) if is_gone(error));
        let exe = exe.filter(|_| !is_gone);
        Self {
            start_time_ticks: stat.as_ref().map(|stat| stat.starttime),
            forked: stat.as_ref().map(|stat| stat.flags & FORKED_WITHOUT_EXEC != 0),
            parent: stat.as_ref().and_then(|stat| u32::try_from(stat.ppid).ok()),
            comm: stat.map(|stat| stat.comm),
            exe,
            exe_file: exe_file.and_then(Result::ok),
            cgroups: cgroups.map_or_else(|_| CgroupFacts::default(), |text| CgroupFacts::of(&text)),
            pid_inside: process.read("status").ok().and_then(|PidInside(pid)| pid),
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

/// A file that is executed, as `stat` tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExeFile {
    /// Its inode's number.
    pub inode: u64,
    /// Seconds of its `ctime`.
    pub changed_s: u64,
    /// Nanoseconds of its `ctime`.
    pub changed_ns: u32,
}

impl ExeFile {
    fn of(pid: u32) -> io::Result<Self> {
        let metadata = fs::metadata(format!("/proc/{pid}/exe"))?;
        Ok(Self {
            inode: metadata.ino(),
            changed_s: metadata.ctime().cast_unsigned(),
            changed_ns: metadata.ctime_nsec() as u32,
        })
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}

/// Whether some of a process's memory is swapped out, or may be.
#[must_use]
pub fn is_swapped(pid: u32) -> bool {
    let status = Process::new(pid.cast_signed()).and_then(|process| process.status());
    status.ok().and_then(|status| status.vmswap).is_none_or(|kibibytes| kibibytes > 0)
}

/// `PF_FORKNOEXEC` (include/linux/sched.h): "forked but didn't exec".
const FORKED_WITHOUT_EXEC: u32 = 0x40;

/// The pids of all processes.
///
/// # Errors
///
/// If `/proc` cannot be listed.
pub fn running() -> io::Result<Vec<u32>> {
    // `procfs` opens the directory of each.
    let entries = fs::read_dir("/proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// A zombie has no memory and makes no handshakes.
fn is_running(state: char) -> bool {
    !matches!(state, 'Z' | 'X' | 'x')
}

/// The line `NSpid` of `/proc/PID/status` (since Linux 4.1): the pid in each
/// namespace, from the one that `/proc` was mounted in to the innermost.
///
/// `procfs` has it too, but takes the whole file apart: 55 µs, against 10 µs.
struct PidInside(Option<u32>);

impl FromRead for PidInside {
    fn from_read<R: Read>(mut status: R) -> ProcResult<Self> {
        let mut text = Vec::with_capacity(4096);
        status.read_to_end(&mut text)?;
        let pids = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"NSpid:"));
        let pids = str::from_utf8(pids.unwrap_or_default()).unwrap_or_default();
        let inside = pids.split_whitespace().skip(1).last();
        Ok(Self(inside.and_then(|pid| pid.parse().ok())))
    }
}

/// A thread of a process that runs, where the main thread has ended before the
/// others and is a zombie.
#[must_use]
pub fn live_thread(pid: u32) -> Option<u32> {
    let process = Process::new(pid.cast_signed()).ok()?;
    live_task(&process).map(|task| task.tid.cast_unsigned())
}

fn live_task(process: &Process) -> Option<Task> {
    let mut tasks = process.tasks().ok()?.flatten();
    tasks.find(|task| task.stat().is_ok_and(|stat| is_running(stat.state)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_inside_is_the_last_of_several() {
        let cases = [
            ("Name:\tnginx\nNStgid:\t42\t7\nNSpid:\t43\t8\nNSpgid:\t42\t1\n", Some(8)),
            ("NSpid:\t4242\t20\t1\n", Some(1)),
            ("Name:\tnginx\nPid:\t42\nNSpid:\t42\nNSpgid:\t42\n", None),
            // Before Linux 4.1.
            ("Name:\tnginx\nPid:\t42\n", None),
            ("", None),
        ];
        for (status, expected) in cases {
            let PidInside(inside) = PidInside::from_read(status.as_bytes()).expect("it is read");
            assert_eq!(inside, expected, "{status}");
        }
    }
}
