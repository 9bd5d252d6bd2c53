//! Where probes stand: behind increments, or at function entries, and where
//! a context dies. Each on an instruction that the kernel emulates (on aarch64,
//! where none is near, on one that it executes out of line), at a boundary that
//! decoding from the function's start proves.

use std::ops::Range;

use probe_common::{Action, BlockLayout, Counter, NO_COUNTER, NO_FIELD};

use super::{
    elf::Elf,
    functions::Functions,
    gap::FieldGap,
    increments::IncrementSite,
    layout::Layout,
    planner,
    point::{ProbeKind, ProbePoint},
    unwind::FunctionRanges,
};

/// Which plan to make of a library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PlanChoice {
    /// Behind the increments where all are found, else at function entries too.
    #[default]
    Auto,
    /// At function entries only, as for builds whose increments are not found.
    Entry,
}

/// What has a probe. Fewer probes are fewer hits; the values are read from the
/// memory of the process, at the latest as it ends, where the kernel still shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProbePoints {
    /// The making of a context; and the start of a handshake, until all contexts are
    /// known that were there before.
    Auto,
    /// The making of a context: none for a handshake. Contexts that are there before
    /// the probes are found in memory, or not at all.
    Births,
    /// The start of a handshake: one hit for each. No context counts before one.
    #[default]
    Starts,
    /// The start and the completion of a handshake: two hits.
    Handshakes,
    /// Every change of a counter: what the last probe saw is what a process had, even
    /// if nobody can read its memory as it ends.
    All,
}

impl ProbePoints {
    /// Whether the changes of a counter have probes.
    pub(super) fn include(self, counter: Counter) -> bool {
        match self {
            Self::Births => false,
            Self::Auto | Self::Starts => is_start(counter),
            Self::Handshakes => {
                is_start(counter) || matches!(counter, Counter::ConnectGood | Counter::AcceptGood)
            }
            Self::All => true,
        }
    }

    /// Whether handshakes are timed.
    #[must_use]
    pub fn time_handshakes(self) -> bool {
        matches!(self, Self::Handshakes | Self::All)
    }

    pub(super) fn action(self) -> Action {
        if self == Self::All { Action::Mirror } else { Action::Meet }
    }
}

/// Counted as a handshake starts: `tls_setup_handshake`, and `final_server_name`,
/// which takes an `accept` from one context and gives it to another.
fn is_start(counter: Counter) -> bool {
    matches!(
        counter,
        Counter::Connect
            | Counter::ConnectRenegotiate
            | Counter::Accept
            | Counter::AcceptRenegotiate
    )
}

/// Which probes to plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// Where they may stand.
    pub choice: PlanChoice,
    /// What has one.
    pub points: ProbePoints,
}

/// The probe points of a library, and what could not be had.
#[derive(Clone, Debug, Default)]
pub struct ProbePlan {
    /// In the order in which they were found.
    pub points: Vec<ProbePoint>,
    /// Those that are there besides, until all contexts are known that are older.
    pub until_known: Vec<ProbePoint>,
    /// What is missing, and why.
    pub gaps: Vec<FieldGap>,
    /// Whether every change of a counter has a probe.
    pub sees_changes: bool,
}

/// Probes at these points, which stay.
impl From<Vec<ProbePoint>> for ProbePlan {
    fn from(points: Vec<ProbePoint>) -> Self {
        Self { points, ..Self::default() }
    }
}

impl ProbePlan {
    /// Whether the end of a context will be seen.
    #[must_use]
    pub fn sees_deaths(&self) -> bool {
        self.points.iter().any(|point| point.kind == ProbeKind::Death)
    }

    /// Whether any use of a context will be seen.
    #[must_use]
    pub fn sees_contexts(&self) -> bool {
        self.points.iter().any(|point| point.kind != ProbeKind::Death && point.argument.creates)
    }

    /// Whether the use of a context will be seen, of whatever age it is.
    #[must_use]
    pub fn sees_use(&self) -> bool {
        let tells = |kind| !matches!(kind, ProbeKind::Birth | ProbeKind::Death);
        self.points.iter().any(|point| tells(point.kind) && point.argument.creates)
    }

    /// All points, also those that will go.
    pub fn all(&self) -> impl Iterator<Item = &ProbePoint> {
        self.points.iter().chain(&self.until_known)
    }

    fn sees_births(&self) -> bool {
        self.points.iter().any(|point| point.kind == ProbeKind::Birth)
    }
}

/// The offsets that the kernel half needs; `None` if nothing would be read there.
#[must_use]
pub fn block_layout(layout: &Layout) -> Option<BlockLayout> {
    let kept = layout.kept()?;
    if kept.is_empty() && (layout.sessions.is_none() || layout.num_items.is_none()) {
        return None;
    }
    let mut order = [NO_COUNTER; 11];
    for (place, counter) in order.iter_mut().zip(&kept) {
        *place = *counter as u8;
    }
    let first = kept.first().and_then(|counter| layout.counters[*counter as usize]);
    Some(BlockLayout {
        counters: first.unwrap_or(NO_FIELD),
        references: layout.references.unwrap_or(NO_FIELD),
        sessions: layout.sessions.unwrap_or(NO_FIELD),
        num_items: layout.num_items.unwrap_or(NO_FIELD),
        order,
        count: kept.len() as u8,
    })
}

/// The functions that a plan may ask for, wherever the increments are.
pub fn asked_for(elf: &Elf, ranges: &FunctionRanges<'_>) -> impl Iterator<Item = Range<u64>> {
    let named = planner::named().filter_map(|name| elf.function(name));
    named.filter_map(|symbol| ranges.containing(symbol.address))
}

/// Plans the probes of a library whose layout is known.
#[must_use]
pub fn plan(mut functions: Functions<'_>, layout: &Layout, options: PlanOptions) -> ProbePlan {
    if block_layout(layout).is_none() {
        return ProbePlan::default();
    }
    let found = layout.block().map(|block| functions.increments(block));
    plan_behind(functions, layout, found.as_deref().unwrap_or_default(), options)
}

/// Plans the probes of a library whose increments are known already.
#[must_use]
pub fn plan_behind(
    mut functions: Functions<'_>,
    layout: &Layout,
    found: &[IncrementSite],
    options: PlanOptions,
) -> ProbePlan {
    if options.points != ProbePoints::Auto {
        return plan_points(&mut functions, layout, found, options);
    }
    let mut plan_as =
        |points| plan_points(&mut functions, layout, found, PlanOptions { points, ..options });
    let starts = plan_as(ProbePoints::Starts);
    if starts.sees_changes {
        return starts;
    }
    let births = plan_as(ProbePoints::Births);
    if !births.sees_births() {
        return starts;
    }
    let lasts = |point: &ProbePoint| births.points.iter().any(|lasting| lasting == point);
    let until_known = starts.points.into_iter().filter(|point| !lasts(point)).collect();
    ProbePlan { points: births.points, until_known, ..starts }
}

fn plan_points(
    functions: &mut Functions<'_>,
    layout: &Layout,
    found: &[IncrementSite],
    options: PlanOptions,
) -> ProbePlan {
    let plan = planner::make(functions, layout, found, options);
    if options.points == ProbePoints::All || plan.sees_deaths() {
        return plan;
    }
    // Without the end of a context, the next one at its address is taken for it: then
    // the counters have to tell.
    planner::make(functions, layout, found, PlanOptions { points: ProbePoints::All, ..options })
}
