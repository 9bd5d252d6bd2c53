//! What a hit costs, said: of each pair that there is, and of each build.

use std::path::Path;

use sslsess::image::Class;

use crate::{
    increments::{CALLS, Probe, ROUNDS, Took},
    pairs::{Build, EMULATED, Pair, Place},
    report::{Figure, figure},
};

/// What a hit may cost, of what the cheapest program costs on such an instruction.
const LIMIT: f64 = 1.3;

/// Measures, and says all of it; returns what a hit costs in nanoseconds, on a jump and
/// with the context read from the connection.
pub(crate) fn report(directory: &Path, builds: &[Build]) -> f64 {
    let took = Took::measure(directory);
    println!("{} calls of each function, {CALLS} in turns; medians (quartiles)", ROUNDS * CALLS);
    say("a call without a probe", "ns", took.bare(), None);
    let cheapest = Probe::Floor(Class::Nop);
    for class in EMULATED.into_iter().chain([Class::Stepped]) {
        let name = format!("an empty program, {}", class.name());
        say(&name, "ns", took.cost(Probe::Floor(class)), None);
        let of_it = took.ratio(Probe::Floor(class), cheapest);
        say(&format!("{name}: of one on a nop"), "ratio", of_it, None);
    }
    for pair in EMULATED.iter().flat_map(|class| Place::ALL.map(|place| (*class, place))) {
        let name = pair_name(pair);
        let users = builds.iter().filter(|build| build.pairs.contains(&pair)).count();
        // What no build has, may cost what it does.
        let limit = (users > 0).then_some(LIMIT);
        let ours = Probe::Ours(pair);
        say(&name, "ns", took.cost(ours), None);
        say(&format!("{name}: of an empty program there"), "ratio", floors(&took, pair), limit);
        let of_cheapest = took.ratio(ours, cheapest);
        say(&format!("{name}: of an empty program on a nop"), "ratio", of_cheapest, None);
        say(&format!("{name}: builds that have it"), "", [users as f64; 3], None);
    }
    let usual = Probe::EntryAndReturn;
    let name = "empty programs at a function's entry and return";
    say(name, "ns", took.cost(usual), None);
    let ours = Probe::Ours((Class::Jmp, Place::Register));
    say(&format!("{name}: of ours on a jmp"), "ratio", took.ratio(usual, ours), None);
    let without = builds.iter().filter(|build| build.pairs.is_empty()).count();
    say("builds without probes that copy counters", "", [without as f64; 3], None);
    for build in builds {
        of_build(&took, build);
    }
    let [_, cost, _] = took.cost(Probe::Ours((Class::Jmp, Place::Connection)));
    cost
}

/// The dearest of a build's pairs.
fn of_build(took: &Took, build: &Build) {
    // Whatever is executed out of line was planned where nothing else is.
    let emulated = build.pairs.iter().filter(|(class, _)| class.is_emulated());
    let ratios = emulated.map(|pair| (floors(took, *pair), *pair));
    let Some((ratio, pair)) = ratios.max_by(|(one, _), (other, _)| one[1].total_cmp(&other[1]))
    else {
        println!("{}: it has no probes that copy counters", build.label);
        return;
    };
    let name = format!("{}, the dearest hit ({})", build.label, pair_name(pair));
    say(&name, "ratio", ratio, Some(LIMIT));
}

/// Ours, of an empty program on the same kind of instruction.
fn floors(took: &Took, pair: Pair) -> [f64; 3] {
    took.ratio(Probe::Ours(pair), Probe::Floor(pair.0))
}

fn pair_name((class, place): Pair) -> String {
    format!("ours, {}, {}", class.name(), place.text())
}

fn say(name: &str, unit: &str, [first, value, third]: [f64; 3], limit: Option<f64>) {
    let spread = (first < third).then_some([first, third]);
    figure(&Figure { section: "hits", name, unit, value, spread, limit });
}
