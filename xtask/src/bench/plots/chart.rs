//! The two kinds of charts: bars, and curves.

use std::{ops::Range, path::Path};

use anyhow::anyhow;
use plotters::{
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, Ranged, ValueFormatter},
    },
    prelude::*,
};

use crate::bench::report::Figure;

const WIDTH: u32 = 860;
const FONT: &str = "sans-serif";
const COLORS: [RGBColor; 2] = [RGBColor(0x1f, 0x77, 0xb4), RGBColor(0xff, 0x7f, 0x0e)];
const LIMIT: RGBColor = RGBColor(0xd6, 0x27, 0x28);

/// What of an axis is free beyond what is drawn.
const ROOM: f64 = 1.15;

/// The same above curves: the legend is there.
const LEGEND: f64 = 30.0;

pub(super) type Area<'p> = DrawingArea<SVGBackend<'p>, Shift>;

/// An empty picture.
pub(super) fn canvas(path: &Path, height: u32) -> Area<'_> {
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    // An SVG is written when it is complete: this cannot fail.
    let _ = area.fill(&WHITE);
    area
}

/// Whose program it is, which is what the colors tell.
#[derive(Clone, Copy)]
pub(super) enum Whose {
    Ours,
    /// One that does nothing.
    Empty,
}

/// One bar, with a label above it.
pub(super) struct Bar {
    whose: Whose,
    pub(super) label: String,
    pub(super) value: f64,
    spread: Option<[f64; 2]>,
    limit: Option<f64>,
}

impl Bar {
    pub(super) fn of(figure: &Figure, whose: Whose, label: &str) -> Self {
        let Figure { value, spread, limit, .. } = *figure;
        Self { whose, label: label.to_owned(), value, spread, limit }
    }

    fn ends(&self) -> impl Iterator<Item = f64> {
        let [first, third] = self.spread.unwrap_or([self.value; 2]);
        [self.value, first, third].into_iter().chain(self.limit)
    }
}

#[derive(Clone, Copy)]
pub(super) enum Scale {
    Linear,
    Log,
}

/// Horizontal bars, the first at the top, with quartiles, and limits as red lines.
pub(super) fn bars(area: &Area<'_>, title: &str, bars: &[Bar], scale: Scale) -> anyhow::Result<()> {
    let ends = || bars.iter().flat_map(Bar::ends);
    let most = ends().fold(0.0, f64::max);
    match scale {
        Scale::Linear => {
            let least = ends().fold(0.0, f64::min);
            bars_along(area, title, bars, least * ROOM..most * ROOM)
        }
        Scale::Log => {
            let least = 10_f64.powf(ends().fold(most, f64::min).log10().floor());
            bars_along(area, title, bars, (least..most * ROOM * ROOM).log_scale())
        }
    }
}

fn bars_along<R>(area: &Area<'_>, title: &str, bars: &[Bar], range: R) -> anyhow::Result<()>
where
    R: AsRangedCoord<Value = f64>,
    R::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16))
        .margin(12)
        .x_label_area_size(28)
        .build_cartesian_2d(range, (bars.len() as f64)..0.0)
        .map_err(undrawn)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(WHITE)
        .x_labels(6)
        .x_label_formatter(&tick)
        .label_style((FONT, 12))
        .draw()
        .map_err(undrawn)?;
    let from = chart.x_range().start.max(0.0);
    for (n, bar) in bars.iter().enumerate() {
        let n = n as f64;
        let (above, below) = (n + 0.42, n + 0.88);
        let middle = f64::midpoint(above, below);
        let color = COLORS[bar.whose as usize].mix(0.75).filled();
        let body = Rectangle::new([(from, above), (bar.value, below)], color);
        chart.plotting_area().draw(&body).map_err(undrawn)?;
        if let Some([first, third]) = bar.spread {
            let whisker = PathElement::new([(first, middle), (third, middle)], BLACK);
            chart.plotting_area().draw(&whisker).map_err(undrawn)?;
        }
        let text = format!("{}: {}", bar.label, number(bar.value));
        let at = (from, n + 0.12);
        chart.plotting_area().draw(&Text::new(text, at, (FONT, 12))).map_err(undrawn)?;
        if let Some(limit) = bar.limit {
            let line =
                PathElement::new([(limit, n + 0.36), (limit, n + 0.94)], LIMIT.stroke_width(2));
            chart.plotting_area().draw(&line).map_err(undrawn)?;
        }
    }
    Ok(())
}

/// Points that are joined, some with a limit.
pub(super) struct Curve {
    label: String,
    points: Vec<(f64, f64)>,
    limits: Vec<(f64, f64)>,
}

impl Curve {
    /// `None` if there are no figures.
    pub(super) fn of(label: &str, figures: &[(f64, &Figure)]) -> Option<Self> {
        let points: Vec<(f64, f64)> =
            figures.iter().map(|(n, figure)| (*n, figure.value)).collect();
        let limit = |(n, figure): &(f64, &Figure)| Some((*n, figure.limit?));
        let limits = figures.iter().filter_map(limit).collect();
        (!points.is_empty()).then(|| Self { label: label.to_owned(), points, limits })
    }
}

/// Curves on two logarithmic axes, with limits as red lines.
pub(super) fn curves(
    area: &Area<'_>,
    title: &str,
    along: &str,
    curves: &[Curve],
) -> anyhow::Result<()> {
    let all = || curves.iter().flat_map(|curve| curve.points.iter().chain(&curve.limits));
    let (x, y) = (around(all().map(|(x, _)| *x), 2.0), around(all().map(|(_, y)| *y), LEGEND));
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(x.log_scale(), y.log_scale())
        .map_err(undrawn)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(along)
        .x_label_formatter(&tick)
        .y_label_formatter(&tick)
        .label_style((FONT, 12))
        .draw()
        .map_err(undrawn)?;
    for (curve, color) in curves.iter().zip(COLORS) {
        let line =
            LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)).point_size(3);
        let legend = move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2));
        chart.draw_series(line).map_err(undrawn)?.label(&curve.label).legend(legend);
        for (n, limit) in &curve.limits {
            let ends = [(n / 1.4, *limit), (n * 1.4, *limit)];
            let line = PathElement::new(ends, LIMIT.stroke_width(2));
            chart.plotting_area().draw(&line).map_err(undrawn)?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font((FONT, 12))
        .background_style(WHITE)
        .draw()
        .map_err(undrawn)
}

/// From the decade below all of these to so many times the largest.
fn around(values: impl Iterator<Item = f64>, room: f64) -> Range<f64> {
    let (least, most) = values
        .fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)));
    10_f64.powf(least.log10().floor())..most * room
}

/// A number at an axis.
fn tick(value: &f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// With three digits that count.
fn number(value: f64) -> String {
    let magnitude = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    let decimals = (2.0 - magnitude).clamp(0.0, 3.0) as usize;
    format!("{value:.decimals$}")
}

/// What plotters says of a failure borrows the picture.
fn undrawn(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_begin_with_a_decade() {
        assert_eq!(around([10.0, 900.0].into_iter(), 4.0), 10.0..3600.0);
        assert_eq!(around([20.0, 0.4].into_iter(), 4.0), 0.1..80.0);
        assert_eq!([0.5, 100_000.0].map(|value| tick(&value)), ["0.5", "100000"]);
    }

    #[test]
    fn numbers_have_three_digits() {
        let numbers = [0.0, 1.256, 15.46, 15_400.0, -0.0312].map(number);
        assert_eq!(numbers, ["0.00", "1.26", "15.5", "15400", "-0.031"]);
    }
}
