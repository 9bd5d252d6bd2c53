//! One finding of what a rule found in both times.

use probe_common::Counter;

use super::{
    Draft, Finding, Kind, Periods, Share, When,
    period::{Counts, Window},
    verdict,
};

/// So many finished handshakes, while a context was watched, can contradict what
/// it counted since it was made; fewer can only confirm it.
const ENOUGH: i64 = 10;

/// A finding that is all there is.
pub(super) fn alone(draft: Draft, periods: &Periods) -> Finding {
    let mut finding = finding(draft, When::SinceMade, periods);
    if !finding.evidence.is_empty() {
        finding.evidence.extend(unknown(periods));
    }
    finding
}

/// The outcome: what happens now, where enough of it was watched, else what the
/// counters say since the context was made. And whether resumption worked while
/// it was watched.
pub(super) fn outcome(made: Draft, finished: Counter, periods: &Periods) -> (Finding, Share) {
    let window = match &periods.watched {
        Ok(window) if Share::of(made.kind) != Share::Unjudged => window,
        _ => return (alone(made, periods), Share::Unjudged),
    };
    let Window { counts, lasted } = window;
    let good = counts[finished];
    if good == 0 {
        let summary = format!("{} None finished in the {lasted} watched.", made.summary);
        return (finding(Draft { summary, ..made }, When::SinceMade, periods), Share::Unjudged);
    }
    let watched = verdict(counts[Counter::Hits], good);
    let share = Share::of(watched.kind);
    if good >= ENOUGH && watched.kind != made.kind {
        let summary = format!(
            "In the {lasted} watched, {} Since the context was made, {}",
            uncapitalised(&watched.summary),
            uncapitalised(&made.summary)
        );
        let draft = Draft { kind: watched.kind, summary, ..made };
        return (finding(draft, When::Now, periods), share);
    }
    let confirmed = share == Share::of(made.kind);
    let (when, share) =
        if confirmed { (When::Now, share) } else { (When::SinceMade, Share::Unjudged) };
    let hits = counts[Counter::Hits];
    let summary = format!("{} In the {lasted} watched: {hits} of {good}.", made.summary);
    (finding(Draft { summary, ..made }, when, periods), share)
}

/// What explains it: what was found in one time or in both, each kind once.
pub(super) fn causes(made: Vec<Draft>, watched: Vec<Draft>, periods: &Periods) -> Vec<Finding> {
    let now: Vec<Kind> = watched.iter().map(|draft| draft.kind).collect();
    let used = periods.watched.as_ref().map(|window| !window.counts.uses().is_empty());
    let before = made.into_iter().filter(|draft| !now.contains(&draft.kind)).map(|draft| {
        let past = used == Ok(true) && is_counted(draft.kind);
        (draft, if past { When::Past } else { When::SinceMade })
    });
    let mut findings: Vec<Finding> = watched
        .into_iter()
        .map(|draft| (draft, When::Now))
        .chain(before)
        .map(|(draft, when)| finding(draft, when, periods))
        .collect();
    // Stable.
    findings.sort_by_key(|finding| (finding.when, finding.certainty));
    findings
}

/// Whether it is so exactly while a counter moves; the others depend on settings,
/// or on the share.
fn is_counted(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::CacheTooSmall
            | Kind::Expired
            | Kind::UnknownSessions
            | Kind::MadeUpSessionIds
            | Kind::RefusedByServer
    )
}

fn finding(draft: Draft, when: When, periods: &Periods) -> Finding {
    let Draft { kind, certainty, mut summary, counters, facts, cure } = draft;
    let mut evidence = periods.evidence(counters);
    if is_counted(kind) {
        summary = match when {
            When::Now => format!("Now: {}", uncapitalised(&summary)),
            When::SinceMade => summary,
            When::Past => format!("Not now, but before: {}", uncapitalised(&summary)),
        };
        if when != When::Now
            && let (Ok(window), Some(watched)) = (&periods.watched, evidence.first_mut())
        {
            watched.push_str(&meanwhile(&window.counts));
        }
    }
    evidence.extend(facts);
    Finding { kind, certainty, when, summary, evidence, cure }
}

/// Whether a context was used while a counter did not move.
fn meanwhile(counts: &Counts) -> String {
    match counts.uses().as_slice() {
        [] => " (no handshake finished, and no session was offered)".to_owned(),
        uses => format!(" (meanwhile {})", counts.moved(uses)),
    }
}

/// Why it is not known what was counted while it was watched.
fn unknown(periods: &Periods) -> Option<String> {
    let reason = periods.watched.as_ref().err()?.as_ref()?;
    Some(format!("what it counted while it was watched is not known: {reason}"))
}

/// Within a sentence.
fn uncapitalised(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
