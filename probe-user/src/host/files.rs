//! What files are by their content: each is looked at once.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    maps::MapKey,
    recognise::{Recognised, recognise},
};

/// What tells files apart, for as long as somebody holds the file open: an
/// inode's number is given to another file only when nobody does.
///
/// One file of a lower layer that is seen through two overlay mounts has two,
/// and two files can have one: that of the lower layer, and the copy of it that
/// the overlay makes when somebody changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Of an open file.
    #[must_use]
    pub fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// What tells one state of a file from another, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The file.
    pub id: FileId,
    /// Its length.
    pub bytes: u64,
    /// When its content was changed.
    pub modified: (i64, i64),
    /// When anything about it was changed: an overlay's copy has another one.
    pub changed: (i64, i64),
}

impl Stamp {
    /// Of an open file, or of one that is there.
    #[must_use]
    pub fn of(metadata: &fs::Metadata) -> Self {
        Self {
            id: FileId::of(metadata),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// How long a file that was just asked for its stamp is taken to be the same.
pub(super) const TRUSTED: Duration = Duration::from_secs(1);

/// How many files that nobody maps any more are remembered: short-lived programs
/// come again.
const MAX_SEEN: usize = 8192;

/// After this time without being met, a file may be forgotten: longer than a
/// round of [`Discovery`](super::Discovery), which meets all that are mapped.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// A file that was looked at.
struct Seen {
    path: PathBuf,
    stamp: Stamp,
    recognised: Recognised,
    /// When the stamp was taken last.
    checked: Instant,
}

/// The files that were looked at.
#[derive(Default)]
pub(super) struct Files {
    seen: HashMap<MapKey, Seen>,
}

impl Files {
    /// What a mapped file is by its content. A file that was asked a moment ago
    /// is not asked again, one that is known is only asked whether it is still
    /// the same.
    pub(super) fn recognise(
        &mut self,
        key: MapKey,
        path: &Path,
        open_at: impl FnOnce() -> PathBuf,
        now: Instant,
    ) -> io::Result<Recognised> {
        if let Some(seen) = self.seen.get(&key)
            && seen.path == path
            && now.saturating_duration_since(seen.checked) < TRUSTED
        {
            return Ok(seen.recognised);
        }
        let open_at = open_at();
        let metadata = fs::metadata(&open_at)?;
        let stamp = Stamp::of(&metadata);
        let recognised = match self.seen.get(&key) {
            Some(seen) if seen.stamp == stamp => seen.recognised,
            // To open a device can mean something to it.
            _ if !metadata.is_file() => Recognised::default(),
            _ => recognise(&File::open(&open_at)?),
        };
        self.forget_some(now);
        let seen = Seen { path: path.to_path_buf(), stamp, recognised, checked: now };
        self.seen.insert(key, seen);
        Ok(recognised)
    }

    fn forget_some(&mut self, now: Instant) {
        if self.seen.len() >= MAX_SEEN {
            let recent = |seen: &Seen| now.saturating_duration_since(seen.checked) < FORGOTTEN;
            self.seen.retain(|_, seen| recent(seen));
            if self.seen.len() >= MAX_SEEN * 2 {
                self.seen.clear();
            }
        }
    }
}
