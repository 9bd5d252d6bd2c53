//! What is made of a build's objects: libraries, or something that has them inside.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use super::{
    matrix::{Build, Shape},
    tree::{Tree, run},
};

/// A program that has OpenSSL inside: it uses the library, so that a linker
/// keeps it.
const PROGRAM: &str = include_str!("program.c");

/// Puts what a build is made for into a directory; returns the file that
/// has libssl in it, as a name there.
pub(super) fn link(build: &Build, tree: &Tree, out: &Path) -> anyhow::Result<String> {
    match build.flavour.shape {
        Shape::Shared | Shape::Stripped => {
            let libcrypto = copy(build, tree, "libcrypto", out)?;
            let libssl = copy(build, tree, "libssl", out)?;
            if build.flavour.shape == Shape::Stripped {
                for library in [libcrypto, libssl.clone()] {
                    run(Command::new(build.arch.tool("strip")).arg("-s").arg(out.join(library)))?;
                }
            }
            Ok(libssl)
        }
        Shape::StaticShared => {
            link_static(build, tree, out, "libstatic.so", &["-shared", "-Wl,-Bsymbolic"])
        }
        Shape::StaticExecutable => {
            link_static(build, tree, out, "program", &["-no-pie", "-rdynamic"])
        }
        Shape::StaticLocal => {
            let script = out.join("exports.map");
            fs::write(&script, "{ global: main; local: *; };\n")?;
            let script = format!("-Wl,--version-script={}", script.display());
            link_static(build, tree, out, "liblocal.so", &["-shared", &script])
        }
    }
}

/// Copies a library under the name that is in other files' `DT_NEEDED`, with
/// its short name beside it.
fn copy(build: &Build, tree: &Tree, library: &str, out: &Path) -> anyhow::Result<String> {
    let short = format!("{library}.so");
    let long = fs::read_link(tree.path.join(&short))
        .with_context(|| format!("{}: make did not link {library}", build.name))?;
    fs::copy(tree.path.join(&long), out.join(&long))?;
    symlink(&long, out.join(&short))?;
    Ok(long.display().to_string())
}

fn link_static(
    build: &Build,
    tree: &Tree,
    out: &Path,
    name: &str,
    how: &[&str],
) -> anyhow::Result<String> {
    let program = out.join("program.c");
    fs::write(&program, PROGRAM)?;
    let mut link = build.compiler_command()?;
    link.current_dir(&tree.path);
    link.args(build.compile_flags().split(' ')).args(how);
    if !how.contains(&"-no-pie") {
        link.arg("-fPIC");
    }
    link.args(build.link_flags().split_whitespace());
    // A few objects are in both libraries.
    link.args(["-Wl,-z,muldefs", "-o"]).arg(out.join(name)).arg(&program);
    link.args(objects(tree)?).args(["-ldl", "-pthread"]);
    run(&mut link).with_context(|| format!("cannot link {}", build.name))?;
    Ok(name.to_owned())
}

/// The objects and archives of both libraries. They stand in one tree under
/// names that say for which library they were compiled, since 3.0; in 1.1.1
/// an object is compiled once.
fn objects(tree: &Tree) -> anyhow::Result<Vec<PathBuf>> {
    let mut objects = tree.files(|path| {
        path.ends_with(".o")
            && (path.contains("libssl-shlib-") || path.contains("libcrypto-shlib-"))
    })?;
    if objects.is_empty() {
        return tree.files(|path| {
            path.ends_with(".o") && (path.starts_with("ssl/") || path.starts_with("crypto/"))
        });
    }
    let archives = tree.files(|path| path.starts_with("providers/") && path.ends_with(".a"))?;
    objects.push("-Wl,--start-group".into());
    objects.extend(archives);
    objects.push("-Wl,--end-group".into());
    Ok(objects)
}
