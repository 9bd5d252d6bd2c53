//! A program plays all of its scenarios; then its contexts end, in one of the
//! ways there are.

use nix::sys::signal::Signal;

use super::{
    agent::Agent,
    compare::{Expect, assert_equal},
    oracle::{Oracle, Told},
};

/// How the contexts end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    Freed,
    Exit,
    Signal(Signal),
}

/// Plays all scenarios of a program whose library the agent observes. All
/// values must be equal while the contexts live, and after they ended as
/// expected. Returns what was compared.
pub(crate) fn play(
    agent: &Agent,
    mut oracle: Oracle,
    ending: Ending,
    expected: Expect,
) -> Vec<Told> {
    let pid = oracle.pid();
    for scenario in oracle.scenarios() {
        oracle.ask(&format!("run {scenario}"));
    }
    let told = oracle.told();
    assert_equal(agent, pid, &told, Expect::Live);
    let used: Vec<_> = told.into_iter().filter(|told| !told.is_unused()).collect();
    match ending {
        Ending::Freed => {
            oracle.ask("free");
            assert_equal(agent, pid, &used, expected);
        }
        Ending::Exit => {
            oracle.tell("exit");
            assert!(oracle.wait().success());
            assert_equal(agent, pid, &used, expected);
        }
        Ending::Signal(signal) => {
            oracle.signal(signal);
            assert!(!oracle.wait().success());
            assert_equal(agent, pid, &used, expected);
        }
    }
    used
}
