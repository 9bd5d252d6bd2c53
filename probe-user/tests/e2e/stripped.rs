//! OpenSSL linked statically into a program that was stripped: it is recognised
//! by its machine code alone, and observed exactly.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::Signal;
use sslsess::image::{
    Companion, Elf, Image, PlanChoice, PlanOptions, ProbeKind, ProbePoints, stripped,
    unwind::FunctionRanges,
};
use tempfile::TempDir;

use crate::support::{
    SSLSESS,
    agent::{Agent, Plan},
    compare::{Expect, assert_equal},
    oracle::{ORACLES, Oracle},
    run,
};

/// A probe behind every increment.
const ALL: PlanOptions = PlanOptions { choice: PlanChoice::Auto, points: ProbePoints::All };

/// Everything in one file, at a fixed address.
const STATIC: &[&str] = &["-static", "-no-pie", "-lssl", "-lcrypto"];
/// Everything in one file, at any address.
const STATIC_PIE: &[&str] = &["-static-pie", "-lssl", "-lcrypto"];
/// Only OpenSSL in it; the C library is shared.
const PIE: &[&str] = &["-pie", "-Wl,-Bstatic", "-lssl", "-lcrypto", "-Wl,-Bdynamic"];

struct Program {
    _directory: TempDir,
    /// With all of its symbols.
    named: PathBuf,
    /// Without any.
    stripped: PathBuf,
}

impl Program {
    fn build(how: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory for a program");
        let (named, stripped) = (directory.path().join("named"), directory.path().join("stripped"));
        let source = format!("{ORACLES}/oracle.c");
        run(Command::new("cc").args(["-O2", &source, "-o"]).arg(&named).args(how));
        run(Command::new("strip").arg("--strip-all").arg(&named).arg("-o").arg(&stripped));
        Self { _directory: directory, named, stripped }
    }
}

fn elf(path: &Path) -> Elf {
    Elf::open(path).expect("an ELF file")
}

fn learn(elf: &Elf) -> Image {
    Image::learn(PathBuf::from("a program"), elf, &Companion::Within, ALL)
}

#[derive(Clone, Copy)]
enum Ending {
    Freed,
    Exit,
    Killed,
}

fn observed(how: &[&str], ending: Ending) {
    let program = Program::build(how);
    let agent = Agent::shared(Plan::Auto);
    let mut oracle = Oracle::start_command(Command::new(&program.stripped));
    let pid = oracle.pid();
    agent.wait_until_attached_to(&program.stripped);
    for scenario in oracle.scenarios() {
        oracle.ask(&format!("run {scenario}"));
    }
    let told = oracle.told();
    assert_equal(agent, pid, &told, Expect::Live);
    let used: Vec<_> = told.into_iter().filter(|told| !told.is_unused()).collect();
    match ending {
        Ending::Freed => {
            oracle.ask("free");
            assert_equal(agent, pid, &used, Expect::Freed);
        }
        Ending::Exit => {
            oracle.tell("exit");
            assert!(oracle.wait().success());
            assert_equal(agent, pid, &used, Expect::Exited);
        }
        Ending::Killed => {
            oracle.signal(Signal::SIGKILL);
            assert!(!oracle.wait().success());
            assert_equal(agent, pid, &used, Expect::Exited);
        }
    }
}

#[test]
fn a_stripped_static_program_is_observed() {
    observed(STATIC, Ending::Freed);
}

#[test]
fn a_stripped_static_pie_is_observed() {
    observed(STATIC_PIE, Ending::Exit);
}

#[test]
fn a_stripped_program_with_openssl_inside_is_observed() {
    observed(PIE, Ending::Killed);
}

/// What the machine code says alone is what it says with names: each is a
/// witness against the other.
#[test]
fn names_and_machine_code_say_the_same() {
    for how in [STATIC, STATIC_PIE, PIE] {
        let program = Program::build(how);
        let (named, stripped) = (elf(&program.named), elf(&program.stripped));
        assert!(Image::is_openssl(&named) && !Image::is_openssl(&stripped), "{how:?}");
        let found = stripped::recognise(&stripped, &FunctionRanges::read(&stripped));
        let found = found.unwrap_or_else(|gap| panic!("{how:?}: {gap}"));
        for (name, symbol) in &found.functions {
            let address = named.function(name).map(|symbol| symbol.address);
            assert_eq!(Some(symbol.address), address, "{how:?}: {name}");
        }
        let (by_name, by_code) = (learn(&named), learn(&stripped));
        assert_eq!(by_name.learnt.layout, by_code.learnt.layout, "{how:?}");
        assert_eq!(by_code.learnt.gaps, [], "{how:?}");
        assert_eq!(by_code.learnt.evidence.len(), 16, "{how:?}");
        for evidence in &by_code.learnt.evidence {
            let read_at = evidence.read_at.as_ref();
            let read_at = read_at.unwrap_or_else(|| panic!("{how:?}: {evidence:?}"));
            assert!(read_at.function.is_some(), "{how:?}: {evidence:?}");
        }
        assert_eq!(by_code.plan.gaps, [], "{how:?}");
        let increments = by_code.plan.points.iter();
        let increments = increments.filter(|point| matches!(point.kind, ProbeKind::Increment(_)));
        assert_eq!(increments.count(), 15, "{how:?}");
        assert!(by_code.plan.sees_deaths());
    }
}

/// The agent looks for a text that must not be in itself.
#[test]
fn the_agent_is_not_suspected() {
    assert!(!stripped::is_suspected(&elf(Path::new(SSLSESS))));
}

/// A program in which one increment counts something else, or none, is not
/// believed to be OpenSSL.
#[test]
fn one_increment_that_differs_is_enough_to_refuse() {
    let program = Program::build(STATIC);
    let whole = elf(&program.stripped);
    let ranges = FunctionRanges::read(&whole);
    let found = stripped::recognise(&whole, &ranges).expect("it is OpenSSL");
    assert_eq!(found.increments.len(), 15);
    for site in &found.increments {
        let at = whole.file_offset(site.address).expect("it is in the file") as usize;
        let mut bytes = fs::read(&program.stripped).expect("the program is there");
        // The distance follows the prefixes, the opcode and ModRM. It becomes
        // that of the next counter, or of what stands behind the last one.
        let distance = found.block + 4 * site.counter as u32;
        let distance = distance.to_le_bytes()[0];
        let byte = bytes[at + 3..at + 6].iter_mut().find(|byte| **byte == distance);
        *byte.expect("the distance is in the instruction") += 4;
        let changed = Elf::parse(bytes).expect("still an ELF file");
        let result = stripped::recognise(&changed, &ranges);
        assert!(result.is_err(), "{:?} at {:#x}", site.counter, site.address);
        let image = learn(&changed);
        assert!(image.learnt.layout.block().is_none() && image.plan.points.is_empty());
    }
}
