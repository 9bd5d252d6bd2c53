//! Facts of one file: what was learnt of a libssl, shared by all processes
//! that map it.

pub mod calls;
pub mod class;
pub mod code;
pub mod companion;
pub mod elf;
mod evidence;
pub mod family;
mod file;
mod follows;
pub mod functions;
pub mod gap;
pub mod increments;
pub mod jumps;
pub mod layout;
mod loaded;
pub mod marks;
mod moments;
mod place;
pub mod plan;
mod planner;
pub mod point;
pub mod pointers;
mod proof;
mod question;
mod references;
mod relocations;
pub mod separate;
pub mod settings;
pub mod sources;
#[cfg(test)]
mod specimen;
pub mod stripped;
mod switch;
mod symbols;
mod traces;
pub mod unwind;
pub mod version;
pub mod witness;

use std::path::{Path, PathBuf};

pub use self::{
    class::{Class, Costs},
    elf::{Elf, ElfError},
    evidence::{Evidence, ReadAt},
    family::Family,
    gap::{FieldGap, Gap},
    layout::{Companion, Layout, LearntLayout},
    marks::{LearntMarks, Marks},
    plan::{PlanChoice, PlanOptions, ProbePlan, ProbePoints},
    point::{ProbeKind, ProbePoint},
    settings::{LearntSettings, Setting, SettingsLayout},
};
use self::{code::processor::Processor, functions::Functions, unwind::FunctionRanges};

/// One libssl, learnt.
#[derive(Clone, Debug)]
pub struct Image {
    /// The name by which it is shown.
    pub path: PathBuf,
    /// Its GNU build id.
    pub build_id: Option<String>,
    /// Whose library it is; `None`: of no family that is known.
    pub family: Option<Family>,
    /// What its libcrypto calls itself, such as `3.0.19`. Shown, never relied on.
    pub version: Option<String>,
    /// The processor that it is for.
    pub processor: &'static dyn Processor,
    /// Where the values are.
    pub learnt: LearntLayout,
    /// Where the settings are that explain them.
    pub settings: LearntSettings,
    /// Where the probes stand.
    pub plan: ProbePlan,
    /// What tells an `SSL_CTX` in memory.
    pub marks: LearntMarks,
}

impl Image {
    /// Whether a file is a libssl of OpenSSL's kind: by what it exports, since
    /// other libraries are called `libssl` too (NSS has a `libssl3.so`).
    #[must_use]
    pub fn is_openssl(elf: &Elf) -> bool {
        Family::of(elf).is_some()
    }

    /// Looks for names of functions beside a file that may have OpenSSL in it and
    /// does not name it; `shown` is its name in the log.
    ///
    /// A root is `/`, or `/proc/PID/root` for what a process sees.
    pub fn look_for_names(elf: &mut Elf, shown: &Path, roots: &[&Path]) {
        if Self::is_openssl(elf) || !Self::may_be_openssl(elf) {
            return;
        }
        for (path, why) in separate::complete(elf, roots) {
            let (file, names) = (shown.display(), path.display());
            tracing::warn!(%file, %names, %why, "names of functions are not believed");
        }
    }

    /// Whether a file has OpenSSL in it, or may have it without naming it: then
    /// only learning it tells.
    #[must_use]
    pub fn may_be_openssl(elf: &Elf) -> bool {
        Self::is_openssl(elf)
            || elf.function("SSL_CTX_new").is_none() && stripped::is_suspected(elf)
    }

    /// Learns a library from its machine code.
    #[must_use]
    pub fn learn(
        path: PathBuf,
        elf: &Elf,
        companion: &Companion<'_>,
        options: PlanOptions,
    ) -> Self {
        let family = Family::of(elf);
        let version = match companion {
            Companion::Found(libcrypto) => version::of(family, libcrypto),
            _ => version::of(family, elf),
        };
        let processor = elf.processor();
        let (learnt, settings, plan, marks) = if processor.is_read() {
            match family {
                Some(family) => {
                    let ranges = FunctionRanges::read(elf);
                    let mut functions = Functions::new(elf, &ranges);
                    functions.expect(plan::asked_for(elf, &ranges));
                    let mut learnt = layout::learn(&mut functions, companion, family);
                    witness::confirm(&mut functions, companion, family, &mut learnt);
                    let mut settings = settings::learn(elf, &learnt.layout, family);
                    let mut marks = marks::learn(elf, companion, family, &learnt.layout);
                    let evidence = learnt.evidence.iter_mut().chain(&mut settings.evidence);
                    let evidence = evidence.chain(&mut marks.evidence);
                    evidence::name_functions(evidence, &ranges);
                    let plan = plan::plan(functions, &learnt.layout, options);
                    (learnt, settings, plan, marks)
                }
                None => {
                    let (learnt, settings, plan) = stripped::learn(elf, options);
                    let unknown = Gap::NotRecognised { what: "SSL_CTX_new" };
                    (learnt, settings, plan, LearntMarks::unknown(unknown))
                }
            }
        } else {
            // One gap says it of everything.
            let (settings, plan) = (LearntSettings::default(), ProbePlan::default());
            (unread(processor), settings, plan, LearntMarks::default())
        };
        // Recognised without names, it is OpenSSL: its relatives are built otherwise.
        let family = family.or_else(|| learnt.layout.block().map(|_| Family::OpenSsl));
        let build_id = elf.build_id().map(str::to_owned);
        Self { path, build_id, family, version, processor, learnt, settings, plan, marks }
    }

    /// Everything that is not known: of the layout, of the plan, and of the settings.
    pub fn gaps(&self) -> impl Iterator<Item = &FieldGap> {
        self.learnt.gaps.iter().chain(&self.plan.gaps).chain(&self.settings.gaps)
    }
}

fn unread(processor: &dyn Processor) -> LearntLayout {
    let reason = Gap::Architecture { arch: processor.name().to_owned() };
    let gaps = vec![FieldGap { field: "layout".to_owned(), reason }];
    LearntLayout { gaps, ..LearntLayout::default() }
}
