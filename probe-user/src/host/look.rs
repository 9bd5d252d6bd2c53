//! One look at one process: which libssl and libcrypto it maps.

use std::{
    fs, io,
    ops::Range,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{
    files::{Files, Stamp},
    maps,
    process::ProcessFacts,
    recognise::Recognised,
};

/// A library file that a process maps.
#[derive(Clone, Debug)]
pub struct MappedFile {
    /// What tells it apart.
    pub stamp: Stamp,
    /// Its name, as the process sees it.
    pub path: PathBuf,
    /// Where it can be opened as long as the process maps it, whatever became
    /// of the name: `/proc/PID/map_files/…`.
    pub open_at: PathBuf,
}

/// A libssl that a process maps.
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
    /// The library, as the process sees it.
    pub library: PathBuf,
    /// Why.
    pub reason: String,
}

/// What a process maps.
#[derive(Clone, Debug)]
pub struct Look {
    /// The process.
    pub pid: u32,
    /// What `/proc` says of it, if it matters.
    pub facts: ProcessFacts,
    /// Each libssl that it maps.
    pub libraries: Vec<Library>,
    /// What could not be looked at.
    pub gaps: Vec<ScanGap>,
}

impl Look {
    /// Whether there is anything to tell.
    #[must_use]
    pub fn matters(&self) -> bool {
        !self.libraries.is_empty() || !self.gaps.is_empty()
    }
}

/// Looks at the text of `/proc/TASK/maps`, of a task of the process whose memory
/// is still there. Says also where files are mapped that are nothing.
pub(super) fn at(
    pid: u32,
    task: u32,
    text: &[u8],
    files: &mut Files,
    now: Instant,
) -> (Look, Vec<Range<u64>>) {
    let mut libssl: Vec<(MappedFile, Recognised)> = Vec::new();
    let mut libcrypto: Vec<(MappedFile, Recognised)> = Vec::new();
    let facts = ProcessFacts::default();
    let mut look = Look { pid, facts, libraries: Vec::new(), gaps: Vec::new() };
    let mut unseen: Option<ScanGap> = None;
    let mut dull = Vec::new();
    for mapping in maps::executable(text) {
        let name = library_name(mapping.path);
        let open_at = || mapping.open_at(task);
        let looked = files.recognise(mapping.key, mapping.path, open_at, now);
        let looked = looked.and_then(|recognised| {
            let list = match (name, recognised) {
                (Some(LibraryName::Libssl), _) | (_, Recognised { libssl: true, .. }) => {
                    &mut libssl
                }
                (Some(LibraryName::Libcrypto), _) | (_, Recognised { libcrypto: true, .. }) => {
                    &mut libcrypto
                }
                _ => {
                    dull.push(mapping.start..mapping.end);
                    return Ok(());
                }
            };
            let open_at = open_at();
            let stamp = Stamp::of(&fs::metadata(&open_at)?);
            if list.iter().all(|(known, _)| known.stamp.id != stamp.id) {
                let path = mapping.path.to_path_buf();
                list.push((MappedFile { stamp, path, open_at }, recognised));
            }
            Ok(())
        });
        match looked {
            Ok(()) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                let reason = format!("cannot open {}: {error}", open_at().display());
                let gap = ScanGap { library: mapping.path.to_path_buf(), reason };
                if name.is_some() {
                    look.gaps.push(gap);
                } else {
                    unseen.get_or_insert(gap);
                }
            }
        }
    }
    // One for all of its files, of which each may have OpenSSL inside.
    if look.gaps.is_empty() {
        look.gaps.extend(unseen);
    }
    for (file, recognised) in libssl {
        // Linked statically into one file, they belong together.
        let beside = if recognised.libcrypto { &[][..] } else { &libcrypto };
        let libcrypto = beside.iter().map(|(file, _)| file.clone()).collect();
        look.libraries.push(Library { pid, libssl: file, libcrypto });
    }
    (look, dull)
}

/// Unmapped meanwhile, or the process is gone.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
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
}
