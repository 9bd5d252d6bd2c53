//! The libcrypto that a libssl is linked to, for a file that nobody runs.

use std::path::{Path, PathBuf};

use super::elf::{Elf, ElfError};

/// Where the dynamic linker looks by default, on the distributions there are.
const DIRECTORIES: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/lib",
    "/lib",
];

/// The name of the libcrypto among a library's `DT_NEEDED`.
#[must_use]
pub fn libcrypto_name(elf: &Elf) -> Option<&str> {
    elf.needed().iter().map(String::as_str).find(|name| name.starts_with("libcrypto"))
}

/// Finds and reads a library's libcrypto: beside it, then where the dynamic
/// linker looks. `None` if it is in neither place.
///
/// # Errors
///
/// If it is there and cannot be read.
pub fn find_beside(path: &Path, name: &str) -> Option<Result<Elf, ElfError>> {
    let beside = path.parent().map(Path::to_path_buf);
    let directories = beside.into_iter().chain(DIRECTORIES.iter().map(PathBuf::from));
    directories
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.exists())
        .map(|candidate| Elf::open(&candidate))
}
