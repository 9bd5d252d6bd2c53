//! The units of systemd that a process is part of, by the names of its cgroups:
//! what `sd_pid_get_unit(3)` and `sd_pid_get_user_unit(3)` would say.

use procfs::ProcessCGroup;

/// The units of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitFacts {
    /// The unit of the system's manager, as `nginx.service`; in a container with
    /// a manager of its own, of that one. Never the scope that a container is
    /// itself.
    pub unit: Option<String>,
    /// Within `user@UID.service`: the unit of the user's manager.
    pub user_unit: Option<String>,
}

impl UnitFacts {
    /// These, or else the other ones.
    pub(super) fn or(self, other: Self) -> Self {
        if self.unit.is_some() { self } else { other }
    }
}

/// Whether systemd keeps its units in this hierarchy: in its own one of v1, or
/// in that of v2.
pub(super) fn is_managed(cgroup: &ProcessCGroup) -> bool {
    cgroup.hierarchy == 0 || cgroup.controllers.iter().any(|name| name == "name=systemd")
}

/// What several hierarchies say, if none contradicts another.
pub(super) fn agreed(said: impl Iterator<Item = UnitFacts>) -> UnitFacts {
    let mut known = said.filter(|units| units.unit.is_some());
    let Some(first) = known.next() else { return UnitFacts::default() };
    if known.all(|other| other == first) { first } else { UnitFacts::default() }
}

/// The units in a path below a root of systemd's: the host's, or a container's.
pub(super) fn of_path(names: &[&str], is_in_container: bool) -> UnitFacts {
    let mut names = names;
    if is_in_container && let [first, rest @ ..] = names {
        // What systemd-nspawn, Podman and Proxmox put between a container's
        // cgroup and what the container sees as the root.
        if matches!(*first, "payload" | "container" | "ns") {
            names = rest;
        }
    }
    if names.first() == Some(&"..") {
        // The reader is in another cgroup namespace. Only of these it is certain
        // that they stand at a system's root, and not at that of a user.
        names = &names[names.iter().take_while(|name| **name == "..").count()..];
        let is_root = match names {
            ["system.slice", ..] => true,
            ["user.slice", user, ..] => user.starts_with("user-"),
            _ => false,
        };
        if !is_root {
            return UnitFacts::default();
        }
    }
    let Some((unit, below)) = first_unit(names) else { return UnitFacts::default() };
    let user_unit = if unit.starts_with("user@") { first_unit(below) } else { None };
    UnitFacts { unit: Some(unit), user_unit: user_unit.map(|(unit, _)| unit) }
}

/// The unit below the slices that a path begins with, and the rest of the path.
fn first_unit<'p>(names: &'p [&'p str]) -> Option<(String, &'p [&'p str])> {
    let slices = names.iter().take_while(|name| name.ends_with(".slice")).count();
    let (name, below) = names[slices..].split_first()?;
    // systemd puts one before a name that is also a file of the kernel's.
    let name = name.strip_prefix('_').unwrap_or(name);
    let (stem, kind) = name.rsplit_once('.')?;
    let is_kind = matches!(kind, "service" | "scope" | "socket" | "mount" | "swap");
    let is_stem = !stem.is_empty()
        && stem.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b));
    (is_kind && is_stem).then(|| (name.to_owned(), below))
}

/// What a part of a unit's name stands for, where `\x2d` is `-`; `None` where it
/// is no text.
pub(super) fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = escaped;
    while let Some((before, code)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        let digits = code.get(..2).filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &code[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}
