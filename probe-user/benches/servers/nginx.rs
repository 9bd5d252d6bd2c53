//! What probes take of a busy nginx.

use std::{path::Path, time::Duration};

use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use sslsess::{
    image::{Class, PlanOptions, ProbePoints},
    kernel::{Kernel, LoadOptions},
};

use crate::{
    code::Code,
    connections::{FULL_13, Mode, RESUMED_12, RESUMED_13},
    copies::{Copies, learn},
    in_place::InPlace,
    load::Load,
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

/// How often the probes go from one copy of the library to the other and back.
const SWAPS: usize = 12;

/// How often the two workers are asked in turns, until the probes move.
const ROUNDS: usize = 10;

/// How often somebody else may have probes in them.
const MOST_LEFT_OUT: usize = 20;

/// Milliseconds: each time, and before, until all goes as it will go on.
const SLICE: u64 = 100;
const BEFORE: u64 = 50;

/// Connections at the same time: more than a worker has time for. If its queue were
/// empty now and then, it would sleep, and the client would; to wake each other takes
/// microseconds of both, and a worker that is slower by one sleeps more, or less.
pub(crate) const AT_ONCE: usize = 48;

/// Connections that may be full ones though they were to be resumed: the server did not
/// give a session in time.
const SESSIONS: f64 = AT_ONCE as f64;

/// Percent that the probes may take.
const LIMIT: f64 = 1.0;

/// Percent of a processor from which on a worker has no more to give.
const BUSY: f64 = 95.0;

pub(crate) fn measure(directory: &Path) {
    let certificate = Certificate::make(directory);
    let starts = Copies::make(directory);
    let births = PlanOptions { points: ProbePoints::Births, ..PlanOptions::default() };
    let births = Copies { image: learn(births), paths: starts.paths.clone() };
    let workers = [0, 1].map(|copy| Worker::start(directory, &certificate, &starts, copy));
    let mut in_place = InPlace::start(directory, &certificate, DEAREST);
    let kernel = Kernel::load(LoadOptions::default()).expect("it works here");
    let mut nginx = Nginx { workers, kernel, tally: Tally::default(), copies: [starts, births] };
    println!(
        "two workers of nginx in turns, a connection for each request, {AT_ONCE} at the same \
         time; each worker has its copy of libssl; {SWAPS} times there are probes in one of \
         them, and in the other"
    );
    for mode in MODES {
        let cost = in_place.of_mode(mode);
        nginx.of_mode(mode, cost);
    }
}

/// An nginx of its own, and who asks it.
struct Worker {
    server: Server,
    load: Load,
    clock: ClockId,
    code: Code,
}

impl Worker {
    fn start(directory: &Path, certificate: &Certificate, copies: &Copies, copy: usize) -> Self {
        let library = &copies.paths[copy];
        let environment = [("LD_PRELOAD", &**library)];
        let server = Server::start(directory, certificate, Kind::Nginx, None, &environment);
        Self {
            load: Load::start(server.port, AT_ONCE),
            clock: clock_getcpuclockid(Pid::from_raw(server.pid.cast_signed())).expect("it runs"),
            code: Code::of(server.pid, library),
            server,
        }
    }

    fn slice(&mut self, mode: Mode) -> Slice {
        let before = self.processor();
        let made = self.load.make_for(mode, SLICE);
        let processor = self.processor() - before;
        let expected = if mode.resumed { made.connections } else { 0.0 };
        assert!(
            (made.resumed - expected).abs() < SESSIONS,
            "{}: {} resumed",
            mode.what,
            made.resumed
        );
        Slice { connections: made.connections, seconds: made.seconds, processor }
    }

    /// Seconds that it has taken of its processor.
    fn processor(&self) -> f64 {
        Duration::from(clock_gettime(self.clock).expect("it runs")).as_secs_f64()
    }
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
    /// Seconds for each.
    fn each(self) -> f64 {
        self.seconds / self.connections
    }

    /// Seconds of the processor for each.
    fn cost(self) -> f64 {
        self.processor / self.connections
    }

    /// Percent of the processor.
    fn busy(self) -> f64 {
        self.processor / self.seconds * 100.0
    }
}

/// Which probes there are.
#[derive(Clone, Copy)]
enum Which {
    /// Where handshakes start, as long as not all contexts are known.
    Starts,
    /// Where contexts are made, as `serve` leaves them: handshakes hit none.
    Births,
}

/// What was seen with probes in one of the copies.
struct Seen {
    /// Without them, of each request.
    took: f64,
    processor: f64,
    busy: f64,
    /// Logarithms: how many times as long a request takes with them, and as long of the
    /// processor.
    longer: f64,
    more: f64,
    /// Of each connection.
    hits: f64,
}

struct Nginx {
    workers: [Worker; 2],
    kernel: Kernel,
    tally: Tally,
    /// With probes where handshakes start, and where contexts are made.
    copies: [Copies; 2],
}

impl Nginx {
    fn of_mode(&mut self, mode: Mode, cost: f64) {
        // Makes the contexts known, and the clients get their sessions.
        for copy in [0, 1] {
            self.with_probes(mode, copy, Which::Starts);
        }
        let [mut starts, mut births] = [const { Vec::new() }; 2];
        let mut left_out = 0;
        while starts.len().min(births.len()) < SWAPS && left_out < MOST_LEFT_OUT {
            for (which, seen) in [(Which::Starts, &mut starts), (Which::Births, &mut births)] {
                match [0, 1].map(|copy| self.with_probes(mode, copy, which)) {
                    [Some(first), Some(second)] => seen.push([first, second]),
                    _ => left_out += 1,
                }
            }
        }
        if left_out > 0 {
            println!("{left_out} times somebody else had probes in it: not counted");
        }
        assert!(!starts.is_empty() && !births.is_empty(), "it was measured");
        report(mode, &starts, &births, cost);
    }

    /// Asks both in turns, with probes in one of the copies; `None` if there were others.
    fn with_probes(&mut self, mode: Mode, probed: usize, which: Which) -> Option<Seen> {
        let copies = &self.copies[which as usize];
        copies.attach(&mut self.kernel, probed);
        let mut expected = [0, 0];
        expected[probed] = copies.places().len();
        let these_alone = |workers: &[Worker; 2]| workers.each_ref().map(|w| w.code.probes());
        let alone_before = these_alone(&self.workers) == expected;
        for worker in &mut self.workers {
            worker.load.make_for(mode, BEFORE);
        }
        let rounds: Vec<[Slice; 2]> = (0..ROUNDS)
            .map(|round| {
                let first = round % 2;
                let one = self.workers[first].slice(mode);
                let other = self.workers[1 - first].slice(mode);
                if first == 0 { [one, other] } else { [other, one] }
            })
            .collect();
        let pid = self.workers[probed].server.pid;
        let before = self.tally.hits(&mut self.kernel, pid);
        let counted = self.workers[probed].load.make_for(mode, BEFORE);
        let after = self.tally.hits(&mut self.kernel, pid);
        let alone_after = these_alone(&self.workers) == expected;
        self.kernel.detach_all();
        let without = |of: fn(Slice) -> f64| median(rounds.iter().map(|r| of(r[1 - probed])));
        let times = |of: fn(Slice) -> f64| {
            median(rounds.iter().map(|r| (of(r[probed]) / of(r[1 - probed])).ln()))
        };
        (alone_before && alone_after).then(|| Seen {
            took: without(Slice::each),
            processor: without(Slice::cost),
            busy: without(Slice::busy),
            longer: times(Slice::each),
            more: times(Slice::cost),
            hits: (after - before) as f64 / counted.connections,
        })
    }
}

/// The percent that something is more with probes, with the quartiles. By which of the
/// workers is slower by itself, what is seen of the one is too much, and of the other too
/// little.
fn percent(seen: &[[Seen; 2]], of: fn(&Seen) -> f64) -> [f64; 3] {
    let times = seen.iter().map(|[one, other]| f64::midpoint(of(one), of(other)));
    quartiles(times).map(|times| (times.exp() - 1.0) * 100.0)
}

fn report(mode: Mode, starts: &[[Seen; 2]], births: &[[Seen; 2]], cost: f64) {
    let of_all = |of: fn(&Seen) -> f64| median(starts.iter().flatten().map(of));
    let (took, busy, processor) = (of_all(|s| s.took), of_all(|s| s.busy), of_all(|s| s.processor));
    let of = mode.what;
    let say = |name: &str, unit, value, spread, limit| {
        let name = format!("{name}, {of}");
        figure(&Figure { section: "nginx", name: &name, unit, value, spread, limit });
    };
    say("a second without probes", "req", 1.0 / took, None, None);
    say("the worker is busy", "%", busy, None, None);
    say("of the processor for a request", "us", processor * 1e6, None, None);
    for (what, seen, limit) in [
        ("births, as serve leaves them", births, Some(LIMIT)),
        ("starts, until all contexts are known", starts, None),
    ] {
        let hits = median(seen.iter().flatten().map(|seen| seen.hits));
        // Of the requests in a time: they take 1 / (1 - lost) times as long.
        let lost = percent(seen, |s| s.longer).map(|p| p / (100.0 + p) * 100.0);
        let more = percent(seen, |s| s.more);
        // The limit is for the first of these that can be seen: a median varies by about
        // the distance of the quartiles by the root of their number.
        let varies = |[first, _, third]: [f64; 3]| (third - first) / (seen.len() as f64).sqrt();
        let by_rate = busy >= BUSY && varies(lost) <= LIMIT / 2.0;
        let by_processor = !by_rate && varies(more) <= LIMIT / 2.0;
        let hidden = !by_rate && !by_processor;
        let name = |figure: &str| format!("{what}: {figure}");
        let spread = |[first, _, third]: [f64; 3]| Some([first, third]);
        say(&name("hits of a request"), "hits", hits, None, None);
        let rate = name("requests a second that are lost");
        say(&rate, "%", lost[1], spread(lost), limit.filter(|_| by_rate));
        let work = name("more of the processor for a request");
        say(&work, "%", more[1], spread(more), limit.filter(|_| by_processor));
        let counted = hits * cost / 1e9 / processor * 100.0;
        let direct = name("hits x what one takes there");
        say(&direct, "%", counted, None, limit.filter(|_| hidden));
    }
}
