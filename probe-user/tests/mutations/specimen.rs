//! The libraries that are damaged, and what is true of them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
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
        let mut specimen = Self::read(path.display().to_string(), path, Offsets::default())?;
        specimen.truth = specimen.learnt()?;
        Ok(specimen)
    }

    fn read(name: String, path: &Path, truth: Offsets) -> anyhow::Result<Self> {
        let library = fs::read(path).with_context(|| format!("{}", path.display()))?;
        let elf = Elf::parse(library.clone()).map_err(anyhow::Error::msg)?;
        let needed = companion::libcrypto_name(&elf);
        let beside = needed.and_then(|needed| path.parent().map(|parent| parent.join(needed)));
        let companion = beside.filter(|path| path.exists()).map(fs::read).transpose()?;
        Ok(Self { name, library, companion, truth })
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
        let description: Description = serde_json::from_str(&text)
            .with_context(|| format!("{}/library.json", directory.display()))?;
        let truth = Offsets(description.truth.into_iter().collect());
        Self::read(description.name, &directory.join(description.file), truth)
    }
}

/// What `cargo xtask libs` writes beside a library.
#[derive(serde::Deserialize)]
struct Description {
    name: String,
    file: PathBuf,
    truth: BTreeMap<String, Option<u32>>,
}

/// The companion as learning takes it.
pub(crate) fn companion_of(elf: Option<&Elf>) -> Companion<'_> {
    elf.map_or_else(|| Companion::Missing("libcrypto".to_owned()), Companion::Found)
}
