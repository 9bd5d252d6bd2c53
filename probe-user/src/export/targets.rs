//! The libraries of a snapshot as a table for people.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;

use super::table;
use crate::snapshot::{Snapshot, TargetSnapshot, UnsettledSnapshot};

const HEADER: [&str; 8] =
    ["STATE", "PROBES", "PROCESSES", "LIVE", "ENDED", "LAST EVENT", "VERSION", "LIBRARY"];

/// Columns of numbers.
const NUMBERS: [usize; 5] = [1, 2, 3, 4, 5];

/// Pids that are listed of one library.
const PIDS: usize = 12;

/// Processes that are listed for which a library keeps probes.
const UNSETTLED: usize = 3;

/// The libraries, one a line, with the pids of their processes below; then what is
/// not known.
#[must_use]
pub fn render(snapshot: &Snapshot, now: Timestamp) -> String {
    let mut out = String::new();
    if snapshot.targets.is_empty() {
        out.push_str("No process maps a libssl, or a file with OpenSSL in it.\n");
    } else {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(HEADER);
        for target in &snapshot.targets {
            table.add_row(row(target, now));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 1));
            if NUMBERS.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let table = table.trim_fmt();
        let mut lines = table.lines();
        let _ = writeln!(out, "{}", lines.next().unwrap_or_default());
        for (line, target) in lines.zip(&snapshot.targets) {
            let _ = writeln!(out, "{line}");
            if let Some(reason) = &target.reason {
                let _ = writeln!(out, "    not observed: {reason}");
            }
            let _ = writeln!(out, "    pids: {}", pids(&target.processes));
            let unsettled = target.unsettled.as_deref().unwrap_or_default();
            for UnsettledSnapshot { pid, reason } in unsettled.iter().take(UNSETTLED) {
                let _ = writeln!(out, "    handshakes keep their probes for {pid}: {reason}");
            }
            if let Some(more) = unsettled.len().checked_sub(UNSETTLED).filter(|n| *n > 0) {
                let _ = writeln!(out, "    handshakes keep their probes for {more} others");
            }
        }
    }
    table::gaps(&mut out, &snapshot.gaps);
    out
}

fn row(target: &TargetSnapshot, now: Timestamp) -> Vec<String> {
    vec![
        target.state.name().to_owned(),
        target.probes.to_string(),
        target.processes.len().to_string(),
        target.contexts.live.to_string(),
        target.contexts.ended.to_string(),
        target.last_event.map_or_else(|| "-".to_owned(), |at| ago(at, now)),
        target.library.version.clone().unwrap_or_else(|| "?".to_owned()),
        target.library.path.display().to_string(),
    ]
}

/// `3s ago`
fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().max(0);
    let passed = std::time::Duration::from_secs(seconds.unsigned_abs());
    format!("{} ago", humantime::format_duration(passed))
}

fn pids(processes: &[u32]) -> String {
    let shown: Vec<String> = processes.iter().take(PIDS).map(u32::to_string).collect();
    let more = processes.len() - shown.len();
    match (shown.is_empty(), more) {
        (true, _) => "none any more".to_owned(),
        (false, 0) => shown.join(" "),
        (false, more) => format!("{} and {more} more", shown.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_library_has_a_line_and_a_refused_one_its_reason() {
        let library = |path: &str| json!({"path": path, "build_id": null, "version": "3.0.19"});
        let targets = json!([
            {"library": library("/a/libssl.so.3"), "state": "observed", "reason": null,
             "probes": 16, "processes": (1..=14).collect::<Vec<u32>>(),
             "contexts": {"live": 2, "ended": 1}, "last_event": "2026-01-01T00:00:00.000Z",
             "unsettled": (1..=5).map(|pid| json!({"pid": pid, "reason": "swapped"})).collect::<Vec<_>>()},
            {"library": library("/b/libssl.so.3"), "state": "refused", "reason": "no libcrypto",
             "probes": 0, "processes": [7], "contexts": {"live": 0, "ended": 0},
             "last_event": null},
        ]);
        let host = json!({"kernel": "6.18", "agent_version": "0.1.0"});
        let snapshot = json!({"host": host, "contexts": [], "gaps": [], "targets": targets});
        let snapshot: Snapshot = serde_json::from_value(snapshot).expect("the contract's form");
        let now = "2026-01-01T00:01:03Z".parse().expect("a time");
        let text = render(&snapshot, now);
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = text.lines().map(words).collect();
        assert_eq!(
            lines[1..],
            [
                "observed 16 14 2 1 1m 3s ago 3.0.19 /a/libssl.so.3",
                "pids: 1 2 3 4 5 6 7 8 9 10 11 12 and 2 more",
                "handshakes keep their probes for 1: swapped",
                "handshakes keep their probes for 2: swapped",
                "handshakes keep their probes for 3: swapped",
                "handshakes keep their probes for 2 others",
                "refused 0 1 0 0 - 3.0.19 /b/libssl.so.3",
                "not observed: no libcrypto",
                "pids: 7",
            ]
        );
    }
}
