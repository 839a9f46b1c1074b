//! Owns the list of figures: what is measured, in which unit, and what Ebb must reach.
//!
//! Knows nothing of how a figure is measured. All "CPU" is that of the proxies unless the figure says total, because the
//! client and the server are the same in every system; the total is shown without a target, since veth delivers in the
//! sender's context and bills some of the receiver's kernel work to the sender.

use serde::Serialize;

use crate::{
    layer::Layer,
    scenarios::Scenario::{self, *},
};

/// What Ebb must reach in one figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "bound")]
pub(crate) enum Target {
    /// At least this many times the yardstick, within a round.
    RatioAtLeast(f64),
    /// At most this many times the yardstick, within a round.
    RatioAtMost(f64),
    /// At least this many times no mesh at all, within a round.
    OfDirectAtLeast(f64),
    /// What is added over no mesh at all, at most this many times what the yardstick adds.
    AddedRatioAtMost(f64),
    /// At most this, in the figure's own unit.
    AtMost(f64),
    /// Shown for the reader, not judged.
    Shown,
}

use Target::{AddedRatioAtMost, AtMost, OfDirectAtLeast, RatioAtLeast, RatioAtMost};

/// Which way is better; the better of two yardsticks is the one to beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Better {
    /// Such as throughput.
    Higher,
    /// Such as CPU time.
    Lower,
}

/// One thing that is measured in a scenario.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// Stable name, used in the JSON file: the scenario's, a dot, and the part's.
    pub(crate) id: String,
    /// The scenario that yields it.
    pub(crate) scenario: Scenario,
    /// What it is within its scenario: the head of a column.
    pub(crate) what: &'static str,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// Which way is better.
    pub(crate) better: Better,
    /// What Ebb must reach.
    pub(crate) target: Target,
}

impl Figure {
    /// What it is, for the reader who sees it alone.
    #[must_use]
    pub(crate) fn label(&self) -> String {
        format!("{}: {}", self.scenario.title(), self.what)
    }
}

/// The figures of one scenario while they are listed.
struct List {
    scenario: Scenario,
    figures: Vec<Figure>,
}

impl List {
    fn add(&mut self, part: &str, what: &'static str, unit: &'static str) -> &mut Figure {
        let id = format!("{}.{part}", self.scenario);
        let (better, target) = (Better::Lower, Target::Shown);
        self.figures.push(Figure { id, scenario: self.scenario, what, unit, better, target });
        let last = self.figures.len() - 1;
        &mut self.figures[last]
    }

    fn add_rate(&mut self, part: &str, what: &'static str, unit: &'static str) -> &mut Figure {
        let figure = self.add(part, what, unit);
        figure.better = Better::Higher;
        figure
    }

    /// Operations: their rate unless it was given, how long each took, and CPU.
    fn add_operations(&mut self, layer: Layer, rate: Option<&'static str>, unit: &'static str) {
        if let Some(rate) = rate {
            self.add_rate("rate", "rate", rate);
        }
        for (part, what) in [("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p999", "p99.9")] {
            self.add(part, what, "us");
        }
        self.add_cpu(layer, unit);
    }

    /// CPU of the proxies, of the one that routes where one does, and of all with client and server.
    fn add_cpu(&mut self, layer: Layer, unit: &'static str) {
        self.add("cpu", "CPU", unit);
        if matches!(layer, Layer::L7 | Layer::Hop) {
            self.add("cpu_router", "CPU of the router", unit);
        }
        self.add("cpu_total", "total CPU", unit);
    }

    fn must(&mut self, part: &str, target: Target) {
        let id = format!("{}.{part}", self.scenario);
        for figure in self.figures.iter_mut().filter(|figure| figure.id == id) {
            figure.target = target;
        }
    }
}

/// What `scenario` yields in `layer`, in the order of the report.
#[must_use]
pub(crate) fn of(layer: Layer, scenario: Scenario) -> Vec<Figure> {
    let mut list = List { scenario, figures: Vec::new() };
    match scenario {
        Bulk(_) => {
            list.add_rate("throughput", "throughput", "Gbit/s");
            list.add_cpu(layer, "s/GB");
        }
        Http(_) => list.add_operations(layer, Some("req/s"), "us/req"),
        Paced(_) => list.add_operations(layer, None, "us/req"),
        PingPong => list.add_operations(layer, None, "us"),
        Connect => list.add_operations(layer, Some("conn/s"), "us"),
        Cold => {
            list.add("first", "first answer after", "ms");
            list.add("second", "the next one after", "ms");
            list.add("cpu", "CPU of the first", "ms");
        }
        _ => of_state(&mut list),
    }
    set_targets(layer, &mut list);
    list.figures
}

/// Figures of what a system holds, and how long it takes to follow.
fn of_state(list: &mut List) {
    match list.scenario {
        Memory => {
            list.add("rss", "resident (RSS)", "MB");
            list.add("pss", "shared pages shared out (PSS)", "MB");
            list.add("per_1000", "for 1,000 idle connections (RSS)", "MB");
            list.add("per_1000_pss", "for 1,000 idle connections (PSS)", "MB");
        }
        Idle => {
            list.add("router", "the router (RSS)", "MB");
            list.add("rss", "every proxy (RSS)", "MB");
            list.add("pss", "every proxy (PSS)", "MB");
        }
        Pods(_) => {
            list.add("rss", "resident (RSS)", "MB");
            list.add("pss", "shared pages shared out (PSS)", "MB");
            list.add("processes", "proxies", "");
            list.add("cpu", "CPU of an idle second", "ms");
        }
        Workloads(_) => {
            list.add("seconds", "ready after", "s");
            list.add("cpu", "CPU until then", "s");
            list.add("peak", "peak resident", "MB");
            list.add("rss", "resident (RSS)", "MB");
            list.add("pss", "shared pages shared out (PSS)", "MB");
        }
        Policy => {
            list.add("deny", "a refusal in force after", "ms");
            list.add("allow", "its removal after", "ms");
        }
        Routes => {
            list.add("router", "the router (RSS)", "MB");
        }
        Change => {
            list.add("in_force", "in force after", "ms");
            list.add("cpu", "CPU of the proxies", "ms");
        }
        Matching => of_matching(list),
        // Those of traffic are listed by the caller.
        _ => {}
    }
}

fn of_matching(list: &mut List) {
    for (part, what) in [
        ("exact", "exact paths"),
        ("prefix", "prefixes"),
        ("header", "a prefix and headers"),
        ("method", "methods and prefixes"),
        ("regex", "regexes with a start"),
        ("header_prefix", "prefixes of a header"),
    ] {
        list.add(part, what, "us").target = AtMost(2.0);
    }
    list.add("bare_regex", "regexes without a start", "us");
    list.add("change", "one change among 10,000, the tables alone", "ms");
}

/// What Ebb must reach.
fn set_targets(layer: Layer, list: &mut List) {
    match (layer, list.scenario) {
        (Layer::L4, Bulk(_)) => {
            list.must("throughput", RatioAtLeast(1.2));
            list.must("cpu", RatioAtMost(0.82));
        }
        (Layer::L4, Http(_)) => list.must("cpu", RatioAtMost(0.55)),
        (Layer::L4, PingPong) => list.must("p50", AddedRatioAtMost(0.65)),
        (Layer::L4, Memory) => {
            list.must("rss", AtMost(10.0));
            // 8 KiB each.
            list.must("per_1000", AtMost(8.2));
        }
        (Layer::L4, Connect) => list.must("cpu", RatioAtMost(0.09)),
        (Layer::L7, Http(16)) => list.must("cpu", RatioAtMost(0.35)),
        (Layer::L7, Paced(1000)) => {
            list.must("p50", AddedRatioAtMost(0.5));
            list.must("p99", AddedRatioAtMost(0.5));
        }
        (Layer::L7, Idle) => list.must("router", AtMost(20.0)),
        (Layer::L7, Routes) => list.must("router", RatioAtMost(0.3)),
        (Layer::L7, Change) => list.must("in_force", AtMost(50.0)),
        (Layer::SameNode | Layer::Passthrough, Bulk(_)) => {
            list.must("throughput", OfDirectAtLeast(0.8));
            list.must("cpu", AtMost(0.2));
        }
        (Layer::Scale, Pods(50)) => list.must("rss", RatioAtMost(0.1)),
        (Layer::Scale, Workloads(10_000)) => {
            list.must("seconds", AtMost(0.3));
            list.must("peak", AtMost(40.0));
        }
        (Layer::Scale, Workloads(50_000)) => {
            list.must("seconds", AtMost(1.2));
            list.must("peak", AtMost(90.0));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer;

    #[test]
    fn every_bound_points_the_way_that_is_better() {
        for figure in layer::ALL.iter().flat_map(|layer| layer.figures()) {
            let higher = matches!(figure.target, RatioAtLeast(_) | OfDirectAtLeast(_));
            let lower = matches!(figure.target, RatioAtMost(_) | AddedRatioAtMost(_) | AtMost(_));
            assert!(!(higher && figure.better == Better::Lower), "{}", figure.id);
            assert!(!(lower && figure.better == Better::Higher), "{}", figure.id);
        }
    }

    #[test]
    fn a_target_that_is_set_is_one_of_a_figure_that_is_measured() {
        let target = |layer: Layer, id: &str| {
            layer.figures().into_iter().find(|figure| figure.id == id).map(|figure| figure.target)
        };
        assert_eq!(target(Layer::L4, "connect.cpu"), Some(RatioAtMost(0.09)));
        assert_eq!(target(Layer::L7, "paced-1000.p99"), Some(AddedRatioAtMost(0.5)));
        assert_eq!(target(Layer::L7, "paced-500.p99"), Some(Target::Shown));
        assert_eq!(target(Layer::Scale, "workloads-10000.peak"), Some(AtMost(40.0)));
    }
}
