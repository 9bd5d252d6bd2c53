//! Libraries are found when they become executable, wherever that is; a file is
//! one file, under however many names; and what nobody maps is let go.

use std::{
    collections::HashSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    nginx::{Nginx, requests, sum},
    support::{
        agent::Agent,
        compare::{Expect, assert_equal},
        eventually, file_in,
        libraries::{Mount, in_container, private_libraries, python_with, replace},
        oracle::{ORACLES, Oracle, Told},
        run, spawn, target,
        tls::Certificates,
    },
};

/// Plays something, and compares.
/// With as many probes in a library as there were in the beginning.
const STEADY: &[&str] = &["--probe-points", "starts"];

fn play(agent: &Agent, oracle: &mut Oracle) -> Vec<Told> {
    oracle.ask("run tls13_tickets");
    let told = oracle.told();
    assert_equal(agent, oracle.pid(), &told, Expect::Live);
    told
}

/// Ends all contexts, and compares: each ended once.
fn end(agent: &Agent, mut oracle: Oracle) {
    let told = oracle.told();
    oracle.ask("free");
    assert_equal(agent, oracle.pid(), &told, Expect::Freed);
    assert_eq!(agent.contexts_of(oracle.pid()).len(), told.len(), "each ended once");
}

/// The probes of the one library under a path, when they are in place.
fn attached(agent: &Agent, directory: &Path) -> u64 {
    let what = format!("the agent attaches to {}", directory.display());
    let probes = eventually(&what, || {
        let probes = agent.probes_under(directory);
        (!probes.is_empty()).then_some(probes)
    });
    assert_eq!(probes.len(), 1, "it attaches once: {probes:?}");
    probes[0]
}

/// 500 programs in a container with a libssl of its own, each of which loads it
/// late, makes its only connection and ends.
#[test]
fn short_programs_in_a_container_are_all_counted() {
    const IN_A_ROW: usize = 20;
    const LANES: usize = 4;
    const OF_A_LANE: usize = 120;
    const ALL: usize = IN_A_ROW + LANES * OF_A_LANE;
    // The first of them meets a library that is not known yet, and waits for nobody.
    let agent = Agent::start_first();
    let certificates = Certificates::get();
    let mut command = Command::new("/usr/bin/python3");
    command.arg(format!("{ORACLES}/serve.py"));
    let mut server = Oracle::start_command(command);
    let port = server.ask("port")["port"].to_string();

    let container = Mount::overlay(Path::new("/"));
    let root = container.root();
    // A copy in the container's own layer: no other process has mapped it.
    run(Command::new("touch").arg(root.join("usr/lib/x86_64-linux-gnu/libssl.so.3")));
    let place = root.join("opt/late");
    fs::create_dir_all(&place).expect("it can be made");
    fs::copy(format!("{ORACLES}/late.py"), place.join("late.py")).expect("it is there");
    fs::copy(&certificates.certificate, place.join("certificate.pem")).expect("it is there");
    let script = format!(
        "cd /opt/late; run() {{ for i in $(seq $1); do python3 late.py {port} 0.15 || exit 1; done; }}
         run {IN_A_ROW} || exit 1
         for lane in $(seq {LANES}); do run {OF_A_LANE} & lanes=\"$lanes $!\"; done
         for lane in $lanes; do wait $lane || exit 1; done"
    );
    let output = in_container(root)
        .args(["/bin/sh", "-c", &script])
        .env("CERTIFICATE", "certificate.pem")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stderr(Stdio::inherit())
        .output()
        .expect("unshare runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    let told = String::from_utf8(output.stdout).expect("UTF-8");
    let told: Vec<Value> =
        told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(told.len(), ALL);
    assert_eq!(server.ask("count")["count"], ALL);
    // By its library: of a process that was gone before the agent got to look at
    // it, no more is known.
    let library = root.join("usr/lib/x86_64-linux-gnu/libssl.so.3").display().to_string();
    let contexts = eventually("all contexts have ended", || {
        let snapshot = agent.snapshot();
        let mut contexts = snapshot["contexts"].as_array().expect("an array").clone();
        contexts.retain(|context| context["library"]["path"] == library.as_str());
        contexts.iter().all(|context| context["state"] != "live").then_some(contexts)
    });
    let pids: HashSet<u64> = contexts.iter().filter_map(|c| c["pid"].as_u64()).collect();
    assert_eq!((contexts.len(), pids.len()), (ALL, ALL), "one context of each process");
    assert_eq!(sum(&contexts, "connect_good"), ALL as i64);
    // Python tells eleven of the twelve, by names of its own for some.
    for (context, told) in contexts.iter().zip(&told) {
        assert_eq!(context["stats"]["connect"], told["connect"], "{context}");
        assert_eq!(context["stats"]["connect_good"], told["connect_good"], "{context}");
        assert_eq!(context["stats"]["hits"], told["hits"], "{context}");
        assert_eq!(context["source"], "final", "{context}");
        assert_eq!(context["comm"], "python3", "{context}");
    }
}

/// A program that loads a libssl of its own when it is told to.
fn late_loader() -> (TempDir, Oracle) {
    const SCRIPT: &str = "import sys, json
print(json.dumps({'ready': True}), flush=True)
sys.stdin.readline()
exec(compile(open(sys.argv[1]).read(), sys.argv[1], 'exec'))";
    let build = target().join("libs/out/3.5.5-gcc12-O2");
    let directory = tempfile::tempdir().expect("a directory");
    let copy = |name: &str| {
        let file = file_in(&build, name);
        let copy = directory.path().join(file.file_name().expect("a file"));
        fs::copy(file, &copy).expect("it can be copied");
        copy
    };
    let mut command = Command::new("/usr/bin/python3");
    command
        .args(["-c", SCRIPT, &format!("{ORACLES}/native.py")])
        .env("LIBSSL", copy("libssl.so."))
        .env("LIBCRYPTO", copy("libcrypto.so."));
    (directory, Oracle::start_command(command))
}

/// A program that has run for long loads a libssl: an event tells, and not the
/// look at each process every minute, of which some come every second. (How long it
/// takes, 50 ms or so, is the benchmark's to say.)
#[test]
fn a_library_is_found_when_a_program_loads_it() {
    let (directory, mut oracle) = late_loader();
    // The agent comes later, and looks at the program before.
    let agent = Agent::start_first();
    let loaded = Instant::now();
    oracle.ask("load");
    attached(&agent, directory.path());
    let took = loaded.elapsed();
    assert!(took < Duration::from_secs(1), "the events tell nothing: {took:?}");
    play(&agent, &mut oracle);
    end(&agent, oracle);
}

/// Where the kernel does not tell, a look at every process every second finds it.
#[test]
fn a_library_is_found_without_events() {
    let (directory, mut oracle) = late_loader();
    let agent = Agent::start_without_events();
    oracle.ask("load");
    attached(&agent, directory.path());
    assert_eq!(agent.metric("sslsess_mappings_total"), None, "there are no events");
    play(&agent, &mut oracle);
    end(&agent, oracle);
}

/// One file of a lower layer, which the host uses as well, through two overlays.
#[test]
fn one_file_behind_two_overlays_is_observed_once() {
    let agent = Agent::start(STEADY);
    let lower = private_libraries();
    let (one, other) = (Mount::overlay(lower.path()), Mount::overlay(lower.path()));
    let everywhere = [lower.path(), one.root(), other.root()];
    let mut oracles = everywhere.map(python_with);
    // Each under the name by which it was met first.
    let probes = || -> u64 { everywhere.iter().flat_map(|at| agent.probes_under(at)).sum() };
    let of_one = eventually("the agent attaches", || Some(probes()).filter(|probes| *probes > 0));
    for oracle in &mut oracles {
        play(&agent, oracle);
    }
    assert_eq!(probes(), of_one, "one attachment for all of them");
    assert_eq!(agent.metric("sslsess_losses_total{loss=\"foreign_image\"}"), Some(0.0));
    for oracle in oracles {
        end(&agent, oracle);
    }
}

/// An overlay makes a copy of a file to change it. Who maps the file from before goes
/// on with the one below, and who comes later has the copy.
#[test]
fn a_copy_that_an_overlay_makes_is_observed_as_well() {
    let agent = Agent::start(STEADY);
    let lower = private_libraries();
    let overlay = Mount::overlay(lower.path());
    let mut before = python_with(overlay.root());
    let of_one = attached(&agent, overlay.root());
    run(Command::new("touch").arg(overlay.root().join("libssl.so.3")));
    let mut after = python_with(overlay.root());
    eventually("the copy is observed as well", || {
        (agent.probes_under(overlay.root()) == [2 * of_one]).then_some(())
    });
    for oracle in [&mut before, &mut after] {
        play(&agent, oracle);
    }
    for oracle in [before, after] {
        end(&agent, oracle);
    }
}

/// Names and mounts of one file are one file.
#[test]
fn one_file_under_many_names_is_observed_once() {
    let agent = Agent::start(STEADY);
    let first = private_libraries();
    let second = tempfile::tempdir().expect("a directory");
    for library in ["libssl.so.3", "libcrypto.so.3"] {
        let linked = fs::hard_link(first.path().join(library), second.path().join(library));
        linked.expect("it is the same file system");
    }
    let third = Mount::bind(first.path());
    // As `/lib` leads to `/usr/lib`.
    let fourth = second.path().join("lib");
    std::os::unix::fs::symlink(third.root(), &fourth).expect("it can be made");
    let everywhere = [first.path(), second.path(), third.root(), &fourth];
    let mut oracles = everywhere.map(python_with);
    let places = [first.path(), second.path(), third.root()];
    let probes = || -> u64 { places.iter().flat_map(|at| agent.probes_under(at)).sum() };
    let of_one = eventually("the agent attaches", || Some(probes()).filter(|probes| *probes > 0));
    for oracle in &mut oracles {
        play(&agent, oracle);
    }
    assert_eq!(probes(), of_one, "one attachment for all of them");
    // Its times say that it was written to, and its content that it was not: also to who
    // has not loaded libcrypto yet.
    run(Command::new("touch").arg(first.path().join("libssl.so.3")));
    let script = "import mmap, sys\n\
                  file = open(sys.argv[1], 'rb')\n\
                  map = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)\n\
                  sys.stdin.read()";
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-c").arg(script).arg(first.path().join("libssl.so.3")).stdin(Stdio::piped());
    let mut loading = spawn(command);
    eventually("it is met", || {
        let targets = agent.snapshot()["targets"].take();
        let targets = targets.as_array().expect("an array").iter();
        let mut processes = targets.filter_map(|target| target["processes"].as_array()).flatten();
        processes.any(|pid| *pid == loading.id()).then_some(())
    });
    assert_eq!(probes(), of_one, "it is the same");
    drop(loading.stdin.take());
    assert!(loading.wait().expect("it runs").success());
    let mut touched = python_with(first.path());
    play(&agent, &mut touched);
    assert_eq!(probes(), of_one, "it is the same");
    for oracle in oracles.into_iter().chain([touched]) {
        end(&agent, oracle);
    }
}

/// An upgrade replaces the library under a running nginx. Workers of a reload go
/// on with the old one, since their master has it.
#[test]
fn an_upgrade_under_a_running_nginx() {
    let agent = Agent::start(STEADY);
    let libraries = private_libraries();
    let nginx = Nginx::start_with(Some(libraries.path()));
    let accepted = |pids: &[u32]| {
        let contexts: Vec<Value> = pids.iter().flat_map(|pid| agent.contexts_of(*pid)).collect();
        sum(&contexts, "accept_good")
    };
    let probes = attached(&agent, libraries.path());
    requests(nginx.port, "localhost", 200);
    let first = nginx.workers();
    assert_eq!(accepted(&first), 200);

    for library in ["libssl.so.3", "libcrypto.so.3"] {
        replace(&libraries.path().join(library));
    }
    requests(nginx.port, "localhost", 100);
    assert_eq!(accepted(&first), 300);
    nginx.reload();
    requests(nginx.port, "localhost", 120);
    let second = nginx.workers();
    assert_eq!(accepted(&second), 120);

    // Started anew, it has the new one.
    let restarted = Nginx::start_with(Some(libraries.path()));
    let both = vec![2 * probes];
    eventually("the new library is observed", || {
        (agent.probes_under(libraries.path()) == both).then_some(())
    });
    requests(restarted.port, "localhost", 140);
    requests(nginx.port, "localhost", 80);
    assert_eq!(accepted(&restarted.workers()), 140);
    assert_eq!(accepted(&second), 200);
    for (nginx, requests) in [(&nginx, 500.0), (&restarted, 140.0)] {
        let series = format!("openssl_sess_accept_good_total{{exe=\"{}\"}}", nginx.exe().display());
        assert_eq!(agent.metric(&series), Some(requests));
    }
}

/// Two libssl of different releases in one process.
#[test]
fn two_libraries_in_one_process() {
    let agent = Agent::start(&[]);
    let builds =
        ["1.1.1w-gcc12-O2", "3.5.5-gcc12-O2"].map(|name| target().join("libs/out").join(name));
    let files = |name: &str| {
        builds.each_ref().map(|build| file_in(build, name).display().to_string()).join(":")
    };
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(format!("{ORACLES}/two.py"))
        .env("LIBSSL", files("libssl.so."))
        .env("LIBCRYPTO", files("libcrypto.so."));
    let mut oracle = Oracle::start_command(command);
    for build in &builds {
        attached(&agent, &build.canonicalize().expect("it is built"));
    }
    let told = play(&agent, &mut oracle);
    assert_eq!(told.len(), 4, "two contexts of each");
    end(&agent, oracle);
}

/// Nobody maps a library any more: its probes go. Somebody does again: they come
/// back. In between, what it counted is still told.
#[test]
fn probes_end_after_the_last_process() {
    let agent = Agent::start(&["--release-after", "100ms"]);
    let libraries = private_libraries();
    for _ in 0..2 {
        let mut oracle = python_with(libraries.path());
        attached(&agent, libraries.path());
        let told = play(&agent, &mut oracle);
        let pid = oracle.pid();
        oracle.signal(Signal::SIGKILL);
        oracle.wait();
        eventually("its probes end", || {
            agent.probes_under(libraries.path()).is_empty().then_some(())
        });
        assert_equal(&agent, pid, &told, Expect::Exited);
    }
}

/// Another file's content in the place of a library, under a process that has it:
/// nothing that its probes were made for is there any more.
#[test]
fn a_library_that_is_overwritten_is_let_go() {
    let agent = Agent::start(&[]);
    let libraries = private_libraries();
    let mut oracle = python_with(libraries.path());
    attached(&agent, libraries.path());
    play(&agent, &mut oracle);
    // It would not get far.
    oracle.signal(Signal::SIGSTOP);
    fs::write(libraries.path().join("libssl.so.3"), "no library").expect("it can be written");
    // At the latest a minute later: nothing tells.
    eventually("a gap says so", || {
        let snapshot = agent.snapshot();
        let gaps = snapshot["gaps"].as_array().expect("an array");
        let is_it = |gap: &&Value| {
            let reason = gap["reason"].as_str().unwrap_or_default();
            gap["pid"] == oracle.pid() && reason.contains("overwritten")
        };
        gaps.iter().any(|gap| is_it(&gap)).then_some(())
    });
    assert!(agent.probes_under(libraries.path()).is_empty());
    // Nobody would see them end.
    assert!(agent.contexts_of(oracle.pid()).iter().all(|context| context["state"] != "live"));
}
