//! The container of a process, by the names of its cgroups: no runtime is asked,
//! and nothing but `/proc/PID/cgroup` is read. Who may make cgroups can name
//! them as a runtime would; this is what the names say.

use procfs::{ProcessCGroup, ProcessCGroups};
use serde::{Deserialize, Serialize};

use super::unit::{self, UnitFacts};

/// What made a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// Docker, also as a kubelet's runtime.
    Docker,
    /// containerd: as a kubelet's runtime, or with nerdctl.
    Containerd,
    /// CRI-O.
    #[serde(rename = "cri-o")]
    CriO,
    /// Podman.
    Podman,
    /// LXC, and what is built on it: LXD, Incus, Proxmox.
    Lxc,
    /// systemd-nspawn.
    SystemdNspawn,
}

impl Runtime {
    /// Its name, as JSON and the metrics have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Podman => "podman",
            Self::Lxc => "lxc",
            Self::SystemdNspawn => "systemd-nspawn",
        }
    }
}

/// The innermost container of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// The runtime's id, 64 digits; or the name, of LXC's and systemd-nspawn's.
    pub id: String,
    /// What made it; `null` where the path does not tell.
    pub runtime: Option<Runtime>,
    /// The UID of its Kubernetes pod; `null` where it is not in one.
    pub pod_uid: Option<String>,
}

impl ContainerFacts {
    /// As runtimes show it to people: the first 12 digits of an id; a name whole.
    #[must_use]
    pub fn short_id(&self) -> &str {
        if is_id(&self.id) { &self.id[..12] } else { &self.id }
    }
}

/// What the cgroups of a process tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupFacts {
    /// Its container. Absent outside of one, and where the paths do not tell:
    /// those of processes in the same cgroup namespace as the reader are cut off
    /// at its root.
    pub container: Option<ContainerFacts>,
    /// Its units.
    pub units: UnitFacts,
}

impl CgroupFacts {
    /// Out of all hierarchies, of v1 and v2. A container may be in some
    /// hierarchies only; one that nests another has the shorter path. Where two
    /// contradict each other, there is no container.
    #[must_use]
    pub fn of(cgroups: &ProcessCGroups) -> Self {
        let paths: Vec<(&ProcessCGroup, Path)> =
            cgroups.0.iter().map(|cgroup| (cgroup, Path::read(cgroup))).collect();
        let deepest = paths
            .iter()
            .map(|(_, path)| path)
            // The first of equals: the kernel lists v2 last.
            .reduce(
                |deepest, path| if path.chain.len() > deepest.chain.len() { path } else { deepest },
            );
        let container = deepest
            .filter(|deepest| paths.iter().all(|(_, path)| path.leads_to(deepest)))
            .and_then(|deepest| deepest.chain.last().cloned());
        let managed = paths.into_iter().filter(|(cgroup, _)| unit::is_managed(cgroup));
        let units = managed.map(|(_, path)| path.units);
        Self { container, units: unit::agreed(units) }
    }
}

/// What one path tells.
struct Path {
    /// The containers in it, the innermost last.
    chain: Vec<ContainerFacts>,
    units: UnitFacts,
}

impl Path {
    fn read(cgroup: &ProcessCGroup) -> Self {
        // The cgroup is gone, and the process is about to be (v2).
        let path = cgroup.pathname.strip_suffix(" (deleted)").unwrap_or(&cgroup.pathname);
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let mut chain = Vec::new();
        let mut units = UnitFacts::default();
        let mut from = 0;
        for at in 0..names.len() {
            let place =
                Place { before: &names[from..at], name: names[at], after: &names[at + 1..] };
            if let Some(container) = place.container(cgroup.hierarchy == 0) {
                units = unit::of_path(place.before, !chain.is_empty()).or(units);
                chain.push(container);
                from = at + 1;
            }
        }
        units = unit::of_path(&names[from..], !chain.is_empty()).or(units);
        Self { chain, units }
    }

    /// Whether the other one is the same container, or is nested in it.
    fn leads_to(&self, other: &Self) -> bool {
        self.chain.iter().zip(&other.chain).all(|(ours, others)| ours.id == others.id)
    }
}

/// A name in a path, and what stands around it.
struct Place<'p> {
    /// From the root, or from the container around it.
    before: &'p [&'p str],
    name: &'p str,
    after: &'p [&'p str],
}

/// How runtimes name the cgroups of their containers: this, the id, and `.scope`
/// where systemd makes them. Those of their monitors (`crio-conmon-`,
/// `libpod-conmon-`) are no containers.
const PREFIXES: [(&str, Runtime); 6] = [
    ("docker-", Runtime::Docker),
    ("cri-containerd-", Runtime::Containerd),
    ("nerdctl-", Runtime::Containerd),
    ("crio-", Runtime::CriO),
    ("libpod-", Runtime::Podman),
    ("libpod-payload-", Runtime::Podman),
];

impl Place<'_> {
    fn container(&self, is_v2: bool) -> Option<ContainerFacts> {
        let (id, runtime) = self
            .named_by_prefix()
            .or_else(|| self.named_with_colons())
            .or_else(|| self.bare_id())
            .or_else(|| self.of_lxc())
            .or_else(|| self.of_nspawn(is_v2))?;
        let around = self.before.iter().rev().chain([&self.name]);
        Some(ContainerFacts {
            id,
            runtime,
            pod_uid: around.filter_map(|name| pod_uid(name)).next(),
        })
    }

    fn named_by_prefix(&self) -> Option<(String, Option<Runtime>)> {
        let name = self.name.strip_suffix(".scope").unwrap_or(self.name);
        PREFIXES.iter().find_map(|(prefix, runtime)| {
            let id = name.strip_prefix(prefix).filter(|id| is_id(id))?;
            Some((id.to_owned(), Some(*runtime)))
        })
    }

    /// `SLICE:PREFIX:ID`, meant for systemd, and taken literally by a runc that
    /// makes its cgroups itself.
    fn named_with_colons(&self) -> Option<(String, Option<Runtime>)> {
        let (_, scope) = self.name.split_once(".slice:")?;
        let (prefix, id) = scope.split_once(':').filter(|(_, id)| is_id(id))?;
        let runtime = PREFIXES.iter().find(|(known, _)| known.strip_suffix('-') == Some(prefix));
        Some((id.to_owned(), runtime.map(|(_, runtime)| *runtime)))
    }

    /// The id alone: Docker's, and any runtime's that a kubelet or an operator
    /// gave a parent to.
    fn bare_id(&self) -> Option<(String, Option<Runtime>)> {
        let parent = self.before.last().copied();
        // The id of one of Podman's pods: its containers are in it, and its monitor.
        if !is_id(self.name) || parent == Some("libpod_parent") {
            return None;
        }
        // The agent of Amazon ECS knows no other runtime.
        let is_docker = parent == Some("docker") || self.before.contains(&"ecs");
        Some((self.name.to_owned(), is_docker.then_some(Runtime::Docker)))
    }

    /// `lxc/NAME` before LXC 4, `lxc.payload.NAME` since; `lxc.monitor.NAME` is
    /// no container.
    fn of_lxc(&self) -> Option<(String, Option<Runtime>)> {
        let name = match self.before.last() {
            Some(&"lxc" | &"lxc.payload") => self.name,
            _ => self.name.strip_prefix("lxc.payload.")?,
        };
        is_name(name).then(|| (name.to_owned(), Some(Runtime::Lxc)))
    }

    /// `machine-NAME.scope`, or `systemd-nspawn@NAME.service`. Scopes of this
    /// name are those of any machine that is registered, and the hypervisor of a
    /// virtual one is no container. systemd-nspawn puts what it runs into a
    /// cgroup `payload`; but not into each of v1's hierarchies.
    fn of_nspawn(&self, is_v2: bool) -> Option<(String, Option<Runtime>)> {
        let is_payload = self.after.first() == Some(&"payload");
        let name = if let Some(name) = self.name.strip_prefix("systemd-nspawn@") {
            name.strip_suffix(".service").filter(|_| is_payload)?
        } else {
            let name = self.name.strip_prefix("machine-")?.strip_suffix(".scope")?;
            let is_supervisor = self.after.first() == Some(&"supervisor");
            (is_payload || !is_v2 && !is_supervisor).then_some(name)?
        };
        let name = unit::unescape(name)?;
        (is_name(&name) && !is_of_libvirt(&name)).then_some((name, Some(Runtime::SystemdNspawn)))
    }
}

/// libvirt's names of machines are driver, number and name, as `qemu-3-web`;
/// they are hypervisors, or containers of its own.
fn is_of_libvirt(name: &str) -> bool {
    let mut parts = name.split('-');
    let is_driver = parts.next().is_some_and(|part| matches!(part, "qemu" | "lxc" | "xen" | "ch"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    is_driver && parts.next().is_some_and(is_number)
}

/// An id as the runtimes make them: 256 bits in hexadecimal.
fn is_id(text: &str) -> bool {
    text.len() == 64 && is_hexadecimal(text)
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A name that can be shown as it is.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The UID of a pod in the name of its cgroup: `podUID`, or
/// `kubepods-burstable-podUID.slice` with `_` for `-`. It is a UUID, or an MD5
/// sum for a pod of a file of the kubelet's own.
fn pod_uid(name: &str) -> Option<String> {
    let uid = match name.split_once(".slice") {
        Some((slice, _)) if slice.contains("kubepods") => {
            slice.rsplit_once("-pod")?.1.replace('_', "-")
        }
        Some(_) => return None,
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let groups: Vec<usize> = uid.split('-').map(str::len).collect();
    let is_uid = matches!(groups.as_slice(), [8, 4, 4, 4, 12] | [32]);
    (is_uid && uid.split('-').all(is_hexadecimal)).then_some(uid)
}

#[cfg(test)]
mod tests;
