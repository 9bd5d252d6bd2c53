//! The sources of OpenSSL, as the crate `openssl-src` carries them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use super::matrix::Build;
use crate::progress::step;

/// Writes the lists of exported functions for the linker. Since 3.5 the crate
/// leaves this out, for it builds no shared libraries.
const LISTS: &str = "util/mkdef.pl";

/// The last release of OpenSSL, and of the crate, that has it.
const WITH_LISTS: (&str, &str) = ("3.4.1", "300.4.2");

/// Fetches the sources of a release, if they are not there yet.
pub(super) fn get(libs: &Path, build: &Build) -> anyhow::Result<()> {
    let sources = fetch(libs, build.version, build.source)?;
    if !sources.join(LISTS).exists() {
        let others = fetch(libs, WITH_LISTS.0, WITH_LISTS.1)?;
        fs::copy(others.join(LISTS), sources.join(LISTS))
            .with_context(|| format!("openssl-src {} has no {LISTS}", WITH_LISTS.1))?;
    }
    Ok(())
}

/// Where the sources of a release are.
///
/// Cargo allows one release of a crate and major version in a project, so each
/// has a project of its own, which is thrown away.
fn fetch(libs: &Path, version: &str, source: &str) -> anyhow::Result<PathBuf> {
    let sources = libs.join("src").join(version);
    if sources.join("Configure").exists() {
        return Ok(sources);
    }
    // Two runs may want the same.
    let project = libs.join("src").join(format!(".fetch-{version}-{}", std::process::id()));
    fs::create_dir_all(project.join("src"))?;
    fs::write(project.join("src/lib.rs"), "")?;
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         openssl-src = \"={source}\"\n\n[workspace]\n"
    );
    fs::write(project.join("Cargo.toml"), manifest)?;
    let mut vendor = Command::new("cargo");
    vendor.current_dir(&project).args(["vendor", "--quiet", "vendor"]);
    step(&format!("fetching the sources of OpenSSL {version}"), &mut vendor)?;
    let vendored = project.join("vendor/openssl-src/openssl");
    if let Err(error) = fs::rename(&vendored, &sources)
        && !sources.join("Configure").exists()
    {
        return Err(error).with_context(|| format!("openssl-src has no {}", vendored.display()));
    }
    fs::remove_dir_all(&project)?;
    Ok(sources)
}
