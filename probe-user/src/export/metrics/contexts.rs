//! The series of contexts.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use prometheus::{IntGauge, IntGaugeVec, Opts};

use super::{HELP, SnapshotCollector};
use crate::{
    context::settings::{cache_mode_names, protocol_name},
    host::container::Runtime,
    snapshot::{ContextSnapshot, SessionStats, Settings, State},
};

/// The contexts that have series of their own.
pub(super) struct Chosen<'s> {
    pub(super) contexts: Vec<&'s ContextSnapshot>,
    live_omitted: usize,
    ended_omitted: usize,
}

impl<'s> Chosen<'s> {
    /// The most active of those that live, and with what room they leave, of those
    /// that have ended. One series is of one context: the newest at its address.
    pub(super) fn of(contexts: &'s [ContextSnapshot], most: usize) -> Self {
        let mut newest: Vec<&ContextSnapshot> = contexts.iter().collect();
        newest.sort_by_key(|context| (Reverse(context.born_ns), Reverse(context.generation)));
        let mut addresses = HashSet::new();
        newest.retain(|context| addresses.insert((context.pid, context.ctx.as_str())));
        let is_live = |context: &&ContextSnapshot| context.state == State::Live;
        newest.sort_by_key(|context| (!is_live(context), Reverse(activity(&context.stats))));
        newest.truncate(most);
        let all_live = contexts.iter().filter(is_live).count();
        let live = newest.iter().filter(|context| is_live(context)).count();
        Self {
            live_omitted: all_live - live,
            ended_omitted: (contexts.len() - all_live) - (newest.len() - live),
            contexts: newest,
        }
    }
}

/// The settings that are numbers, as gauges.
const SETTINGS: [(&str, &str); 3] = [
    (
        "openssl_ctx_session_cache_size",
        "Sessions that the internal session cache of this SSL_CTX may hold; 0: any number.",
    ),
    (
        "openssl_ctx_session_timeout_seconds",
        "Time after which a session that this SSL_CTX makes now expires.",
    ),
    (
        "openssl_ctx_num_tickets",
        "Tickets that a server with this SSL_CTX sends after a full handshake in TLS 1.3.",
    ),
];

/// Their values, in the same order.
fn setting_values(settings: &Settings) -> [Option<i64>; 3] {
    let tickets = settings.num_tickets.and_then(|tickets| i64::try_from(tickets).ok());
    [settings.cache_size, settings.timeout, tickets]
}

/// The labels of `openssl_ctx_info` for what is set; empty: not known.
fn setting_labels(settings: &Settings) -> [String; 5] {
    let yes_or_no = |what: Option<bool>| match what {
        Some(true) => "yes".to_owned(),
        Some(false) => "no".to_owned(),
        None => String::new(),
    };
    let protocol = |version: Option<i64>, any: &str| {
        version.map_or_else(String::new, |version| protocol_name(version, any))
    };
    [
        settings.cache_mode.map_or_else(String::new, |mode| cache_mode_names(mode).join(",")),
        yes_or_no(settings.tickets()),
        protocol(settings.min_protocol, "lowest"),
        protocol(settings.max_protocol, "highest"),
        yes_or_no(settings.get_callback),
    ]
}

/// The labels of `openssl_ctx_info` for where its process is; empty: not known.
fn container_labels(context: &ContextSnapshot) -> [&str; 3] {
    context.container.as_ref().map_or([""; 3], |container| {
        [
            &container.id,
            container.runtime.map_or("", Runtime::name),
            container.pod_uid.as_deref().unwrap_or_default(),
        ]
    })
}

impl SnapshotCollector {
    /// Series of the contexts that have them.
    pub(super) fn contexts(&mut self, chosen: &Chosen<'_>) -> prometheus::Result<()> {
        let mut values = HashMap::new();
        for (name, help) in HELP {
            let options = Opts::new(
                format!("openssl_ctx_sess_{name}"),
                format!("{help} As SSL_CTX_sess_{name}() would return it for this SSL_CTX."),
            );
            values.insert(name, IntGaugeVec::new(options, &["pid", "ctx", "comm"])?);
        }
        let info = IntGaugeVec::new(
            Opts::new("openssl_ctx_info", "The process, library and settings of an SSL_CTX."),
            &[
                "pid",
                "ctx",
                "comm",
                "state",
                "exe",
                "container_id",
                "container_runtime",
                "pod_uid",
                "unit",
                "user_unit",
                "library",
                "build_id",
                "version",
                "cache_mode",
                "tickets",
                "min_protocol",
                "max_protocol",
                "external_cache",
            ],
        )?;
        let mut gauges = Vec::new();
        for (name, help) in SETTINGS {
            gauges.push(IntGaugeVec::new(Opts::new(name, help), &["pid", "ctx", "comm"])?);
        }
        for context in &chosen.contexts {
            let pid = context.pid.to_string();
            let comm = context.comm.as_deref().unwrap_or_default();
            for (name, value) in context.stats.named() {
                if let Some(value) = value {
                    values[name].with_label_values(&[pid.as_str(), &context.ctx, comm]).set(value);
                }
            }
            let settings = context.settings.unwrap_or_default();
            for (gauge, value) in gauges.iter().zip(setting_values(&settings)) {
                if let Some(value) = value {
                    gauge.with_label_values(&[pid.as_str(), &context.ctx, comm]).set(value);
                }
            }
            let [cache_mode, tickets, min_protocol, max_protocol, external] =
                setting_labels(&settings);
            let exe = context.exe.as_ref().map(|exe| exe.to_string_lossy()).unwrap_or_default();
            let [container_id, container_runtime, pod_uid] = container_labels(context);
            info.with_label_values(&[
                pid.as_str(),
                &context.ctx,
                comm,
                context.state.name(),
                &*exe,
                container_id,
                container_runtime,
                pod_uid,
                context.unit.as_deref().unwrap_or_default(),
                context.user_unit.as_deref().unwrap_or_default(),
                &*context.library.path.to_string_lossy(),
                context.library.build_id.as_deref().unwrap_or_default(),
                context.library.version.as_deref().unwrap_or_default(),
                &cache_mode,
                &tickets,
                &min_protocol,
                &max_protocol,
                &external,
            ])
            .set(1);
        }
        for (name, _) in HELP {
            self.add(&values[name]);
        }
        for gauge in &gauges {
            self.add(gauge);
        }
        self.add(&info);
        let gauges = [
            (
                "openssl_ctx_omitted",
                "Live SSL_CTXs without series of their own: those that were least active.",
                chosen.live_omitted,
            ),
            (
                "openssl_ctx_ended_omitted",
                "Ended SSL_CTXs that are kept and have no series: there was no room, or a later \
                 one has their address.",
                chosen.ended_omitted,
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = IntGauge::new(name, help)?;
            gauge.set(value as i64);
            self.add(&gauge);
        }
        Ok(())
    }
}

/// How much a context was used: how many handshakes were started with it.
fn activity(stats: &SessionStats) -> i64 {
    stats.connect.unwrap_or(0).saturating_add(stats.accept.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context(ctx: &str, born_ns: u64, state: State, accept: i64) -> ContextSnapshot {
        let json = json!({
            "pid": 7, "start_time_ticks": 1, "comm": "x", "exe": null, "container": null,
            "ctx": ctx, "generation": 1, "state": state,
            "library": {"path": "libssl.so.3", "build_id": null, "version": null},
            "stats": {"accept": accept}, "source": "memory",
            "observed_at": "2026-01-01T00:00:00.000Z",
        });
        let context: ContextSnapshot = serde_json::from_value(json).expect("the contract's form");
        ContextSnapshot { born_ns, ..context }
    }

    #[test]
    fn one_series_is_of_the_newest_at_an_address() {
        let contexts = [
            context("0x10", 1, State::Freed, 9),
            context("0x10", 3, State::Live, 1),
            context("0x10", 2, State::Freed, 5),
            context("0x20", 1, State::Exited, 2),
        ];
        let chosen = Chosen::of(&contexts, 10);
        let births: Vec<u64> = chosen.contexts.iter().map(|context| context.born_ns).collect();
        assert_eq!(births, [3, 1]);
        assert_eq!((chosen.live_omitted, chosen.ended_omitted), (0, 2));
    }

    #[test]
    fn what_has_ended_gets_the_room_that_is_left() {
        let contexts = [
            context("0x10", 1, State::Freed, 9),
            context("0x20", 2, State::Live, 1),
            context("0x30", 3, State::Live, 2),
            context("0x40", 4, State::Freed, 10),
        ];
        let chosen = Chosen::of(&contexts, 3);
        let shown: Vec<&str> = chosen.contexts.iter().map(|c| c.ctx.as_str()).collect();
        assert_eq!(shown, ["0x30", "0x20", "0x40"]);
        assert_eq!((chosen.live_omitted, chosen.ended_omitted), (0, 1));
        let chosen = Chosen::of(&contexts, 1);
        assert_eq!((chosen.live_omitted, chosen.ended_omitted), (1, 2));
    }
}
