//! Every kind of session, in every program that tells, with several probe plans:
//! all values equal while the contexts live, after they were freed, and after
//! the process ended in each way there is.

use nix::sys::signal::Signal;

use crate::support::{
    agent::{Agent, Plan},
    compare::Expect,
    oracle::{Language, Oracle},
    play::{self, Ending},
};

fn play(language: Language, plan: Plan, ending: Ending) {
    let agent = Agent::shared(plan);
    let oracle = Oracle::start(language);
    agent.wait_until_attached();
    let expected = match ending {
        Ending::Freed => Expect::Freed,
        // Ruby takes SIGTERM as an exception, and frees what it has.
        Ending::Signal(Signal::SIGTERM) if language == Language::Ruby => Expect::Freed,
        Ending::Exit | Ending::Signal(_) => Expect::Exited,
    };
    play::play(agent, oracle, ending, expected);
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

    python_freed_with_births: Python, Births, Ending::Freed;
    python_exit_with_births: Python, Births, Ending::Exit;
    python_sigterm_with_births: Python, Births, Ending::Signal(Signal::SIGTERM);
    python_sigkill_with_births: Python, Births, Ending::Signal(Signal::SIGKILL);
    ruby_freed_with_births: Ruby, Births, Ending::Freed;
    ruby_exit_with_births: Ruby, Births, Ending::Exit;
    ruby_sigkill_with_births: Ruby, Births, Ending::Signal(Signal::SIGKILL);
    perl_freed_with_births: Perl, Births, Ending::Freed;
    perl_exit_with_births: Perl, Births, Ending::Exit;
    perl_sigterm_with_births: Perl, Births, Ending::Signal(Signal::SIGTERM);

    python_freed_with_times: Python, Handshakes, Ending::Freed;
    ruby_sigkill_with_times: Ruby, Handshakes, Ending::Signal(Signal::SIGKILL);

    python_freed_with_all_probes: Python, All, Ending::Freed;
    python_exit_with_all_probes: Python, All, Ending::Exit;
    python_sigkill_with_all_probes: Python, All, Ending::Signal(Signal::SIGKILL);
    perl_freed_with_all_probes: Perl, All, Ending::Freed;
    perl_exit_with_all_probes: Perl, All, Ending::Exit;

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
