//! What probes take of a busy nginx.

use std::{path::Path, thread, time::Duration};

use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use sslsess::{
    image::Class,
    kernel::{Kernel, LoadOptions},
};

use crate::{
    code::Code,
    compile::compile,
    connections::{Connections, FULL_13, Mode, RESUMED_12, RESUMED_13},
    copies::Copies,
    increments::{Probe, Took},
    median,
    pairs::{Pair, Place},
    report::{Figure, figure},
    server::{Certificate, Kind, Server},
    statistics::quartiles,
    tally::Tally,
};

/// What costs most of what is common.
const DEAREST: Pair = (Class::Jmp, Place::Connection);

const MODES: [Mode; 3] = [FULL_13, RESUMED_13, RESUMED_12];

/// How often it is measured without probes, twice with them, and without them again.
const TURNS: usize = 32;

/// How often somebody else may have probes in it.
const MOST_LEFT_OUT: usize = 40;

/// Milliseconds: each time, and before, until all goes as it will go on.
const SLICE: u64 = 200;
const BEFORE: u64 = 50;

/// Connections at the same time.
const AT_ONCE: usize = 8;

/// Percent that the probes may take.
const LIMIT: f64 = 1.0;

/// Percent of a processor from which on a worker has no more to give.
const BUSY: f64 = 95.0;

pub(crate) fn measure(directory: &Path) {
    let [_, cost, _] = Took::measure(directory).cost(Probe::Ours(DEAREST));
    let client = compile(directory, "connections", &["ssl", "crypto"]);
    let certificate = Certificate::make(directory);
    let copies = Copies::make(directory);
    let library = Some(copies.paths[0].as_path());
    let server = Server::start(directory, &certificate, Kind::Nginx, None, library);
    let clock = clock_getcpuclockid(Pid::from_raw(server.pid.cast_signed())).expect("it runs");
    let mut nginx = Nginx {
        code: Code::of(server.pid, &copies.paths[0]),
        client: Connections::start(&client, server.port, AT_ONCE, others()),
        kernel: Kernel::load(LoadOptions::default()).expect("it works here"),
        tally: Tally::default(),
        copies,
        server,
        clock,
    };
    println!(
        "one worker of nginx, a connection for each request, {AT_ONCE} at the same time; \
         {TURNS} times {SLICE} ms without probes, with, with, and without; and the same with \
         probes in a library that it has not loaded"
    );
    for mode in MODES {
        nginx.of_mode(mode, cost);
    }
}

/// All processors but the first, which the worker keeps to: a mask. 0 if there is one.
fn others() -> u64 {
    let count = thread::available_parallelism().map_or(1, |count| count.get().min(64));
    u64::MAX.unbounded_shr(64 - count as u32) & !1
}

struct Nginx {
    code: Code,
    client: Connections,
    kernel: Kernel,
    tally: Tally,
    copies: Copies,
    server: Server,
    clock: ClockId,
}

/// What went on for a time.
#[derive(Clone, Copy)]
struct Slice {
    connections: f64,
    seconds: f64,
    /// Seconds that the worker took of its processor.
    processor: f64,
}

impl Slice {
    fn and(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            seconds: self.seconds + other.seconds,
            processor: self.processor + other.processor,
        }
    }

    /// Requests a second.
    fn rate(self) -> f64 {
        self.connections / self.seconds
    }

    /// Microseconds of the processor for each.
    fn cost(self) -> f64 {
        self.processor / self.connections * 1e6
    }
}

/// Which of the copies of libssl gets the probes.
#[derive(Clone, Copy)]
enum Library {
    Loaded = 0,
    /// The one that nginx has not loaded: what seems to come of that is noise.
    Other = 1,
}

struct Turn {
    without: Slice,
    with: Slice,
    /// Of each connection.
    hits: f64,
}

impl Nginx {
    fn of_mode(&mut self, mode: Mode, cost: f64) {
        // Makes the context known, and the client gets its sessions.
        self.with_probes(mode, Library::Loaded);
        let [mut turns, mut control] = [const { Vec::new() }; 2];
        let mut left_out = 0;
        while turns.len().min(control.len()) < TURNS && left_out < MOST_LEFT_OUT {
            for (library, turns) in [(Library::Loaded, &mut turns), (Library::Other, &mut control)]
            {
                match self.turn(mode, library) {
                    Some(turn) => turns.push(turn),
                    None => left_out += 1,
                }
            }
        }
        if left_out > 0 {
            println!("{left_out} times somebody else had probes in it: not counted");
        }
        assert!(!turns.is_empty() && !control.is_empty(), "it was measured");
        report(mode, &turns, &control, cost);
    }

    fn turn(&mut self, mode: Mode, library: Library) -> Option<Turn> {
        let first = self.slice(mode);
        let with = self.with_probes(mode, library);
        let last = self.slice(mode);
        let (with, hits) = with?;
        Some(Turn { without: first.and(last), with, hits })
    }

    fn slice(&mut self, mode: Mode) -> Slice {
        self.client.make_for(mode, BEFORE);
        let before = self.processor();
        let made = self.client.make_for(mode, SLICE);
        let processor = self.processor() - before;
        Slice { connections: made.connections, seconds: made.seconds, processor }
    }

    /// Two, with probes, and the hits of each connection; `None` if there were others.
    fn with_probes(&mut self, mode: Mode, library: Library) -> Option<(Slice, f64)> {
        let nobody = self.code.probes() == 0;
        self.copies.attach(&mut self.kernel, library as usize);
        let expected = match library {
            Library::Loaded => self.copies.places().len(),
            Library::Other => 0,
        };
        let slices = [self.slice(mode), self.slice(mode)];
        let before = self.tally.hits(&mut self.kernel, self.server.pid);
        let counted = self.client.make_for(mode, BEFORE);
        let after = self.tally.hits(&mut self.kernel, self.server.pid);
        let these_alone = self.code.probes() == expected;
        self.kernel.detach_all();
        let hits = (after - before) as f64 / counted.connections;
        (nobody && these_alone).then_some((slices[0].and(slices[1]), hits))
    }

    /// Seconds that the worker has taken of its processor.
    fn processor(&self) -> f64 {
        Duration::from(clock_gettime(self.clock).expect("it runs")).as_secs_f64()
    }
}

fn report(mode: Mode, turns: &[Turn], control: &[Turn], cost: f64) {
    let took = median(turns.iter().map(|turn| turn.without.cost()));
    let rate = median(turns.iter().map(|turn| turn.without.rate()));
    let busy = turns.iter().map(|turn| turn.without.processor / turn.without.seconds);
    let busy = median(busy) * 100.0;
    let hits = median(turns.iter().map(|turn| turn.hits));
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    let lost = |turns: &[Turn]| {
        quartiles(turns.iter().map(|t| -percent(t.with.rate() / t.without.rate())))
    };
    let added =
        |turns: &[Turn]| quartiles(turns.iter().map(|t| percent(t.with.cost() / t.without.cost())));
    let noise = [lost(control), added(control)];
    let [lost, added] = [lost(turns), added(turns)];
    let counted = hits * cost / 1000.0 / took * 100.0;
    // The limit is for the first of these that can be seen: a median varies by about the
    // distance of the quartiles by the root of their number.
    let varies = |[first, _, third]: [f64; 3]| (third - first) / (turns.len() as f64).sqrt();
    let seen = |share| varies(share) <= LIMIT / 2.0;
    let by_rate = busy >= BUSY && seen(lost);
    let by_processor = !by_rate && seen(added);
    let limit = |of: bool| of.then_some(LIMIT);
    let of = mode.what;
    let say = |name: String, unit, value, spread, limit| {
        figure(&Figure { section: "nginx", name: &name, unit, value, spread, limit });
    };
    say(format!("a second without probes, {of}"), "req", rate, None, None);
    say(format!("the worker is busy, {of}"), "%", busy, None, None);
    say(format!("of the processor for a request, {of}"), "us", took, None, None);
    say(format!("of a request, {of}"), "hits", hits, None, None);
    let [rate, processor] =
        ["requests a second that are lost", "more of the processor for a request"];
    for (what, [first, value, third], limit) in [
        (rate.to_owned(), lost, limit(by_rate)),
        (format!("{rate} (probes elsewhere)"), noise[0], None),
        (processor.to_owned(), added, limit(by_processor)),
        (format!("{processor} (probes elsewhere)"), noise[1], None),
    ] {
        say(format!("{what}, {of}"), "%", value, Some([first, third]), limit);
    }
    let limit = limit(!by_rate && !by_processor);
    say(format!("hits x cost of a hit, of that, {of}"), "%", counted, None, limit);
    let which = if by_rate {
        "the requests a second"
    } else if by_processor {
        "the processor's work for each request: the rate is not the worker's, or varies too much"
    } else {
        "hits x cost of a hit: noise hides so small a share"
    };
    println!("(the limit is for {which})");
}
