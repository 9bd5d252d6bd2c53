//! Finds the processes that map a libssl.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};

/// What tells files apart, for as long as somebody holds the file open: an
/// inode's number is given to another file only when nobody does.
///
/// One file of a lower layer that is seen through two overlay mounts has two.
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

/// A library file that a process maps.
#[derive(Clone, Debug)]
pub struct MappedFile {
    /// What tells it apart.
    pub id: FileId,
    /// Its name, as the process sees it.
    pub path: PathBuf,
    /// Where it can be opened as long as the process maps it, whatever became
    /// of the name: `/proc/PID/map_files/…`.
    pub open_at: PathBuf,
}

/// A process that maps a libssl.
#[derive(Clone, Debug)]
pub struct Library {
    /// The process.
    pub pid: u32,
    /// The libssl.
    pub libssl: MappedFile,
    /// The libcrypto beside it, for each that the process maps.
    pub libcrypto: Vec<MappedFile>,
}

/// A library that a process maps and that could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanGap {
    /// The process.
    pub pid: u32,
    /// The library, as the process sees it.
    pub library: PathBuf,
    /// Why.
    pub reason: String,
}

/// Looks at the mappings of every process, or of those that are asked for.
///
/// A process that vanishes meanwhile is not there: that is no gap.
#[must_use]
pub fn scan(only: &HashSet<u32>) -> (Vec<Library>, Vec<ScanGap>) {
    let mut found = (Vec::new(), Vec::new());
    let Ok(processes) = procfs::process::all_processes() else { return found };
    for process in processes.flatten() {
        let pid = process.pid.cast_unsigned();
        if pid != std::process::id() && (only.is_empty() || only.contains(&pid)) {
            look_at(&process, pid, &mut found.0, &mut found.1);
        }
    }
    found
}

fn look_at(process: &Process, pid: u32, libraries: &mut Vec<Library>, gaps: &mut Vec<ScanGap>) {
    let Ok(maps) = process.maps() else { return };
    let mut libssl: Vec<MappedFile> = Vec::new();
    let mut libcrypto: Vec<MappedFile> = Vec::new();
    for map in maps.iter().filter(|map| map.perms.contains(MMPermissions::EXECUTE)) {
        let MMapPath::Path(path) = &map.pathname else { continue };
        let list = match library_name(path) {
            Some(LibraryName::Libssl) => &mut libssl,
            Some(LibraryName::Libcrypto) => &mut libcrypto,
            None => continue,
        };
        let open_at = map_file(pid, map);
        match fs::metadata(&open_at) {
            Ok(metadata) => {
                let id = FileId::of(&metadata);
                if list.iter().all(|known| known.id != id) {
                    list.push(MappedFile { id, path: path.clone(), open_at });
                }
            }
            // Unmapped, or the process is gone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => gaps.push(ScanGap {
                pid,
                library: path.clone(),
                reason: format!("cannot open {}: {error}", open_at.display()),
            }),
        }
    }
    for libssl in libssl {
        libraries.push(Library { pid, libssl, libcrypto: libcrypto.clone() });
    }
}

fn map_file(pid: u32, map: &MemoryMap) -> PathBuf {
    let (start, end) = map.address;
    PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LibraryName {
    Libssl,
    Libcrypto,
}

/// What a file is by its name: `libssl.so.3`, `libssl-1a2b3c4d.so.3`, with or
/// without the kernel's ` (deleted)`.
fn library_name(path: &Path) -> Option<LibraryName> {
    let name: OsString = path.file_name()?.to_os_string();
    let name = name.as_bytes();
    let is = |stem: &[u8]| {
        name.strip_prefix(stem).is_some_and(|rest| {
            rest.starts_with(b".so")
                || rest.starts_with(b"-")
                || rest.first().is_some_and(u8::is_ascii_digit)
        })
    };
    if is(b"libssl") {
        Some(LibraryName::Libssl)
    } else if is(b"libcrypto") {
        Some(LibraryName::Libcrypto)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_known_by_their_usual_names() {
        let kind = |name: &str| library_name(Path::new(name));
        assert_eq!(kind("/usr/lib/x86_64-linux-gnu/libssl.so.3"), Some(LibraryName::Libssl));
        assert_eq!(kind("/opt/x/libssl-1a2b3c4d.so.1.1"), Some(LibraryName::Libssl));
        assert_eq!(kind("/usr/lib/libssl.so.3 (deleted)"), Some(LibraryName::Libssl));
        assert_eq!(kind("/usr/lib/libcrypto.so.3"), Some(LibraryName::Libcrypto));
        assert_eq!(kind("/usr/lib/libsslog.so"), None);
        assert_eq!(kind("/usr/lib/libssh.so"), None);
    }

    #[test]
    fn a_process_that_is_gone_is_no_gap() {
        let (libraries, gaps) = scan(&HashSet::from([u32::MAX >> 1]));
        assert!(libraries.is_empty() && gaps.is_empty());
    }
}
