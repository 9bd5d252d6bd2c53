//! What `show --why` prints below the table: whether resumption works, and why.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets};

use crate::{
    context::settings::{cache_mode_names, protocol_name},
    diagnosis::{Certainty, Finding, When},
    snapshot::{ContextSnapshot, Settings, Snapshot},
};

/// Columns of the text; what it is printed on is at least as wide, as a rule.
const WIDTH: u16 = 100;

/// The findings of all contexts.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    for context in &snapshot.contexts {
        let Some(findings) = &context.why else { continue };
        let name = context.comm.as_deref().unwrap_or("?");
        let container = context
            .container
            .as_ref()
            .map_or_else(String::new, |container| format!(", container {}", container.short_id()));
        let (pid, ctx) = (context.pid, &context.ctx);
        let _ = writeln!(out, "\n{name} (pid {pid}{container}), SSL_CTX {ctx}");
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(WIDTH);
        if let [outcome, causes @ ..] = findings.as_slice() {
            let evidence = outcome.evidence.join("; ");
            let summary = &outcome.summary;
            table.add_row(if evidence.is_empty() {
                ["".to_owned(), summary.clone()]
            } else {
                ["".to_owned(), format!("{summary} ({evidence})")]
            });
            table.add_row(["settings", &settings(context)]);
            for cause in causes {
                add(&mut table, cause);
            }
        }
        for column in table.column_iter_mut() {
            column.set_padding((2, 0));
        }
        out.push_str(&table.trim_fmt());
        out.push('\n');
    }
    out
}

fn add(table: &mut Table, finding: &Finding) {
    let certainty = match finding.certainty {
        Certainty::Certain => "certain",
        Certainty::Likely => "likely",
        Certainty::Possible => "possible",
    };
    table.add_row([certainty, &finding.summary]);
    // Below the certainty.
    let when = match finding.when {
        When::Now => "now",
        When::SinceMade => "",
        When::Past => "past",
    };
    if !finding.evidence.is_empty() {
        table.add_row([when, &format!("because: {}", finding.evidence.join("; "))]);
    }
    if let Some(cure) = &finding.cure {
        table.add_row(["", &format!("change: {cure}")]);
    }
}

/// The settings in a line or two.
fn settings(context: &ContextSnapshot) -> String {
    let Some(settings) = context.settings else {
        return "not known: they were not read while it lived".to_owned();
    };
    let Settings { cache_mode, cache_size, timeout, num_tickets, .. } = settings;
    let or = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
    let number = |number: Option<i64>| or(number.map(|number| number.to_string()));
    let on_or_off = |what: Option<bool>, on: &str, off: &str| match what {
        Some(true) => on.to_owned(),
        Some(false) => off.to_owned(),
        None => "?".to_owned(),
    };
    let protocol = |version: Option<i64>, any: &str| or(version.map(|v| protocol_name(v, any)));
    [
        format!("cache {}", or(cache_mode.map(|mode| cache_mode_names(mode).join("+")))),
        match cache_size {
            Some(0) => "size unlimited".to_owned(),
            size => format!("size {}", number(size)),
        },
        format!("timeout {} s", number(timeout)),
        format!("tickets {}", on_or_off(settings.tickets(), "on", "off")),
        format!("{} tickets in TLS 1.3", or(num_tickets.map(|tickets| tickets.to_string()))),
        format!(
            "{} to {}",
            protocol(settings.min_protocol, "lowest version"),
            protocol(settings.max_protocol, "highest")
        ),
        format!("external cache {}", on_or_off(settings.get_callback, "yes", "no")),
        format!(
            "session id context {}",
            on_or_off(settings.session_id_context_length.map(|bytes| bytes > 0), "set", "not set")
        ),
        format!(
            "peer's certificate {}",
            on_or_off(settings.verifies_peer(), "asked for", "not asked for")
        ),
    ]
    .join(", ")
}
