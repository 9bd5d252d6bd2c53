//! How long it takes to attach the probes of 1, 10 and 50 libraries, and to remove
//! them: all of a library in one step, and one by one, side by side (not for 50: to
//! remove 800 probes one by one takes the kernel minutes). `cargo xtask bench` builds
//! and runs it, as root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use sslsess::{
    image::{Companion, Elf, Image, PlanOptions, plan},
    kernel::{Kernel, LinkChoice, LoadOptions},
};

/// Debian's.
const DIRECTORY: &str = "/usr/lib/x86_64-linux-gnu";

/// How many libraries.
const LIBRARIES: [usize; 3] = [1, 10, 50];

/// More are not attached one by one.
const ONE_BY_ONE: usize = 10;

/// How often each is measured, in turns.
const TIMES: usize = 3;

/// What 50 libraries may take, attached in one step each: to attach, and to remove.
const LIMITS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(1));

fn main() -> ExitCode {
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
    println!("{} probes in each library; median of {TIMES}", image.plan.points.len());
    println!("{:>9} {:>12} {:>12}", "", "attach", "remove");
    let mut within = true;
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
        let [multi, each] = took.map(|took| median(&took));
        let multi = multi.expect("it was measured");
        println!("{count:>9} {:>12} {:>12}  libraries, in one step each", ms(multi.0), ms(multi.1));
        if let Some(each) = each {
            println!("{:>9} {:>12} {:>12}  one by one", "", ms(each.0), ms(each.1));
            let ratio = |each: Duration, multi: Duration| each.as_secs_f64() / multi.as_secs_f64();
            let (attach, remove) = (ratio(each.0, multi.0), ratio(each.1, multi.1));
            println!("{:>9} {attach:>11.1}x {remove:>11.1}x", "");
        }
        within &= multi.0 <= LIMITS.0 && multi.1 <= LIMITS.1;
    }
    if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The time to attach to these files, and to remove everything.
fn measure(image: &Image, files: &[PathBuf], links: LinkChoice) -> (Duration, Duration) {
    let layout = plan::block_layout(&image.learnt.layout).expect("it is known");
    let options = LoadOptions { links, ..LoadOptions::default() };
    let mut kernel = Kernel::load(options).expect("it works here");
    let start = Instant::now();
    for (number, file) in (1..).zip(files) {
        kernel.attach(number, layout, &image.plan.points, file).expect("it can be attached");
    }
    let attached = start.elapsed();
    let start = Instant::now();
    kernel.detach_all();
    (attached, start.elapsed())
}

fn median(took: &[(Duration, Duration)]) -> Option<(Duration, Duration)> {
    let middle = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    };
    let attach = middle(took.iter().map(|t| t.0).collect())?;
    Some((attach, middle(took.iter().map(|t| t.1).collect())?))
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
