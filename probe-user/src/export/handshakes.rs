//! How long handshakes took, as a table for people.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use crate::snapshot::{SideSnapshot, Snapshot};

/// Bounds that are shown, in nanoseconds, and what they are called.
const BOUNDS: [(u64, &str); 5] = [
    (1_000_000, "<=1ms"),
    (10_000_000, "<=10ms"),
    (100_000_000, "<=100ms"),
    (1_000_000_000, "<=1s"),
    (10_000_000_000, "<=10s"),
];

/// Columns of text; the others are numbers.
const TEXT: [usize; 3] = [1, 2, 3];

/// One line for each side of each context that has any; nothing if none was timed.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let mut table = Table::new();
    let mut header = vec!["PID", "COMMAND", "SSL_CTX", "SIDE", "COMPLETE", "MEAN"];
    header.extend(BOUNDS.iter().map(|(_, name)| *name));
    header.extend(["UNFINISHED", "OLDEST", "ABANDONED"]);
    table.load_preset(presets::NOTHING).set_header(header);
    let mut any = false;
    for context in &snapshot.contexts {
        for (side, of_it) in context.handshakes.iter().flat_map(|handshakes| handshakes.sides()) {
            any = true;
            let mut row = vec![
                context.pid.to_string(),
                context.comm.clone().unwrap_or_else(|| "?".to_owned()),
                context.ctx.clone(),
                side.name().to_owned(),
                of_it.complete().to_string(),
                mean(of_it).map_or_else(|| "-".to_owned(), milliseconds),
            ];
            row.extend(BOUNDS.iter().map(|(bound, _)| of_it.within(*bound).to_string()));
            row.push(of_it.unfinished.to_string());
            row.push(of_it.oldest_ns.map_or_else(|| "-".to_owned(), milliseconds));
            row.push(of_it.abandoned.to_string());
            table.add_row(row);
        }
    }
    if !any {
        return String::new();
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if !TEXT.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut out = String::new();
    let _ = writeln!(
        out,
        "\nHandshakes, from their start until they are counted as good:\n{}",
        table.trim_fmt()
    );
    out
}

/// How long one took, on the average, in nanoseconds.
fn mean(of_it: &SideSnapshot) -> Option<u64> {
    of_it.sum_ns.checked_div(of_it.complete())
}

fn milliseconds(nanoseconds: u64) -> String {
    format!("{:.1}ms", nanoseconds as f64 / 1e6)
}
