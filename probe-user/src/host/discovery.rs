//! Finds the processes that map a libssl: a library of that name, or any file
//! with OpenSSL in it.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};

use super::recognise::{Recognised, recognise};

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
    /// The libssl: a library, or whatever file OpenSSL is linked into.
    pub libssl: MappedFile,
    /// The libcrypto beside it, for each that the process maps; none if it is
    /// in the same file.
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

/// What tells one state of a file from another, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    id: FileId,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            id: FileId::of(metadata),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// How many files that nobody maps any more are remembered: short-lived programs
/// come again.
const MAX_SEEN: usize = 8192;

/// A file that was looked at.
struct Seen {
    path: PathBuf,
    stamp: Stamp,
    recognised: Recognised,
    /// The last scan that met it.
    scan: u64,
}

/// Looks at what processes map, again and again; opens no file twice.
#[derive(Default)]
pub struct Discovery {
    /// By device and inode, as `/proc/PID/maps` has them.
    seen: HashMap<(i32, i32, u64), Seen>,
    scan: u64,
}

impl Discovery {
    /// Looks at the mappings of every process, or of those that are asked for.
    ///
    /// A process that vanishes meanwhile is not there: that is no gap.
    #[must_use]
    pub fn scan(&mut self, only: &HashSet<u32>) -> (Vec<Library>, Vec<ScanGap>) {
        let mut found = (Vec::new(), Vec::new());
        let Ok(processes) = procfs::process::all_processes() else { return found };
        self.scan += 1;
        for process in processes.flatten() {
            let pid = process.pid.cast_unsigned();
            if pid != std::process::id() && (only.is_empty() || only.contains(&pid)) {
                self.look_at(&process, pid, &mut found.0, &mut found.1);
            }
        }
        if self.seen.len() > MAX_SEEN {
            self.seen.retain(|_, seen| seen.scan == self.scan);
        }
        found
    }

    fn look_at(
        &mut self,
        process: &Process,
        pid: u32,
        libraries: &mut Vec<Library>,
        gaps: &mut Vec<ScanGap>,
    ) {
        let Ok(maps) = process.maps() else { return };
        let mut libssl: Vec<(MappedFile, Recognised)> = Vec::new();
        let mut libcrypto: Vec<(MappedFile, Recognised)> = Vec::new();
        let mut unseen: Option<ScanGap> = None;
        for map in maps.iter().filter(|map| map.perms.contains(MMPermissions::EXECUTE)) {
            let MMapPath::Path(path) = &map.pathname else { continue };
            let open_at = map_file(pid, map);
            let name = library_name(path);
            let looked = self.content(map, path, &open_at).and_then(|recognised| {
                let list = match (name, recognised) {
                    (Some(LibraryName::Libssl), _) | (_, Recognised { libssl: true, .. }) => {
                        &mut libssl
                    }
                    (Some(LibraryName::Libcrypto), _) | (_, Recognised { libcrypto: true, .. }) => {
                        &mut libcrypto
                    }
                    _ => return Ok(()),
                };
                let id = FileId::of(&fs::metadata(&open_at)?);
                if list.iter().all(|(known, _)| known.id != id) {
                    list.push((
                        MappedFile { id, path: path.clone(), open_at: open_at.clone() },
                        recognised,
                    ));
                }
                Ok(())
            });
            match looked {
                Ok(()) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    let reason = format!("cannot open {}: {error}", open_at.display());
                    let gap = ScanGap { pid, library: path.clone(), reason };
                    if name.is_some() {
                        gaps.push(gap);
                    } else {
                        unseen.get_or_insert(gap);
                    }
                }
            }
        }
        // One for all of its files, of which each may have OpenSSL inside.
        if gaps.iter().all(|gap| gap.pid != pid) {
            gaps.extend(unseen);
        }
        for (file, recognised) in libssl {
            // Linked statically into one file, they belong together.
            let beside = if recognised.libcrypto { &[][..] } else { &libcrypto };
            let libcrypto = beside.iter().map(|(file, _)| file.clone()).collect();
            libraries.push(Library { pid, libssl: file, libcrypto });
        }
    }

    /// What a mapped file is by its content. A file that this scan has met
    /// before is not asked at all, one of an earlier scan is only asked whether
    /// it is still the same.
    fn content(&mut self, map: &MemoryMap, path: &Path, open_at: &Path) -> io::Result<Recognised> {
        let key = (map.dev.0, map.dev.1, map.inode);
        if let Some(seen) = self.seen.get(&key)
            && seen.scan == self.scan
            && seen.path == path
        {
            return Ok(seen.recognised);
        }
        let metadata = fs::metadata(open_at)?;
        let stamp = Stamp::of(&metadata);
        let recognised = match self.seen.get(&key) {
            Some(seen) if seen.stamp == stamp => seen.recognised,
            // To open a device can mean something to it.
            _ if !metadata.is_file() => Recognised::default(),
            _ => recognise(&File::open(open_at)?),
        };
        let seen = Seen { path: path.to_path_buf(), stamp, recognised, scan: self.scan };
        self.seen.insert(key, seen);
        Ok(recognised)
    }
}

/// Unmapped meanwhile, or the process is gone.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
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
    let name = path.file_name()?.as_bytes();
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
        let (libraries, gaps) = Discovery::default().scan(&HashSet::from([u32::MAX >> 1]));
        assert!(libraries.is_empty() && gaps.is_empty());
    }
}
