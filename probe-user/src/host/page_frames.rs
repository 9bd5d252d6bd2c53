//! Whether two open files are one inode, whatever `stat` says of them.
//!
//! An overlay has inodes of its own, with a device and numbers of its own, and so
//! has each overlay over the same lower layer. What is mapped of its files, and
//! what a uprobe is put on, is the inode underneath. Inodes cache their pages each
//! for itself: if the same page of two files is the same page of memory, they are
//! one inode.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::unistd::{SysconfVar, sysconf};
use thiserror::Error;

/// Bits of an entry of `/proc/PID/pagemap` (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// A page can be reclaimed between two looks at it.
const ATTEMPTS: usize = 5;

/// Why it could not be told.
#[derive(Debug, Error)]
pub enum FrameError {
    /// A file cannot be mapped, or `/proc/self/pagemap` not be read.
    #[error("cannot compare the pages of two files: {0}")]
    Io(#[from] io::Error),
    /// The kernel does not say where pages are: without CAP_SYS_ADMIN they are 0.
    #[error("cannot compare the pages of two files: the kernel hides where they are")]
    Hidden,
    /// The pages did not stay in memory for long enough.
    #[error("cannot compare the pages of two files: they do not stay in memory")]
    Absent,
}

/// The first page of a file, mapped.
///
/// The mapping stays with the inode that it was made of: an overlay's file that is
/// open leads to the copy when somebody changes it, what is mapped of it does not.
pub struct FirstPage {
    map: MmapRaw,
    size: usize,
}

impl FirstPage {
    /// Of an open regular file.
    ///
    /// # Errors
    ///
    /// If it cannot be mapped.
    pub fn of(file: &File) -> Result<Self, FrameError> {
        let size = sysconf(SysconfVar::PAGE_SIZE)
            .map_err(io::Error::from)?
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| io::Error::other("the size of a page is not known"))?;
        // Shared, so that no uprobe puts a page of its own there, and populated,
        // so that nobody needs to touch it.
        let map = MmapOptions::new().len(size).populate().map_raw_read_only(file)?;
        Ok(Self { map, size })
    }

    /// Whether both are of one inode.
    ///
    /// Nothing is read through the mappings: a file that somebody truncates
    /// meanwhile does no harm. Both pages are in use at the moment at which they
    /// are compared, so none of them can have become the other's.
    ///
    /// # Errors
    ///
    /// If they cannot be compared; also if a file is empty.
    pub fn is_of_inode_of(&self, other: &Self) -> Result<bool, FrameError> {
        let pagemap = File::open("/proc/self/pagemap")?;
        for _ in 0..ATTEMPTS {
            let before = self.frame(&pagemap)?;
            let between = other.frame(&pagemap)?;
            let after = self.frame(&pagemap)?;
            if let (Some(before), Some(between), Some(after)) = (before, between, after)
                && before == after
            {
                return Ok(before == between);
            }
            self.fetch();
            other.fetch();
        }
        Err(FrameError::Absent)
    }

    /// Brings the page in once more, if it is gone.
    fn fetch(&self) {
        // If that fails, it is still not there at the next look.
        let _ = self.map.advise(Advice::PopulateRead);
    }

    /// Which page of memory it is; `None` while it is none.
    fn frame(&self, pagemap: &File) -> Result<Option<u64>, FrameError> {
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, (self.map.as_ptr() as usize / self.size * 8) as u64)?;
        let entry = u64::from_ne_bytes(entry);
        match (entry & PRESENT != 0, entry & FRAME) {
            (false, _) => Ok(None),
            (true, 0) => Err(FrameError::Hidden),
            (true, frame) => Ok(Some(frame)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_of_one_file_are_one_inode_and_copies_are_not() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root is told where pages are");
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("one"), "content").expect("it can be written");
        fs::hard_link(path("one"), path("link")).expect("it can be linked");
        fs::copy(path("one"), path("copy")).expect("it can be copied");
        let page = |name: &str| {
            FirstPage::of(&File::open(path(name)).expect("it is there")).expect("it can be mapped")
        };
        let same = |one, other| page(one).is_of_inode_of(&page(other)).expect("root is told");
        assert!(same("one", "link"));
        assert!(!same("one", "copy"));
    }
}
