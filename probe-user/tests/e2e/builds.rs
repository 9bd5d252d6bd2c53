//! Builds of OpenSSL that the agent has never seen: releases from 1.1.1 to 4.0,
//! what is bundled in Python's wheels, and OpenSSL linked statically into
//! another library. All twelve values, with both probe plans, to their ends.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    SSLSESS,
    agent::{Agent, Plan},
    compare::Expect,
    file_in,
    oracle::{ORACLES, Oracle},
    play::{Ending, play},
    target,
};

/// The files of a library: libssl, and libcrypto.
pub(crate) struct Library {
    pub(crate) libssl: PathBuf,
    pub(crate) libcrypto: PathBuf,
}

impl Library {
    /// A build of `cargo xtask libs`.
    pub(crate) fn built(name: &str) -> Self {
        let directory = target().join("libs/out").join(name);
        Self {
            libssl: file_in(&directory, "libssl.so."),
            libcrypto: file_in(&directory, "libcrypto.so."),
        }
    }

    /// What a wheel brings with it.
    fn bundled(wheel: &str, directory: &str) -> Self {
        let directory = target().join("wheels").join(wheel).join(directory);
        Self {
            libssl: file_in(&directory, "libssl-"),
            libcrypto: file_in(&directory, "libcrypto-"),
        }
    }

    /// One file has both.
    fn within(wheel: &str, directory: &str, file: &str) -> Self {
        let file = file_in(&target().join("wheels").join(wheel).join(directory), file);
        Self { libssl: file.clone(), libcrypto: file }
    }
}

fn explained(file: &Path) -> Value {
    let output = Command::new(SSLSESS).args(["explain", "--json"]).arg(file).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn play_all(library: &Library, plan: Plan, ending: Ending) {
    let agent = Agent::shared(plan);
    let oracle = Oracle::start_native(&library.libssl, &library.libcrypto);
    agent.wait_until_attached_to(&library.libssl);
    let expected = match ending {
        Ending::Freed => Expect::Freed,
        Ending::Exit | Ending::Signal(_) => Expect::Exited,
    };
    let compared = play(agent, oracle, ending, expected);
    // Nothing was compared that only ever was zero.
    for name in compared[0].stats.keys() {
        assert!(compared.iter().any(|told| told.stats[name] != 0), "{name} was not counted");
    }
}

macro_rules! builds {
    ($($name:ident: $library:expr;)*) => { $(
        mod $name {
            use super::*;

            #[test]
            fn freed() {
                play_all(&$library, Plan::Auto, Ending::Freed);
            }

            #[test]
            fn exit() {
                play_all(&$library, Plan::Auto, Ending::Exit);
            }

            #[test]
            fn sigkill() {
                play_all(&$library, Plan::Auto, Ending::Signal(Signal::SIGKILL));
            }

            #[test]
            fn freed_with_births() {
                play_all(&$library, Plan::Births, Ending::Freed);
            }

            #[test]
            fn exit_with_births() {
                play_all(&$library, Plan::Births, Ending::Exit);
            }

            #[test]
            fn sigkill_with_births() {
                play_all(&$library, Plan::Births, Ending::Signal(Signal::SIGKILL));
            }

            #[test]
            fn freed_with_entry_probes() {
                play_all(&$library, Plan::Entry, Ending::Freed);
            }

            #[test]
            fn exit_with_entry_probes() {
                play_all(&$library, Plan::Entry, Ending::Exit);
            }

            #[test]
            fn sigkill_with_entry_probes() {
                play_all(&$library, Plan::Entry, Ending::Signal(Signal::SIGKILL));
            }
        }
    )* };
}

builds! {
    openssl_1_1_1w: Library::built("1.1.1w-gcc12-O2");
    openssl_3_2_1: Library::built("3.2.1-gcc12-O2");
    openssl_3_5_5: Library::built("3.5.5-gcc12-O2");
    openssl_4_0_3: Library::built("4.0.3-gcc12-O2");
    // OpenSSL 3.5.
    psycopg2_current: Library::bundled("psycopg2-current", "psycopg2_binary.libs");
    // OpenSSL 1.1.1.
    psycopg2_old: Library::bundled("psycopg2-old", "psycopg2_binary.libs");
    // OpenSSL 3.5, built without unwind information: only what it exports is known.
    psycopg3: Library::bundled("psycopg3", "psycopg_binary.libs");
    // OpenSSL is linked into librdkafka, which exports nothing of it.
    librdkafka: Library::within("confluent-kafka", "confluent_kafka.libs", "librdkafka");
}

/// The distribution's Python, with another libssl of the same name.
#[test]
fn python_with_another_release() {
    let library = Library::built("3.5.5-gcc12-O2");
    for plan in [Plan::Auto, Plan::Births, Plan::Entry] {
        let agent = Agent::shared(plan);
        let mut command = Command::new("/usr/bin/python3");
        command.arg(format!("{ORACLES}/oracle.py"));
        command.env("LD_LIBRARY_PATH", library.libssl.parent().expect("a directory"));
        let oracle = Oracle::start_command(command);
        agent.wait_until_attached_to(&library.libssl);
        play(agent, oracle, Ending::Freed, Expect::Freed);
    }
}

/// What is linked statically counts its sessions in the same file.
#[test]
fn a_static_library_is_explained() {
    let library = Library::within("confluent-kafka", "confluent_kafka.libs", "librdkafka");
    let explained = explained(&library.libssl);
    let layout = explained["layout"].as_object().expect("an object");
    assert!(layout.values().all(Value::is_u64), "{layout:?}");
    let probes = explained["probes"].as_array().expect("an array");
    assert!(probes.iter().any(|probe| probe["kind"] == "death"), "{explained:#}");
}

/// Where the number of sessions is counted by a function of the same file that
/// is called, directly or through the PLT.
#[test]
fn sessions_counted_within_the_file() {
    let directory = TempDir::new().expect("a directory");
    for link in ["-Wl,-Bsymbolic", "-Wl,-Bdynamic"] {
        let file = directory.path().join("within.so");
        let output = Command::new("gcc")
            .args(["-shared", "-fPIC", "-O0", link, "-o"])
            .arg(&file)
            .arg(format!("{ORACLES}/within.c"))
            .output()
            .expect("gcc runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let layout = &explained(&file)["layout"];
        assert_eq!(layout["sessions"], 0x30, "{link}: {layout}");
        assert_eq!(layout["num_items"], 0x58, "{link}: {layout}");
    }
}
