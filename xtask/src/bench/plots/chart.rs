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

pub(super) type Area<'p> = DrawingArea<SVGBackend<'p>, Shift>;

/// An empty picture.
pub(super) fn canvas(path: &Path, height: u32) -> Area<'_> {
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    // An SVG is written when it is complete: this cannot fail.
    let _ = area.fill(&WHITE);
    area
}

/// One bar, with a label above it.
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    spread: Option<[f64; 2]>,
    limit: Option<f64>,
}

impl Bar {
    pub(super) fn of(figure: &Figure, label: &str) -> Self {
        let Figure { value, spread, limit, .. } = *figure;
        Self { label: label.to_owned(), value, spread, limit }
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
        .label_style((FONT, 12))
        .draw()
        .map_err(undrawn)?;
    let from = chart.x_range().start.max(0.0);
    for (n, bar) in bars.iter().enumerate() {
        let n = n as f64;
        let (above, below) = (n + 0.42, n + 0.88);
        let middle = f64::midpoint(above, below);
        let color = COLORS[if bar.limit.is_some() { 0 } else { 1 }].mix(0.75).filled();
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
    let (x, y) = (decades(all().map(|(x, _)| *x)), decades(all().map(|(_, y)| *y)));
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

/// Whole decades around all of these.
fn decades(values: impl Iterator<Item = f64>) -> Range<f64> {
    let logs = values.map(f64::log10);
    let (least, most) =
        logs.fold((f64::MAX, f64::MIN), |(least, most), log| (least.min(log), most.max(log)));
    10_f64.powf(least.floor())..10_f64.powf((most + 0.15).ceil())
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
    fn axes_have_whole_decades() {
        assert_eq!(decades([10.0, 900.0].into_iter()), 10.0..10_000.0);
        assert_eq!(decades([0.4, 20.0].into_iter()), 0.1..100.0);
    }

    #[test]
    fn numbers_have_three_digits() {
        let numbers = [0.0, 1.256, 15.46, 15_400.0, -0.0312].map(number);
        assert_eq!(numbers, ["0.00", "1.26", "15.5", "15400", "-0.031"]);
    }
}
