//! What a user would do instead, with LD_PRELOAD: a shim that asks `SSL_CTX_ctrl` when a
//! handshake is done (`programs/shim.c`), next to our probes.

use std::{fs, path::Path, process::Command};

use sslsess::kernel::{Kernel, LoadOptions};

use crate::{
    code::Code,
    compile::{compile, make},
    copies::Copies,
    lines, median,
    program::Program,
    report::{Figure, figure},
    statistics::quartiles,
};

/// How often each is measured, in turns.
const TURNS: usize = 15;

/// How often somebody else may have probes in them.
const MOST_LEFT_OUT: usize = 30;

/// As the program knows it, as people do, rounds, and handshakes in a row.
const MODES: [(&str, &str, usize, usize); 3] = [
    ("full13", "TLS 1.3, P-256, full", 60, 4),
    ("resumed13", "TLS 1.3, P-256, resumed", 60, 6),
    ("resumed12", "TLS 1.2, resumed", 100, 24),
];

/// A row of what the shim writes: the context, its values, how often they were written.
const ROW: usize = 8 * 14;

/// Which of the values is that of the good handshakes of servers.
const ACCEPT_GOOD: usize = 5;

/// The handshakes' program; the shim is before the second of its copies, or it has none.
struct Handshakes {
    program: Program,
    code: [Code; 2],
}

/// What was seen with probes or a shim in one of the copies.
struct Seen {
    /// What a pair takes without, in nanoseconds.
    took: f64,
    /// The logarithm of how many times as long it takes with.
    longer: f64,
}

pub(crate) fn measure(directory: &Path) {
    println!("handshakes, both ends in one thread: a shim with LD_PRELOAD, and probes");
    let path = compile(directory, "handshakes", &["crypto"]);
    let shim = make(&directory.join("shim.so"), "shim", &["-shared", "-fPIC"]);
    let copies = Copies::make(directory);
    let [first, second] = [&copies.paths[0], &copies.paths[1]].map(|path| path.as_path());
    let rows = [directory.join("first.rows"), directory.join("second.rows")];
    let shimmed = |library: &Path, other: &Path, rows: &Path| {
        let mut command = Command::new(&path);
        command.arg(other).arg("-").env("SHIM_FILE", rows);
        command.env("LD_PRELOAD", format!("{}:{}", shim.display(), library.display()));
        Handshakes::start(&mut command, [other, library])
    };
    // What is slower by itself is before the shim in one, and behind it in the other.
    let mut shims = [shimmed(first, second, &rows[0]), shimmed(second, first, &rows[1])];
    let mut ours = Handshakes::start(Command::new(&path).args([first, second]), [first, second]);
    let mut kernel = Kernel::load(LoadOptions::default()).expect("it works here");
    for mode in MODES {
        let mut left_out = 0;
        let [mut shim_adds, mut we_add] = [const { Vec::new() }; 2];
        let mut took = Vec::new();
        while shim_adds.len().min(we_add.len()) < TURNS && left_out < MOST_LEFT_OUT {
            let seen = [0, 1].map(|n| with_shim(&mut shims[n], mode, &rows[n]));
            left_out += usize::from(!keep(seen, &mut took, &mut shim_adds));
            let seen = [0, 1].map(|copy| with_probes(&mut ours, mode, &copies, &mut kernel, copy));
            left_out += usize::from(!keep(seen, &mut took, &mut we_add));
        }
        if left_out > 0 {
            println!("{left_out} times somebody else had probes in it: not counted");
        }
        assert!(!shim_adds.is_empty() && !we_add.is_empty(), "it was measured");
        let say = |name: &str, unit, value, spread| {
            let name = format!("{name}, {}", mode.1);
            let (section, limit) = ("shim", None);
            figure(&Figure { section, name: &name, unit, value, spread, limit });
        };
        let took = median(took);
        say("a pair of handshakes", "us", took / 1000.0, None);
        for (who, longer) in [("the shim adds", shim_adds), ("our probes add", we_add)] {
            let share = quartiles(longer).map(|longer| longer.exp() - 1.0);
            for (unit, whole) in [("%", 100.0), ("ns", took)] {
                let [low, value, high] = share.map(|share| share * whole);
                say(&format!("{who}, {unit}"), unit, value, Some([low, high]));
            }
        }
    }
}

/// Keeps what was seen with the one and with the other copy, if both can be used; says
/// whether they could.
fn keep(seen: [Option<Seen>; 2], took: &mut Vec<f64>, longer: &mut Vec<f64>) -> bool {
    let [Some(one), Some(other)] = seen else { return false };
    took.extend([one.took, other.took]);
    longer.push(f64::midpoint(one.longer, other.longer));
    true
}

impl Handshakes {
    fn start(command: &mut Command, libraries: [&Path; 2]) -> Self {
        let mut program = Program::start_command(command);
        // It has loaded them when it answers.
        program.tell("full13 1 1");
        lines(&mut program, 5);
        let code = libraries.map(|library| Code::of(program.child.id(), library));
        Self { program, code }
    }

    fn probes(&self) -> [usize; 2] {
        [self.code[0].probes(), self.code[1].probes()]
    }

    /// Makes pairs; what each took, and what it says of its contexts.
    fn make(&mut self, (mode, _, rounds, pairs): Mode) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        self.program.tell(&format!("{mode} {rounds} {pairs}"));
        (lines(&mut self.program, rounds), lines(&mut self.program, 4))
    }
}

type Mode = (&'static str, &'static str, usize, usize);

/// With the shim before the second copy; `None` if there were probes.
fn with_shim(handshakes: &mut Handshakes, mode: Mode, rows: &Path) -> Option<Seen> {
    let none = handshakes.probes() == [0, 0];
    let (rounds, contexts) = handshakes.make(mode);
    check(rows, &contexts[2]);
    (none && handshakes.probes() == [0, 0]).then(|| seen(&rounds, 1))
}

/// With our probes in one copy; `None` if there were others.
fn with_probes(
    handshakes: &mut Handshakes,
    mode: Mode,
    copies: &Copies,
    kernel: &mut Kernel,
    copy: usize,
) -> Option<Seen> {
    copies.attach(kernel, copy);
    let mut expected = [0, 0];
    expected[copy] = copies.places().len();
    let before = handshakes.probes() == expected;
    let (rounds, _) = handshakes.make(mode);
    let after = handshakes.probes() == expected;
    kernel.detach_all();
    (before && after).then(|| seen(&rounds, copy))
}

fn seen(rounds: &[Vec<f64>], with: usize) -> Seen {
    Seen {
        took: median(rounds.iter().map(|round| round[1 - with])),
        longer: median(rounds.iter().map(|round| (round[with] / round[1 - with]).ln())),
    }
}

/// Fails if the shim does not say what the program does: the server's context, the
/// client's, and how many pairs there were.
fn check(rows: &Path, contexts: &[f64]) {
    let rows = fs::read(rows).expect("the shim made it");
    let number = |row: &[u8], n: usize| {
        let bytes = row[8 * n..8 * (n + 1)].try_into().expect("eight");
        u64::from_ne_bytes(bytes)
    };
    let mut rows = rows.chunks_exact(ROW);
    let row = rows.find(|row| number(row, 0) == contexts[0] as u64).expect("it has a row");
    assert_eq!(number(row, 1 + ACCEPT_GOOD), contexts[2] as u64, "good handshakes");
}
