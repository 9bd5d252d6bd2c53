//! A snapshot as Prometheus metrics. `docs/metrics.md` is the contract.

mod targets;

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    context::settings::{cache_mode_names, protocol_name},
    host::container::Runtime,
    snapshot::{ContextSnapshot, SessionStats, Settings, Snapshot, State},
};

/// What each of the twelve counts, as the manual page says it.
const HELP: [(&str, &str); 12] = [
    ("number", "Sessions in the internal session cache."),
    ("connect", "TLS handshakes started as a client."),
    ("connect_good", "TLS handshakes finished as a client."),
    ("connect_renegotiate", "Renegotiations started as a client."),
    ("accept", "TLS handshakes started as a server."),
    ("accept_good", "TLS handshakes finished as a server."),
    ("accept_renegotiate", "Renegotiations started as a server."),
    ("hits", "Sessions that were reused."),
    ("cb_hits", "Sessions that an external cache gave back through a callback."),
    ("misses", "Sessions that were proposed and not found."),
    ("timeouts", "Sessions that were proposed and had expired."),
    ("cache_full", "Sessions removed because the internal cache was full."),
];

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

/// The text of a scrape.
///
/// # Errors
///
/// If the snapshot breaks a rule of the format.
pub fn encode(snapshot: &Arc<Snapshot>, max_contexts: usize) -> prometheus::Result<String> {
    let registry = prometheus::Registry::new();
    registry.register(Box::new(SnapshotCollector::new(Arc::clone(snapshot), max_contexts)?))?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

/// Collects one snapshot.
struct SnapshotCollector {
    families: Vec<MetricFamily>,
    descriptions: Vec<Desc>,
}

impl Collector for SnapshotCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.families.clone()
    }
}

impl SnapshotCollector {
    fn new(snapshot: Arc<Snapshot>, max_contexts: usize) -> prometheus::Result<Self> {
        let mut this = Self { families: Vec::new(), descriptions: Vec::new() };
        this.contexts(&snapshot, max_contexts)?;
        this.groups(&snapshot)?;
        this.targets(&snapshot)?;
        this.health(&snapshot)?;
        Ok(this)
    }

    fn add(&mut self, metric: &impl Collector) {
        self.descriptions.extend(metric.desc().into_iter().cloned());
        // A vector without a series yet would be a family without a metric.
        self.families.extend(metric.collect().into_iter().filter(|f| !f.get_metric().is_empty()));
    }

    /// Series of their own, for the most active of the live contexts.
    fn contexts(&mut self, snapshot: &Snapshot, max: usize) -> prometheus::Result<()> {
        let mut live: Vec<&ContextSnapshot> =
            snapshot.contexts.iter().filter(|context| context.state == State::Live).collect();
        live.sort_by_key(|context| Reverse(activity(&context.stats)));
        let left_out = live.len().saturating_sub(max);
        live.truncate(max);
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
                "exe",
                "container_id",
                "container_runtime",
                "pod_uid",
                "unit",
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
        for context in live {
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
                &*exe,
                container_id,
                container_runtime,
                pod_uid,
                context.unit.as_deref().unwrap_or_default(),
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
        let omitted = IntGauge::new(
            "openssl_ctx_omitted",
            "Live SSL_CTXs without series of their own: those that were least active.",
        )?;
        omitted.set(left_out as i64);
        self.add(&omitted);
        Ok(())
    }

    /// Sums that never fall, by executable.
    fn groups(&mut self, snapshot: &Snapshot) -> prometheus::Result<()> {
        for (name, help) in HELP.iter().filter(|(name, _)| *name != "number") {
            let options = Opts::new(
                format!("openssl_sess_{name}_total"),
                format!("{help} Over all SSL_CTXs of the executable, also those that are gone."),
            );
            let totals = IntCounterVec::new(options, &["exe"])?;
            for group in &snapshot.groups {
                let value = group.totals.iter().find(|(total, _)| total == name).map(|(_, v)| *v);
                // A sum can be below zero only where a release counts so
                // (openssl #13183); a counter cannot say that.
                if let Some(value) = value.and_then(|value| u64::try_from(value).ok()) {
                    totals.with_label_values(&[&group.exe]).inc_by(value);
                }
            }
            self.add(&totals);
        }
        let number = IntGaugeVec::new(
            Opts::new(
                "openssl_sess_number",
                "Sessions in the internal session caches of the executable's live SSL_CTXs.",
            ),
            &["exe"],
        )?;
        let live = IntGaugeVec::new(
            Opts::new("openssl_ctx_live", "SSL_CTXs of the executable that live and were used."),
            &["exe"],
        )?;
        for group in &snapshot.groups {
            if let Some(value) = group.number {
                number.with_label_values(&[&group.exe]).set(value);
            }
            live.with_label_values(&[&group.exe]).set(group.live as i64);
        }
        self.add(&number);
        self.add(&live);
        Ok(())
    }

    /// How the agent itself fares.
    fn health(&mut self, snapshot: &Snapshot) -> prometheus::Result<()> {
        let health = &snapshot.health;
        let losses = IntCounterVec::new(
            Opts::new("sslsess_losses_total", "Things lost or refused in the kernel, by kind."),
            &["loss"],
        )?;
        for (name, count) in &health.losses {
            losses.with_label_values(&[name]).inc_by(*count);
        }
        self.add(&losses);
        let contradictions = IntCounterVec::new(
            Opts::new(
                "sslsess_contradictions_total",
                "Times two witnesses of the same thing disagreed; the JSON names them.",
            ),
            &["of"],
        )?;
        for (of, count) in &health.contradictions {
            contradictions.with_label_values(&[of]).inc_by(*count);
        }
        self.add(&contradictions);
        let counters = [
            (
                "sslsess_contexts_forgotten_total",
                "Ended SSL_CTXs that are not listed any more; the totals count them.",
                Some(health.forgotten),
            ),
            (
                "sslsess_mappings_total",
                "Executable mappings that the kernel reported.",
                health.discovery.mappings,
            ),
            (
                "sslsess_mappings_lost_total",
                "Reports of executable mappings that were lost; every process was looked at.",
                health.discovery.lost,
            ),
            (
                "sslsess_looks_total",
                "Times the mappings of a process were looked at.",
                Some(health.discovery.looks),
            ),
        ];
        for (name, help, value) in counters {
            let Some(value) = value else { continue };
            let counter = IntCounter::new(name, help)?;
            counter.inc_by(value);
            self.add(&counter);
        }
        let gauges = [
            (
                "sslsess_library_files",
                "Files of libraries that are held open, observed or not.",
                health.discovery.held as i64,
            ),
            (
                "sslsess_gaps",
                "Things that are not known; the JSON says which.",
                snapshot.gaps.len() as i64,
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = IntGauge::new(name, help)?;
            gauge.set(value);
            self.add(&gauge);
        }
        let build = IntGaugeVec::new(
            Opts::new("sslsess_build_info", "The version of the agent, and the kernel it runs on."),
            &["version", "kernel"],
        )?;
        build.with_label_values(&[&snapshot.host.agent_version, &snapshot.host.kernel]).set(1);
        self.add(&build);
        Ok(())
    }
}

/// How much a context was used: how many handshakes were started with it.
fn activity(stats: &SessionStats) -> i64 {
    stats.connect.unwrap_or(0).saturating_add(stats.accept.unwrap_or(0))
}
