//! What has become of each library that processes map.

use std::collections::{BTreeMap, BTreeSet};

use super::{Images, InodeId, Standing};
use crate::snapshot::{LibrarySnapshot, TargetState};

/// A library file that processes map, or that still has probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The file.
    pub library: LibrarySnapshot,
    /// What has become of it.
    pub state: TargetState,
    /// Why it is not observed.
    pub reason: Option<String>,
    /// The image of its probes.
    pub image: Option<u32>,
    /// The processes that map it.
    pub processes: BTreeSet<u32>,
}

impl Images {
    /// All of them, by path.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        // With one libcrypto it may be observed, and refused with another.
        let mut targets: BTreeMap<(Option<InodeId>, Standing), Target> = BTreeMap::new();
        for (inode, image) in &self.attached {
            let observed = Standing::Observed(*image);
            targets.insert((Some(*inode), observed.clone()), self.target(&observed, None));
        }
        for (pid, has) in self.usage.libraries() {
            let key = (has.libssl, has.standing.clone());
            let path = Some(has.path.as_path());
            let target = targets.entry(key).or_insert_with(|| self.target(&has.standing, path));
            target.processes.insert(pid);
        }
        let mut targets: Vec<Target> = targets.into_values().collect();
        targets.sort_by(|a, b| a.library.path.cmp(&b.library.path));
        targets
    }

    fn target(&self, standing: &Standing, path: Option<&std::path::Path>) -> Target {
        let path = path.map(std::path::Path::to_path_buf).unwrap_or_default();
        let (state, reason, image) = match standing {
            Standing::Observed(image) => (TargetState::Observed, None, Some(*image)),
            Standing::Learning => (TargetState::Learning, None, None),
            Standing::Refused(reason) => (TargetState::Refused, Some(reason.clone()), None),
        };
        let library = match image {
            Some(image) => self.library(image),
            None => LibrarySnapshot { path, ..LibrarySnapshot::default() },
        };
        Target { library, state, reason, image, processes: BTreeSet::new() }
    }
}
