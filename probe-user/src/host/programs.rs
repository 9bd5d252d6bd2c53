//! Facts of the programs that processes run: read once, not for each context.
//!
//! A context says which file its process executed as it was met: the kernel half
//! has asked. So what `/proc` says is not taken for its program if the process has
//! executed another one since; and the name of a file that was seen once is known
//! of a process, too, that is gone before `/proc` could be asked.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use probe_common::{ContextRecord, ExeId};

use super::{ProcessFacts, clock, process::ExeFile};

/// How many processes, and how many executables, are remembered.
const REMEMBERED: usize = 1024;

/// How long facts are taken for those of now: a process can be moved to another
/// cgroup, and change its name.
const FRESH: Duration = Duration::from_secs(1);

/// The programs of processes that have contexts.
#[derive(Debug, Default)]
pub struct Programs {
    by_pid: HashMap<u32, Program>,
    /// Files that were seen to be executed under a name.
    exes: HashMap<ExeId, PathBuf>,
}

/// What one process runs.
#[derive(Clone, Debug)]
struct Program {
    /// Nanoseconds of `CLOCK_BOOTTIME`: exact, unlike the ticks that `/proc` shows.
    process_start_ns: u64,
    exe: ExeId,
    read_at: Instant,
    facts: Arc<ProcessFacts>,
}

impl Programs {
    /// The facts of the process that a context was met in, read by `read` if they
    /// are not known.
    pub fn of(
        &mut self,
        pid: u32,
        record: &ContextRecord,
        read: impl FnOnce() -> ProcessFacts,
    ) -> Arc<ProcessFacts> {
        let same = |known: &&Program| {
            record.process_start_ns != 0
                && (known.process_start_ns, known.exe) == (record.process_start_ns, record.exe)
        };
        let known = self.by_pid.get(&pid).filter(same);
        if let Some(known) = known.filter(|known| known.read_at.elapsed() < FRESH) {
            return Arc::clone(&known.facts);
        }
        let mut facts = read();
        if let Some(known) = known
            && facts.start_time_ticks.is_none()
        {
            // It is gone.
            return Arc::clone(&known.facts);
        }
        self.check(&mut facts, record);
        let facts = Arc::new(facts);
        if record.process_start_ns != 0 {
            let program = Program {
                process_start_ns: record.process_start_ns,
                exe: record.exe,
                read_at: Instant::now(),
                facts: Arc::clone(&facts),
            };
            make_room(&mut self.by_pid);
            self.by_pid.insert(pid, program);
        }
        facts
    }

    /// A process executed another program.
    pub fn executed(&mut self, pid: u32) {
        self.by_pid.remove(&pid);
    }

    /// Keeps of what `/proc` says what is about the program of the record, and adds
    /// what the kernel half knows.
    fn check(&mut self, facts: &mut ProcessFacts, record: &ContextRecord) {
        if record.process_start_ns != 0 {
            let ticks = clock::start_ticks(record.process_start_ns);
            if facts.start_time_ticks.is_some_and(|seen| seen != ticks) {
                *facts = ProcessFacts::default();
            }
            facts.start_time_ticks = Some(ticks);
        }
        match is_of(&record.exe, facts.exe_file) {
            // It was executed under this name.
            Is::Same => {
                if let Some(exe) = &facts.exe
                    && !self.exes.contains_key(&record.exe)
                {
                    make_room(&mut self.exes);
                    self.exes.insert(record.exe, exe.clone());
                }
            }
            Is::NotKnown => {}
            Is::Other => {
                facts.exe = None;
                facts.comm = None;
                facts.forked = None;
            }
        }
        if facts.exe.is_none() {
            facts.exe = self.exes.get(&record.exe).cloned();
        }
        if facts.comm.is_none() {
            let comm = record.comm.split(|byte| *byte == 0).next().unwrap_or_default();
            facts.comm = (!comm.is_empty()).then(|| String::from_utf8_lossy(comm).into_owned());
        }
    }
}

/// The bound is met by forgetting everything: it is read again when it is asked for.
fn make_room<K, V>(known: &mut HashMap<K, V>) {
    if known.len() >= REMEMBERED {
        known.clear();
    }
}

/// Whether what `/proc` shows is what a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Same,
    Other,
    NotKnown,
}

/// `stat` and the kernel's inode can tell a number or a time differently where one
/// file system lies over another one; not both.
fn is_of(recorded: &ExeId, shown: Option<ExeFile>) -> Is {
    let Some(shown) = shown.filter(|_| *recorded != ExeId::default()) else {
        return Is::NotKnown;
    };
    let same_time =
        (shown.changed_s, shown.changed_ns) == (recorded.changed_s, recorded.changed_ns);
    if same_time || shown.inode == recorded.inode { Is::Same } else { Is::Other }
}

#[cfg(test)]
mod tests {
    use probe_common::{BlockLayout, MirroredBlock, NO_FIELD, OPENSSL_ORDER};

    use super::*;

    const EXE: ExeId = ExeId { inode: 5, changed_s: 100, changed_ns: 7, device: 3 };

    fn record(process_start_ns: u64, exe: ExeId) -> ContextRecord {
        ContextRecord {
            process_start_ns,
            born_ns: 1,
            observed_ns: 1,
            hits: 1,
            hit_ns: 1,
            block: MirroredBlock::default(),
            image: 1,
            flags: 0,
            comm: *b"test\0\0\0\0\0\0\0\0\0\0\0\0",
            layout: BlockLayout {
                counters: 0,
                references: NO_FIELD,
                sessions: NO_FIELD,
                num_items: NO_FIELD,
                order: OPENSSL_ORDER,
                count: 11,
            },
            birth: 0,
            exe,
        }
    }

    /// A process that started then, and runs this.
    fn facts(start_ns: u64, exe: &str, exe_file: Option<ExeFile>) -> ProcessFacts {
        ProcessFacts {
            start_time_ticks: Some(clock::start_ticks(start_ns)),
            exe: Some(exe.into()),
            exe_file,
            comm: Some("main".to_owned()),
            ..ProcessFacts::default()
        }
    }

    fn shown(inode: u64, changed_s: u64) -> Option<ExeFile> {
        Some(ExeFile { inode, changed_s, changed_ns: 7 })
    }

    #[test]
    fn a_file_is_told_by_its_number_or_its_time() {
        let is = |inode, changed_s| is_of(&EXE, shown(inode, changed_s));
        assert_eq!(
            [is(5, 100), is(5, 101), is(6, 100), is(6, 101)],
            [Is::Same, Is::Same, Is::Same, Is::Other]
        );
        assert_eq!(is_of(&EXE, None), Is::NotKnown);
        assert_eq!(is_of(&ExeId::default(), shown(6, 101)), Is::NotKnown);
    }

    #[test]
    fn a_program_that_was_seen_is_known_of_a_process_that_is_gone() {
        let mut programs = Programs::default();
        let mut alive = facts(12_345_678_901, "/usr/sbin/nginx", shown(5, 100));
        programs.check(&mut alive, &record(12_345_678_901, EXE));
        assert_eq!(alive.exe, Some("/usr/sbin/nginx".into()));
        let mut gone = ProcessFacts::default();
        programs.check(&mut gone, &record(99_000_000_000, EXE));
        assert_eq!(gone.exe, Some("/usr/sbin/nginx".into()));
        assert_eq!((gone.start_time_ticks, gone.comm.as_deref()), (Some(9900), Some("test")));
        // Another file at its place.
        let mut other = ProcessFacts::default();
        programs.check(&mut other, &record(1, ExeId { changed_s: 101, ..EXE }));
        assert_eq!(other.exe, None);
    }

    #[test]
    fn what_a_process_executes_by_now_is_not_the_program_of_its_past() {
        let mut programs = Programs::default();
        let mut now = facts(20_000_000, "/usr/bin/other", shown(6, 200));
        programs.check(&mut now, &record(20_000_000, EXE));
        assert_eq!((now.exe, now.comm.as_deref()), (None, Some("test")));
        assert!(programs.exes.is_empty(), "nothing was learnt");
    }

    #[test]
    fn another_process_at_the_pid_is_not_it() {
        let mut programs = Programs::default();
        let mut facts = facts(90_000_000, "/usr/bin/other", shown(5, 100));
        programs.check(&mut facts, &record(20_000_000, EXE));
        assert_eq!((facts.exe, facts.start_time_ticks), (None, Some(2)));
    }

    #[test]
    fn facts_are_read_once_for_a_program() {
        let mut programs = Programs::default();
        let pid = std::process::id();
        let mut read = 0;
        let mut of = |programs: &mut Programs, record: &ContextRecord| {
            programs.of(pid, record, || {
                read += 1;
                ProcessFacts::default()
            })
        };
        let first = of(&mut programs, &record(10, EXE));
        assert!(Arc::ptr_eq(&first, &of(&mut programs, &record(10, EXE))));
        of(&mut programs, &record(11, EXE));
        of(&mut programs, &record(11, ExeId { inode: 9, ..EXE }));
        programs.executed(pid);
        of(&mut programs, &record(11, ExeId { inode: 9, ..EXE }));
        assert_eq!(read, 4);
    }

    #[test]
    fn not_more_is_remembered_than_there_is_room_for() {
        let mut programs = Programs::default();
        for pid in 0..3 * REMEMBERED as u32 {
            programs.of(pid, &record(u64::from(pid) + 1, EXE), ProcessFacts::default);
        }
        assert!(programs.by_pid.len() <= REMEMBERED);
    }
}
