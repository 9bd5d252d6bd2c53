//! How long it takes to attach the probes of 1, 10 and 50 libraries, and to remove
//! them: all of a library in one step, and one by one, side by side (not for 50: to
//! remove 800 probes one by one takes the kernel minutes). `cargo xtask bench` builds
//! and runs it, as root.

#[path = "report.rs"]
mod report;
#[path = "statistics.rs"]
mod statistics;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sslsess::{
    image::{Companion, Elf, Image, PlanOptions, plan},
    kernel::{Kernel, LinkChoice, LoadOptions},
};

use report::{Figure, figure};
use statistics::quartiles;

/// Debian's.
const DIRECTORY: &str = "/usr/lib/x86_64-linux-gnu";

/// How many libraries.
const LIBRARIES: [usize; 3] = [1, 10, 50];

/// More are not attached one by one.
const ONE_BY_ONE: usize = 10;

/// How often each is measured, in turns.
const TIMES: usize = 3;

/// Milliseconds that 50 libraries may take, attached in one step each: to attach, and to
/// remove.
const LIMITS: [f64; 2] = [2000.0, 1000.0];

fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let copies: Vec<PathBuf> = (0..LIBRARIES[2])
        .map(|n| {
            let copy = directory.path().join(format!("libssl-{n}.so.3"));
            fs::copy(Path::new(DIRECTORY).join("libssl.so.3"), &copy).expect("it can be copied");
            copy
        })
        .collect();
    let libcrypto = Elf::open(&Path::new(DIRECTORY).join("libcrypto.so.3")).expect("it is there");
    let elf = Elf::open(&copies[0]).expect("it is there");
    let companion = Companion::Found(&libcrypto);
    let image = Image::learn(copies[0].clone(), &elf, &companion, PlanOptions::default());
    println!("{} probes in each library; median of {TIMES}, in turns", image.plan.points.len());
    for count in LIBRARIES {
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..TIMES {
            for (links, took) in [LinkChoice::Auto, LinkChoice::OneByOne].into_iter().zip(&mut took)
            {
                if links == LinkChoice::Auto || count <= ONE_BY_ONE {
                    took.push(measure(&image, &copies[..count], links));
                }
            }
        }
        let [multi, each] = took.map(|took| medians(&took));
        let multi = multi.expect("it was measured");
        let limits = if count == LIBRARIES[2] { LIMITS.map(Some) } else { [None; 2] };
        let libraries = if count == 1 { "library" } else { "libraries" };
        for (step, what) in ["to attach", "to remove"].into_iter().enumerate() {
            let of = |name: &str, unit, value, limit| {
                let name = format!("{what}{name}, {count} {libraries}");
                let (section, spread) = ("attach", None);
                figure(&Figure { section, name: &name, unit, value, spread, limit });
            };
            of("", "ms", multi[step], limits[step]);
            if let Some(each) = each {
                of(" one by one", "ms", each[step], None);
                of(" one by one, of that in one step", "ratio", each[step] / multi[step], None);
            }
        }
    }
}

/// The milliseconds it takes to attach to these files, and to remove everything.
fn measure(image: &Image, files: &[PathBuf], links: LinkChoice) -> [f64; 2] {
    let layout = plan::block_layout(&image.learnt.layout).expect("it is known");
    let options = LoadOptions { links, ..LoadOptions::default() };
    let mut kernel = Kernel::load(options).expect("it works here");
    let start = Instant::now();
    for (number, file) in (1..).zip(files) {
        kernel.attach(number, layout, &image.plan, file).expect("it can be attached");
    }
    let attached = start.elapsed();
    let start = Instant::now();
    kernel.detach_all();
    [attached, start.elapsed()].map(ms)
}

/// Of each step, if there are any.
fn medians(took: &[[f64; 2]]) -> Option<[f64; 2]> {
    let median = |step: usize| quartiles(took.iter().map(|took| took[step]))[1];
    (!took.is_empty()).then(|| [median(0), median(1)])
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
