//! Compiles the benchmarks' programs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Makes one of `programs`, with these libraries.
pub(crate) fn compile(directory: &Path, name: &str, libraries: &[&str]) -> PathBuf {
    let program = directory.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/programs/{name}.c"));
    let status = Command::new("gcc")
        .args(["-O2", "-o"])
        .args([&program, &source])
        .args(libraries.iter().map(|library| format!("-l{library}")))
        .status()
        .expect("gcc runs");
    assert!(status.success(), "{} is compiled", source.display());
    program
}
