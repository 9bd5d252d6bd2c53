//! The command line.

use std::{collections::HashSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    agent::{AgentOptions, idle::ScanOptions},
    context::{
        groups::{GroupBy, Label},
        registry::Retention,
    },
    image::{PlanChoice, PlanOptions, ProbePoints},
    kernel::LinkChoice,
    scan::Progress,
};

/// TLS session statistics of live processes: the twelve values of
/// SSL_CTX_sess_number(3) for every SSL_CTX of every process, read from outside.
///
/// Is TLS session resumption working here, and if not, why not? sslsess puts
/// probes behind the instructions of libssl that count, learns from the
/// library's own machine code where the counters are, and reads them. The
/// processes are not touched, restarted or configured.
#[derive(Debug, Parser)]
#[command(
    name = "sslsess",
    version,
    arg_required_else_help = true,
    after_help = "Every verb but `explain FILE` needs root. Start with `sslsess check`, then \
                  `sslsess show`.\nLog lines go to standard error; SSLSESS_LOG=debug shows more."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch for a while, then print the contexts that were used.
    Show(ShowArgs),
    /// A table of the live contexts that refreshes itself.
    Top(TopArgs),
    /// Run as an agent: Prometheus metrics, JSON and a page over HTTP.
    Serve(ServeArgs),
    /// Print what can be learnt of a libssl, with the evidence.
    Explain(ExplainArgs),
    /// Say whether sslsess can work here, and if not, what to do.
    Check(CheckArgs),
}

/// Options of the probes.
#[derive(Clone, Copy, Debug, Args)]
pub struct PlanArgs {
    /// Where to put probes: `auto` behind the increments of the counters;
    /// `entry` at function entries, as is done for libraries whose increments
    /// are not found.
    #[arg(long, value_enum, default_value = "auto", value_name = "PLAN")]
    pub probe_plan: PlanChoice,
    /// What has a probe: `starts` of handshakes, so that each costs one hit; `births`
    /// of contexts, so that handshakes cost none; `handshakes`, their starts and
    /// completions; `all`, every change of a counter.
    ///
    /// `auto`, with `serve` and `top`: both `starts` and `births`, and when all contexts
    /// that are older were found in the memory of their processes, `births` alone. Else,
    /// and for libraries in which no place is proven that all new contexts pass: `starts`.
    ///
    /// Values are read from the process, at the latest as it ends, and are the same.
    /// Contexts older than the probes are found in memory by `births`, which includes
    /// --scan.
    /// Kernels before 6.16 do not show the memory of a process that ends: there `all`
    /// is used, and what the last probe saw is shown.
    #[arg(long, value_enum, default_value = "auto", value_name = "POINTS")]
    pub probe_points: ProbePoints,
}

impl PlanArgs {
    /// What is asked for.
    #[must_use]
    pub fn options(&self) -> PlanOptions {
        PlanOptions { choice: self.probe_plan, points: self.probe_points }
    }
}

/// Options of everything that watches processes.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// Which probes.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// How to attach probes: `auto` all of a library in one step, where the kernel
    /// can (Linux 6.6); `one-by-one` as on older kernels.
    #[arg(long, value_enum, default_value = "auto", value_name = "LINKS")]
    pub probe_links: LinkChoice,
    /// How many live contexts are recorded at most; more are counted and named
    /// as a gap.
    #[arg(long, default_value_t = 65_536, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_contexts: u32,
    /// How many contexts that have ended are listed at most; the totals go on
    /// counting the others.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub max_ended: usize,
    /// How long no process must have mapped a library before its probes are
    /// removed. Short-lived programs that come again find them in place.
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
    pub release_after: Duration,
}

/// Options of the sums.
#[derive(Clone, Debug, Args)]
pub struct GroupArgs {
    /// What the totals are by: one or more, with commas between them. Labels that
    /// churn make many series.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "exe", value_name = "LABELS")]
    pub group_by: Vec<Label>,
    /// How many groups there may be; contexts of others are summed up in one group
    /// that says so.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_groups: u32,
}

impl GroupArgs {
    /// What is asked for.
    #[must_use]
    pub fn group_by(&self) -> GroupBy {
        GroupBy::new(&self.group_by, self.max_groups as usize)
    }
}

impl WatchArgs {
    /// The agent's options, for these processes (none: for all).
    #[must_use]
    pub fn agent_options(&self, pids: &[u32], scan: Option<ScanOptions>) -> AgentOptions {
        AgentOptions {
            pids: pids.iter().copied().collect::<HashSet<u32>>(),
            plan: self.plan.options(),
            links: self.probe_links,
            max_contexts: self.max_contexts,
            retention: Retention { ended: self.max_ended, time: Duration::ZERO },
            group_by: GroupBy::default(),
            scan,
            release_after: self.release_after,
        }
    }
}

/// Options of looking into memory.
#[derive(Clone, Debug, Args)]
pub struct ScanArgs {
    /// Look for contexts in the memory of each process, once, when it is first
    /// met: those that are idle since before are shown too, without any traffic.
    ///
    /// What is shown has all the marks of an SSL_CTX that lives, and no copy of it
    /// is in that memory; else it is named as a gap. Private memory is looked at
    /// that was ever written; shared memory is not.
    #[arg(long)]
    pub scan: bool,
    /// How long --scan may look at one process; what it did not get to is named as
    /// a gap.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub scan_limit: Duration,
}

impl ScanArgs {
    /// What is asked for with these probes, if anything; `progress` is told how far it
    /// is.
    #[must_use]
    pub fn options(&self, plan: PlanArgs, progress: &Arc<Progress>) -> Option<ScanOptions> {
        let progress = Arc::clone(progress);
        // These do not see what is there already.
        let unseen = plan.probe_points == ProbePoints::Births;
        let limit = self.scan_limit;
        (self.scan || unseen).then_some(ScanOptions { every: true, limit, progress })
    }

    /// As [`Self::options`], for an agent that stays: it is worth its while to find out
    /// when probes can go.
    #[must_use]
    pub fn options_to_stay(&self, plan: PlanArgs) -> Option<ScanOptions> {
        let progress = Arc::default();
        let asked = self.options(plan, &progress);
        let auto = plan.probe_points == ProbePoints::Auto;
        let unasked = ScanOptions { every: false, limit: self.scan_limit, progress };
        asked.or_else(|| auto.then_some(unasked))
    }
}

/// Options of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Only this process; can be given more than once.
    #[arg(long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pids: Vec<u32>,
    /// How long to watch before printing: 5s, or with --scan until that is done. A
    /// context appears when it is used: when a handshake starts or ends, or a
    /// session is looked up.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub watch_for: Option<Duration>,
    /// Whether to look into memory too.
    #[command(flatten)]
    pub scan: ScanArgs,
    /// Say of each context whether resumption works and, if not, why: in plain
    /// words, with the values and settings that say so, and what to change.
    ///
    /// `certain`: it follows from the values and settings of the SSL_CTX.
    /// `likely`: they fit it, and little else. `possible`: they fit other
    /// things as well. Values count from the making of an SSL_CTX: what moved
    /// while it was watched (--for) is told apart, and comes first. Settings are
    /// those of now. With --json, each context has them as "why", and what moved
    /// as "watched".
    #[arg(long)]
    pub why: bool,
    /// Instead of contexts, print the libraries that processes map: whether each is
    /// observed or, if not, why; with its probes, processes, contexts, and the time
    /// of its last event. At once, if --for says nothing else. With --json they are
    /// there always, as "targets".
    #[arg(long, conflicts_with = "why")]
    pub targets: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// What the sums in JSON are by.
    #[command(flatten)]
    pub groups: GroupArgs,
    /// What to watch.
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Options of `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Ask a running `sslsess serve` instead of watching from here.
    #[arg(long, value_name = "URL", value_parser = agent_url)]
    pub agent: Option<String>,
    /// Only this process; can be given more than once.
    #[arg(long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pids: Vec<u32>,
    /// End after this time; without it, at Ctrl-C.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub run_for: Option<Duration>,
    /// Time between two tables.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub interval: Duration,
    /// Whether to look into memory too.
    #[command(flatten)]
    pub scan: ScanArgs,
    /// What to watch.
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen.
    #[arg(
        long = "web.listen-address",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:10160"
    )]
    pub listen_address: SocketAddr,
    /// How many contexts get series of their own, the most active first; the
    /// totals count all of them.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub max_context_series: usize,
    /// How long a context that has ended is listed at least, and has series with its
    /// last values; and until it was scraped once. 0s: one scrape shows it.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration_or_none)]
    pub retain: Duration,
    /// What the totals are by.
    #[command(flatten)]
    pub groups: GroupArgs,
    /// Whether to look into memory too.
    #[command(flatten)]
    pub scan: ScanArgs,
    /// What to watch.
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Options of `explain`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["file", "pid"]))]
pub struct ExplainArgs {
    /// A libssl file.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Every libssl that this process maps.
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,
    /// Which probes there would be.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Print JSON: an object for a file, an array for a process.
    #[arg(long)]
    pub json: bool,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it like `10s`, `500ms` or `2m`"))?;
    if duration.is_zero() || duration > Duration::from_secs(366 * 86_400) {
        return Err("it must be longer than nothing, and at most a year".to_owned());
    }
    Ok(duration)
}

fn duration_or_none(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(none) if none.is_zero() => Ok(none),
        _ => duration(text),
    }
}

fn agent_url(text: &str) -> Result<String, String> {
    if text.starts_with("http://") {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err("write it like `http://127.0.0.1:10160`".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_written_with_their_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("5").is_err());
        assert!(duration("0s").is_err());
        assert_eq!(duration_or_none("0s"), Ok(Duration::ZERO));
        assert!(duration_or_none("1 fortnight").is_err());
    }
}
