//! Values and settings as evidence, in words.

use super::ProcessSums;
use crate::context::settings::{Settings, cache_mode_names, protocol_name};

/// `misses = 12`.
pub(super) fn value(name: &str, value: Option<i64>) -> String {
    value.map_or_else(|| format!("{name} is not known"), |value| format!("{name} = {value}"))
}

/// The mode of the session cache.
pub(super) fn cache_mode(settings: &Settings) -> String {
    settings.cache_mode.map_or_else(
        || "the session cache mode is not known".to_owned(),
        |mode| format!("session cache mode {mode:#x}: {}", cache_mode_names(mode).join(", ")),
    )
}

/// Whether tickets are on.
pub(super) fn tickets(settings: &Settings) -> String {
    match (settings.options, settings.tickets()) {
        (Some(options), Some(true)) => format!("options {options:#x}: without SSL_OP_NO_TICKET"),
        (Some(options), _) => format!("options {options:#x}: with SSL_OP_NO_TICKET"),
        (None, _) => "the options are not known".to_owned(),
    }
}

/// The versions that are allowed.
pub(super) fn protocols(settings: &Settings) -> String {
    let name = |version: Option<i64>, any: &str| {
        version.map_or_else(|| "not known".to_owned(), |version| protocol_name(version, any))
    };
    let allowed = match settings.allows_tls1_3() {
        Some(true) => "TLS 1.3 is allowed",
        Some(false) => "TLS 1.3 is not allowed",
        None => "whether TLS 1.3 is allowed is not known",
    };
    format!(
        "protocol versions: {} to {}; {allowed}",
        name(settings.min_protocol, "the lowest"),
        name(settings.max_protocol, "the highest")
    )
}

/// The callbacks of an external cache.
pub(super) fn callbacks(settings: &Settings) -> String {
    let set = |callback: Option<bool>| match callback {
        Some(true) => "set",
        Some(false) => "not set",
        None => "not known",
    };
    format!(
        "callbacks of an external cache: new {}, get {}, remove {}",
        set(settings.new_callback),
        set(settings.get_callback),
        set(settings.remove_callback)
    )
}

/// The sums of a process.
pub(super) fn process(sums: &ProcessSums) -> Vec<String> {
    let all = "all live server contexts of the process";
    let made = match sums.made {
        Some((hits, good)) => format!("{all}: hits = {hits}, accept_good = {good}"),
        None => format!("{all}: not known, since one of them has a counter that is not"),
    };
    let watched = sums.watched.map(|(hits, good)| {
        format!("{all}, each since the first look at it: hits {hits:+}, accept_good {good:+}")
    });
    [Some(made), watched].into_iter().flatten().collect()
}
