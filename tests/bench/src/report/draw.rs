//! Draws plots as SVG. Fonts are the reader's own: text is placed by its anchor, so that no font has to be known here.

use std::fmt::Display;

use anyhow::{Result, anyhow};
use plotters::{
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, ValueFormatter},
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    plots::{Kind, Plot},
    table::number,
};
use crate::statistics::Summary;

/// Width and height in pixels.
const SIZE: (u32, u32) = (820, 400);

/// Height of the title and the legend, in pixels.
const HEAD: u32 = 74;

/// Width of one entry of the legend, in pixels.
const ENTRY: i32 = 128;

/// Entries of the legend in one line.
const ENTRIES: usize = 6;

/// Share of a place that its bars take together.
const BARS: f64 = 0.78;

/// Room above the highest value, as a share of it.
const HEADROOM: f64 = 1.12;

/// Colours of systems that are always there, so that one looks the same in every plot.
const KNOWN: [(&str, RGBColor); 12] = [
    ("direct", RGBColor(130, 130, 130)),
    ("bare-tcp", RGBColor(175, 175, 175)),
    ("bare-tls", RGBColor(90, 90, 90)),
    ("envoy-1", RGBColor(222, 120, 30)),
    ("envoy-2", RGBColor(240, 180, 120)),
    ("envoy-hop", RGBColor(222, 120, 30)),
    ("ebb", RGBColor(30, 100, 190)),
    ("ebb-same-node", RGBColor(40, 160, 200)),
    ("ebb-waypoint", RGBColor(90, 60, 170)),
    ("ebb-before", RGBColor(140, 185, 235)),
    ("haproxy", RGBColor(180, 60, 70)),
    ("nginx", RGBColor(70, 150, 80)),
];

/// Colours of all others, in turn.
const OTHERS: [RGBColor; 4] =
    [RGBColor(120, 90, 170), RGBColor(30, 150, 150), RGBColor(170, 140, 30), RGBColor(90, 90, 60)];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The plot as the text of an SVG file.
///
/// # Errors
/// The drawing library refuses something.
pub(super) fn svg(plot: &Plot) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        ours(root.fill(&WHITE))?;
        let (head, body) = root.split_vertically(HEAD);
        title(&head, plot)?;
        let (low, high) = bounds(plot);
        match plot.kind {
            Kind::LogLines => chart(&body, plot, (low..high).log_scale())?,
            _ => chart(&body, plot, 0.0..high)?,
        }
        ours(root.present())?;
    }
    Ok(text)
}

/// The library's errors borrow from what it draws on.
fn ours<T, E: Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("{error}"))
}

/// From where to where the values go.
fn bounds(plot: &Plot) -> (f64, f64) {
    let summaries = || plot.series.iter().flat_map(|series| series.values.iter().flatten());
    let high = summaries().map(|summary| summary.upper.max(summary.median)).fold(0.0, f64::max);
    let low = summaries().map(|summary| summary.lower).filter(|low| *low > 0.0).fold(high, f64::min);
    let high = if high > 0.0 { high * HEADROOM } else { 1.0 };
    (low.min(high / 2.0) / HEADROOM, high)
}

fn title(area: &Area<'_>, plot: &Plot) -> Result<()> {
    let heading = format!("{} ({})", plot.title, plot.unit);
    ours(area.draw(&Text::new(heading, (16, 8), ("sans-serif", 17).into_font())))?;
    for (number, series) in plot.series.iter().enumerate() {
        let (line, entry) = ((number / ENTRIES) as i32, (number % ENTRIES) as i32);
        let (x, y) = (16 + entry * ENTRY, 36 + line * 18);
        let colour = colour(&series.name, number);
        ours(area.draw(&Rectangle::new([(x, y), (x + 11, y + 11)], colour.filled())))?;
        ours(area.draw(&Text::new(series.name.clone(), (x + 16, y), ("sans-serif", 13).into_font())))?;
    }
    Ok(())
}

fn colour(name: &str, number: usize) -> RGBColor {
    let known = KNOWN.iter().find(|(known, _)| *known == name);
    known.map_or(OTHERS[number % OTHERS.len()], |(_, colour)| *colour)
}

/// The axes, and all that is between them. Places are at whole numbers, each with room of one half on both sides.
fn chart<Y>(area: &Area<'_>, plot: &Plot, scale: Y) -> Result<()>
where
    Y: AsRangedCoord<Value = f64, CoordDescType: ValueFormatter<f64>>,
{
    let right = plot.places.len() as f64 - 0.5;
    let mut builder = ChartBuilder::on(area);
    builder.margin(8).x_label_area_size(30).y_label_area_size(64);
    let mut chart = ours(builder.build_cartesian_2d(-0.5..right, scale))?;
    let labels = |value: &f64| number(*value);
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().x_labels(0).y_label_formatter(&labels).light_line_style(WHITE);
    ours(mesh.label_style(("sans-serif", 12)).draw())?;
    let bottom = area.dim_in_pixel().1 as i32 - 30;
    let centred = ("sans-serif", 13).into_font().into_text_style(area).pos(Pos::new(HPos::Center, VPos::Top));
    let middle = chart.as_coord_spec().get_y_range().end;
    for (place, name) in plot.places.iter().enumerate() {
        let (x, _) = chart.backend_coord(&(place as f64, middle));
        let (left, _) = area.get_base_pixel();
        ours(area.draw(&Text::new(name.clone(), (x - left, bottom), centred.clone())))?;
    }
    let count = plot.series.len() as f64;
    for (index, series) in plot.series.iter().enumerate() {
        let (colour, width) = (colour(&series.name, index), BARS / count);
        let bars = plot.kind == Kind::Bars;
        let centre = |place: usize| {
            let offset = if bars { (index as f64 + 0.5) * width - BARS / 2.0 } else { 0.0 };
            place as f64 + offset
        };
        let points = || {
            let values = series.values.iter().enumerate();
            values.filter_map(|(place, value)| Some((centre(place), (*value)?)))
        };
        if bars {
            let bar = |(x, summary): (f64, Summary)| {
                let half = width * 0.45;
                Rectangle::new([(x - half, 0.0), (x + half, summary.median)], colour.filled())
            };
            ours(chart.draw_series(points().map(bar)))?;
            let above = Pos::new(HPos::Center, VPos::Bottom);
            let figures = ("sans-serif", 12).into_font().into_text_style(area).pos(above);
            let figure = |(x, summary): (f64, Summary)| {
                let top = summary.median.max(if summary.count > 1 { summary.upper } else { 0.0 });
                Text::new(number(summary.median), (x, top), figures.clone())
            };
            ours(chart.draw_series(points().map(figure)))?;
        } else {
            let line: Vec<(f64, f64)> = points().map(|(x, summary)| (x, summary.median)).collect();
            ours(chart.draw_series([PathElement::new(line, colour.stroke_width(2))]))?;
            let dot = |(x, summary): (f64, Summary)| Circle::new((x, summary.median), 3, colour.filled());
            ours(chart.draw_series(points().map(dot)))?;
        }
        let spread = |(x, summary): (f64, Summary)| {
            let ink = if bars { BLACK } else { colour };
            PathElement::new(vec![(x, summary.lower), (x, summary.upper)], ink.stroke_width(1))
        };
        ours(chart.draw_series(points().filter(|(_, summary)| summary.count > 1).map(spread)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::plots::Series;

    fn plot(kind: Kind, values: &[&[f64]]) -> Plot {
        let summary = |value: &f64| Summary::of([*value, value * 1.1, value * 0.9]);
        let series = values
            .iter()
            .zip(["direct", "ebb", "other"])
            .map(|(values, name)| Series { name: name.into(), values: values.iter().map(summary).collect() });
        Plot {
            name: "x".into(),
            title: "Latency of <x>".into(),
            unit: "us",
            kind,
            places: vec!["p50".into(), "p99".into()],
            series: series.collect(),
        }
    }

    #[test]
    fn every_kind_names_its_systems_and_places() {
        for kind in [Kind::Bars, Kind::Lines, Kind::LogLines] {
            let text = svg(&plot(kind, &[&[10.0, 20.0], &[15.0, 4000.0], &[1.0, 2.0]])).unwrap();
            assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
            for word in ["direct", "ebb", "other", "p50", "p99", "Latency of &lt;x&gt; (us)"] {
                assert!(text.contains(word), "{kind:?}: {word}");
            }
        }
    }

    #[test]
    fn values_of_nothing_can_be_drawn() {
        for kind in [Kind::Bars, Kind::Lines, Kind::LogLines] {
            assert!(svg(&plot(kind, &[&[0.0, 0.0]])).is_ok(), "{kind:?}");
        }
    }

    #[test]
    fn a_system_looks_the_same_wherever_it_stands() {
        assert_eq!(colour("ebb", 0), colour("ebb", 5));
        assert_ne!(colour("mine", 0), colour("yours", 1));
    }
}
