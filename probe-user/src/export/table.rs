//! A snapshot as a table for people.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ColumnConstraint, Table, presets};

use super::handshakes;
use crate::snapshot::{ContextSnapshot, GapSnapshot, Snapshot, Source};

/// Columns, and what each stands for in the manual page.
const HEADER: [&str; 18] = [
    "PID", "COMMAND", CONTAINER, "SSL_CTX", "STATE", "NUMBER", "CONNECT", "GOOD", "RENEG",
    "ACCEPT", "GOOD", "RENEG", "HITS", "CB_HITS", "MISSES", "TIMEOUTS", "FULL", "SOURCE",
];

/// Not shown where no process is in one.
const CONTAINER: &str = "CONTAINER";

/// Columns of text; the others are numbers.
const TEXT: [usize; 5] = [1, 2, 3, 4, 17];

/// The contexts, one a line, and below them what is not known.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    if snapshot.contexts.is_empty() {
        out.push_str(
            "No SSL_CTX was used while sslsess watched. A context appears when a handshake starts \
             with it: make a connection, or watch longer (--for 1m).\n",
        );
    } else {
        let in_containers = snapshot.contexts.iter().any(|context| context.container.is_some());
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(HEADER);
        for context in &snapshot.contexts {
            table.add_row(row(context));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 1));
            if HEADER[index] == CONTAINER && !in_containers {
                column.set_constraint(ColumnConstraint::Hidden);
            }
            if !TEXT.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        out.push_str(&table.trim_fmt());
        out.push('\n');
    }
    out.push_str(&handshakes::render(snapshot));
    gaps(&mut out, &snapshot.gaps);
    out
}

/// What is not known, one a line.
pub(super) fn gaps(out: &mut String, gaps: &[GapSnapshot]) {
    if !gaps.is_empty() {
        let _ = writeln!(out, "\nNot known:");
        for gap in gaps {
            let pid =
                gap.pid.map_or_else(|| "all processes".to_owned(), |pid| format!("pid {pid}"));
            let library = gap
                .library
                .as_ref()
                .map_or_else(String::new, |path| format!(", {}", path.display()));
            let _ = writeln!(out, "  {pid}{library}: {}", gap.reason);
        }
    }
}

fn row(context: &ContextSnapshot) -> Vec<String> {
    let s = &context.stats;
    let generation =
        if context.generation > 1 { format!(" #{}", context.generation) } else { String::new() };
    let mut row = vec![
        context.pid.to_string(),
        context.comm.clone().unwrap_or_else(|| "?".to_owned()),
        context.container.as_ref().map_or("-", |container| container.short_id()).to_owned(),
        format!("{}{generation}", context.ctx),
        context.state.name().to_owned(),
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn context(container: Value) -> Value {
        json!({
            "pid": 7, "start_time_ticks": 1, "comm": "nginx", "exe": null, "container": container,
            "ctx": "0x1000", "generation": 1, "state": "live",
            "library": {"path": "libssl.so.3", "build_id": null, "version": null},
            "stats": {}, "source": "memory", "observed_at": "2026-01-01T00:00:00.000Z",
        })
    }

    fn lines(contexts: &[Value]) -> Vec<Vec<String>> {
        let host = json!({"kernel": "6.18", "agent_version": "0.1.0"});
        let snapshot = json!({"host": host, "contexts": contexts, "gaps": []});
        let snapshot: Snapshot = serde_json::from_value(snapshot).expect("the contract's form");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        render(&snapshot).lines().map(words).collect()
    }

    #[test]
    fn containers_have_a_column_where_there_are_any() {
        let id = "3f2a9c41d07be58614f0c2a7739bd1e5a86b04dfe91c35720ab86d4ef1937c28";
        let docker = json!({"id": id, "runtime": "docker", "pod_uid": null});
        let lxc = json!({"id": "web-frontend-17", "runtime": "lxc", "pod_uid": null});
        let shown = lines(&[context(docker), context(lxc), context(Value::Null)]);
        let column: Vec<&str> = shown.iter().map(|words| words[2].as_str()).collect();
        assert_eq!(column, ["CONTAINER", "3f2a9c41d07b", "web-frontend-17", "-"]);
        let shown = lines(&[context(Value::Null)]);
        let column: Vec<&str> = shown.iter().map(|words| words[2].as_str()).collect();
        assert_eq!(column, ["SSL_CTX", "0x1000"]);
        assert!(shown.iter().all(|words| words.len() == 17));
    }
}
