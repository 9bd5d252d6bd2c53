//! Texts of `/proc/PID/cgroup` as each runtime makes them, with where it does so.

use procfs::FromRead as _;

use super::*;

const A: &str = "3f2a9c41d07be58614f0c2a7739bd1e5a86b04dfe91c35720ab86d4ef1937c28";
const B: &str = "b61e07d8459ac3f2e01d7f5b8834a6c90d2ef7143ba85c6619e0d4f27a3c5b90";
const POD: &str = "7c41e2ab-903d-4f6e-b1d5-2a8f06c39e74";
/// As in the name of a slice.
const POD_: &str = "7c41e2ab_903d_4f6e_b1d5_2a8f06c39e74";
/// Of a static pod: the MD5 sum of its file.
const STATIC_POD: &str = "5d0c8b1f7e3a4962b0d41f8c6a95e273";

fn facts(text: &str) -> CgroupFacts {
    let text = text.replace("{A}", A).replace("{B}", B).replace("{POD}", POD);
    let text = text.replace("{POD_}", POD_).replace("{STATIC_POD}", STATIC_POD);
    CgroupFacts::of(&ProcessCGroups::from_read(text.as_bytes()).expect("the kernel's format"))
}

fn container(text: &str) -> Option<(String, Option<Runtime>, Option<String>)> {
    facts(text).container.map(|c| (c.id, c.runtime, c.pod_uid))
}

#[track_caller]
fn is(text: &str, id: &str, runtime: impl Into<Option<Runtime>>, pod_uid: Option<&str>) {
    let expected = (id.to_owned(), runtime.into(), pod_uid.map(str::to_owned));
    assert_eq!(container(text), Some(expected), "{text}");
}

#[track_caller]
fn is_none(text: &str) {
    assert_eq!(container(text), None, "{text}");
}

// moby: daemon/oci_linux.go, withCgroups: `/docker/ID` with its own driver,
// `system.slice:docker:ID` with systemd's, of which runc makes a scope.
#[test]
fn docker() {
    is("0::/docker/{A}", A, Runtime::Docker, None);
    // v1, and hybrid: Debian 12's docker.io.
    is(
        "11:memory:/docker/{A}\n9:name=systemd:/docker/{A}\n2:cpu,cpuacct:/docker/{A}\n0::/docker/{A}\n",
        A,
        Runtime::Docker,
        None,
    );
    is(
        "12:pids:/system.slice/docker-{A}.scope\n0::/system.slice/docker-{A}.scope",
        A,
        Runtime::Docker,
        None,
    );
    // systemd, or Docker, within the container.
    is("0::/system.slice/docker-{A}.scope/init.scope", A, Runtime::Docker, None);
    is("0::/docker/{A}/init", A, Runtime::Docker, None);
    // Rootless.
    is(
        "0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope",
        A,
        Runtime::Docker,
        None,
    );
    // `--cgroup-parent /ci`: any runtime could have made it.
    is("0::/ci/{A}", A, None, None);
}

// amazon-ecs-agent: agent/api/task/task_linux.go: Docker's cgroup parent is
// `/ecs/TASK`, and `ecstasks-TASK.slice` with systemd.
#[test]
fn docker_of_amazon_ecs() {
    is("7:memory:/ecs/{STATIC_POD}/{A}\n0::/", A, Runtime::Docker, None);
    is("7:memory:/ecs/cluster/{STATIC_POD}/{A}", A, Runtime::Docker, None);
    is("0::/ecstasks.slice/ecstasks-{STATIC_POD}.slice/docker-{A}.scope", A, Runtime::Docker, None);
}

// kubernetes: pkg/kubelet/cm/pod_container_manager_linux.go makes `podUID` below
// the class of its quality of service, and cgroup_manager_linux.go the names of
// slices; containerd: getCgroupsPath of its CRI plugin.
#[test]
fn containerd_of_kubernetes() {
    for class in ["burstable", "besteffort"] {
        let slice =
            format!("kubepods.slice/kubepods-{class}.slice/kubepods-{class}-pod{{POD_}}.slice");
        is(&format!("0::/{slice}/cri-containerd-{{A}}.scope"), A, Runtime::Containerd, Some(POD));
        // The kubelet's own driver: the runtime is not in the path.
        is(&format!("4:memory:/kubepods/{class}/pod{{POD}}/{{A}}"), A, None, Some(POD));
    }
    // Guaranteed: no class in the path.
    is(
        "0::/kubepods.slice/kubepods-pod{POD_}.slice/cri-containerd-{A}.scope",
        A,
        Runtime::Containerd,
        Some(POD),
    );
    is("4:memory:/kubepods/pod{STATIC_POD}/{A}", A, None, Some(STATIC_POD));
    // Docker as the runtime, with systemd's driver.
    is(
        "1:name=systemd:/kubepods.slice/kubepods-pod{POD_}.slice/docker-{A}.scope",
        A,
        Runtime::Docker,
        Some(POD),
    );
    // The kubelet wants systemd to make cgroups, and the runtime does not know
    //: a slice, a prefix and the id, in one name.
    is(
        "4:memory:/kubepods-besteffort-pod{POD_}.slice:cri-containerd:{A}\n\
         1:name=systemd:/system.slice/containerd.service/kubepods-besteffort-pod{POD_}.slice:cri-containerd:{A}",
        A,
        Runtime::Containerd,
        Some(POD),
    );
    // nerdctl, with systemd's driver.
    is("0::/system.slice/nerdctl-{A}.scope", A, Runtime::Containerd, None);
}

// cri-o: internal/config/cgmgr: `crio-ID`, and `crio-conmon-ID` for the monitor.
#[test]
fn cri_o() {
    let slice = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD_}.slice";
    is(&format!("0::/{slice}/crio-{{A}}.scope"), A, Runtime::CriO, Some(POD));
    // crun puts a cgroup into the scope.
    is(&format!("0::/{slice}/crio-{{A}}.scope/container"), A, Runtime::CriO, Some(POD));
    is("4:memory:/kubepods/besteffort/pod{POD}/crio-{A}", A, Runtime::CriO, Some(POD));
    is_none(&format!("0::/{slice}/crio-conmon-{{A}}.scope"));
}

// podman: libpod, getOCICgroupPath:
// `libpod-ID` below machine.slice, user.slice, `/libpod_parent` or a pod;
// `libpod-conmon-ID` for the monitor; `libpod-payload-ID` with
// `--cgroups=split`, as Quadlet's units have it.
#[test]
fn podman() {
    is("0::/machine.slice/libpod-{A}.scope", A, Runtime::Podman, None);
    is("0::/machine.slice/libpod-{A}.scope/container", A, Runtime::Podman, None);
    is(
        "0::/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope/container",
        A,
        Runtime::Podman,
        None,
    );
    is(
        "3:cpuset:/libpod_parent/libpod-{A}\n1:name=systemd:/libpod_parent/libpod-{A}",
        A,
        Runtime::Podman,
        None,
    );
    is("0::/libpod_parent/{B}/libpod-{A}", A, Runtime::Podman, None);
    is(
        "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container",
        A,
        Runtime::Podman,
        None,
    );
    let quadlet = "0::/system.slice/web.service/libpod-payload-{A}";
    is(quadlet, A, Runtime::Podman, None);
    assert_eq!(facts(quadlet).units.unit.as_deref(), Some("web.service"));
    for monitor in [
        "0::/machine.slice/libpod-conmon-{A}.scope",
        "0::/libpod_parent/{B}/conmon",
        "0::/libpod_parent/conmon",
        "0::/system.slice/web.service/runtime",
    ] {
        is_none(monitor);
    }
}

// lxc: src/lxc/cgroups/cgfsng.c: `lxc/NAME` by default before 4.0,
// `lxc.payload.NAME` and `lxc.monitor.NAME` since.
#[test]
fn lxc() {
    is("6:freezer:/lxc/web\n1:name=systemd:/lxc/web", "web", Runtime::Lxc, None);
    is("0::/lxc.payload.web-1", "web-1", Runtime::Lxc, None);
    is("0::/lxc.payload.web/system.slice/nginx.service", "web", Runtime::Lxc, None);
    // 3.1 and 3.2.
    is("6:freezer:/lxc.payload/web", "web", Runtime::Lxc, None);
    // Proxmox.
    is("0::/lxc/101/ns/system.slice/ssh.service", "101", Runtime::Lxc, None);
    is_none("0::/lxc.monitor.web");
    is_none("0::/lxc.monitor/101");
    is_none("0::/system.slice/lxc.service");
    is_none("0::/lxc");
    is_none("0::/lxc.payload.\u{1b}[2J");
}

// systemd: src/machine/machine.c, machine_start_scope, and src/nspawn/
// nspawn-cgroup.c, create_subcgroup: `payload` and `supervisor`, in the main
// hierarchy; machinectl start: `systemd-nspawn@NAME.service`.
#[test]
fn systemd_nspawn() {
    let name = "my-web.test";
    is(
        r"0::/machine.slice/machine-my\x2dweb.test.scope/payload",
        name,
        Runtime::SystemdNspawn,
        None,
    );
    is(
        r"0::/machine.slice/machine-my\x2dweb.test.scope/payload/system.slice/nginx.service",
        name,
        Runtime::SystemdNspawn,
        None,
    );
    is(
        "0::/machine.slice/systemd-nspawn@my-web.test.service/payload/init.scope",
        name,
        Runtime::SystemdNspawn,
        None,
    );
    // v1: no `payload` but in systemd's own hierarchy.
    is(
        "4:memory:/machine.slice/machine-web.scope\n\
         1:name=systemd:/machine.slice/machine-web.scope/payload/init.scope\n0::/",
        "web",
        Runtime::SystemdNspawn,
        None,
    );
    for outside in [
        "0::/machine.slice/machine-web.scope/supervisor",
        "0::/machine.slice/systemd-nspawn@web.service/supervisor",
        // A virtual machine of systemd-vmspawn.
        "0::/machine.slice/machine-web.scope",
        // libvirt: src/util/virsystemd.c, virSystemdMakeScopeName.
        r"0::/machine.slice/machine-qemu\x2d3\x2dweb.scope/libvirt/emulator",
        r"4:memory:/machine.slice/machine-qemu\x2d3\x2dweb.scope",
        r"0::/machine.slice/machine-a\xzz.scope/payload",
    ] {
        is_none(outside);
    }
}

#[test]
fn the_innermost_container_is_named() {
    // Docker in Docker.
    is("0::/docker/{A}/docker/{B}", B, Runtime::Docker, None);
    is("0::/system.slice/docker-{A}.scope/docker/{B}", B, Runtime::Docker, None);
    // In some hierarchies only, whichever is listed first.
    is("2:cpu:/docker/{A}\n1:name=systemd:/docker/{A}/docker/{B}\n0::/", B, Runtime::Docker, None);
    // A node of kind, which is a container; its pod is not the node's.
    let kubelet = "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{POD_}.slice";
    is(
        &format!("0::/system.slice/docker-{{A}}.scope/{kubelet}/cri-containerd-{{B}}.scope"),
        B,
        Runtime::Containerd,
        Some(POD),
    );
    is("0::/kubepods/pod{POD}/{A}/docker/{B}", B, Runtime::Docker, None);
    is("0::/lxc.payload.web/docker/{B}", B, Runtime::Docker, None);
}

// What the kernel writes for a cgroup that is not below the root of the reader's
// namespace: kernfs_path_from_node.
#[test]
fn of_a_reader_in_another_cgroup_namespace() {
    is("0::/../{A}", A, None, None);
    is("0::/../../pod{POD}/{A}", A, None, Some(POD));
    is("0::/../cri-containerd-{A}.scope", A, Runtime::Containerd, None);
    is("0::/../../kubepods-burstable-pod{POD_}.slice/crio-{A}.scope", A, Runtime::CriO, Some(POD));
    is("0::/../../docker/{A}", A, Runtime::Docker, None);
    // In the reader's own container.
    is_none("0::/");
    is_none("0::/../..");
}

#[test]
fn of_a_process_that_is_about_to_be_gone() {
    is("0::/docker/{A} (deleted)", A, Runtime::Docker, None);
    // v1 shows the root for it.
    is("4:memory:/\n1:name=systemd:/\n0::/docker/{A}", A, Runtime::Docker, None);
}

#[test]
fn what_is_no_container() {
    for text in [
        "",
        "0::/",
        "0::/init.scope",
        "0::/system.slice/docker.service",
        "0::/system.slice/containerd.service",
        "0::/user.slice/user-1000.slice/session-3.scope",
        // 32 digits, and 63.
        "4:memory:/jobs/{STATIC_POD}",
        "0::/docker/f2a9c41d07be58614f0c2a7739bd1e5a86b04dfe91c35720ab86d4ef1937c28",
        "0::/docker/3F2A9C41D07BE58614F0C2A7739BD1E5A86B04DFE91C35720AB86D4EF1937C28",
        "0::/docker-abc.scope",
    ] {
        is_none(text);
    }
    // A pod's own cgroup, with no container in it.
    is_none("0::/kubepods.slice/kubepods-pod{POD_}.slice");
}

/// Neither is made up, nor chosen by the order of lines.
#[test]
fn hierarchies_that_contradict_each_other_name_none() {
    is_none("2:cpu:/docker/{A}\n1:name=systemd:/docker/{B}");
    is_none("2:cpu:/docker/{A}\n1:name=systemd:/docker/{B}/docker/{A}");
    let units = "1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service";
    assert_eq!(facts(units), CgroupFacts::default());
}

#[test]
fn what_looks_like_a_pod_and_is_none() {
    for parent in ["kubepods/podman", "kubepods/pod-7c41", "podcast.slice/podcast-pod{POD_}.slice"]
    {
        is(&format!("0::/{parent}/{{A}}"), A, None, None);
    }
}

// systemd: src/basic/cgroup-util.c, cg_path_get_unit and cg_path_get_user_unit.
#[test]
fn units_of_systemd() {
    let user = "/user.slice/user-1000.slice/user@1000.service";
    let cases = [
        ("0::/system.slice/nginx.service", Some("nginx.service"), None),
        // v1 and hybrid: not by the hierarchies of controllers.
        (
            "4:memory:/system.slice\n1:name=systemd:/system.slice/nginx.service\n0::/",
            Some("nginx.service"),
            None,
        ),
        ("4:memory:/system.slice/nginx.service\n1:name=systemd:/\n0::/", None, None),
        (
            "0::/system.slice/system-postgresql.slice/postgresql@15-main.service",
            Some("postgresql@15-main.service"),
            None,
        ),
        // Delegated: what is below is the unit's own business.
        ("0::/system.slice/jobs.service/worker.service", Some("jobs.service"), None),
        ("0::/init.scope", Some("init.scope"), None),
        ("0::/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope"), None),
        (
            &format!("0::{user}/app.slice/app-web.service"),
            Some("user@1000.service"),
            Some("app-web.service"),
        ),
        (&format!("0::{user}/init.scope"), Some("user@1000.service"), Some("init.scope")),
        (&format!("0::{user}"), Some("user@1000.service"), None),
        ("0::/system.slice/_cpu.service", Some("cpu.service"), None),
        ("0::/system.slice", None, None),
        ("0::/jobs/17", None, None),
        ("0::/.service", None, None),
        ("0::/a b.service", None, None),
        // The scope of a container is the container, not a unit beside it.
        ("0::/system.slice/docker-{A}.scope", None, None),
        ("0::/machine.slice/systemd-nspawn@web.service/payload", None, None),
        // A container with a manager of its own.
        (
            "0::/machine.slice/machine-web.scope/payload/system.slice/nginx.service",
            Some("nginx.service"),
            None,
        ),
        ("0::/lxc.payload.web/system.slice/nginx.service", Some("nginx.service"), None),
        ("0::/lxc/101/ns/system.slice/nginx.service", Some("nginx.service"), None),
        (
            "0::/system.slice/docker-{A}.scope/system.slice/nginx.service",
            Some("nginx.service"),
            None,
        ),
        // From within another cgroup namespace.
        ("0::/../../system.slice/nginx.service", Some("nginx.service"), None),
        (
            &format!("0::/../..{user}/app-web.service"),
            Some("user@1000.service"),
            Some("app-web.service"),
        ),
        ("0::/../app-web.service", None, None),
    ];
    for (text, unit, user_unit) in cases {
        let units = facts(text).units;
        assert_eq!(
            (units.unit.as_deref(), units.user_unit.as_deref()),
            (unit, user_unit),
            "{text}"
        );
    }
}
