//! Every kind of session, in every program that tells, with both probe plans:
//! all values equal while the contexts live, after they were freed, and after
//! the process ended in each way there is.

use nix::sys::signal::Signal;

use crate::support::{
    agent::{Agent, Plan},
    compare::{Expect, assert_equal},
    oracle::{Language, Oracle},
};

/// How the contexts end.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Freed,
    Exit,
    Signal(Signal),
}

fn play(language: Language, plan: Plan, ending: Ending) {
    let agent = Agent::shared(plan);
    let mut oracle = Oracle::start(language);
    let pid = oracle.pid();
    agent.wait_until_attached();
    for scenario in oracle.scenarios() {
        oracle.ask(&format!("run {scenario}"));
    }
    let told = oracle.told();
    assert_equal(agent, pid, &told, Expect::Live);
    let used: Vec<_> = told.into_iter().filter(|told| !told.is_unused()).collect();
    match ending {
        Ending::Freed => {
            oracle.ask("free");
            assert_equal(agent, pid, &used, Expect::Freed);
        }
        Ending::Exit => {
            oracle.tell("exit");
            assert!(oracle.wait().success());
            assert_equal(agent, pid, &used, Expect::Exited);
        }
        Ending::Signal(signal) => {
            oracle.signal(signal);
            assert!(!oracle.wait().success());
            // Ruby takes SIGTERM as an exception, and frees what it has.
            let frees = language == Language::Ruby && signal == Signal::SIGTERM;
            let expect = if frees { Expect::Freed } else { Expect::Exited };
            assert_equal(agent, pid, &used, expect);
        }
    }
}

macro_rules! scenarios {
    ($($name:ident: $language:ident, $plan:ident, $ending:expr;)*) => {
        $(#[test] fn $name() { play(Language::$language, Plan::$plan, $ending) })*
    };
}

scenarios! {
    python_freed: Python, Auto, Ending::Freed;
    python_exit: Python, Auto, Ending::Exit;
    python_sigterm: Python, Auto, Ending::Signal(Signal::SIGTERM);
    python_sigkill: Python, Auto, Ending::Signal(Signal::SIGKILL);
    ruby_freed: Ruby, Auto, Ending::Freed;
    ruby_exit: Ruby, Auto, Ending::Exit;
    ruby_sigterm: Ruby, Auto, Ending::Signal(Signal::SIGTERM);
    ruby_sigkill: Ruby, Auto, Ending::Signal(Signal::SIGKILL);
    perl_freed: Perl, Auto, Ending::Freed;
    perl_exit: Perl, Auto, Ending::Exit;
    perl_sigterm: Perl, Auto, Ending::Signal(Signal::SIGTERM);
    perl_sigkill: Perl, Auto, Ending::Signal(Signal::SIGKILL);

    python_freed_with_entry_probes: Python, Entry, Ending::Freed;
    python_exit_with_entry_probes: Python, Entry, Ending::Exit;
    python_sigterm_with_entry_probes: Python, Entry, Ending::Signal(Signal::SIGTERM);
    python_sigkill_with_entry_probes: Python, Entry, Ending::Signal(Signal::SIGKILL);
    ruby_freed_with_entry_probes: Ruby, Entry, Ending::Freed;
    ruby_exit_with_entry_probes: Ruby, Entry, Ending::Exit;
    ruby_sigterm_with_entry_probes: Ruby, Entry, Ending::Signal(Signal::SIGTERM);
    ruby_sigkill_with_entry_probes: Ruby, Entry, Ending::Signal(Signal::SIGKILL);
    perl_freed_with_entry_probes: Perl, Entry, Ending::Freed;
    perl_exit_with_entry_probes: Perl, Entry, Ending::Exit;
    perl_sigterm_with_entry_probes: Perl, Entry, Ending::Signal(Signal::SIGTERM);
    perl_sigkill_with_entry_probes: Perl, Entry, Ending::Signal(Signal::SIGKILL);
}
