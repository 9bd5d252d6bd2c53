//! What the benchmarks found: read, and written as JSON and as text.

use std::fmt::Write as _;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// One thing that was measured, as `probe-user/benches/report.rs` writes it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Figure {
    pub(crate) section: String,
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) value: f64,
    /// The quartiles.
    pub(crate) spread: Option<[f64; 2]>,
    pub(crate) limit: Option<f64>,
}

impl Figure {
    /// Those in a file with one a line.
    ///
    /// # Errors
    ///
    /// A line is something else, or its value is no number.
    pub(crate) fn all(lines: &str) -> anyhow::Result<Vec<Self>> {
        let read = |(n, line)| {
            serde_json::from_str(line).with_context(|| format!("line {n} is no figure: {line}"))
        };
        (1..).zip(lines.lines()).map(read).collect()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.limit.is_some_and(|limit| self.value > limit)
    }

    /// What it is, with its value and its limit.
    fn text(&self) -> String {
        let Self { name, unit, value, spread, limit, .. } = self;
        let spread = spread.map(|[first, third]| format!(" ({first:.3} to {third:.3})"));
        let over = if self.is_over() { ", OVER" } else { "" };
        let limit = limit.map(|limit| format!(" [at most {limit}{over}]"));
        let [spread, limit] = [spread, limit].map(Option::unwrap_or_default);
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        format!("{name}: {value:.3}{unit}{spread}{limit}")
    }
}

/// A run of benchmarks.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Of sslsess.
    pub(crate) version: String,
    /// When it ended.
    pub(crate) date: String,
    pub(crate) kernel: String,
    /// The machine's.
    pub(crate) processors: usize,
    /// Those that ran.
    pub(crate) benchmarks: Vec<String>,
    /// Those of them that ended with an error: some of their figures may be missing.
    pub(crate) failed: Vec<String>,
    pub(crate) figures: Vec<Figure>,
}

impl Report {
    /// For people: a part for each section.
    pub(crate) fn text(&self) -> String {
        let Self { version, date, kernel, processors, benchmarks, failed, figures } = self;
        let mut text = format!(
            "sslsess {version}, {date}, Linux {kernel}, {processors} processors\n\
             benchmarks: {}\n",
            benchmarks.join(", ")
        );
        if !failed.is_empty() {
            let _ = writeln!(text, "failed: {}", failed.join(", "));
        }
        let mut section = "";
        for figure in figures {
            if figure.section != section {
                section = &figure.section;
                let _ = writeln!(text, "\n{section}");
            }
            let _ = writeln!(text, "  {}", figure.text());
        }
        text
    }

    /// What is wrong, each on a line; `None`: nothing.
    pub(crate) fn complaint(&self) -> Option<String> {
        let failed = self.failed.iter().map(|name| format!("the benchmark {name} failed"));
        let over = self.figures.iter().filter(|figure| figure.is_over());
        let over =
            over.map(|figure| format!("over its limit: {}: {}", figure.section, figure.text()));
        let all: Vec<String> = failed.chain(over).collect();
        (!all.is_empty()).then(|| all.join("\n"))
    }
}

/// The figure of a name.
pub(crate) fn find<'f>(figures: &'f [Figure], section: &str, name: &str) -> Option<&'f Figure> {
    figures.iter().find(|figure| figure.section == section && figure.name == name)
}

/// The figures of a series, which are called `WHAT, N THINGS`, each with its N.
pub(crate) fn series<'f>(
    figures: &'f [Figure],
    section: &str,
    what: &str,
) -> Vec<(f64, &'f Figure)> {
    let numbered = |figure: &'f Figure| {
        let behind = figure.name.strip_prefix(what)?.strip_prefix(", ")?;
        let (number, _) = behind.split_once(' ')?;
        Some((number.parse().ok()?, figure))
    };
    figures.iter().filter(|figure| figure.section == section).filter_map(numbered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str, value: f64, limit: Option<f64>) -> Figure {
        let [section, unit] = ["attach", "ms"].map(str::to_owned);
        Figure { section, name: name.to_owned(), unit, value, spread: None, limit }
    }

    fn report(figures: Vec<Figure>, failed: &[&str]) -> Report {
        Report {
            version: "1.2.3".to_owned(),
            date: "2026-01-02T03:04:05Z".to_owned(),
            kernel: "6.18".to_owned(),
            processors: 2,
            benchmarks: vec!["attach".to_owned()],
            failed: failed.iter().map(|name| (*name).to_owned()).collect(),
            figures,
        }
    }

    #[test]
    fn lines_are_figures() {
        let lines = "{\"section\":\"hits\",\"name\":\"a\",\"unit\":\"ratio\",\"value\":1.25,\
                     \"spread\":[1.2,1.3],\"limit\":1.3}\n\
                     {\"section\":\"hits\",\"name\":\"b\",\"unit\":\"\",\"value\":3.0,\
                     \"spread\":null,\"limit\":null}\n";
        let figures = Figure::all(lines).expect("they are");
        assert_eq!(figures.len(), 2);
        assert_eq!((figures[0].spread, figures[0].limit), (Some([1.2, 1.3]), Some(1.3)));
        assert_eq!((figures[1].value, figures[1].limit), (3.0, None));
        assert_eq!(Figure::all("").expect("there are none"), []);
    }

    #[test]
    fn what_is_no_number_is_no_figure() {
        // What serde_json makes of NaN.
        let line = "{\"section\":\"a\",\"name\":\"b\",\"unit\":\"\",\"value\":null,\
                    \"spread\":null,\"limit\":null}";
        let error = Figure::all(line).expect_err("it has no value");
        assert!(error.to_string().starts_with("line 1 is no figure"), "{error}");
    }

    #[test]
    fn a_limit_may_be_reached() {
        assert!(!figure("a", 1.3, Some(1.3)).is_over());
        assert!(figure("a", 1.301, Some(1.3)).is_over());
        assert!(!figure("a", 1e9, None).is_over());
    }

    #[test]
    fn a_complaint_names_what_is_wrong() {
        let figures = vec![figure("good", 1.0, Some(2.0)), figure("bad", 3.0, Some(2.0))];
        assert_eq!(report(figures[..1].to_vec(), &[]).complaint(), None);
        let complaint = report(figures, &["hits"]).complaint().expect("there is one");
        assert_eq!(
            complaint,
            "the benchmark hits failed\n\
             over its limit: attach: bad: 3.000 ms [at most 2, OVER]"
        );
    }

    #[test]
    fn text_has_a_part_for_each_section() {
        let mut other = figure("one", 1.5, None);
        other.section = "hits".to_owned();
        other.spread = Some([1.0, 2.0]);
        let text = report(vec![figure("to attach", 2.0, None), other], &[]).text();
        assert_eq!(
            text,
            "sslsess 1.2.3, 2026-01-02T03:04:05Z, Linux 6.18, 2 processors\n\
             benchmarks: attach\n\nattach\n  to attach: 2.000 ms\n\n\
             hits\n  one: 1.500 ms (1.000 to 2.000)\n"
        );
    }

    #[test]
    fn a_series_goes_by_its_numbers() {
        let figures = [
            figure("to attach, 1 library", 5.0, None),
            figure("to attach one by one, 10 libraries", 6.0, None),
            figure("to attach, 10 libraries", 7.0, None),
        ];
        let found: Vec<(f64, f64)> =
            series(&figures, "attach", "to attach").iter().map(|(n, f)| (*n, f.value)).collect();
        assert_eq!(found, [(1.0, 5.0), (10.0, 7.0)]);
        assert!(series(&figures, "scrape", "to attach").is_empty());
    }
}
