//! What probes add to handshakes.

use std::{collections::HashMap, path::Path};

use sslsess::kernel::{Kernel, LoadOptions, floor::Floor};

use crate::{
    code::Code,
    compile::compile,
    copies::Copies,
    lines, median,
    program::Program,
    report::{Figure, figure},
    statistics::quartiles,
};

/// How often the probes go from one copy of the library to the other and back.
const SWAPS: usize = 15;

/// Hits, of a pair, that happen in some of the pairs only.
const ONCE_IN_A_WHILE: f64 = 0.05;

/// How often somebody else may have probes in them.
const MOST_LEFT_OUT: usize = 60;

struct Mode {
    /// As the program knows it.
    name: &'static str,
    what: &'static str,
    /// Handshakes, with one copy and with the other, until the probes move.
    rounds: usize,
    /// Handshakes in a row with each.
    pairs: usize,
    /// Hits that there may be on each side.
    hits: f64,
    /// Percent that may be added.
    share: Option<f64>,
}

const MODES: [Mode; 3] = [
    Mode {
        name: "full13",
        what: "TLS 1.3, P-256, full",
        rounds: 60,
        pairs: 4,
        hits: 1.0,
        share: Some(0.5),
    },
    Mode {
        name: "resumed13",
        what: "TLS 1.3, P-256, resumed",
        rounds: 60,
        pairs: 6,
        hits: 1.0,
        share: None,
    },
    Mode {
        name: "resumed12",
        what: "TLS 1.2, resumed",
        rounds: 100,
        pairs: 24,
        hits: 1.0,
        share: Some(3.0),
    },
];

/// `cost`: of a hit, in nanoseconds. Says whether all could be measured.
pub(crate) fn measure(directory: &Path, cost: f64) -> bool {
    let path = compile(directory, "handshakes", &["crypto"]);
    let copies = Copies::make(directory);
    let mut program = Program::start(&path, &[&copies.paths[0], &copies.paths[1]]);
    // It has loaded them when it answers.
    program.tell("full13 1 1");
    lines(&mut program, 5);
    println!(
        "handshakes, both ends in one thread; {} probes in one of two copies of libssl, \
         which make them in turns",
        copies.image.plan.points.len()
    );
    let kernel = Kernel::load(LoadOptions::default()).expect("it works here");
    let floor = Floor::load().expect("Linux 6.6, and root");
    let mut pairs = Pairs { copies, program, kernel, floor };
    MODES.iter().fold(true, |measured, mode| pairs.of_mode(mode, cost) & measured)
}

struct Pairs {
    copies: Copies,
    program: Program,
    kernel: Kernel,
    floor: Floor,
}

/// Whose probes.
#[derive(Clone, Copy)]
enum Which {
    Ours,
    /// Such as do nothing, in the same places.
    Floor,
}

/// What was seen with the probes in one of the copies.
struct Seen {
    /// What a pair takes without them, in nanoseconds.
    took: f64,
    /// The logarithm of how many times as long it takes with them.
    longer: f64,
    /// Hits in a pair, of the server's and of the client's context.
    hits: [f64; 2],
}

impl Pairs {
    fn of_mode(&mut self, mode: &Mode, cost: f64) -> bool {
        let mut seen = Vec::new();
        let mut floor = Vec::new();
        let mut left_out = 0;
        // The first one makes the contexts known.
        for copy in [0, 1] {
            self.with_probes(mode, copy, Which::Ours);
        }
        while seen.len() < SWAPS && left_out < MOST_LEFT_OUT {
            for (which, seen) in [(Which::Ours, &mut seen), (Which::Floor, &mut floor)] {
                match [0, 1].map(|copy| self.with_probes(mode, copy, which)) {
                    [Some(first), Some(second)] => seen.push([first, second]),
                    _ => left_out += 1,
                }
            }
        }
        if left_out > 0 {
            println!("{left_out:>10}     times somebody else had probes in it: not counted");
        }
        if seen.is_empty() || floor.is_empty() {
            return false;
        }
        let all = || seen.iter().flatten();
        let took = median(all().map(|seen| seen.took));
        let [server, client] = [0, 1].map(|side| median(all().map(|seen| seen.hits[side])));
        let counted = (server + client) * cost / took * 100.0;
        let say = |name: &str, unit, [first, value, third]: [f64; 3], limit| {
            let name = format!("{}: {name}", mode.what);
            let spread = (first < third).then_some([first, third]);
            figure(&Figure { section: "handshakes", name: &name, unit, value, spread, limit });
        };
        say("a pair without probes", "us", [took / 1000.0; 3], None);
        for (side, hits) in [("server", server), ("client", client)] {
            say(&format!("hits, {side}"), "", [hits; 3], Some(mode.hits + ONCE_IN_A_WHILE));
        }
        say("ours add", "%", added(&seen), mode.share);
        say("empty programs add", "%", added(&floor), None);
        say("hits times what one costs in a loop", "%", [counted; 3], None);
        true
    }

    /// Makes pairs in turns, with probes in one of the copies; `None` if there were
    /// others.
    fn with_probes(&mut self, mode: &Mode, probed: usize, which: Which) -> Option<Seen> {
        let pid = self.program.child.id();
        let code = [0, 1].map(|copy| Code::of(pid, &self.copies.paths[copy]));
        let places = self.copies.places();
        let floor = match which {
            Which::Ours => {
                self.copies.attach(&mut self.kernel, probed);
                None
            }
            Which::Floor => Some(self.floor.attach(&self.copies.paths[probed], &places)),
        };
        let floor = floor.transpose().expect("it can be attached");
        let mut expected = [0, 0];
        expected[probed] = places.len();
        let these_alone = || [code[0].probes(), code[1].probes()] == expected;
        let before = (these_alone(), hits_by_context(&self.kernel, pid));
        self.program.tell(&format!("{} {} {}", mode.name, mode.rounds, mode.pairs));
        let rounds = lines(&mut self.program, mode.rounds);
        let contexts = lines(&mut self.program, 4);
        let after = (these_alone(), hits_by_context(&self.kernel, pid));
        drop(floor);
        self.kernel.detach_all();
        let hits = [0, 1].map(|side| {
            let address = contexts[1 + probed][side] as u64;
            let count = |of: &HashMap<u64, u64>| of.get(&address).copied().unwrap_or(0);
            (count(&after.1) - count(&before.1)) as f64 / (mode.rounds * mode.pairs) as f64
        });
        (before.0 && after.0).then(|| Seen {
            took: median(rounds.iter().map(|round| round[1 - probed])),
            longer: median(rounds.iter().map(|round| (round[probed] / round[1 - probed]).ln())),
            hits,
        })
    }
}

/// The percent that are added, with the quartiles. By which of the copies is slower by
/// itself, what is seen of the one is too much, and of the other too little.
fn added(seen: &[[Seen; 2]]) -> [f64; 3] {
    let longer = seen.iter().map(|[one, other]| f64::midpoint(one.longer, other.longer));
    quartiles(longer).map(|longer| (longer.exp() - 1.0) * 100.0)
}

/// How often each context of a process was hit.
fn hits_by_context(kernel: &Kernel, pid: u32) -> HashMap<u64, u64> {
    let records = kernel.contexts().expect("they can be read");
    let of_it = records.into_iter().filter(|(key, _)| key.tgid == pid);
    of_it.map(|(key, record)| (key.address, record.hits)).collect()
}
