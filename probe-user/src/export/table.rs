//! A snapshot as a table for people.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use crate::snapshot::{ContextSnapshot, Snapshot, Source, State};

/// Columns, and what each stands for in the manual page.
const HEADER: [&str; 17] = [
    "PID", "COMMAND", "SSL_CTX", "STATE", "NUMBER", "CONNECT", "GOOD", "RENEG", "ACCEPT", "GOOD",
    "RENEG", "HITS", "CB_HITS", "MISSES", "TIMEOUTS", "FULL", "SOURCE",
];

/// Columns of text; the others are numbers.
const TEXT: [usize; 4] = [1, 2, 3, 16];

/// The contexts, one a line, and below them what is not known.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    if snapshot.contexts.is_empty() {
        out.push_str(
            "No SSL_CTX was used while sslsess watched. A context appears when a handshake starts \
             or ends, or a session is looked up: make a connection, or watch longer (--for 1m).\n",
        );
    } else {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(HEADER);
        for context in &snapshot.contexts {
            table.add_row(row(context));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 1));
            if !TEXT.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        out.push_str(&table.trim_fmt());
        out.push('\n');
    }
    if !snapshot.gaps.is_empty() {
        let _ = writeln!(out, "\nNot known:");
        for gap in &snapshot.gaps {
            let pid =
                gap.pid.map_or_else(|| "all processes".to_owned(), |pid| format!("pid {pid}"));
            let library = gap
                .library
                .as_ref()
                .map_or_else(String::new, |path| format!(", {}", path.display()));
            let _ = writeln!(out, "  {pid}{library}: {}", gap.reason);
        }
    }
    out
}

fn row(context: &ContextSnapshot) -> Vec<String> {
    let s = &context.stats;
    let generation =
        if context.generation > 1 { format!(" #{}", context.generation) } else { String::new() };
    let mut row = vec![
        context.pid.to_string(),
        context.comm.clone().unwrap_or_else(|| "?".to_owned()),
        format!("{}{generation}", context.ctx),
        match context.state {
            State::Live => "live",
            State::Freed => "freed",
            State::Exited => "exited",
        }
        .to_owned(),
    ];
    let in_order = [
        s.number,
        s.connect,
        s.connect_good,
        s.connect_renegotiate,
        s.accept,
        s.accept_good,
        s.accept_renegotiate,
        s.hits,
        s.cb_hits,
        s.misses,
        s.timeouts,
        s.cache_full,
    ];
    row.extend(in_order.map(|value| value.map_or_else(|| "?".to_owned(), |v| v.to_string())));
    row.push(
        match context.source {
            Source::Memory => "memory",
            Source::Probe => "probe",
            Source::Final => "final",
        }
        .to_owned(),
    );
    row
}
