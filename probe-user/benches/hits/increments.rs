//! The cost of a hit: of the cheapest program there is, of ours, and of what is
//! usually attached to a function.

use std::{collections::HashMap, path::Path};

use sslsess::{
    image::{Class, Elf, point::ProbePoint},
    kernel::{Kernel, LoadOptions, floor::Floor},
};

use crate::{
    compile::compile,
    lines,
    made_up::{LAYOUT, point},
    pairs::{EMULATED, Pair, Place},
    program::Program,
    statistics::quartiles,
};

/// How often all functions are called in turns, and how often each time: 200,000
/// calls of each.
pub(crate) const ROUNDS: usize = 800;
pub(crate) const CALLS: usize = 250;

/// What is usually attached: to a function's entry, and to its return.
const NAIVE: &str = "naive";

/// What calls of the functions took.
pub(crate) struct Took {
    /// Their names, in the order of the numbers.
    names: HashMap<String, usize>,
    /// Nanoseconds of a call, in each round.
    rounds: Vec<Vec<f64>>,
}

/// What probes add to one of the functions.
#[derive(Clone, Copy)]
pub(crate) enum Probe {
    /// A program that does nothing.
    Floor(Class),
    Ours(Pair),
    /// Programs that do nothing, at a function's entry and at its return.
    EntryAndReturn,
}

impl Probe {
    fn function(self) -> String {
        match self {
            Self::Floor(class) => format!("floor_{}", class.name()),
            Self::Ours((class, place)) => format!("{}_{}", place.name(), class.name()),
            Self::EntryAndReturn => NAIVE.to_owned(),
        }
    }

    /// The same function without probes.
    fn bare(self) -> String {
        let class = match self {
            Self::Floor(class) | Self::Ours((class, _)) => class,
            Self::EntryAndReturn => Class::Jmp,
        };
        format!("bare_{}", class.name())
    }
}

impl Took {
    /// Puts the probes there, and has the program call all functions in turns.
    pub(crate) fn measure(directory: &Path) -> Self {
        let path = compile(directory, "increments", &[]);
        let elf = Elf::open(&path).expect("it is a program");
        let place = |name: &str| {
            let address = elf.function(name).expect("it is there").address;
            (address, elf.file_offset(address).expect("it is in the file"))
        };
        let floor = Floor::load().expect("Linux 6.6, and root");
        let floors = EMULATED.into_iter().chain([Class::Stepped]).map(Probe::Floor);
        let mut floors: Vec<u64> =
            floors.map(|probe| place(&format!("{}_place", probe.function())).1).collect();
        floors.push(place(NAIVE).1);
        let _probes = [
            floor.attach(&path, &floors).expect("it can be attached"),
            floor.attach_to_return(&path, place(NAIVE).1).expect("it can be attached"),
        ];
        let ours: Vec<Pair> =
            EMULATED.iter().flat_map(|class| Place::ALL.map(|place| (*class, place))).collect();
        let points: Vec<ProbePoint> = ours
            .iter()
            .map(|pair| {
                let name = Probe::Ours(*pair).function();
                let place = place(&format!("{name}_place"));
                point(name, place, *pair)
            })
            .collect();
        let mut kernel = Kernel::load(LoadOptions::default()).expect("it works here");
        kernel.attach(1, LAYOUT, &points.into(), &path).expect("it can be attached");

        let mut program = Program::start::<&str>(&path, &[]);
        program.tell(&format!("{ROUNDS} {CALLS}"));
        let names = program.line();
        let names: HashMap<String, usize> = names.split(' ').map(str::to_owned).zip(0..).collect();
        let rounds = lines(&mut program, ROUNDS);
        let contexts = lines(&mut program, names.len());
        for pair in ours {
            let name = Probe::Ours(pair).function();
            check(&kernel, program.child.id(), &contexts[names[&name]], &name);
        }
        Self { names, rounds }
    }

    /// What a probe adds to a call, in each round.
    fn added(&self, probe: Probe) -> impl Iterator<Item = f64> {
        let [with, without] =
            [probe.function(), probe.bare()].map(|function| self.names[&function]);
        self.rounds.iter().map(move |round| round[with] - round[without])
    }

    /// Nanoseconds of a call without a probe.
    pub(crate) fn bare(&self) -> [f64; 3] {
        let function = self.names[&Probe::EntryAndReturn.bare()];
        quartiles(self.rounds.iter().map(|round| round[function]))
    }

    /// Nanoseconds of a hit, with the quartiles.
    pub(crate) fn cost(&self, probe: Probe) -> [f64; 3] {
        quartiles(self.added(probe))
    }

    /// How many times what the other one costs, with the quartiles.
    pub(crate) fn ratio(&self, probe: Probe, other: Probe) -> [f64; 3] {
        quartiles(self.added(probe).zip(self.added(other)).map(|(one, other)| one / other))
    }
}

/// Fails if a hit of a context is missing.
fn check(kernel: &Kernel, pid: u32, context: &[f64], name: &str) {
    let address = context[0] as u64;
    let records = kernel.contexts().expect("they can be read");
    let mut of_it = records.iter().filter(|(key, _)| key.tgid == pid && key.address == address);
    let (_, record) = of_it.next().expect("it has a record");
    assert_eq!(record.hits, (ROUNDS * CALLS) as u64, "{name}");
}
