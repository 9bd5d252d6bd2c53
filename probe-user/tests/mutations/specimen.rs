//! The libraries that are damaged, and what is true of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sslsess::image::{Companion, Elf, companion};

use crate::judge::{self, Offsets};

/// A library, its libcrypto if it has one, and its layout.
pub(crate) struct Specimen {
    pub(crate) name: String,
    pub(crate) library: Vec<u8>,
    pub(crate) companion: Option<Vec<u8>>,
    pub(crate) truth: Offsets,
}

impl Specimen {
    /// A library as a distribution installs it. Its truth is what is learnt of it
    /// as it is: that this is right is shown elsewhere.
    pub(crate) fn installed(path: &Path) -> anyhow::Result<Self> {
        let library = fs::read(path)?;
        let elf = Elf::parse(library.clone()).map_err(anyhow::Error::msg)?;
        let name = companion::libcrypto_name(&elf);
        let beside = name.and_then(|name| path.parent().map(|directory| directory.join(name)));
        let companion = beside.filter(|path| path.exists()).map(fs::read).transpose()?;
        let mut specimen = Self {
            name: path.display().to_string(),
            library,
            companion,
            truth: Offsets::default(),
        };
        specimen.truth = specimen.learnt()?;
        Ok(specimen)
    }

    /// What is learnt of it as it is.
    pub(crate) fn learnt(&self) -> anyhow::Result<Offsets> {
        let elf = Elf::parse(self.library.clone()).map_err(anyhow::Error::msg)?;
        let companion =
            self.companion.clone().map(Elf::parse).transpose().map_err(anyhow::Error::msg)?;
        let companion = companion_of(companion.as_ref());
        let image = judge::learn(&elf, &companion);
        Ok(image.map(|image| Offsets::of(&image.learnt.layout)).unwrap_or_default())
    }

    /// The libraries that `cargo xtask libs` has built: directories with a `library.json`.
    pub(crate) fn built(directory: &Path) -> anyhow::Result<Vec<Self>> {
        let mut directories: Vec<PathBuf> =
            fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        directories.sort();
        let with_truth = directories.iter().filter(|d| d.join("library.json").exists());
        with_truth.map(|directory| Self::of_directory(directory)).collect()
    }

    fn of_directory(directory: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(directory.join("library.json"))?;
        let description: serde_json::Value = serde_json::from_str(&text)?;
        anyhow::bail!("{}: {description}", directory.display())
    }
}

/// The companion as learning takes it.
pub(crate) fn companion_of(elf: Option<&Elf>) -> Companion<'_> {
    elf.map_or_else(|| Companion::Missing("libcrypto".to_owned()), Companion::Found)
}
