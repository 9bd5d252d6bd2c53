//! The sources of OpenSSL, as the crate `openssl-src` carries them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use super::matrix::Build;
use crate::progress::step;

/// Where the sources of a release are; fetches them if they are not there yet.
///
/// Cargo allows one release of a crate and major version in a project, so each
/// has a project of its own, which is thrown away.
pub(super) fn get(libs: &Path, build: &Build) -> anyhow::Result<PathBuf> {
    let sources = libs.join("src").join(build.version);
    if sources.join("Configure").exists() {
        return Ok(sources);
    }
    let project = libs.join("src").join(format!(".fetch-{}", build.version));
    fs::create_dir_all(project.join("src"))?;
    fs::write(project.join("src/lib.rs"), "")?;
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         openssl-src = \"={}\"\n\n[workspace]\n",
        build.source
    );
    fs::write(project.join("Cargo.toml"), manifest)?;
    let mut vendor = Command::new("cargo");
    vendor.current_dir(&project).args(["vendor", "--quiet", "vendor"]);
    step(&format!("fetching the sources of OpenSSL {}", build.version), &mut vendor)?;
    let vendored = project.join("vendor/openssl-src/openssl");
    fs::rename(&vendored, &sources)
        .with_context(|| format!("openssl-src has no {}", vendored.display()))?;
    fs::remove_dir_all(&project)?;
    Ok(sources)
}
