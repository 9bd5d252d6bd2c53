//! Pictures of what the benchmarks found.

mod chart;

use std::path::{Path, PathBuf};

use self::chart::{Bar, Curve, Scale, Whose, bars, canvas, curves};
use super::report::{Figure, find, series};

/// What can be drawn, each with its name.
const PLOTS: [(&str, Draw); 4] = [
    ("hits.svg", hits),
    ("handshakes.svg", handshakes),
    ("scrape.svg", scrape),
    ("attach.svg", attach),
];

/// Draws to a file; `None` if figures are missing.
type Draw = fn(&[Figure], &Path) -> Option<anyhow::Result<()>>;

/// Draws all of which there are figures; returns the files.
pub(crate) fn draw(figures: &[Figure], directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut drawn = Vec::new();
    for (name, plot) in PLOTS {
        let path = directory.join(name);
        if let Some(done) = plot(figures, &path) {
            done?;
            drawn.push(path);
        }
    }
    Ok(drawn)
}

/// A hit against the floor, and against what is usually attached.
fn hits(figures: &[Figure], path: &Path) -> Option<anyhow::Result<()>> {
    const OURS: &str = "ours, ";
    let ratio = ": of an empty program there";
    let ratios = figures.iter().filter(|figure| {
        // A limit has what is in a build.
        figure.section == "hits" && figure.name.ends_with(ratio) && figure.limit.is_some()
    });
    let mut ratios: Vec<Bar> = ratios
        .map(|figure| {
            let label = figure.name.trim_start_matches(OURS).trim_end_matches(ratio);
            Bar::of(figure, Whose::Ours, label)
        })
        .collect();
    ratios.sort_by(|one, other| one.value.total_cmp(&other.value));
    let dearest = ratios.last()?.label.clone();
    let of =
        |name: &str, whose, label: &str| Some(Bar::of(find(figures, "hits", name)?, whose, label));
    let costs = [
        of("an empty program, nop", Whose::Empty, "an empty program, on a nop: the floor")?,
        of(&format!("{OURS}{dearest}"), Whose::Ours, &format!("{OURS}at most: {dearest}"))?,
        of(
            "empty programs at a function's entry and return",
            Whose::Empty,
            "empty programs, at a function's entry and return",
        )?,
    ];
    let root = canvas(path, 360);
    let (left, right) = root.split_horizontally(430);
    let drawn = bars(&left, "A hit, times one of an empty program", &ratios, Scale::Linear)
        .and_then(|()| bars(&right, "A hit, in nanoseconds", &costs, Scale::Log))
        .and_then(|()| Ok(root.present()?));
    Some(drawn)
}

/// What probes add to handshakes.
fn handshakes(figures: &[Figure], path: &Path) -> Option<anyhow::Result<()>> {
    let of = |adds: &str, whose| -> Vec<Bar> {
        let ends = format!(": {adds} add");
        let found = figures.iter().filter(|figure| figure.section == "handshakes");
        let found = found.filter_map(|figure| Some((figure.name.strip_suffix(&ends)?, figure)));
        found.map(|(mode, figure)| Bar::of(figure, whose, &format!("{mode}: {adds}"))).collect()
    };
    let births = of("probes of births", Whose::Ours);
    let starts = of("probes of starts", Whose::Ours);
    let floor = of("empty programs there", Whose::Empty);
    if births.is_empty() {
        return None;
    }
    let of_a_mode = births.into_iter().zip(starts).zip(floor);
    let all: Vec<Bar> = of_a_mode.flat_map(|((one, two), three)| [one, two, three]).collect();
    let root = canvas(path, 560);
    let title = "Percent of the processor's time that probes add to a pair of handshakes";
    Some(bars(&root, title, &all, Scale::Linear).and_then(|()| Ok(root.present()?)))
}

/// Scrapes, by the number of contexts.
fn scrape(figures: &[Figure], path: &Path) -> Option<anyhow::Result<()>> {
    let of = |what: &str| Curve::of(what, &series(figures, "scrape", what));
    let times = [of("/metrics")?, of("JSON")?];
    let memory = [of("memory of the agent")?];
    let root = canvas(path, 360);
    let (left, right) = root.split_horizontally(430);
    let drawn = curves(&left, "A scrape, in milliseconds", "contexts", &times)
        .and_then(|()| curves(&right, "The agent, in MiB", "contexts", &memory))
        .and_then(|()| Ok(root.present()?));
    Some(drawn)
}

/// Attaching and removing, by the number of libraries.
fn attach(figures: &[Figure], path: &Path) -> Option<anyhow::Result<()>> {
    let of = |step: &str| {
        let (each, all) = (format!("{step} one by one"), format!("{step} in one step"));
        let each = Curve::of(&each, &series(figures, "attach", &each))?;
        Some([Curve::of(&all, &series(figures, "attach", step))?, each])
    };
    let (attach, remove) = (of("to attach")?, of("to remove")?);
    let root = canvas(path, 360);
    let (left, right) = root.split_horizontally(430);
    let drawn = curves(&left, "To attach, in milliseconds", "libraries", &attach)
        .and_then(|()| curves(&right, "To remove, in milliseconds", "libraries", &remove))
        .and_then(|()| Ok(root.present()?));
    Some(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(section: &str, name: &str, value: f64) -> Figure {
        let [section, name, unit] = [section, name, "ms"].map(str::to_owned);
        Figure { section, name, unit, value, spread: None, limit: Some(value * 2.0) }
    }

    #[test]
    fn what_was_measured_is_drawn() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut figures = Vec::new();
        assert!(draw(&figures, directory.path()).expect("nothing is").is_empty());
        for (what, value) in [("to attach", 10.0), ("to remove", 30.0)] {
            for (count, more) in [(1, "library"), (10, "libraries")] {
                for how in ["", " one by one"] {
                    figures.push(figure("attach", &format!("{what}{how}, {count} {more}"), value));
                }
            }
        }
        let drawn = draw(&figures, directory.path()).expect("it can be written");
        assert_eq!(drawn, [directory.path().join("attach.svg")]);
        let picture = std::fs::read_to_string(&drawn[0]).expect("it is there");
        assert!(picture.trim_end().ends_with("</svg>"));
        for text in ["To attach, in milliseconds", "to remove one by one", "to remove in one step"]
        {
            assert!(picture.contains(text), "{text}");
        }
    }
}
