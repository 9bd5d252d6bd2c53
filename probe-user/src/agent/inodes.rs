//! Which mapped files are one inode. Each inode is held open, and is one file to
//! all of the agent, under however many names and mounts processes see it.

use std::{collections::HashMap, fs::File};

use tracing::warn;

use crate::{
    host::{
        MappedFile,
        files::{FileId, Stamp},
        page_frames::FirstPage,
    },
    image::{ElfError, elf},
};

/// An inode that is held open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct InodeId(u32);

/// A mapped file is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) id: InodeId,
    /// It was written to since the last time: whatever was learnt of it may be wrong.
    pub(super) rewritten: bool,
}

struct Open {
    file: File,
    /// Of the inode that the file was when it was opened; `None`: it cannot be mapped.
    page: Option<FirstPage>,
    /// The newest that was seen of it, through whatever mount.
    stamp: Stamp,
}

/// The inodes that are held.
#[derive(Default)]
pub(super) struct Inodes {
    seen: HashMap<FileId, Seen>,
    open: HashMap<InodeId, Open>,
    next: u32,
}

/// What a device and number stood for.
struct Seen {
    stamp: Stamp,
    /// Now.
    id: InodeId,
    /// Before: an overlay keeps the number of a file when it makes a copy of it
    /// to change it. Who mapped it before goes on with the one below.
    before: Vec<InodeId>,
}

impl Inodes {
    /// Finds the inode of a mapped file, or opens it. `None`: it is gone, or
    /// another file is mapped there by now.
    pub(super) fn hold(&mut self, file: &MappedFile) -> Option<Result<Held, ElfError>> {
        let MappedFile { stamp, open_at, .. } = file;
        if let Some(seen) = self.seen.get(&stamp.id).filter(|seen| seen.stamp == *stamp) {
            return Some(Ok(Held { id: seen.id, rewritten: false }));
        }
        let open = match elf::open(open_at) {
            Ok(open) => open,
            Err(error) if error.is_not_found() => return None,
            Err(error) => return Some(Err(error)),
        };
        if !open.metadata().is_ok_and(|metadata| Stamp::of(&metadata) == *stamp) {
            return None;
        }
        let open = Open { page: first_page(&open), file: open, stamp: *stamp };
        let known = self.open.iter_mut().find(|(_, held)| held.is(&open));
        let held = match known {
            Some((id, held)) => Held { id: *id, rewritten: held.see_again(stamp) },
            None => {
                self.next += 1;
                let id = InodeId(self.next);
                self.open.insert(id, open);
                Held { id, rewritten: false }
            }
        };
        let before = self.seen.remove(&stamp.id).map(|seen| seen.all().collect::<Vec<_>>());
        let mut before = before.unwrap_or_default();
        before.retain(|id| *id != held.id);
        self.seen.insert(stamp.id, Seen { stamp: *stamp, id: held.id, before });
        Some(Ok(held))
    }

    /// The inode of a mapped file, if it was met as it is now.
    pub(super) fn known(&self, file: &MappedFile) -> Option<InodeId> {
        let seen = self.seen.get(&file.stamp.id).filter(|seen| seen.stamp == file.stamp)?;
        Some(seen.id)
    }

    /// The devices and numbers that an inode was met with.
    pub(super) fn numbers(&self, id: InodeId) -> impl Iterator<Item = FileId> {
        let of_it = move |seen: &Seen| seen.all().any(|other| other == id);
        self.seen.iter().filter(move |(_, seen)| of_it(seen)).map(|(file, _)| *file)
    }

    /// All inodes that a process may map that maps this file.
    pub(super) fn behind(&self, file: &MappedFile) -> impl Iterator<Item = InodeId> {
        self.seen.get(&file.stamp.id).into_iter().flat_map(Seen::all)
    }

    /// The open file.
    pub(super) fn file(&self, id: InodeId) -> Option<&File> {
        self.open.get(&id).map(|open| &open.file)
    }

    /// Whether the open file is still the inode that was met, and has the same
    /// content: what is read of it, or attached to it, is of that one.
    pub(super) fn is_as_it_was(&self, id: InodeId) -> bool {
        let Some(open) = self.open.get(&id) else { return false };
        let same_content = open
            .file
            .metadata()
            .is_ok_and(|metadata| content(&Stamp::of(&metadata)) == content(&open.stamp));
        let same_inode = match (&open.page, first_page(&open.file)) {
            (Some(then), Some(now)) => now.is_of_inode_of(then).unwrap_or(false),
            // Then nothing is known of any of its names.
            (then, _) => then.is_none(),
        };
        same_content && same_inode
    }

    /// How many are held.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Closes an inode; from now on, its number may be another file's.
    pub(super) fn let_go(&mut self, id: InodeId) {
        self.open.remove(&id);
        self.seen.retain(|_, seen| {
            seen.before.retain(|before| *before != id);
            seen.id != id
        });
    }
}

impl Seen {
    fn all(&self) -> impl Iterator<Item = InodeId> {
        self.before.iter().copied().chain([self.id])
    }
}

impl Open {
    /// Notes another stamp; says whether the content may have changed.
    fn see_again(&mut self, stamp: &Stamp) -> bool {
        let rewritten = content(&self.stamp) != content(stamp);
        self.stamp = *stamp;
        rewritten
    }

    /// Whether another open file is this one. Asked of few: whatever its mount, an
    /// inode has one length, unless it was written to.
    fn is(&self, other: &Self) -> bool {
        let may_be = self.stamp.bytes == other.stamp.bytes || self.stamp.id == other.stamp.id;
        let (true, Some(ours), Some(theirs)) = (may_be, &self.page, &other.page) else {
            return false;
        };
        // If it is not known, it gets probes of its own: where both are on one
        // inode, the kernel half takes what the image tells that came first.
        ours.is_of_inode_of(theirs)
            .inspect_err(|error| warn!(%error, "one file may be observed twice"))
            .unwrap_or(false)
    }
}

/// What changes when a file is written to.
fn content(stamp: &Stamp) -> (u64, (i64, i64)) {
    (stamp.bytes, stamp.modified)
}

fn first_page(file: &File) -> Option<FirstPage> {
    FirstPage::of(file).inspect_err(|error| warn!(%error, "one file may be observed twice")).ok()
}
