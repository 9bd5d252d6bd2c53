//! The series of contexts.

use prometheus::{
    IntGauge,
    proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::{HELP, Text};
use crate::{
    context::settings::{cache_mode_names, protocol_name},
    host::container::Runtime,
    snapshot::{ContextSnapshot, Settings, Snapshot},
};

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

impl Text {
    /// Series of the contexts. Made as they are written: there may be tens of thousands,
    /// and vectors of gauges, which look each up by its labels, take ten times as long.
    pub(super) fn contexts(&mut self, snapshot: &Snapshot) -> prometheus::Result<()> {
        let contexts = &snapshot.contexts;
        let labels: Vec<[LabelPair; 3]> = contexts.iter().map(identity).collect();
        for (at, (name, help)) in HELP.iter().enumerate() {
            let help = format!("{help} As SSL_CTX_sess_{name}() would return it for this SSL_CTX.");
            let values = contexts.iter().map(|context| context.stats.named()[at].1);
            self.write(family(&format!("openssl_ctx_sess_{name}"), &help, &labels, values))?;
        }
        for (at, (name, help)) in SETTINGS.iter().enumerate() {
            let value = |context: &ContextSnapshot| setting_values(context.settings.as_ref()?)[at];
            self.write(family(name, help, &labels, contexts.iter().map(value)))?;
        }
        let timed = contexts.iter().zip(&labels);
        let timed =
            timed.filter_map(|(context, labels)| Some((context.handshakes.as_ref()?, labels)));
        self.handshakes_of_contexts(timed)?;
        let labels: Vec<Vec<LabelPair>> =
            contexts.iter().zip(&labels).map(|(context, labels)| info(context, labels)).collect();
        let help = "The process, library and settings of an SSL_CTX.";
        let ones = contexts.iter().map(|_| Some(1));
        self.write(family("openssl_ctx_info", help, &labels, ones))?;
        let gauges = [
            (
                "openssl_ctx_omitted",
                "Live SSL_CTXs without series of their own: those that were least active.",
                snapshot.omitted.live,
            ),
            (
                "openssl_ctx_ended_omitted",
                "Ended SSL_CTXs that are kept and have no series: there was no room, or a later \
                 one has their address.",
                snapshot.omitted.ended,
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = IntGauge::new(name, help)?;
            gauge.set(value as i64);
            self.add(&gauge)?;
        }
        Ok(())
    }
}

/// A gauge for each context of which the value is known.
fn family(
    name: &str,
    help: &str,
    labels: &[impl AsRef<[LabelPair]>],
    values: impl Iterator<Item = Option<i64>>,
) -> MetricFamily {
    let metrics = labels.iter().zip(values).filter_map(|(labels, value)| {
        let mut gauge = Gauge::default();
        gauge.set_value(value? as f64);
        let mut metric = Metric::from_gauge(gauge);
        metric.set_label(labels.as_ref().to_vec());
        Some(metric)
    });
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::GAUGE);
    family.set_metric(metrics.collect());
    family
}

pub(super) fn label(name: &str, value: impl Into<String>) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.into());
    label
}

/// The labels of all series of a context.
fn identity(context: &ContextSnapshot) -> [LabelPair; 3] {
    [
        label("comm", context.comm.as_deref().unwrap_or_default()),
        label("ctx", context.ctx.as_str()),
        label("pid", context.pid.to_string()),
    ]
}

/// The labels of `openssl_ctx_info`.
fn info(context: &ContextSnapshot, identity: &[LabelPair]) -> Vec<LabelPair> {
    let [cache_mode, tickets, min_protocol, max_protocol, external] =
        setting_labels(&context.settings.unwrap_or_default());
    let [container_id, container_runtime, pod_uid] = container_labels(context);
    let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
    let exe = context.exe.as_ref().map(|exe| exe.to_string_lossy()).unwrap_or_default();
    let mut labels = identity.to_vec();
    labels.extend([
        label("build_id", or_empty(&context.library.build_id)),
        label("cache_mode", cache_mode),
        label("container_id", container_id),
        label("container_runtime", container_runtime),
        label("exe", exe),
        label("external_cache", external),
        label("library", context.library.path.to_string_lossy()),
        label("max_protocol", max_protocol),
        label("min_protocol", min_protocol),
        label("pod_uid", pod_uid),
        label("state", context.state.name()),
        label("tickets", tickets),
        label("unit", or_empty(&context.unit)),
        label("user_unit", or_empty(&context.user_unit)),
        label("version", or_empty(&context.library.version)),
    ]);
    labels.sort_unstable_by(|a, b| a.name().cmp(b.name()));
    labels
}
