//! What probes cost programs that people run: what they take of a busy nginx, how many
//! hits each connection causes in which program, and next to them what a user would do
//! instead. `cargo xtask bench` builds and runs it, as root; its argument is a Node with
//! OpenSSL in its executable, if there is one.

#[path = "../certificate.rs"]
mod certificate;
#[path = "../hits/code.rs"]
mod code;
#[path = "../compile.rs"]
mod compile;
mod connections;
#[path = "../hits/copies.rs"]
mod copies;
mod in_place;
#[path = "../libraries.rs"]
mod libraries;
mod load;
#[path = "../hits/made_up.rs"]
mod made_up;
mod nginx;
#[path = "../hits/numbers.rs"]
mod numbers;
#[expect(dead_code, reason = "one pair is measured, and no builds are looked at")]
#[path = "../hits/pairs.rs"]
mod pairs;
#[path = "../program.rs"]
mod program;
mod programs;
#[path = "../report.rs"]
mod report;
mod server;
mod shim;
#[path = "../statistics.rs"]
mod statistics;
mod tally;
mod trust;

use numbers::{lines, median};

fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let node = libraries::named().into_iter().next();
    programs::measure(directory, node.as_deref());
    println!();
    nginx::measure(directory);
    println!();
    shim::measure(directory);
}
