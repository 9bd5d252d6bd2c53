//! Libraries that lie: every file that is known is changed in many ways, and
//! learnt. Whatever a change does, no offset may come out that is not true:
//! what cannot be known any more has to be a gap.
//!
//! The changes are the same in every run.
//!
//! ```text
//! cargo test --release -p probe-user --test mutations -- \
//!     [--libraries DIRECTORY] [--file LIBRARY]... [--mutants N] [--verbose] [FILTER]...
//! ```

mod anatomy;
mod instruction;
mod interest;
mod judge;
mod kinds;
mod mutant;
mod random;
mod specimen;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use sslsess::image::Elf;

use crate::{
    anatomy::Anatomy,
    interest::Interest,
    judge::Verdict,
    kinds::KINDS,
    mutant::{Mutant, Target},
    random::Random,
    specimen::{Specimen, companion_of},
};

/// Mutants of each kind of each file, unless another number is given.
const MUTANTS: usize = 24;

/// Attempts to find a place for one.
const ATTEMPTS: usize = 200;

/// A mutant that takes longer has hung. (They take some 20 ms.)
const LONGEST: Duration = Duration::from_secs(120);

/// How often that is looked at.
const WATCH: Duration = Duration::from_millis(20);

/// Where Debian has its libssl.
const INSTALLED: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

struct Options {
    /// Where `cargo xtask libs` has put what it built.
    libraries: Option<PathBuf>,
    /// Other libraries: what is learnt of them as they are is taken for true.
    files: Vec<PathBuf>,
    mutants: usize,
    verbose: bool,
    filters: Vec<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self {
            libraries: None,
            files: vec![INSTALLED.into()],
            mutants: MUTANTS,
            verbose: false,
            filters: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument}: of what?"));
            match argument.as_str() {
                "--libraries" => options.libraries = Some(value()?.into()),
                "--file" => options.files.push(value()?.into()),
                "--mutants" => options.mutants = value()?.parse()?,
                "--verbose" => options.verbose = true,
                _ => options.filters.push(argument),
            }
        }
        Ok(options)
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse(std::env::args().skip(1))?;
    let mut specimens = Vec::new();
    for file in options.files.iter().filter(|file| file.exists()) {
        specimens.push(Specimen::installed(file)?);
    }
    if let Some(directory) = &options.libraries {
        specimens.extend(Specimen::built(directory)?);
    }
    specimens.retain(|specimen| {
        let mut filters = options.filters.iter();
        options.filters.is_empty() || filters.any(|filter| specimen.name.contains(filter))
    });
    anyhow::ensure!(!specimens.is_empty(), "there is no library to change");
    let mut wrong = 0;
    let mut all = BTreeMap::new();
    for specimen in &specimens {
        wrong += examine(specimen, &options, &mut all)?;
    }
    println!("\n{:<26} {:>6} {:>6} {:>6}", "kind", "right", "gap", "wrong");
    for (kind, tally) in &all {
        println!("{kind:<26} {:>6} {:>6} {:>6}", tally.right, tally.gap, tally.wrong);
    }
    let sum = |of: fn(&Tally) -> usize| all.values().map(of).sum::<usize>();
    let (right, gap) = (sum(|t| t.right), sum(|t| t.gap));
    println!("{:<26} {right:>6} {gap:>6} {wrong:>6}", "all");
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Default)]
struct Tally {
    right: usize,
    gap: usize,
    wrong: usize,
}

/// Changes one library in every way; says how often it was believed wrongly.
fn examine(
    specimen: &Specimen,
    options: &Options,
    all: &mut BTreeMap<&'static str, Tally>,
) -> anyhow::Result<usize> {
    let as_is = specimen.learnt()?;
    let lies = as_is.lies(&specimen.truth);
    let missing = as_is.unknown();
    if !lies.is_empty() {
        println!("{}: WRONG as it is: {}", specimen.name, lies.join(", "));
    }
    let began = Instant::now();
    let mutants = mutants_of(specimen, options.mutants)?;
    let (verdicts, slowest) = judge_all(specimen, &mutants)?;
    let mut wrong = usize::from(!lies.is_empty());
    let mut here = Tally::default();
    for (mutant, verdict) in mutants.iter().zip(&verdicts) {
        let tally = all.entry(mutant.kind).or_default();
        match verdict {
            Verdict::Right => {
                tally.right += 1;
                here.right += 1;
            }
            Verdict::Gap => {
                tally.gap += 1;
                here.gap += 1;
            }
            Verdict::Wrong(_) | Verdict::Panicked => {
                tally.wrong += 1;
                here.wrong += 1;
                wrong += 1;
                println!(
                    "{}: WRONG: {:?}, {}: {}: {verdict:?}",
                    specimen.name, mutant.target, mutant.kind, mutant.what
                );
            }
        }
        if options.verbose {
            println!("{:?}, {}: {}: {verdict:?}", mutant.target, mutant.kind, mutant.what);
        }
    }
    println!(
        "{}: {} mutants: {} right, {} gap, {} wrong; unchanged, {}; {:.1} s, the slowest {} ms",
        specimen.name,
        mutants.len(),
        here.right,
        here.gap,
        here.wrong,
        if missing.is_empty() {
            "all is known".to_owned()
        } else {
            format!("not known: {}", missing.join(", "))
        },
        began.elapsed().as_secs_f64(),
        slowest.as_millis(),
    );
    Ok(wrong)
}

/// The same ones in every run.
fn mutants_of(specimen: &Specimen, count: usize) -> anyhow::Result<Vec<Mutant>> {
    let library = Elf::parse(specimen.library.clone()).map_err(anyhow::Error::msg)?;
    let companion =
        specimen.companion.clone().map(Elf::parse).transpose().map_err(anyhow::Error::msg)?;
    let image = judge::learn(&library, &companion_of(companion.as_ref()));
    let mut mutants = Vec::new();
    let interest = Interest::of(&library, image.as_ref());
    make(specimen.library.clone(), Target::Library, &interest, specimen, count, &mut mutants)?;
    if let (Some(elf), Some(data)) = (&companion, &specimen.companion) {
        let interest = Interest::of(elf, None);
        make(data.clone(), Target::Companion, &interest, specimen, count / 2, &mut mutants)?;
    }
    Ok(mutants)
}

fn make(
    data: Vec<u8>,
    target: Target,
    interest: &Interest,
    specimen: &Specimen,
    count: usize,
    mutants: &mut Vec<Mutant>,
) -> anyhow::Result<()> {
    let anatomy = Anatomy::of(data).map_err(anyhow::Error::msg)?;
    // The name without its path: the same library gives the same mutants everywhere.
    let name = specimen.name.rsplit('/').next().unwrap_or_default();
    for (kind, change) in KINDS {
        let mut random = Random::seeded(target as u64, &format!("{name} {kind}"));
        let mut found = 0;
        for _ in 0..ATTEMPTS.max(8 * count) {
            if found == count {
                break;
            }
            let change = change(&anatomy, interest, &mut random);
            let Some(change) = change.filter(|change| change.changes(&anatomy.data)) else {
                continue;
            };
            let mutant = change.of(kind, target);
            if mutants.contains(&mutant) {
                continue;
            }
            mutants.push(mutant);
            found += 1;
        }
    }
    Ok(())
}

/// Judges each, on all processors.
fn judge_all(specimen: &Specimen, mutants: &[Mutant]) -> anyhow::Result<(Vec<Verdict>, Duration)> {
    let companion =
        specimen.companion.clone().map(Elf::parse).transpose().map_err(anyhow::Error::msg)?;
    let library = Elf::parse(specimen.library.clone()).map_err(anyhow::Error::msg)?;
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    // Which mutant is being judged, and since when.
    let open: Mutex<HashMap<usize, Instant>> = Mutex::default();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    // What a panic says is in the verdict.
    std::panic::set_hook(Box::new(|_| {}));
    thread::scope(|scope| {
        let judges: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(mutant) = mutants.get(index) else { return };
                        let began = Instant::now();
                        if let Ok(mut open) = open.lock() {
                            open.insert(index, began);
                        }
                        let verdict = judge_one(specimen, mutant, &library, companion.as_ref());
                        if let (Ok(mut done), Ok(mut open)) = (done.lock(), open.lock()) {
                            done.push((index, verdict, began.elapsed()));
                            open.remove(&index);
                        }
                    }
                })
            })
            .collect();
        while !judges.iter().all(thread::ScopedJoinHandle::is_finished) {
            thread::sleep(WATCH);
            end_if_hung(specimen, mutants, &open);
        }
    });
    drop(std::panic::take_hook());
    let mut done = done.into_inner().map_err(|_| anyhow::anyhow!("a judge panicked"))?;
    done.sort_by_key(|(index, ..)| *index);
    let slowest = done.iter().map(|(_, _, took)| *took).max().unwrap_or_default();
    Ok((done.into_iter().map(|(_, verdict, _)| verdict).collect(), slowest))
}

/// A thread cannot be ended: the whole test is.
fn end_if_hung(specimen: &Specimen, mutants: &[Mutant], open: &Mutex<HashMap<usize, Instant>>) {
    let Ok(open) = open.lock() else { return };
    if let Some((index, _)) = open.iter().find(|(_, began)| began.elapsed() > LONGEST) {
        let Mutant { target, kind, what, .. } = &mutants[*index];
        println!("{}: HUNG: {target:?}, {kind}: {what}", specimen.name);
        std::process::exit(1);
    }
}

fn judge_one(
    specimen: &Specimen,
    mutant: &Mutant,
    library: &Elf,
    companion: Option<&Elf>,
) -> Verdict {
    judge::judge(
        || match mutant.target {
            Target::Library => {
                let elf = Elf::parse(mutant.apply(&specimen.library)).ok()?;
                judge::learn(&elf, &companion_of(companion))
            }
            Target::Companion => {
                let changed = mutant.apply(specimen.companion.as_deref()?);
                // A companion that cannot be read is as good as none.
                let companion = Elf::parse(changed).ok();
                judge::learn(library, &companion_of(companion.as_ref()))
            }
        },
        &specimen.truth,
    )
}
