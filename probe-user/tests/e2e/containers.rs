//! Processes in containers: named by what the runtime calls the container, and
//! as exact as any other.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use procfs::process::{Process, all_processes};
use serde_json::{Value, json};

use crate::{
    support::{
        SSLSESS,
        agent::Agent,
        compare::{Expect, assert_equal},
        docker::{Container, Docker},
        eventually,
        oracle::{Oracle, Told},
        root::{PROGRAM, Root},
        run,
    },
    verbs::shown_while,
};

/// Three containers of one image map one file, each through a mount of its own.
#[test]
fn docker_containers_are_named_as_docker_names_them() {
    let docker = Docker::start();
    docker.import(Root::make().path(), "oracle");
    let mut containers: Vec<Container> =
        ["one", "two", "three"].into_iter().map(|name| docker.run("oracle", name)).collect();
    let agent = Agent::start(&[]);
    let scenarios = ["tls12_session_ids", "tls12_tickets", "tls13_tickets"];
    for (container, scenario) in containers.iter_mut().zip(scenarios) {
        container.oracle.ask(&format!("run {scenario}"));
    }
    let table = run(Command::new(SSLSESS).args(["top", "--agent", agent.url(), "--for", "300ms"]));
    let metrics = agent.get("/metrics");
    let mut told: Vec<Vec<Told>> = Vec::new();
    for container in &mut containers {
        let Container { oracle, id, pid } = container;
        told.push(oracle.told());
        assert_equal(&agent, *pid, &told[told.len() - 1], Expect::Live);
        let expected = json!({"id": id, "runtime": "docker", "pod_uid": null});
        let inside = oracle.ask("pid")["pid"].clone();
        assert_all(&agent.contexts_of(*pid), "container", &expected);
        assert_all(&agent.contexts_of(*pid), "pid_inside", &inside);
        assert!(table.contains("CONTAINER") && table.contains(&id[..12]), "{id}: {table}");
        let labels = [
            format!("pid=\"{pid}\""),
            format!("container_id=\"{id}\""),
            "container_runtime=\"docker\"".to_owned(),
        ];
        let mut infos = metrics.lines().filter(|line| line.starts_with("openssl_ctx_info{"));
        assert!(infos.any(|line| labels.iter().all(|label| line.contains(label))), "{metrics}");
    }
    // One file, with one set of probes: each hit is counted once.
    let mut pids: Vec<u32> = containers.iter().map(|container| container.pid).collect();
    pids.sort_unstable();
    let targets = agent.snapshot()["targets"].clone();
    let of_them = targets.as_array().expect("an array").iter().filter(|target| {
        let processes = target["processes"].as_array().expect("an array");
        processes.iter().any(|pid| pids.iter().any(|ours| pid == ours))
    });
    let processes: Vec<&Value> = of_them.map(|target| &target["processes"]).collect();
    assert_eq!(processes, [&json!(pids)]);
    assert_eq!(agent.metric("sslsess_losses_total{loss=\"foreign_image\"}"), Some(0.0));
    // It is known of those that are gone.
    for (container, told) in containers.into_iter().zip(told) {
        let Container { mut oracle, id, pid } = container;
        oracle.tell("exit");
        assert!(oracle.wait().success());
        assert_equal(&agent, pid, &told, Expect::Exited);
        let expected = json!({"id": id, "runtime": "docker", "pod_uid": null});
        assert_all(&agent.contexts_of(pid), "container", &expected);
    }
}

#[track_caller]
fn assert_all(contexts: &[Value], field: &str, expected: &Value) {
    assert!(!contexts.is_empty(), "no context");
    for context in contexts {
        assert_eq!(&context[field], expected, "{context:#}");
    }
}

const ID: &str = "5e0b7d13c9a84f26b1d8e3f7a06c4295d7e18b3a5f9046c2e8d71b0f3a6c59e4";
const POD: &str = "0d6a1f52-7c3b-4e98-a1f4-5b2c8d7e9036";

/// What a runtime makes, made by hand: a root of its own in an overlay, with a
/// libssl of its own in the upper layer; namespaces; a cgroup in a hierarchy of
/// v1 or v2, whichever there are.
#[test]
fn a_container_of_namespaces_and_a_cgroup_is_named() {
    let root = Root::make();
    let docker = (format!("docker/{ID}"), json!({"id": ID, "runtime": "docker", "pod_uid": null}));
    let kubernetes = (
        format!("kubepods/besteffort/pod{POD}/crio-{ID}"),
        json!({"id": ID, "runtime": "cri-o", "pod_uid": POD}),
    );
    let hierarchies = hierarchies();
    assert!(!hierarchies.is_empty(), "no hierarchy of cgroups that systemd would use");
    // Both kinds of names, in as many hierarchies as there are.
    for (at, (path, expected)) in [docker, kubernetes].into_iter().enumerate() {
        let cgroup = Cgroup::make(&hierarchies[at % hierarchies.len()], &path);
        let mut oracle = Oracle::start_command(by_hand(&root, &cgroup));
        let pid = descendant(oracle.pid());
        let snapshot = shown_while(pid, || {
            oracle.ask("run tls12_session_ids");
        });
        let contexts = snapshot["contexts"].as_array().expect("an array of contexts");
        assert_all(contexts, "container", &expected);
        let inside = oracle.ask("pid")["pid"].clone();
        assert_ne!(inside, pid);
        assert_all(contexts, "pid_inside", &inside);
        for told in oracle.told() {
            let seen = contexts.iter().find(|seen| seen["ctx"] == told.ctx).expect("it was used");
            assert_eq!(seen["stats"].as_object(), Some(&told.stats));
        }
    }
}

/// The program of a root, in namespaces of its own. All mounts are in them too.
fn by_hand(root: &Root, cgroup: &Cgroup) -> Command {
    let overlay = "mount -t tmpfs layers \"$ROOT/proc\" && cd \"$ROOT/proc\" \
                   && mkdir upper work root \
                   && mount -t overlay -o lowerdir=\"$ROOT\",upperdir=upper,workdir=work o root";
    let script = format!(
        "{overlay} && touch root/{} && mount -t proc proc root/proc && chroot root {PROGRAM}; exit $?",
        root.libssl.display()
    );
    let mut command = Command::new("sh");
    command.arg("-c").arg(
        "echo $$ >\"$CGROUP/cgroup.procs\" && exec unshare --mount --propagation private --pid \
         --fork --kill-child --uts --ipc --net --cgroup sh -c \"$SCRIPT\"",
    );
    command.env("CGROUP", &cgroup.leaf).env("SCRIPT", script).env("ROOT", root.path());
    command
}

/// The program that a process has started through another.
fn descendant(ancestor: u32) -> u32 {
    let parent = |pid: i32| Some(Process::new(pid).ok()?.stat().ok()?.ppid);
    let is_ours = |process: &Process| {
        let stat = process.stat().ok()?;
        let grandparent = parent(stat.ppid)?;
        (stat.comm == PROGRAM[1..] && grandparent == ancestor.cast_signed()).then_some(())
    };
    let mut processes = all_processes().expect("/proc is there").flatten();
    let found = processes.find(|process| is_ours(process).is_some()).expect("it runs");
    found.pid.cast_unsigned()
}

/// Where systemd's hierarchies of cgroups are mounted: v1's, and that of v2.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = Process::myself().and_then(|process| process.mountinfo()).expect("it is ours");
    let is_managed = |mount: &&procfs::process::MountInfo| {
        let is_systemds = mount.super_options.contains_key("name");
        mount.root == "/"
            && (mount.fs_type == "cgroup2" || mount.fs_type == "cgroup" && is_systemds)
    };
    mounts.0.iter().filter(is_managed).map(|mount| mount.mount_point.clone()).collect()
}

/// A cgroup, removed with all that it is in.
struct Cgroup {
    /// The outermost directory that is ours.
    top: PathBuf,
    leaf: PathBuf,
}

impl Cgroup {
    fn make(hierarchy: &Path, path: &str) -> Self {
        let top = hierarchy.join(format!("sslsess-test-{}", std::process::id()));
        let cgroup = Self { leaf: top.join(path), top };
        fs::create_dir_all(&cgroup.leaf).expect("we are root");
        cgroup
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for cgroup in self.leaf.ancestors().take_while(|path| path.starts_with(&self.top)) {
            // Its process was killed, and is gone in a moment.
            eventually("a cgroup is empty", || fs::remove_dir(cgroup).ok());
        }
    }
}
