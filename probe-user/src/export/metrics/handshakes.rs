//! How long handshakes took, as histograms.

use prometheus::{
    IntCounterVec, IntGaugeVec, Opts,
    proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use super::{Text, contexts::label};
use crate::snapshot::{HandshakesSnapshot, SideSnapshot, Snapshot};

/// What is told of a group besides how long they took.
const UNFINISHED: &str = "openssl_handshakes_unfinished";
const ABANDONED: &str = "openssl_handshakes_abandoned_total";

/// What all of it is about.
const FROM_START: &str = "from when libssl starts one until it counts it as good";

impl Text {
    /// Those of contexts, with their labels.
    pub(super) fn handshakes_of_contexts<'s>(
        &mut self,
        contexts: impl Iterator<Item = (&'s HandshakesSnapshot, &'s [LabelPair; 3])>,
    ) -> prometheus::Result<()> {
        let help = format!("How long handshakes of this SSL_CTX took, {FROM_START}.");
        let sides = contexts.flat_map(|(handshakes, labels)| {
            handshakes.sides().map(move |(side, of_it)| {
                // In the order of their names.
                let [comm, ctx, pid] = labels.clone();
                (vec![comm, ctx, pid, label("side", side.name())], of_it)
            })
        });
        let sides: Vec<(Vec<LabelPair>, &SideSnapshot)> = sides.collect();
        let name = "openssl_ctx_handshake_duration_seconds";
        self.write(histograms(name, &help, sides.iter().cloned()))?;
        let gauge = |name: &str, help: &str, value: fn(&SideSnapshot) -> Option<f64>| {
            let metrics = sides.iter().filter_map(|(labels, of_it)| {
                let mut gauge = prometheus::proto::Gauge::default();
                gauge.set_value(value(of_it)?);
                let mut metric = Metric::from_gauge(gauge);
                metric.set_label(labels.clone());
                Some(metric)
            });
            family(name, help, MetricType::GAUGE, metrics.collect())
        };
        let unfinished = gauge(
            "openssl_ctx_handshakes_unfinished",
            "Handshakes of this SSL_CTX that have started and are not complete.",
            |of_it| Some(of_it.unfinished as f64),
        );
        let oldest = gauge(
            "openssl_ctx_handshake_oldest_seconds",
            "How long ago the oldest of these started.",
            |of_it| Some(seconds(of_it.oldest_ns?)),
        );
        self.write(unfinished)?;
        self.write(oldest)
    }

    /// Those of groups.
    pub(super) fn handshakes_of_groups(&mut self, snapshot: &Snapshot) -> prometheus::Result<()> {
        let sides = || {
            snapshot.groups.iter().flat_map(|group| {
                let of_it = group.handshakes.iter().flat_map(HandshakesSnapshot::sides);
                of_it.map(move |(side, of_it)| (&group.labels, side, of_it))
            })
        };
        let help =
            format!("How long handshakes took, {FROM_START}. Over the SSL_CTXs of the group.");
        let labelled = sides().map(|(labels, side, of_it)| {
            let of_group = labels.iter();
            let of_group = of_group
                .map(|(name, value)| label(name, value.as_deref().unwrap_or_default()))
                .chain([label("side", side.name())]);
            (of_group.collect(), of_it)
        });
        self.write(histograms("openssl_handshake_duration_seconds", &help, labelled))?;
        let names: Vec<&str> = snapshot.group_by.iter().copied().chain(["side"]).collect();
        let unfinished = IntGaugeVec::new(
            Opts::new(UNFINISHED, "Handshakes that have started and are not complete."),
            &names,
        )?;
        let abandoned = IntCounterVec::new(
            Opts::new(
                ABANDONED,
                "Handshakes that never will be complete: another one has begun on their \
                 connection, or their SSL_CTX has ended.",
            ),
            &names,
        )?;
        for (labels, side, of_it) in sides() {
            let mut values: Vec<&str> =
                labels.iter().map(|(_, value)| value.as_deref().unwrap_or_default()).collect();
            values.push(side.name());
            unfinished.with_label_values(&values).set(of_it.unfinished as i64);
            abandoned.with_label_values(&values).inc_by(of_it.abandoned);
        }
        self.add(&unfinished)?;
        self.add(&abandoned)
    }
}

fn histograms<'s>(
    name: &str,
    help: &str,
    sides: impl Iterator<Item = (Vec<LabelPair>, &'s SideSnapshot)>,
) -> MetricFamily {
    let metrics = sides.map(|(labels, of_it)| {
        let mut metric = Metric::default();
        metric.set_histogram(histogram(of_it));
        metric.set_label(labels);
        metric
    });
    family(name, help, MetricType::HISTOGRAM, metrics.collect())
}

/// In Prometheus, each bucket has those of the ones before, too.
fn histogram(of_it: &SideSnapshot) -> Histogram {
    let mut all = 0;
    let mut buckets = Vec::new();
    for bucket in &of_it.buckets {
        all += bucket.count;
        // The one for any time is written by itself.
        if let Some(bound) = bucket.up_to_ns {
            let mut made = Bucket::default();
            made.set_cumulative_count(all);
            made.set_upper_bound(seconds(bound));
            buckets.push(made);
        }
    }
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(all);
    histogram.set_sample_sum(seconds(of_it.sum_ns));
    histogram
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
