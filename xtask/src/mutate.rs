//! Changes libraries in many ways and learns each: none may be believed wrongly
//! (`probe-user/tests/mutations`).

use std::path::Path;

use anyhow::{Context as _, bail};

use crate::build;

/// Changes the system's own libssl, and those that `cargo xtask libs` has put in a
/// directory; `mutants` of each kind of each library.
///
/// # Errors
///
/// If anything that is not true was learnt of one.
pub(crate) fn run(
    libraries: Option<&Path>,
    mutants: Option<usize>,
    filters: &[String],
) -> anyhow::Result<()> {
    let mut command = build::cargo(&[
        "test",
        "--release",
        "--package",
        "probe-user",
        "--test",
        "mutations",
        "--",
    ]);
    if let Some(libraries) = libraries {
        command.arg("--libraries").arg(libraries);
    }
    if let Some(mutants) = mutants {
        command.arg("--mutants").arg(mutants.to_string());
    }
    let status = command.args(filters).status().context("cannot run cargo")?;
    if !status.success() {
        bail!("a library was believed that was changed: {status}");
    }
    Ok(())
}
