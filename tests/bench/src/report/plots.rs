//! Decides which plots a comparison has, and what is in them. Pure; how they are drawn is `draw`'s affair.

use crate::{layer::Layer, results::Results, scenarios::Scenario, statistics::Summary};

/// How a plot looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A bar for each system, from zero.
    Bars,
    /// A line for each system over places that follow each other, from zero.
    Lines,
    /// The same on a logarithmic scale, for values that are apart by powers of ten.
    LogLines,
}

/// One plot.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plot {
    /// Its file's name, after the comparison's and before the ending.
    pub(super) name: String,
    /// What it shows.
    pub(super) title: String,
    /// The unit of its values.
    pub(super) unit: &'static str,
    /// How it looks.
    pub(super) kind: Kind,
    /// What stands under the axis, from left to right.
    pub(super) places: Vec<String>,
    /// The systems.
    pub(super) series: Vec<Series>,
}

/// A system in a plot.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    /// The system's name.
    pub(super) name: String,
    /// A value for each place, where there is one.
    pub(super) values: Vec<Option<Summary>>,
}

/// A plot before the values are looked up: what stands under the axis, and the figure there.
struct Sketch {
    name: String,
    title: String,
    unit: &'static str,
    kind: Kind,
    points: Vec<(String, String)>,
}

/// The percentiles, as they are called and as their figures are.
const PERCENTILES: [(&str, &str); 4] = [("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99.9", "p999")];

/// The plots of `results`, without those that would be empty.
pub(super) fn of(results: &Results) -> Vec<Plot> {
    sketches(results.layer).into_iter().filter_map(|sketch| fill(results, sketch)).collect()
}

fn fill(results: &Results, sketch: Sketch) -> Option<Plot> {
    let Sketch { name, title, unit, kind, mut points } = sketch;
    let measured =
        |id: &str| results.systems.iter().any(|system| results.summary_of(&system.name, id).is_some());
    points.retain(|(_, id)| measured(id));
    let series = results.systems.iter().map(|system| Series {
        name: system.name.clone(),
        values: points.iter().map(|(_, id)| results.summary_of(&system.name, id)).collect(),
    });
    let series: Vec<Series> = series.filter(|one| one.values.iter().any(Option::is_some)).collect();
    let places: Vec<String> = points.into_iter().map(|(place, _)| place).collect();
    // One place is a bar, not a line; a value of nothing has no place on a logarithmic scale.
    let kind = if places.len() == 1 { Kind::Bars } else { kind };
    (!series.is_empty()).then_some(Plot { name, title, unit, kind, places, series })
}

fn sketches(layer: Layer) -> Vec<Sketch> {
    let mut list = Vec::new();
    let sizes = |wanted: fn(&Scenario) -> Option<String>| -> Vec<(String, Scenario)> {
        layer.scenarios().iter().filter_map(|it| Some((wanted(it)?, *it))).collect()
    };
    let http = sizes(|it| match it {
        Scenario::Http(1) => Some("1 connection".into()),
        Scenario::Http(count) => Some(format!("{count} connections")),
        _ => None,
    });
    let bulk = sizes(|it| match it {
        Scenario::Bulk(1) => Some("1 stream".into()),
        Scenario::Bulk(count) => Some(format!("{count} streams")),
        _ => None,
    });
    let pods = sizes(|it| match it {
        Scenario::Pods(1) => Some("1 pod".into()),
        Scenario::Pods(count) => Some(format!("{count} pods")),
        _ => None,
    });
    let workloads = sizes(|it| match it {
        Scenario::Workloads(_) => Some(it.title()),
        _ => None,
    });
    let mut over = |name: &str, title: &str, unit, kind, places: &[(String, Scenario)], part: &str| {
        let points: Vec<_> =
            places.iter().map(|(place, it)| (place.clone(), format!("{it}.{part}"))).collect();
        if !points.is_empty() {
            list.push(Sketch { name: name.into(), title: title.into(), unit, kind, points });
        }
    };
    over("bulk", "Bulk throughput", "Gbit/s", Kind::Bars, &bulk, "throughput");
    over("bulk-cpu", "Bulk: CPU of the proxies", "s/GB", Kind::Bars, &bulk, "cpu");
    over("http-cpu", "HTTP: CPU of the proxies per request", "us", Kind::Bars, &http, "cpu");
    over(
        "http-router",
        "HTTP: CPU of the proxy that routes, per request",
        "us",
        Kind::Bars,
        &http,
        "cpu_router",
    );
    over("http-rate", "HTTP: requests per second, closed loop", "req/s", Kind::Bars, &http, "rate");
    over("pods-rss", "All proxies of a node: resident (RSS)", "MB", Kind::Bars, &pods, "rss");
    over("pods-pss", "All proxies of a node: shared pages shared out (PSS)", "MB", Kind::Bars, &pods, "pss");
    over("workloads-ready", "Ready in a mesh of so many workloads", "s", Kind::Lines, &workloads, "seconds");
    over("workloads-peak", "Peak resident until then", "MB", Kind::Lines, &workloads, "peak");
    for scenario in layer.scenarios() {
        list.extend(of_one(*scenario));
    }
    list
}

/// The plot of a scenario whose parts are its places.
fn of_one(scenario: Scenario) -> Option<Sketch> {
    let (title, unit, kind, parts): (String, _, _, Vec<(&str, &str)>) = match scenario {
        Scenario::Paced(rate) => {
            let title = format!("Latency at {rate} requests per second, from when each was due");
            (title, "us", Kind::LogLines, PERCENTILES.to_vec())
        }
        Scenario::PingPong => ("One byte there and back".into(), "us", Kind::LogLines, PERCENTILES.to_vec()),
        Scenario::Connect => {
            ("New connection: CPU of the proxies".into(), "us", Kind::Bars, vec![("per connection", "cpu")])
        }
        Scenario::Cold => (
            "First connection of a client with a new identity".into(),
            "ms",
            Kind::Bars,
            vec![("first", "first"), ("second", "second")],
        ),
        Scenario::Memory => (
            "Memory of the proxies".into(),
            "MB",
            Kind::Bars,
            vec![("idle, RSS", "rss"), ("idle, PSS", "pss"), ("for 1,000 connections", "per_1000")],
        ),
        Scenario::Idle => (
            "Memory of the proxies".into(),
            "MB",
            Kind::Bars,
            vec![("all, RSS", "rss"), ("all, PSS", "pss"), ("the router, RSS", "router")],
        ),
        _ => return None,
    };
    let point = |(place, part): (&str, &str)| (place.to_owned(), format!("{scenario}.{part}"));
    Some(Sketch {
        name: scenario.to_string(),
        title,
        unit,
        kind,
        points: parts.into_iter().map(point).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        layer,
        results::{Contestant, sample},
    };

    #[test]
    fn every_plot_shows_figures_that_there_are_under_a_name_of_its_own() {
        for layer in layer::ALL {
            let ids: BTreeSet<String> = layer.figures().into_iter().map(|figure| figure.id).collect();
            let mut names = BTreeSet::new();
            for sketch in sketches(layer) {
                assert!(names.insert(sketch.name.clone()), "{} twice", sketch.name);
                for (_, id) in sketch.points {
                    // Only where requests are routed is there a router.
                    assert!(ids.contains(&id) || id.ends_with(".cpu_router"), "{layer}: {id}");
                }
            }
        }
    }

    #[test]
    fn what_was_not_measured_has_no_plot_and_no_place_in_one() {
        let mut results = Results { layer: Layer::L4, ..Results::default() };
        assert_eq!(of(&results), []);
        for name in ["direct", "ebb"] {
            results.systems.push(Contestant { name: name.into(), ..Contestant::default() });
        }
        for connections in [1, 16] {
            results.record("ebb", Scenario::Http(connections), 0, &sample([("cpu", 50.0)]));
        }
        let plots = of(&results);
        assert_eq!(plots.len(), 1);
        assert_eq!(plots[0].name, "http-cpu");
        assert_eq!(plots[0].places, ["1 connection", "16 connections"]);
        assert_eq!(plots[0].series.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["ebb"]);
    }

    #[test]
    fn a_single_place_is_a_bar() {
        let mut results = Results { layer: Layer::Scale, ..Results::default() };
        results.systems.push(Contestant { name: "ebb".into(), ..Contestant::default() });
        results.record("ebb", Scenario::Workloads(1000), 0, &sample([("seconds", 0.2)]));
        assert_eq!(of(&results)[0].kind, Kind::Bars);
    }
}
