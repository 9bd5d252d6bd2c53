//! What is wrong is named, with what to do; and the rest goes on working.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sys::stat::Mode;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    SSLSESS,
    agent::{Agent, Plan},
    compare::{Expect, assert_equal},
    eventually,
    oracle::{Language, ORACLES, Oracle},
    private_copy, spawn,
};

const NOBODY: &str = "65534";

/// Runs the binary; its exit code, and what it says on standard error.
fn sslsess(command: &mut Command) -> (i32, String) {
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("it exits"), said)
}

fn explain(file: &Path) -> (i32, String) {
    sslsess(Command::new(SSLSESS).arg("explain").arg(file))
}

/// The system's libssl.
fn libssl() -> PathBuf {
    let directories = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let paths = directories.map(|directory| Path::new(directory).join("libssl.so.3"));
    paths.into_iter().find(|path| path.exists()).expect("the system has a libssl")
}

#[track_caller]
fn assert_says((code, said): (i32, String), expected_code: i32, words: &[&str]) {
    assert_eq!(code, expected_code, "{said}");
    for word in words {
        assert!(said.contains(word), "it does not say `{word}`: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_truncated_library() {
    let whole = fs::read(libssl()).expect("it can be read");
    let output = Command::new(SSLSESS).args(["explain", "--json"]).arg(libssl()).output();
    let truth: Value =
        serde_json::from_slice(&output.expect("it runs").stdout).expect("JSON of the whole file");
    let directory = TempDir::new().expect("a directory");
    // At every length it is either refused, or nothing false is said of it.
    for length in [0, 1, 63, 64, 1000, whole.len() / 4, whole.len() / 2, whole.len() - 1000] {
        let file = directory.path().join("libssl.so.3");
        fs::write(&file, &whole[..length]).expect("it can be written");
        let name = file.to_str().expect("a path");
        let output =
            Command::new(SSLSESS).args(["explain", "--json", name]).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            assert_says((output.status.code().expect("it exits"), said), 1, &[name]);
            continue;
        }
        let learnt: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        for (field, offset) in learnt["layout"].as_object().expect("an object") {
            let known = offset.is_null() || *offset == truth["layout"][field];
            assert!(known, "{length} bytes: {field} is {offset}");
        }
    }
}

#[test]
fn garbage() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("libssl.so.3");
    let noise: Vec<u8> =
        (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&file, &noise).expect("it can be written");
    assert_says(
        explain(&file),
        1,
        &[file.to_str().expect("a path"), "not a readable 64-bit ELF file"],
    );
    // The start of an ELF file, and then noise.
    let mut start = fs::read(libssl()).expect("it can be read")[..64].to_vec();
    start.extend(&noise);
    fs::write(&file, start).expect("it can be written");
    let (code, said) = explain(&file);
    assert_says((code, said), 1, &[file.to_str().expect("a path")]);
}

#[test]
fn not_a_library() {
    let directory = TempDir::new().expect("a directory");
    assert_says(explain(directory.path()), 1, &["is a directory, not a regular file"]);
    assert_says(explain(&directory.path().join("gone")), 1, &["gone", "No such file"]);
    assert_says(explain(Path::new("/bin/true")), 1, &["/bin/true", "no libssl"]);
    // Opening it must not wait for a writer.
    let fifo = directory.path().join("libssl.so.3");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).expect("a FIFO");
    assert_says(explain(&fifo), 1, &["is a FIFO, not a regular file"]);
}

/// A copy of the binary where everybody can execute it.
fn copy_for_nobody() -> (TempDir, PathBuf) {
    let (directory, copy) = private_copy(SSLSESS);
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), everybody).expect("it is ours");
    (directory, copy)
}

fn as_nobody(binary: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(binary);
    command
}

#[test]
fn an_unreadable_library() {
    let (directory, binary) = copy_for_nobody();
    let file = directory.path().join("libssl.so.3");
    fs::copy(libssl(), &file).expect("it can be copied");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let said = sslsess(as_nobody(&binary).arg("explain").arg(&file));
    assert_says(said, 1, &[file.to_str().expect("a path"), "Permission denied"]);
}

#[test]
fn not_root() {
    let (_directory, binary) = copy_for_nobody();
    for verb in [&["show"][..], &["serve", "--web.listen-address", "127.0.0.1:0"], &["top"]] {
        let said = sslsess(as_nobody(&binary).args(verb));
        assert_says(said, 1, &["not root", "run it as root, for example with sudo"]);
    }
    let output = as_nobody(&binary).arg("check").output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("does not work here"));
    // What needs no privilege works without.
    assert_eq!(sslsess(as_nobody(&binary).arg("explain").arg(libssl())).0, 0);
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let said = sslsess(Command::new(SSLSESS).args(["serve", "--web.listen-address", &address]));
    assert_says(said, 1, &[&address, "in use", "--web.listen-address"]);
}

#[test]
fn wrong_usage() {
    for (args, word) in [
        (&["show", "--pdi", "1"][..], "--pdi"),
        (&["show", "--for", "5"], "5s"),
        (&["show", "--pid", "0"], "--pid"),
        (&["explain"], "FILE"),
        (&["explain", "--pid", "1", "file"], "cannot be used"),
        (&["serve", "--web.listen-address", "nowhere"], "--web.listen-address"),
        (&["frobnicate"], "frobnicate"),
    ] {
        assert_says(sslsess(Command::new(SSLSESS).args(args)), 2, &[word]);
    }
    let nobody = i32::MAX.to_string();
    let said = sslsess(Command::new(SSLSESS).args(["show", "--for", "1s", "--pid", &nobody]));
    assert_says(said, 1, &["no process", &nobody]);
}

/// A process that maps something called libssl which is none is a gap; others
/// are observed all the same.
#[test]
fn a_process_with_a_garbage_library() {
    let agent = Agent::shared(Plan::Auto);
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("libssl.so.3");
    fs::write(&file, vec![0x90; 8192]).expect("it can be written");
    let mut command = Command::new("/usr/bin/python3");
    command.arg(format!("{ORACLES}/mapper.py")).arg(&file).stdout(Stdio::null());
    let mut mapper = spawn(command);
    let gap = eventually("the agent names the gap", || {
        let snapshot = agent.snapshot();
        let gaps = snapshot["gaps"].as_array().expect("an array of gaps").clone();
        gaps.into_iter().find(|gap| gap["pid"] == mapper.id())
    });
    assert_eq!(gap["library"], file.to_str().expect("a path"));
    assert!(gap["reason"].as_str().expect("text").contains("not a readable 64-bit ELF file"));

    let mut oracle = Oracle::start(Language::Python);
    agent.wait_until_attached();
    oracle.ask("run tls13_tickets");
    assert_equal(agent, oracle.pid(), &oracle.told(), Expect::Live);
    mapper.kill().expect("it runs");
    let _ = mapper.wait();
}

/// OpenSSL in a 32-bit file is named as what it is, whatever the file is called.
#[test]
fn a_32_bit_library() {
    let agent = Agent::shared(Plan::Auto);
    let directory = TempDir::new().expect("a directory");
    let source = directory.path().join("library.c");
    let functions = ["SSL_CTX_new", "SSL_CTX_free", "SSL_CTX_ctrl"];
    let code: String = functions.map(|name| format!("void {name}(void) {{}}\n")).concat();
    fs::write(&source, code).expect("it can be written");
    let file = directory.path().join("plugin.so");
    let output = Command::new("gcc")
        .args(["-m32", "-shared", "-nostdlib", "-o"])
        .args([&file, &source])
        .output()
        .expect("gcc runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let name = file.to_str().expect("a path");
    assert_says(explain(&file), 1, &[name, "32-bit"]);

    let mut command = Command::new("/usr/bin/python3");
    command.arg(format!("{ORACLES}/mapper.py")).arg(&file).stdout(Stdio::null());
    let mut mapper = spawn(command);
    let gap = eventually("the agent names the gap", || {
        let snapshot = agent.snapshot();
        let gaps = snapshot["gaps"].as_array().expect("an array of gaps").clone();
        gaps.into_iter().find(|gap| gap["pid"] == mapper.id())
    });
    assert_eq!(gap["library"], name);
    assert!(gap["reason"].as_str().expect("text").contains("32-bit"), "{gap}");
    let pid = mapper.id().to_string();
    let said = sslsess(Command::new(SSLSESS).args(["explain", "--pid", &pid]));
    assert_says(said, 1, &[name, "32-bit"]);
    mapper.kill().expect("it runs");
    let _ = mapper.wait();
}

/// Processes come and go while all of them are looked at.
#[test]
fn processes_that_vanish_are_no_matter() {
    let agent = Agent::start(&[]);
    let mut oracle = Oracle::start(Language::Python);
    agent.wait_until_attached();
    // Each exec makes the agent look at every process, among them those that
    // are just about to be gone.
    for _ in 0..300 {
        let output = Command::new("openssl").arg("version").output().expect("openssl runs");
        assert!(output.status.success());
    }
    oracle.ask("run tls12_tickets");
    assert_equal(&agent, oracle.pid(), &oracle.told(), Expect::Live);
    let gone: Vec<_> = agent.snapshot()["gaps"].as_array().expect("an array of gaps").clone();
    assert!(gone.iter().all(|gap| gap["reason"].as_str().is_some_and(|r| !r.contains("No such"))));
}
