//! Reading a file: all of it, into memory of its own. A mapped one that somebody
//! truncates would kill the reader.

use std::{
    fs::{File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use thiserror::Error;

/// No library with OpenSSL in it is larger; a file that is, is not read.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// What glibc's allocator takes from its heap at most (`M_MMAP_THRESHOLD_MAX`).
const MAX_HEAP_BYTES: usize = 32 << 20;

/// What a large page is aligned to, of x86-64 and of aarch64 with pages of 4 KiB.
const LARGE_PAGE: usize = 2 << 20;

/// Why a file could not be read as an ELF file.
#[derive(Debug, Error)]
pub enum ElfError {
    /// It could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// It could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// It is a directory, a FIFO, a socket or a device.
    #[error("{} is {kind}, not a regular file: name a libssl file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It is larger than anything that could be a TLS library.
    #[error("{} has {bytes} bytes, more than the {MAX_FILE_BYTES} that are read: is it a library?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// It is for a 32-bit processor or mode.
    #[error("{} is a 32-bit ELF file: what 32-bit programs do is not observed", path.display())]
    ThirtyTwoBits {
        /// The file.
        path: PathBuf,
    },
    /// It is not a 64-bit little-endian ELF file, or is damaged.
    #[error("{} is not a readable 64-bit ELF file: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        why: String,
    },
}

impl ElfError {
    /// Whether there is no such file (any more), or the process is gone through
    /// which it was to be opened: that says nothing of the file.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        let Self::Open { source, .. } = self else { return false };
        source.kind() == ErrorKind::NotFound || source.raw_os_error() == Some(nix::libc::ESRCH)
    }
}

/// Opens a file for reading; does not wait for the other end of a FIFO.
///
/// # Errors
///
/// If it cannot be opened.
pub fn open(path: &Path) -> Result<File, ElfError> {
    OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC | nix::libc::O_NOCTTY)
        .open(path)
        .map_err(|source| ElfError::Open { path: path.to_path_buf(), source })
}

/// Reads the whole of a regular file; `path` is its name in errors.
///
/// Not from where the file is read otherwise: threads that learn it share that place.
pub(super) fn read_whole(file: &File, path: &Path) -> Result<Vec<u8>, ElfError> {
    let path_buf = || path.to_path_buf();
    let metadata = file.metadata().map_err(|source| ElfError::Read { path: path_buf(), source })?;
    if !metadata.is_file() {
        return Err(ElfError::NotRegular { path: path_buf(), kind: kind_of(&metadata) });
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(ElfError::TooLarge { path: path_buf(), bytes: metadata.len() });
    }
    // Of the kernel, large memory is zero before anybody writes to it.
    let mut data = vec![0; metadata.len() as usize];
    ask_for_large_pages(&mut data);
    let mut length = 0;
    loop {
        match file.read_at(&mut data[length..], length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(source) => return Err(ElfError::Read { path: path_buf(), source }),
        }
    }
    // Somebody may have truncated it meanwhile.
    data.truncate(length);
    Ok(data)
}

/// Asks the kernel for large pages where much is going to be read to: else it is
/// entered for each of 25,000 small ones, which takes longer than to copy the file.
///
/// Only where the allocator makes a mapping of its own, which the advice ends with.
fn ask_for_large_pages(memory: &mut [u8]) {
    if memory.len() <= MAX_HEAP_BYTES {
        return;
    }
    let skipped = memory.as_ptr().align_offset(LARGE_PAGE);
    let Some(memory) = memory.get_mut(skipped..) else { return };
    let length = memory.len() - memory.len() % LARGE_PAGE;
    // SAFETY: it is about whole pages that this function alone may use, as far as
    // the slice says, and changes nothing of what is in them.
    let _ =
        unsafe { nix::libc::madvise(memory.as_mut_ptr().cast(), length, nix::libc::MADV_HUGEPAGE) };
}

fn kind_of(metadata: &std::fs::Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = metadata.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_that_is_read_to_large_pages_is_all_there() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let bytes: Vec<u8> =
            (0..MAX_HEAP_BYTES + LARGE_PAGE + 5).map(|i| (i / 4096) as u8).collect();
        file.write_all(&bytes).expect("it can be written");
        let read = read_whole(&open(file.path()).expect("it is there"), file.path());
        assert!(read.expect("it can be read") == bytes);
    }

    /// A process that ends while its libraries are opened must not make them refused
    /// for all others.
    #[test]
    fn a_process_that_is_gone_says_nothing_of_the_file() {
        let opening = |errno| ElfError::Open {
            path: PathBuf::from("/proc/1/map_files/1000-2000"),
            source: std::io::Error::from_raw_os_error(errno),
        };
        assert!(opening(nix::libc::ESRCH).is_not_found());
        assert!(opening(nix::libc::ENOENT).is_not_found());
        assert!(!opening(nix::libc::EACCES).is_not_found());
    }
}
