//! Which processes are of one program: a master and its workers, a parent and
//! the children that it forked.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use procfs::process::all_processes;

/// The processes of the host at one moment.
#[derive(Clone, Debug, Default)]
pub struct Families {
    processes: HashMap<u32, Member>,
}

#[derive(Clone, Debug)]
struct Member {
    parent: u32,
    exe: PathBuf,
}

impl Families {
    /// Looks at `/proc`. A process that cannot be read, or has ended, is not in it.
    #[must_use]
    pub fn read() -> Self {
        let processes = all_processes()
            .into_iter()
            .flatten()
            .filter_map(|process| {
                let process = process.ok()?;
                let parent = process.stat().ok()?.ppid.cast_unsigned();
                Some((process.pid.cast_unsigned(), Member { parent, exe: process.exe().ok()? }))
            })
            .collect();
        Self { processes }
    }

    /// Other processes of the same executable that have an ancestor in common
    /// with a process, through processes of that executable alone. An ancestor
    /// itself is one of them only if it serves: a master as a rule does not.
    #[must_use]
    pub fn peers(&self, pid: u32, serving: &[u32]) -> Vec<u32> {
        let line = self.line(pid);
        let Some(root) = line.last() else { return Vec::new() };
        let ancestors: HashSet<u32> = line.iter().copied().skip(1).collect();
        let mut peers: Vec<u32> = self
            .processes
            .keys()
            .copied()
            .filter(|other| *other != pid)
            .filter(|other| !ancestors.contains(other) || serving.contains(other))
            .filter(|other| self.line(*other).last() == Some(root))
            .collect();
        peers.sort_unstable();
        peers
    }

    /// A process and its ancestors, as far as they run the same executable.
    fn line(&self, pid: u32) -> Vec<u32> {
        let Some(first) = self.processes.get(&pid) else { return Vec::new() };
        let mut line = vec![pid];
        let mut parent = first.parent;
        while let Some(member) = self.processes.get(&parent)
            && member.exe == first.exe
            && !line.contains(&parent)
        {
            line.push(parent);
            parent = member.parent;
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families(processes: &[(u32, u32, &str)]) -> Families {
        let processes = processes
            .iter()
            .map(|(pid, parent, exe)| (*pid, Member { parent: *parent, exe: exe.into() }))
            .collect();
        Families { processes }
    }

    #[test]
    fn workers_of_one_master_are_peers() {
        let families = families(&[
            (1, 0, "/sbin/init"),
            (10, 1, "/usr/sbin/nginx"),
            (11, 10, "/usr/sbin/nginx"),
            (12, 10, "/usr/sbin/nginx"),
            // Another instance.
            (20, 1, "/usr/sbin/nginx"),
            (21, 20, "/usr/sbin/nginx"),
            (30, 10, "/bin/sh"),
        ]);
        assert_eq!(families.peers(11, &[]), [12]);
        assert_eq!(families.peers(11, &[10]), [10, 12]);
        assert_eq!(families.peers(10, &[]), [11, 12]);
        assert_eq!(families.peers(21, &[]), Vec::<u32>::new());
        assert_eq!(families.peers(99, &[]), Vec::<u32>::new());
    }

    #[test]
    fn scripts_of_one_shell_are_not() {
        let families =
            families(&[(5, 1, "/bin/sh"), (6, 5, "/usr/bin/python3"), (7, 5, "/usr/bin/python3")]);
        assert_eq!(families.peers(6, &[7]), Vec::<u32>::new());
    }

    #[test]
    fn a_circle_ends() {
        let families = families(&[(1, 2, "/a"), (2, 1, "/a")]);
        assert_eq!(families.peers(1, &[]), Vec::<u32>::new());
    }

    #[test]
    fn this_process_is_there() {
        let families = Families::read();
        assert_eq!(families.line(std::process::id()).first(), Some(&std::process::id()));
    }
}
