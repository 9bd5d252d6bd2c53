//! Compiles the benchmarks' programs.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

/// Makes one of `programs`, with these libraries.
pub(crate) fn compile(directory: &Path, name: &str, libraries: &[&str]) -> PathBuf {
    let libraries: Vec<String> = libraries.iter().map(|library| format!("-l{library}")).collect();
    make(&directory.join(name), name, &libraries)
}

/// With these options behind the source.
pub(crate) fn make(program: &Path, name: &str, options: &[impl AsRef<OsStr>]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/programs/{name}.c"));
    let status = Command::new("gcc")
        .args(["-O2", "-o"])
        .args([program, &source])
        .args(options)
        .status()
        .expect("gcc runs");
    assert!(status.success(), "{} is compiled", source.display());
    program.to_owned()
}
