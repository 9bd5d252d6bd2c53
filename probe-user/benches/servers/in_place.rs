//! What a hit takes where hits happen: in a worker of nginx, at the start of handshakes,
//! by a counter that `programs/in_place.c` puts there.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use sslsess::{
    image::Elf,
    kernel::{Kernel, LoadOptions, floor::Floor},
};

use crate::{
    compile::make,
    connections::Mode,
    load::Load,
    made_up::{LAYOUT, point},
    nginx::AT_ONCE,
    pairs::Pair,
    report::{Figure, figure},
    server::{Certificate, Kind, Server},
    statistics::quartiles,
};

/// How often each is measured, in turns.
const TURNS: usize = 8;

/// Milliseconds: each time, and before, until all goes as it will go on.
const SLICE: u64 = 100;
const BEFORE: u64 = 50;

/// What is shared with the program: whether it is to write down what it takes, how often
/// it has, and the last ones.
const WANTED: u64 = 0;
const COUNT: u64 = 8;
const TOOK: u64 = 16;

/// An nginx, and who asks it.
pub(crate) struct InPlace {
    _server: Server,
    load: Load,
    shared: File,
    kernel: Kernel,
    floor: Floor,
    path: PathBuf,
    /// The address, and the place in the file.
    place: (u64, u64),
    pair: Pair,
}

/// What is in the place.
#[derive(Clone, Copy)]
enum Probe {
    /// None: how long it takes to ask what time it is.
    None,
    /// A program that does nothing.
    Floor,
    Ours,
}

impl InPlace {
    /// Starts it, without probes.
    pub(crate) fn start(directory: &Path, certificate: &Certificate, pair: Pair) -> Self {
        let options = ["-shared", "-fPIC", "-ldl"];
        let path = make(&directory.join("in_place.so"), "in_place", &options);
        let file = directory.join("in_place");
        let environment = [("LD_PRELOAD", &*path), ("IN_PLACE_FILE", &*file)];
        let server = Server::start(directory, certificate, Kind::Nginx, None, &environment);
        let shared = File::options().read(true).write(true).open(file).expect("it is shared");
        let elf = Elf::open(&path).expect("it is a library");
        let address = elf.function("hit_place").expect("it is there").address;
        let offset = elf.file_offset(address).expect("it is in the file");
        Self {
            load: Load::start(server.port, AT_ONCE),
            _server: server,
            shared,
            kernel: Kernel::load(LoadOptions::default()).expect("it works here"),
            floor: Floor::load().expect("Linux 6.6, and root"),
            path,
            place: (address, offset),
            pair,
        }
    }

    /// Measures it, says it, and returns what a hit of ours takes in nanoseconds: the
    /// mean, since the processor works for the dear ones too.
    pub(crate) fn of_mode(&mut self, mode: Mode) -> f64 {
        let mut took = [const { Vec::new() }; 3];
        self.put(WANTED, 1);
        for _ in 0..TURNS {
            for (probe, took) in [Probe::None, Probe::Floor, Probe::Ours].iter().zip(&mut took) {
                took.extend(self.slice(mode, *probe));
            }
        }
        self.put(WANTED, 0);
        let [[nothing, without], floor, ours] = took.map(|took| {
            let mean = took.iter().sum::<f64>() / took.len() as f64;
            let [_, median, _] = quartiles(took);
            [median, mean]
        });
        for (what, [median, mean]) in [("an empty program", floor), ("ours", ours)] {
            for (of, value) in [("median", median - nothing), ("mean", mean - without)] {
                let name =
                    format!("a hit at the start of a handshake, {what}, {of}, {}", mode.what);
                let figure_of = Figure {
                    section: "nginx",
                    name: &name,
                    unit: "ns",
                    value,
                    spread: None,
                    limit: None,
                };
                figure(&figure_of);
            }
        }
        ours[1] - without
    }

    fn slice(&mut self, mode: Mode, probe: Probe) -> Vec<f64> {
        let floor = match probe {
            Probe::None => None,
            Probe::Floor => Some(self.floor.attach(&self.path, &[self.place.1])),
            Probe::Ours => {
                let point = point("hit".to_owned(), self.place, self.pair);
                let attached = self.kernel.attach(1, LAYOUT, &vec![point].into(), &self.path);
                attached.expect("it can be attached");
                None
            }
        };
        let floor = floor.transpose().expect("it can be attached");
        self.load.make_for(mode, BEFORE);
        self.put(COUNT, 0);
        self.load.make_for(mode, SLICE);
        let mut count = [0; 8];
        self.shared.read_exact_at(&mut count, COUNT).expect("it is there");
        let mut took = vec![0; u64::from_ne_bytes(count) as usize * 8];
        self.shared.read_exact_at(&mut took, TOOK).expect("there are no more in the time");
        drop(floor);
        self.kernel.detach_all();
        let (took, _) = took.as_chunks();
        took.iter().map(|took| u64::from_ne_bytes(*took) as f64).collect()
    }

    fn put(&self, at: u64, value: u64) {
        self.shared.write_all_at(&value.to_ne_bytes(), at).expect("it can be written");
    }
}
