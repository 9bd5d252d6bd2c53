//! What happens between the steps of a look, made to happen there: the agent in
//! this process, real BPF and a real program, and a memory that lets the program
//! go on at the worst moment.

use std::{
    collections::HashSet,
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use sslsess::{
    agent::{Agent, AgentOptions, idle::ScanOptions, watch::Outcome},
    context::{groups::GroupBy, registry::Retention},
    host::{LiveMemory, ProcessMemory},
    image::PlanOptions,
    kernel::LinkChoice,
    snapshot::{GroupSnapshot, Source, State},
};

use crate::support::{
    oracle::{Oracle, Told},
    private_copy,
};

/// Gives the program a command when its memory is read, after so many reads. (The
/// agent hears of all processes that use the library, and reads those of other tests,
/// too.)
struct Meddling {
    pid: u32,
    oracle: Arc<Mutex<Oracle>>,
    command: Mutex<Option<&'static str>>,
    before_the_read: bool,
    reads: AtomicUsize,
}

impl Meddling {
    fn meddle(&self) {
        let command = self.command.lock().expect("nobody panicked").take();
        if let Some(command) = command {
            self.oracle.lock().expect("nobody panicked").ask(command);
        }
    }
}

impl ProcessMemory for Meddling {
    fn read(&self, pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        if pid != self.pid {
            return LiveMemory.read(pid, address, buffer);
        }
        let left = self.reads.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        if left.is_ok() {
            return LiveMemory.read(pid, address, buffer);
        }
        if self.before_the_read {
            self.meddle();
        }
        let result = LiveMemory.read(pid, address, buffer);
        self.meddle();
        result
    }
}

/// All contexts are freed while the first of them is read.
fn freed_during_a_look(before_the_read: bool) {
    let python = std::fs::canonicalize("/usr/bin/python3").expect("python is installed");
    let (_directory, python) = private_copy(python.to_str().expect("a path"));
    let oracle = Oracle::start_python_at(&python);
    let pid = oracle.pid();
    let oracle = Arc::new(Mutex::new(oracle));
    let memory = Meddling {
        pid,
        oracle: Arc::clone(&oracle),
        command: Mutex::new(Some("free")),
        before_the_read,
        reads: AtomicUsize::new(0),
    };
    let options = AgentOptions {
        pids: HashSet::from([pid]),
        plan: PlanOptions::default(),
        links: LinkChoice::Auto,
        max_contexts: 1024,
        scan: None,
        retention: Retention { ended: 1024, time: Duration::ZERO },
        group_by: GroupBy::default(),
        release_after: Duration::from_secs(60),
    };
    let mut agent = Agent::with_memory(options, Box::new(memory)).expect("it works here");
    let told = {
        let mut oracle = oracle.lock().expect("nobody panicked");
        oracle.ask("run tls12_session_ids");
        oracle.told()
    };
    assert_freed(&mut agent, &told, &python, 5);
    agent.stop();
}

/// Each context is there once, has ended, and shows its last values.
fn assert_freed(agent: &mut Agent, told: &[Told], python: &Path, handshakes: i64) {
    // Twice: what is pending in the first must be settled in the second.
    for _ in 0..2 {
        let snapshot = agent.snapshot().expect("the maps can be read");
        assert_eq!(snapshot.contexts.len(), told.len(), "{snapshot:#?}");
        for told in told {
            let seen = snapshot.contexts.iter().find(|seen| seen.ctx == told.ctx);
            let seen = seen.expect("it was used");
            assert_eq!((seen.state, seen.source), (State::Freed, Source::Final));
            for (name, value) in seen.stats.named() {
                assert_eq!(value, told.stats[name].as_i64(), "{name} of {}", told.ctx);
            }
        }
        let group = snapshot
            .groups
            .iter()
            .find(|group| group.labels[0].1.as_deref() == python.to_str())
            .expect("its group");
        assert_eq!(total(group, "accept_good"), handshakes, "each handshake once");
    }
}

/// All contexts are freed while the agent makes a record of the first that it
/// has found in memory, after so many reads and one more.
fn freed_during_an_adoption(reads: usize) {
    let python = std::fs::canonicalize("/usr/bin/python3").expect("python is installed");
    let (_directory, python) = private_copy(python.to_str().expect("a path"));
    let mut oracle = Oracle::start_python_at(&python);
    oracle.ask("late 3");
    let (pid, told) = (oracle.pid(), oracle.told());
    let memory = Meddling {
        pid,
        oracle: Arc::new(Mutex::new(oracle)),
        command: Mutex::new(Some("free")),
        before_the_read: false,
        reads: AtomicUsize::new(reads),
    };
    let scan =
        ScanOptions { every: true, limit: Duration::from_secs(300), progress: Arc::default() };
    let options = AgentOptions {
        pids: HashSet::from([pid]),
        plan: PlanOptions::default(),
        links: LinkChoice::Auto,
        max_contexts: 1024,
        scan: Some(scan),
        retention: Retention { ended: 1024, time: Duration::ZERO },
        group_by: GroupBy::default(),
        release_after: Duration::from_secs(60),
    };
    let mut agent = Agent::with_memory(options, Box::new(memory)).expect("it works here");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let found = loop {
        match runtime.block_on(agent.next_result()) {
            Outcome::Found(found) => break found,
            Outcome::Learnt(learnt) => drop(agent.take_lesson(learnt)),
        }
    };
    assert_eq!(found.owners.contexts.len(), told.len());
    agent.take_in(&found).expect("the maps can be changed");
    assert_freed(&mut agent, &told, &python, 3);
    let left = agent.kernel().contexts().expect("the map can be read");
    let mut left = left.iter().filter(|(key, _)| key.tgid == pid).peekable();
    assert!(left.peek().is_none(), "a record is left of what is gone: {:?}", left.next());
    agent.stop();
}

/// Before the record is made, after it, while the agent looks once more, and after that.
#[test]
fn a_context_that_is_freed_while_it_is_adopted_is_not_alive() {
    // The record is made right after the eleventh read, and admitted after the 22nd.
    for reads in [0, 3, 6, 9, 10, 11, 12, 14, 18, 20, 21, 22, 23] {
        freed_during_an_adoption(reads);
    }
}

fn total(group: &GroupSnapshot, name: &str) -> i64 {
    group.totals.iter().find(|(total, _)| *total == name).map_or(0, |(_, value)| *value)
}

#[test]
fn a_context_that_dies_before_it_is_read_shows_its_last_values() {
    freed_during_a_look(true);
}

#[test]
fn a_context_that_dies_after_it_is_read_shows_its_last_values() {
    freed_during_a_look(false);
}
