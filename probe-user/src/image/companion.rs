//! The libcrypto that a libssl is linked to: whether there is one, and where it
//! is for a file that nobody runs.

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

/// Whether a libssl is linked to a libcrypto in another file. If not, both are
/// linked statically into this one.
#[must_use]
pub fn is_elsewhere(elf: &Elf) -> bool {
    let count = "OPENSSL_LH_num_items";
    elf.function(count).is_none() && (libcrypto_name(elf).is_some() || elf.imports(count))
}

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
