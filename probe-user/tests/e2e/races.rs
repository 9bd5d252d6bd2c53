//! What happens between the steps of a look, made to happen there: the agent in
//! this process, real BPF and a real program, and a memory that lets the program
//! go on at the worst moment.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex},
};

use sslsess::{
    agent::{Agent, AgentOptions},
    host::{LiveMemory, ProcessMemory},
    image::PlanChoice,
    snapshot::{GroupSnapshot, Source, State},
};

use crate::support::{oracle::Oracle, private_copy};

/// Gives the program a command when its memory is first read.
struct Meddling {
    oracle: Arc<Mutex<Oracle>>,
    command: Mutex<Option<&'static str>>,
    before_the_read: bool,
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
        oracle: Arc::clone(&oracle),
        command: Mutex::new(Some("free")),
        before_the_read,
    };
    let options = AgentOptions {
        pids: HashSet::from([pid]),
        plan: PlanChoice::Auto,
        max_contexts: 1024,
        max_ended: 1024,
        release_after: std::time::Duration::from_secs(60),
    };
    let mut agent = Agent::with_memory(options, Box::new(memory)).expect("it works here");
    let told = {
        let mut oracle = oracle.lock().expect("nobody panicked");
        oracle.ask("run tls12_session_ids");
        oracle.told()
    };
    // Twice: what is pending in the first must be settled in the second.
    for _ in 0..2 {
        let snapshot = agent.snapshot().expect("the maps can be read");
        assert_eq!(snapshot.contexts.len(), told.len(), "{snapshot:#?}");
        for told in &told {
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
            .find(|group| python.to_str() == Some(group.exe.as_str()))
            .expect("its group");
        assert_eq!(total(group, "accept_good"), 5, "each handshake once");
    }
    agent.stop();
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
