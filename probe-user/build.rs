//! Finds the BPF object that `cargo xtask build` made.

use std::{env, path::PathBuf, process::exit};

fn main() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let object = env::var_os("SSLSESS_BPF_OBJECT").map_or_else(
        || root.join("target/bpf/bpfel-unknown-none/release/sslsess-bpf"),
        PathBuf::from,
    );
    println!("cargo::rerun-if-env-changed=SSLSESS_BPF_OBJECT");
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => println!("cargo::rustc-env=SSLSESS_BPF_OBJECT={}", object.display()),
        Err(error) => {
            println!(
                "cargo::error=no BPF object at {} ({error}): build it with `cargo xtask build`",
                object.display()
            );
            exit(1);
        }
    }
}
