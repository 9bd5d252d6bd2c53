//! An agent that serves.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use nix::{
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// One that runs, until this is dropped.
pub(crate) struct Agent {
    pub(crate) child: Child,
    /// The lines of its log, each with the time at which it came.
    log: Receiver<(Instant, String)>,
}

impl Agent {
    /// Starts it; also says where it listens.
    pub(crate) fn start(arguments: &[&str]) -> (Self, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sslsess"))
            .args(["serve", "--web.listen-address", "127.0.0.1:0"])
            .args(arguments)
            .env("SSLSESS_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent runs");
        let (sender, log) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        thread::spawn(move || {
            // Whatever nobody waits for is read all the same: the agent would stand still.
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send((Instant::now(), line));
            }
        });
        let agent = Self { child, log };
        let (_, said) = agent.wait_for("listening on ").expect("the agent needs root");
        let (_, url) = said.trim().split_once("listening on ").expect("it was waited for");
        let url = url.to_owned();
        (agent, url)
    }

    /// When and how it says something; `None`: it has ended.
    pub(crate) fn wait_for(&self, what: &str) -> Option<(Instant, String)> {
        self.log.iter().find(|(_, line)| line.contains(what))
    }

    /// The share of a processor that it takes for so long.
    pub(crate) fn share(&self, watched: Duration) -> f64 {
        let (before, at) = (self.worked(), Instant::now());
        thread::sleep(watched);
        (self.worked() - before).as_secs_f64() / at.elapsed().as_secs_f64()
    }

    /// What the processor has worked for it, also for threads that have ended.
    fn worked(&self) -> Duration {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(self.child.id().cast_signed()));
        clock.and_then(clock_gettime).expect("it runs").into()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
