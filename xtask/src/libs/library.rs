//! What is known of a library that was built or downloaded: `library.json`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// A library, and the truth about it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Library {
    pub(crate) name: String,
    /// Of OpenSSL; `None` for a wheel, where nobody but the file says so.
    pub(crate) version: Option<String>,
    /// `None` for a wheel.
    pub(crate) compiler: Option<String>,
    /// Of the compiler, the linker and `Configure`.
    pub(crate) flags: String,
    /// `x86_64`, `aarch64`.
    pub(crate) arch: String,
    /// What has libssl in it, beside `library.json`.
    pub(crate) file: PathBuf,
    pub(crate) how: Source,
    /// Offsets in bytes, by the names of `layout` in `explain --json`.
    pub(crate) truth: BTreeMap<String, u64>,
    /// By the names of `settings` there.
    pub(crate) settings: BTreeMap<String, Place>,
}

/// Where a setting is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    /// In bytes.
    pub(crate) offset: u64,
    /// In bytes; `None` where nobody tells.
    pub(crate) width: Option<u64>,
    /// How many units of what stands there make one of what is told; `None`
    /// where nobody tells.
    pub(crate) divisor: Option<u64>,
}

/// Who says what is true.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// The compiler, reading the declarations that the library was built from.
    Offsetof,
    /// The library's own functions, called with a made-up context.
    Accessors,
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Offsetof => "offsetof",
            Self::Accessors => "accessors",
        }
    }
}

const FILE: &str = "library.json";

impl Library {
    /// What a directory has; `None` if nothing was finished there.
    pub(crate) fn read(directory: &Path) -> Option<Self> {
        let text = fs::read_to_string(directory.join(FILE)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes it, after which the directory counts as finished.
    pub(crate) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        let file = directory.join(FILE);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}
