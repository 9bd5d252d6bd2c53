//! What probes add to handshakes: those that `serve` leaves when all contexts are known,
//! those that it has until then, and programs that do nothing in the places of these.

use std::{collections::HashMap, path::Path};

use sslsess::{
    image::{PlanOptions, ProbePoints},
    kernel::{Kernel, LoadOptions, floor::Floor},
};

use crate::{
    code::Code,
    compile::compile,
    copies::{Copies, learn},
    lines, median,
    program::Program,
    report::{Figure, figure},
    statistics::quartiles,
};

/// How often the probes go from one copy of the library to the other and back.
const SWAPS: usize = 15;

/// Hits, on each side of a pair, that there may be where starts have probes: one, and what
/// happens in some of the pairs only.
const HITS: f64 = 1.05;

/// How often somebody else may have probes in them.
const MOST_LEFT_OUT: usize = 60;

/// And where births have probes: what sees a context end can stand in the function that
/// throws away old sessions, which every 256th handshake calls, too (`ssl_update_cache`).
const HITS_SETTLED: f64 = 0.01;

struct Mode {
    /// As the program knows it.
    name: &'static str,
    what: &'static str,
    /// Handshakes, with one copy and with the other, until the probes move.
    rounds: usize,
    /// Handshakes in a row with each.
    pairs: usize,
    /// Percent that what `serve` leaves may add.
    share: Option<f64>,
}

const MODES: [Mode; 3] = [
    Mode { name: "full13", what: "TLS 1.3, P-256, full", rounds: 60, pairs: 4, share: Some(0.5) },
    Mode { name: "resumed13", what: "TLS 1.3, P-256, resumed", rounds: 60, pairs: 6, share: None },
    Mode { name: "resumed12", what: "TLS 1.2, resumed", rounds: 100, pairs: 24, share: Some(3.0) },
];

/// `cost`: of a hit, in nanoseconds. Says whether all could be measured.
pub(crate) fn measure(directory: &Path, cost: f64) -> bool {
    let path = compile(directory, "handshakes", &["crypto"]);
    let starts = Copies::make(directory);
    let births = PlanOptions { points: ProbePoints::Births, ..PlanOptions::default() };
    let births = Copies { image: learn(births), paths: starts.paths.clone() };
    let copies = [births, starts];
    let mut program = Program::start(&path, &[&copies[0].paths[0], &copies[0].paths[1]]);
    // It has loaded them when it answers.
    program.tell("full13 1 1");
    lines(&mut program, 5);
    println!(
        "handshakes, both ends in one thread; probes in one of two copies of libssl, which \
         make them in turns: {} at first, {} when all contexts are known",
        copies[Which::Starts as usize].places().len(),
        copies[Which::Births as usize].places().len()
    );
    let kernel = Kernel::load(LoadOptions::default()).expect("it works here");
    let floor = Floor::load().expect("Linux 6.6, and root");
    let mut pairs = Pairs { copies, program, kernel, floor };
    MODES.iter().fold(true, |measured, mode| pairs.of_mode(mode, cost) & measured)
}

struct Pairs {
    /// With the probes of births, and of starts.
    copies: [Copies; 2],
    program: Program,
    kernel: Kernel,
    floor: Floor,
}

/// Which probes.
#[derive(Clone, Copy)]
enum Which {
    /// Where contexts are made: what `serve` leaves.
    Births,
    /// Where handshakes start.
    Starts,
    /// Such as do nothing, where handshakes start.
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
        let [mut births, mut starts, mut floor] = [const { Vec::new() }; 3];
        let mut left_out = 0;
        // The first one makes the contexts known.
        for copy in [0, 1] {
            self.with_probes(mode, copy, Which::Starts);
        }
        while births.len().min(starts.len()).min(floor.len()) < SWAPS && left_out < MOST_LEFT_OUT {
            for (which, seen) in [
                (Which::Births, &mut births),
                (Which::Starts, &mut starts),
                (Which::Floor, &mut floor),
            ] {
                match [0, 1].map(|copy| self.with_probes(mode, copy, which)) {
                    [Some(first), Some(second)] => seen.push([first, second]),
                    _ => left_out += 1,
                }
            }
        }
        if left_out > 0 {
            println!("{left_out:>10}     times somebody else had probes in it: not counted");
        }
        if births.is_empty() || starts.is_empty() || floor.is_empty() {
            return false;
        }
        let took = median(starts.iter().flatten().map(|seen| seen.took));
        let counted = hits(&starts).iter().sum::<f64>() * cost / took * 100.0;
        let say = |name: &str, unit, [first, value, third]: [f64; 3], limit| {
            let name = format!("{}: {name}", mode.what);
            let spread = (first < third).then_some([first, third]);
            figure(&Figure { section: "handshakes", name: &name, unit, value, spread, limit });
        };
        say("a pair without probes", "us", [took / 1000.0; 3], None);
        for (side, left) in ["server", "client"].into_iter().zip(hits(&births)) {
            say(&format!("hits when settled, {side}"), "", [left; 3], Some(HITS_SETTLED));
        }
        say("probes of births add", "%", added(&births), mode.share);
        for (side, hits) in ["server", "client"].into_iter().zip(hits(&starts)) {
            say(&format!("hits until then, {side}"), "", [hits; 3], Some(HITS));
        }
        say("probes of starts add", "%", added(&starts), None);
        say("empty programs there add", "%", added(&floor), None);
        say("hits times what one costs in a loop", "%", [counted; 3], None);
        true
    }

    /// Makes pairs in turns, with probes in one of the copies; `None` if there were
    /// others.
    fn with_probes(&mut self, mode: &Mode, probed: usize, which: Which) -> Option<Seen> {
        let pid = self.program.child.id();
        let (copies, is_floor) = match which {
            Which::Births | Which::Starts => (&self.copies[which as usize], false),
            Which::Floor => (&self.copies[Which::Starts as usize], true),
        };
        let code = [0, 1].map(|copy| Code::of(pid, &copies.paths[copy]));
        let places = copies.places();
        let floor = is_floor.then(|| self.floor.attach(&copies.paths[probed], &places));
        if !is_floor {
            copies.attach(&mut self.kernel, probed);
        }
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
            // Its record is made by the first hit, of probes where handshakes start.
            let hits = after.1.get(&address).expect("the context is known");
            let before = before.1.get(&address).unwrap_or(&0);
            (hits - before) as f64 / (mode.rounds * mode.pairs) as f64
        });
        (before.0 && after.0).then(|| Seen {
            took: median(rounds.iter().map(|round| round[1 - probed])),
            longer: median(rounds.iter().map(|round| (round[probed] / round[1 - probed]).ln())),
            hits,
        })
    }
}

/// Hits of a pair, of the server's and of the client's context.
fn hits(seen: &[[Seen; 2]]) -> [f64; 2] {
    [0, 1].map(|side| median(seen.iter().flatten().map(|seen| seen.hits[side])))
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
