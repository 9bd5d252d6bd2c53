//! The libraries that a benchmark is told to look at.

use std::{
    env,
    path::{Path, PathBuf},
};

use sslsess::image::{Companion, Elf, Image, PlanOptions, companion};

/// Those that the command line names.
pub(crate) fn named() -> Vec<PathBuf> {
    // cargo adds options of its own.
    env::args_os().skip(1).map(PathBuf::from).filter(|file| file.is_file()).collect()
}

/// What to call one. The builds of `cargo xtask libs` have no names of their own.
pub(crate) fn label(file: &Path) -> String {
    let is_built = file.with_file_name("library.json").exists();
    let named = if is_built { file.parent().unwrap_or(file) } else { file };
    named.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned()
}

/// Learns one, with its libcrypto: the one beside it, or in the same file.
pub(crate) fn learn(file: &Path) -> Result<Image, String> {
    let elf = Elf::open(file).map_err(|error| error.to_string())?;
    let name = companion::libcrypto_name(&elf).unwrap_or("libcrypto").to_owned();
    let libcrypto = companion::find_beside(file, &name);
    let companion = match &libcrypto {
        _ if !companion::is_elsewhere(&elf) => Companion::Within,
        Some(Ok(elf)) => Companion::Found(elf),
        Some(Err(error)) => Companion::Unreadable(name, error.to_string()),
        None => Companion::Missing(name),
    };
    let image = Image::learn(file.to_path_buf(), &elf, &companion, PlanOptions::default());
    if image.learnt.evidence.is_empty() {
        return Err("nothing was learnt of it".to_owned());
    }
    Ok(image)
}
