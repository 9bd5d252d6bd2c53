//! A snapshot as Prometheus metrics. `docs/metrics.md` is the contract.

mod contexts;
mod handshakes;
mod targets;

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, TextEncoder, core::Collector,
    proto::MetricFamily,
};

use crate::snapshot::{GroupSnapshot, Scraped, Snapshot};

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

/// The text of a scrape, and which contexts that have ended it shows.
///
/// # Errors
///
/// If the snapshot breaks a rule of the format.
pub fn encode(snapshot: &Snapshot) -> prometheus::Result<(String, Scraped)> {
    let shown = snapshot.contexts.iter().filter_map(|context| context.ended).collect();
    let scraped = Scraped { shown, until: snapshot.ends };
    let mut text = Text(String::new());
    text.contexts(snapshot)?;
    text.groups(snapshot)?;
    text.handshakes_of_groups(snapshot)?;
    text.targets(snapshot)?;
    text.health(snapshot)?;
    Ok((text.0, scraped))
}

/// What was written so far. There is no `Registry`: a snapshot is shown once, and all
/// of it would be in memory three times.
struct Text(String);

impl Text {
    fn add(&mut self, metric: &impl Collector) -> prometheus::Result<()> {
        metric.collect().into_iter().try_for_each(|family| self.write(family))
    }

    fn write(&mut self, family: MetricFamily) -> prometheus::Result<()> {
        // A vector without a series yet would be a family without a metric.
        if family.get_metric().is_empty() {
            return Ok(());
        }
        TextEncoder::new().encode_utf8(&[family], &mut self.0)
    }

    /// Sums that never fall, by the labels that were chosen.
    fn groups(&mut self, snapshot: &Snapshot) -> prometheus::Result<()> {
        let names = &snapshot.group_by;
        let of = |group: &'_ GroupSnapshot| -> Vec<String> {
            group.labels.iter().map(|(_, value)| value.clone().unwrap_or_default()).collect()
        };
        for (name, help) in HELP.iter().filter(|(name, _)| *name != "number") {
            let options = Opts::new(
                format!("openssl_sess_{name}_total"),
                format!("{help} Over all SSL_CTXs of the group, also those that are gone."),
            );
            let totals = IntCounterVec::new(options, names)?;
            for group in &snapshot.groups {
                let value = group.totals.iter().find(|(total, _)| total == name).map(|(_, v)| *v);
                // A sum can be below zero only where a release counts so
                // (openssl #13183); a counter cannot say that.
                if let Some(value) = value.and_then(|value| u64::try_from(value).ok()) {
                    totals.with_label_values(&of(group)).inc_by(value);
                }
            }
            self.add(&totals)?;
        }
        let number = IntGaugeVec::new(
            Opts::new(
                "openssl_sess_number",
                "Sessions in the internal session caches of the group's live SSL_CTXs.",
            ),
            names,
        )?;
        let live = IntGaugeVec::new(
            Opts::new("openssl_ctx_live", "SSL_CTXs of the group that live and were used."),
            names,
        )?;
        for group in &snapshot.groups {
            if let Some(value) = group.number {
                number.with_label_values(&of(group)).set(value);
            }
            live.with_label_values(&of(group)).set(group.live as i64);
        }
        self.add(&number)?;
        self.add(&live)?;
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
        self.add(&losses)?;
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
        self.add(&contradictions)?;
        let counters = [
            (
                "sslsess_contexts_forgotten_total",
                "Ended SSL_CTXs that are not listed any more; the totals count them.",
                Some(health.forgotten),
            ),
            (
                "sslsess_contexts_unscraped_total",
                "Those of them whose last values had series in no scrape; the totals count them.",
                Some(health.unscraped),
            ),
            (
                "sslsess_contexts_of_unknown_origin_total",
                "SSL_CTXs that began with counts that may be of the process that forked; the \
                 totals leave these out.",
                Some(health.unproven),
            ),
            (
                "sslsess_contexts_beyond_groups_total",
                "SSL_CTXs that are counted in the group for which --max-groups left no other.",
                Some(health.beyond_groups),
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
            self.add(&counter)?;
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
            self.add(&gauge)?;
        }
        let build = IntGaugeVec::new(
            Opts::new("sslsess_build_info", "The version of the agent, and the kernel it runs on."),
            &["version", "kernel"],
        )?;
        build.with_label_values(&[&snapshot.host.agent_version, &snapshot.host.kernel]).set(1);
        self.add(&build)?;
        Ok(())
    }
}
