//! Why something that may be in a process's memory is not shown, in words.

use std::time::Duration;

use crate::scan::{Contested, Found};

pub(super) fn out_of_time(found: &Found, limit: Duration) -> String {
    let limit = humantime::format_duration(limit);
    let (looked, total) = (gib(found.looked), gib(found.total));
    let not_shown = not_shown(found);
    format!("scan: {looked} of {total} GiB looked at in {limit} (--scan-limit){not_shown}")
}

pub(super) fn unreadable(found: &Found, when: &str) -> String {
    let kib = found.unreadable.div_ceil(1024);
    let not_shown = not_shown(found);
    format!(
        "scan: {kib} KiB that the process wrote cannot be read; if a context is there, {when}{not_shown}"
    )
}

/// What else is not shown if not all was looked at.
fn not_shown(found: &Found) -> String {
    match found.hashes.len() {
        0 => String::new(),
        found => format!(
            "; {found} that were found are not shown, since one that was not looked at may be \
             what they are copies of"
        ),
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 30))
}

pub(super) fn claimed(contested: &Contested, when: &str) -> String {
    let Contested { sessions, places, more } = contested;
    let shown: Vec<String> = places.iter().take(4).map(|place| format!("{place:#x}")).collect();
    let others = places.len() as u64 + more - shown.len() as u64;
    let others = if others > 0 { format!(" and {others} more") } else { String::new() };
    format!(
        "scan: {}{others} have all the marks of the SSL_CTX that owns the hash of sessions at \
         {sessions:#x}: at most one is it, and the others are copies; {when}",
        shown.join(", ")
    )
}
