//! How many hits a handshake has, with every library that is named. Each is driven by a
//! program of its own, which says what its contexts have counted: what is read of them
//! has to be that. `cargo xtask bench` names the builds of `cargo xtask libs`.

mod certificate;
mod libraries;
#[expect(dead_code, reason = "others start programs without an environment")]
mod program;
mod report;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use probe_common::COUNTERS;
use serde_json::Value;
use sslsess::{
    context::Observation,
    host::LiveMemory,
    image::{Family, Image, ProbeKind, plan},
    kernel::{Kernel, LoadOptions},
};

use program::Program;
use report::{Figure, figure};

/// What is played, and what it is called.
const PLAYED: [(&str, &str); 2] =
    [("not_resumed", "TLS 1.3, full"), ("tls12_tickets", "TLS 1.2, mostly resumed")];

/// Hits that both ends of a handshake may have together: where there are increments,
/// and elsewhere.
const BEHIND_INCREMENTS: f64 = 2.0;
const ELSEWHERE: f64 = 4.0;

fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let [certificate, key] = certificate::make(directory.path());
    let mut kernel = Kernel::load(LoadOptions::default()).expect("it works here");
    for (number, file) in libraries::named().into_iter().enumerate() {
        let label = libraries::label(&file);
        let Ok(image) = libraries::learn(&file) else { continue };
        // The program does not know the relatives.
        if image.family != Some(Family::OpenSsl) {
            continue;
        }
        let layout = plan::block_layout(&image.learnt.layout);
        let Some(layout) = layout.filter(|_| image.plan.sees_contexts()) else {
            println!("{label}: it is not observed");
            continue;
        };
        let runs = Command::new("python3")
            .args(["-c", "import ctypes, sys; [ctypes.CDLL(file, 256) for file in sys.argv[1:]]"])
            .args([&libcrypto(&file), &file])
            .stderr(Stdio::null())
            .status();
        if !runs.is_ok_and(|status| status.success()) {
            println!("{label}: it cannot be run: its libcrypto has not all that it needs");
            continue;
        }
        kernel.attach(number as u32 + 1, layout, &image.plan, &file).expect("they can be attached");
        measure(&kernel, &image, &label, &file, [&certificate, &key]);
        kernel.detach_all();
    }
}

fn measure(kernel: &Kernel, image: &Image, label: &str, file: &Path, certificate: [&Path; 2]) {
    let entered = image.plan.points.iter().any(|point| point.kind == ProbeKind::Entry);
    let limit = if entered { ELSEWHERE } else { BEHIND_INCREMENTS };
    let mut command = Command::new("python3");
    let oracle = "tests/e2e/oracles/native.py";
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(oracle))
        .env("LIBSSL", file)
        .env("LIBCRYPTO", libcrypto(file))
        .env("CERTIFICATE", certificate[0])
        .env("KEY", certificate[1]);
    let mut program = Program::start_command(&mut command);
    assert_eq!(answer(&mut program)["ready"], true, "{label}");
    for (scenario, what) in PLAYED {
        let ask = |program: &mut Program, command: &str| {
            program.tell(command);
            let answer = answer(program);
            assert!(answer["error"].is_null(), "{label}: {answer}");
            answer
        };
        ask(&mut program, &format!("run {scenario}"));
        let stats = ask(&mut program, "stats");
        let contexts = stats["contexts"].as_array().expect("an array").iter();
        let of_it: Vec<&Value> =
            contexts.filter(|context| context["scenario"] == scenario).collect();
        let count = |name: &str| -> f64 {
            of_it.iter().filter_map(|context| context["stats"][name].as_f64()).sum()
        };
        let handshakes = count("accept");
        assert!(handshakes > 0.0 && handshakes == count("connect"), "{label}: {of_it:?}");
        let records = kernel.contexts().expect("they can be read");
        let of_process = records.iter().filter(|(key, _)| key.tgid == program.child.id());
        let hits: u64 = of_process
            .filter(|(key, _)| of_it.iter().any(|c| c["ctx"] == format!("{:#x}", key.address)))
            .map(|(_, record)| record.hits)
            .sum();
        let layout = plan::block_layout(&image.learnt.layout).expect("it is observed");
        for context in &of_it {
            let address = context["ctx"].as_str().and_then(|ctx| ctx.strip_prefix("0x"));
            let address = u64::from_str_radix(address.expect("an address"), 16).expect("a number");
            let seen = Observation::read(&LiveMemory, program.child.id(), address, &layout);
            let seen = seen.expect("it lives");
            for counter in COUNTERS {
                let value = seen.counters[counter as usize];
                let told = context["stats"][counter.name()].as_i64();
                // What the library does not say where, is a gap.
                assert!(value.is_none() || value.map(i64::from) == told, "{label}: {context}");
            }
            let told = context["stats"]["number"].as_u64();
            assert!(seen.number.is_none() || seen.number == told, "{label}: {context}");
        }
        figure(&Figure {
            section: "builds",
            name: &format!("{label}, {what}: hits of a handshake, both ends"),
            unit: "",
            value: hits as f64 / handshakes,
            spread: None,
            limit: (what.ends_with("full")).then_some(limit),
        });
    }
}

fn answer(program: &mut Program) -> Value {
    serde_json::from_str(&program.line()).expect("JSON")
}

/// The one beside it, or the same file.
fn libcrypto(file: &Path) -> PathBuf {
    let beside = file.with_file_name("libcrypto.so");
    if beside.exists() { beside } else { file.to_owned() }
}
