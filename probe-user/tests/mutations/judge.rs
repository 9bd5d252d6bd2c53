//! Learns a changed file, and compares with the truth.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use probe_common::COUNTERS;
use sslsess::image::{Companion, Elf, Image, Layout, PlanChoice, PlanOptions, ProbePoints};

/// A probe behind every increment.
const ALL: PlanOptions = PlanOptions { choice: PlanChoice::Auto, points: ProbePoints::All };

/// The offsets of a library, by the names that `explain --json` has for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offsets(pub(crate) Vec<(String, Option<u32>)>);

impl Offsets {
    pub(crate) fn of(layout: &Layout) -> Self {
        let counters = COUNTERS.iter().map(|c| (c.name(), layout.counters[*c as usize]));
        let others = [
            ("references", layout.references),
            ("sessions", layout.sessions),
            ("num_items", layout.num_items),
            ("ssl_to_ctx", layout.ssl_to_ctx),
            ("ssl_to_session_ctx", layout.ssl_to_session_ctx),
        ];
        Self(counters.chain(others).map(|(name, offset)| (name.to_owned(), offset)).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|(field, _)| field == name).and_then(|(_, offset)| *offset)
    }

    /// What is known here and is otherwise in the truth, or is not in it.
    pub(crate) fn lies(&self, truth: &Self) -> Vec<String> {
        let otherwise = |(field, said): &(String, Option<u32>)| {
            let (said, truth) = ((*said)?, truth.get(field));
            (Some(said) != truth).then(|| match truth {
                Some(truth) => format!("{field} is {said:#x}, not {truth:#x}"),
                None => format!("{field} is {said:#x}, which nothing can be"),
            })
        };
        self.0.iter().filter_map(otherwise).collect()
    }

    /// What is not known.
    pub(crate) fn unknown(&self) -> Vec<&str> {
        let unknown = self.0.iter().filter(|(_, said)| said.is_none());
        unknown.map(|(field, _)| field.as_str()).collect()
    }

    /// What is in the truth and not known here.
    pub(crate) fn missing(&self, truth: &Self) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(field, said)| said.is_none() && truth.get(field).is_some())
            .map(|(field, _)| field.as_str())
            .collect()
    }
}

/// What came of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All is known and true.
    Right,
    /// Something is not known, and nothing is wrong.
    Gap,
    /// Something is not true.
    Wrong(String),
    /// The program would have ended.
    Panicked,
}

/// What is learnt of a library; `None` if it is not taken for one.
pub(crate) fn learn(library: &Elf, companion: &Companion<'_>) -> Option<Image> {
    Image::is_openssl(library)
        .then(|| Image::learn(Path::new("mutant").to_path_buf(), library, companion, ALL))
}

/// Judges a library that was changed, or whose companion was.
pub(crate) fn judge(library: impl FnOnce() -> Option<Image>, truth: &Offsets) -> Verdict {
    let Ok(image) = catch_unwind(AssertUnwindSafe(library)) else { return Verdict::Panicked };
    let Some(image) = image else { return Verdict::Gap };
    let said = Offsets::of(&image.learnt.layout);
    let lies = said.lies(truth);
    if !lies.is_empty() {
        return Verdict::Wrong(lies.join(", "));
    }
    if said.missing(truth).is_empty() { Verdict::Right } else { Verdict::Gap }
}
