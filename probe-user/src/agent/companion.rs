//! The libcrypto of a libssl, among what its process maps.

use std::path::{Path, PathBuf};

use crate::{
    host::Library,
    image::{Companion, Elf, Image, PlanOptions, companion},
};

/// Looks for names elsewhere, if a file has none: on the host, and where the
/// process sees its files.
pub fn look_for_names(elf: &mut Elf, library: &Library) {
    let root = PathBuf::from(format!("/proc/{}/root", library.pid));
    Image::look_for_names(elf, &library.libssl.path, &[Path::new("/"), &root]);
}

/// The libcrypto that a libssl of a process is linked to.
pub enum MappedCompanion {
    /// Both are in one file.
    Within,
    /// The process maps it.
    Found(Box<Elf>),
    /// The process does not map it (yet, or any more); its name.
    Absent(String),
    /// It cannot be read; its name, and why.
    Unreadable(String, String),
}

impl MappedCompanion {
    /// Looks for it, by the name in `DT_NEEDED`, among what the process maps.
    #[must_use]
    pub fn of(elf: &Elf, library: &Library) -> Self {
        if !companion::is_elsewhere(elf) {
            return Self::Within;
        }
        let name = companion::libcrypto_name(elf).unwrap_or("libcrypto").to_owned();
        let needed = elf.needed();
        let mut found = None;
        for file in &library.libcrypto {
            match Elf::open(&file.open_at) {
                Ok(elf) => {
                    // The file can have another name: libcrypto.so.3.0.7.
                    let needed = |soname: &str| needed.iter().any(|name| name == soname);
                    if elf.soname().is_some_and(|soname| !needed(soname)) {
                        continue;
                    }
                    if found.replace(elf).is_some() {
                        let why = "the process maps two of that name".to_owned();
                        return Self::Unreadable(name, why);
                    }
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Self::Unreadable(name, error.to_string()),
            }
        }
        found.map_or(Self::Absent(name), |elf| Self::Found(Box::new(elf)))
    }

    /// Learns the libssl with it.
    #[must_use]
    pub fn learn(&self, library: &Library, elf: &Elf, options: PlanOptions) -> Image {
        let companion = match self {
            Self::Within => Companion::Within,
            Self::Found(elf) => Companion::Found(elf),
            Self::Absent(name) => Companion::Missing(name.clone()),
            Self::Unreadable(name, why) => Companion::Unreadable(name.clone(), why.clone()),
        };
        Image::learn(library.libssl.path.clone(), elf, &companion, options)
    }
}
