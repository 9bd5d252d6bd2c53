//! How long a program stands still: when a debugger asks it for a counter, and when
//! we attach probes, count and remove them.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use sslsess::kernel::{Kernel, LoadOptions};

use crate::{
    compile::{compile, make},
    copies::Copies,
    lines,
    program::Program,
    report::{Figure, figure},
    statistics::quartiles,
};

/// How often each is measured, in turns.
const TIMES: usize = 7;

/// Debian's.
const SYSTEM: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

/// The question: `SSL_CTRL_SESS_ACCEPT_GOOD`.
const COMMAND: i32 = 25;

pub(crate) fn measure(directory: &Path) {
    let path = compile(directory, "handshakes", &["crypto"]);
    let copies = Copies::make(directory);
    let mut kernel = Kernel::load(LoadOptions::default()).expect("it works here");
    let mut program = Program::start(&path, &[&copies.paths[0], &copies.paths[1]]);
    // gdb finds no names in the copies, which have no sections.
    let mut asked = Program::start(&path, &[Path::new(SYSTEM), &copies.paths[1]]);
    let pid = asked.child.id();
    // One round says where the contexts are.
    asked.tell("resumed12 1 1");
    let server = lines(&mut asked, 5)[2][0] as u64;

    let preload = make(&directory.join("xstate.so"), "xstate", &["-shared", "-fPIC"]);
    let gdb = Command::new("gdb").arg("--version").stdout(Stdio::null()).status();
    let gdb = gdb.is_ok_and(|status| status.success());
    let [mut nothing, mut ours, mut debugger] = [const { Vec::new() }; 3];
    let mut answered = true;
    for _ in 0..TIMES {
        ours.push(longest(&mut program, || {
            copies.attach(&mut kernel, 0);
            std::thread::sleep(Duration::from_millis(300));
            kernel.detach_all();
        }));
        nothing.push(longest(&mut program, || std::thread::sleep(Duration::from_millis(500))));
        if gdb {
            debugger.push(longest(&mut asked, || answered &= ask(&preload, pid, server)));
        }
    }
    println!("the longest time between two handshakes, each of {TIMES} times (median)");
    let show = |name: &str, times: Vec<f64>| {
        let [first, value, third] = quartiles(times);
        let (section, unit, spread) = ("standstill", "ms", Some([first, third]));
        figure(&Figure { section, name, unit, value, spread, limit: None });
    };
    show("nothing happens", nothing);
    show("our probes are attached, count, and are removed", ours);
    if gdb {
        let without = if answered { "" } else { " (it could not call the function here)" };
        show(&format!("gdb asks for one counter of one context{without}"), debugger);
    }
}

/// The longest time between two handshakes while something is done, in milliseconds.
fn longest(program: &mut Program, what: impl FnOnce()) -> f64 {
    program.tell("resumed12 0 100");
    what();
    // It ends when there is more to read.
    program.tell("resumed12 1 1");
    let answer = lines(program, 4);
    lines(program, 5);
    answer[3][0] / 1e6
}

/// Has gdb ask for one counter; says whether it was answered.
fn ask(preload: &Path, pid: u32, context: u64) -> bool {
    let function = "((long (*)(void *, int, long, void *))SSL_CTX_ctrl)";
    let output = Command::new("gdb")
        .env("LD_PRELOAD", preload)
        .args(["-nx", "-batch", "-p", &pid.to_string()])
        .args(["-ex", &format!("call {function}({context}, {COMMAND}, 0, 0)")])
        .output()
        .expect("it runs");
    String::from_utf8_lossy(&output.stdout).contains("$1 = ")
}
