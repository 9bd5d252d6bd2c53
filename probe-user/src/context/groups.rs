//! Sums over the contexts of a group that never fall, whatever ends.

use std::collections::HashMap;

use clap::ValueEnum;

use super::{handshakes::Handshakes, life::Context};
use crate::host::ProcessFacts;

/// What contexts can be grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Label {
    /// The path of the executable.
    Exe,
    /// The container's id.
    Container,
    /// The UID of the Kubernetes pod.
    Pod,
    /// The unit of systemd.
    Unit,
    /// The unit of a user's systemd.
    UserUnit,
    /// The name of the process's main thread.
    Comm,
    /// The path of the libssl.
    Library,
}

impl Label {
    /// Its name in metrics and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exe => "exe",
            Self::Container => "container_id",
            Self::Pod => "pod_uid",
            Self::Unit => "unit",
            Self::UserUnit => "user_unit",
            Self::Comm => "comm",
            Self::Library => "library",
        }
    }

    /// Its value for a context of a process and a library; `None` where it is not known.
    fn value(self, facts: &ProcessFacts, library: &str) -> Option<String> {
        let container = facts.cgroups.container.as_ref();
        match self {
            Self::Exe => facts.exe.as_ref().map(|exe| exe.to_string_lossy().into_owned()),
            Self::Container => container.map(|container| container.id.clone()),
            Self::Pod => container.and_then(|container| container.pod_uid.clone()),
            Self::Unit => facts.cgroups.units.unit.clone(),
            Self::UserUnit => facts.cgroups.units.user_unit.clone(),
            Self::Comm => facts.comm.clone(),
            Self::Library => (!library.is_empty()).then(|| library.to_owned()),
        }
    }
}

/// What contexts are grouped by, and how many groups there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupBy {
    /// In the order in which they were chosen, each once.
    pub labels: Vec<Label>,
    /// Groups, at most, besides the one for what is beyond.
    pub most: usize,
}

impl GroupBy {
    /// By these; what is there twice counts once.
    #[must_use]
    pub fn new(chosen: &[Label], most: usize) -> Self {
        let mut labels = Vec::new();
        for label in chosen {
            if !labels.contains(label) {
                labels.push(*label);
            }
        }
        Self { labels, most }
    }
}

impl Default for GroupBy {
    fn default() -> Self {
        Self { labels: vec![Label::Exe], most: 1000 }
    }
}

/// The values of the labels, in their order; `None`: not known.
pub type GroupKey = Vec<Option<String>>;

/// Which group: fixed when a context is met, so that no sum ever loses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GroupId(usize);

/// The group of all contexts for whose own there was no room.
const OVERFLOW: GroupId = GroupId(0);

/// Sums over the contexts whose library keeps the counter, indexed by
/// `Counter`; `None` where no context's does.
pub type Sums = [Option<i64>; 11];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    key: GroupKey,
    /// Contexts that were ever in it.
    contexts: u64,
    /// Counts of the contexts that are gone and not kept any more.
    retired: Sums,
    /// The largest sums that were ever shown.
    shown: Sums,
    /// Handshakes of the contexts that are gone and not kept any more.
    handshakes: Handshakes,
}

/// What is shown of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupTotals {
    /// Which.
    pub id: GroupId,
    /// The values of its labels; `None`: it is the one for what is beyond the bound.
    pub key: Option<GroupKey>,
    /// Each is at least what it was the last time.
    pub sums: Sums,
    /// How long the handshakes of all of them took.
    pub handshakes: Handshakes,
}

/// All groups.
#[derive(Clone, Debug)]
pub struct Groups {
    by: GroupBy,
    /// The first is the one for what is beyond the bound.
    all: Vec<Group>,
    by_key: HashMap<GroupKey, GroupId>,
}

impl Groups {
    /// None yet.
    #[must_use]
    pub fn new(by: GroupBy) -> Self {
        Self { by, all: vec![Group::default()], by_key: HashMap::new() }
    }

    /// What contexts are grouped by.
    #[must_use]
    pub fn labels(&self) -> &[Label] {
        &self.by.labels
    }

    /// The group of a context that is met now.
    pub fn join(&mut self, facts: &ProcessFacts, library: &str) -> GroupId {
        let key: GroupKey =
            self.by.labels.iter().map(|label| label.value(facts, library)).collect();
        // Groups stay, so that one that found no room finds none later either.
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None if self.by_key.len() >= self.by.most => OVERFLOW,
            None => {
                let id = GroupId(self.all.len());
                self.all.push(Group { key: key.clone(), ..Group::default() });
                self.by_key.insert(key, id);
                id
            }
        };
        self.all[id.0].contexts += 1;
        id
    }

    /// Contexts for whose own group there was no room.
    #[must_use]
    pub fn beyond(&self) -> u64 {
        self.all[OVERFLOW.0].contexts
    }

    /// Takes in a context that is about to be forgotten.
    pub fn retire(&mut self, context: &Context) {
        let group = &mut self.all[context.group.0];
        add(&mut group.retired, context.counted());
        if let Some(handshakes) = &context.handshakes {
            group.handshakes.add(handshakes);
            group.handshakes.clear_unfinished();
        }
    }

    /// The sums with the contexts that are still kept; each is at least what it
    /// was the last time.
    ///
    /// Up to OpenSSL 3.1 a servername callback that changes the context counts
    /// `accept` on the new one and then takes it from the old one. A look in
    /// between sees one too many; the sum stays there until the next handshake.
    pub fn totals<'c>(&mut self, kept: impl Iterator<Item = &'c Context>) -> Vec<GroupTotals> {
        let mut sums: Vec<Sums> = self.all.iter().map(|group| group.retired).collect();
        let mut handshakes: Vec<Handshakes> =
            self.all.iter().map(|group| group.handshakes).collect();
        for context in kept {
            add(&mut sums[context.group.0], context.counted());
            if let Some(of_it) = &context.handshakes {
                handshakes[context.group.0].add(of_it);
            }
        }
        for (group, sums) in self.all.iter_mut().zip(sums) {
            for (shown, sum) in group.shown.iter_mut().zip(sums) {
                // Nothing is less than any sum.
                *shown = (*shown).max(sum);
            }
        }
        let joined = self.all.iter().enumerate().filter(|(_, group)| group.contexts > 0);
        joined
            .map(|(index, group)| {
                let id = GroupId(index);
                let key = (id != OVERFLOW).then(|| group.key.clone());
                GroupTotals { id, key, sums: group.shown, handshakes: handshakes[index] }
            })
            .collect()
    }
}

fn add(sum: &mut Sums, more: Sums) {
    for (sum, more) in sum.iter_mut().zip(more) {
        if let Some(more) = more {
            *sum = Some(sum.unwrap_or(0) + more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(exe: &str, comm: &str) -> ProcessFacts {
        ProcessFacts {
            exe: Some(exe.into()),
            comm: Some(comm.to_owned()),
            ..ProcessFacts::default()
        }
    }

    #[test]
    fn contexts_of_the_same_values_share_a_group() {
        let mut groups = Groups::new(GroupBy::new(&[Label::Exe, Label::Library, Label::Exe], 10));
        assert_eq!(groups.labels(), [Label::Exe, Label::Library]);
        let one = groups.join(&facts("/bin/a", "x"), "/lib/libssl.so.3");
        assert_eq!(groups.join(&facts("/bin/a", "y"), "/lib/libssl.so.3"), one);
        assert_ne!(groups.join(&facts("/bin/a", "x"), "/opt/libssl.so.3"), one);
        let unknown = groups.join(&ProcessFacts::default(), "");
        let totals = groups.totals(std::iter::empty());
        let unknown = totals.iter().find(|totals| totals.id == unknown).expect("it was joined");
        assert_eq!(unknown.key, Some(vec![None, None]));
    }

    /// The bound is on groups: who has one keeps it, who found none finds none.
    #[test]
    fn what_is_beyond_the_bound_has_a_group_of_its_own() {
        let mut groups = Groups::new(GroupBy::new(&[Label::Comm], 2));
        let joined: Vec<GroupId> = ["a", "b", "c", "a", "d", "b", "c"]
            .map(|comm| groups.join(&facts("/bin/x", comm), "/lib/libssl.so.3"))
            .to_vec();
        assert_eq!(joined[0], joined[3]);
        assert_eq!(joined[1], joined[5]);
        assert!([2, 4, 6].iter().all(|at| joined[*at] == OVERFLOW), "{joined:?}");
        assert_eq!(groups.beyond(), 3);
        let totals = groups.totals(std::iter::empty());
        assert_eq!(totals.len(), 3);
        assert_eq!(totals.iter().filter(|totals| totals.key.is_none()).count(), 1);
    }

    #[test]
    fn without_need_there_is_no_group_beyond() {
        let mut groups = Groups::new(GroupBy::default());
        groups.join(&facts("/bin/x", "x"), "");
        assert!(groups.totals(std::iter::empty()).iter().all(|totals| totals.key.is_some()));
    }
}
