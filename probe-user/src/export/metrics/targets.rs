//! The libraries that processes map, as metrics.

use prometheus::{IntGauge, IntGaugeVec, Opts};

use super::Text;
use crate::snapshot::{LibrarySnapshot, Snapshot, TargetState};

const LIBRARY: [&str; 3] = ["library", "build_id", "version"];

/// The values of these labels; empty: not known.
fn labels(library: &LibrarySnapshot) -> [String; 3] {
    [
        library.path.to_string_lossy().into_owned(),
        library.build_id.clone().unwrap_or_default(),
        library.version.clone().unwrap_or_default(),
    ]
}

impl Text {
    /// What has become of each library. One that was replaced on disk can be there
    /// twice, under one name: what is counted is added up.
    pub(super) fn targets(&mut self, snapshot: &Snapshot) -> prometheus::Result<()> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels)
        };
        let by_state =
            gauge("sslsess_targets", "Library files that processes map, by state.", &["state"])?;
        for state in TargetState::ALL {
            by_state.with_label_values(&[state.name()]).set(0);
        }
        let probes = gauge("sslsess_probes", "Probes that are attached, by library.", &LIBRARY)?;
        let processes =
            gauge("sslsess_target_processes", "Processes that map the library.", &LIBRARY)?;
        let contexts =
            gauge("sslsess_target_contexts", "SSL_CTXs of the library that live.", &LIBRARY)?;
        let events = gauge(
            "sslsess_target_last_event_timestamp_seconds",
            "When a probe of the library last saw an SSL_CTX; absent: not yet.",
            &LIBRARY,
        )?;
        let unsettled = gauge(
            "sslsess_target_unsettled",
            "Processes that may have SSL_CTXs that are not known: handshakes keep their probes; \
             absent: not looked for.",
            &LIBRARY,
        )?;
        let refused = gauge(
            "sslsess_target_refused",
            "Processes whose library is not observed, and why.",
            &["library", "reason"],
        )?;
        let mut observed = 0;
        for target in &snapshot.targets {
            by_state.with_label_values(&[target.state.name()]).add(1);
            let labels = labels(&target.library);
            processes.with_label_values(&labels).add(target.processes.len() as i64);
            if let Some(reason) = &target.reason {
                let processes = target.processes.len() as i64;
                refused.with_label_values(&[&labels[0], reason]).add(processes);
            }
            if target.state != TargetState::Observed {
                continue;
            }
            observed += 1;
            probes.with_label_values(&labels).add(target.probes as i64);
            contexts.with_label_values(&labels).add(target.contexts.live as i64);
            if let Some(processes) = &target.unsettled {
                unsettled.with_label_values(&labels).add(processes.len() as i64);
            }
            if let Some(at) = target.last_event {
                let last = events.with_label_values(&labels);
                last.set(last.get().max(at.as_second()));
            }
        }
        let libraries = IntGauge::new("sslsess_libraries", "Library files that are observed.")?;
        libraries.set(observed);
        for metric in [&by_state, &probes, &processes, &contexts, &events, &unsettled, &refused] {
            self.add(metric)?;
        }
        self.add(&libraries)?;
        Ok(())
    }
}
