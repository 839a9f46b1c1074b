//! Decides, for one figure, whether Ebb reached its target: a pure function of the results.
//!
//! The yardstick is the better of the systems marked so, chosen anew for each figure by its median; the ratio is then taken
//! round by round against that one system. Limits of the machine are told beside what was missed, and judged by nobody.

use serde::Serialize;

use crate::{
    figures::{Better, Figure, Target},
    layer::EBB,
    results::{Contestant, Results},
    statistics::{self, Summary},
    systems::BEFORE,
};

/// The system without any mesh, over which latency is added.
pub(crate) const FLOOR: &str = "direct";

/// Whether there is anything to judge.
pub(crate) fn has_subject(results: &Results) -> bool {
    [results.layer.subject(), EBB].iter().any(|name| results.samples.contains_key(*name))
}

/// How a figure ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// The target was reached.
    Met,
    /// It was not.
    Missed,
    /// Ebb, the yardstick or the floor was not measured.
    Unmeasured,
    /// There is no target.
    Shown,
}

/// What came out of one figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Judgement {
    /// The system that Ebb was measured against.
    pub(crate) yardstick: Option<String>,
    /// Ebb's ratio to it within rounds.
    pub(crate) ratio: Option<Summary>,
    /// Whether that, or the value itself, is good enough.
    pub(crate) verdict: Verdict,
    /// What the machine itself allows, where the target was missed.
    pub(crate) limits: Vec<Limit>,
}

/// What a limit of the machine reached where Ebb missed its target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Limit {
    /// The system that is the limit.
    pub(crate) system: String,
    /// In the terms of the target: the ratio to Ebb's yardstick within the same rounds, or the value itself.
    pub(crate) reached: Summary,
}

/// Judges `figure`.
#[must_use]
pub(crate) fn judge(results: &Results, figure: &Figure) -> Judgement {
    let (subject, yardstick) = (results.layer.subject(), yardstick(results, figure));
    let ratio = yardstick.as_deref().and_then(|name| ratio(results, figure, subject, name));
    let median = ratio.map(|summary| summary.median);
    let verdict = match figure.target {
        Target::Shown => Verdict::Shown,
        Target::RatioAtLeast(bound) | Target::OfDirectAtLeast(bound) => {
            reached(median, |ratio| ratio >= bound)
        }
        Target::RatioAtMost(bound) | Target::AddedRatioAtMost(bound) => {
            reached(median, |ratio| ratio <= bound)
        }
        Target::AtMost(bound) => {
            reached(results.summary(subject, figure).map(|summary| summary.median), |value| value <= bound)
        }
    };
    let limits = match verdict {
        Verdict::Missed => limits(results, figure, yardstick.as_deref()),
        _ => Vec::new(),
    };
    Judgement { yardstick, ratio, verdict, limits }
}

/// What each limit of the machine reached in the terms of the target, as far as it was measured.
fn limits(results: &Results, figure: &Figure, yardstick: Option<&str>) -> Vec<Limit> {
    let reached = |name: &str| match figure.target {
        Target::AtMost(_) => results.summary(name, figure),
        _ => ratio(results, figure, name, yardstick?),
    };
    let systems = results.systems.iter().filter(|system| system.limit);
    let limit =
        |system: &Contestant| Some(Limit { system: system.name.clone(), reached: reached(&system.name)? });
    systems.filter_map(limit).collect()
}

/// Ebb's ratio to its earlier build within rounds, where both were measured.
pub(crate) fn against_before(results: &Results, figure: &Figure) -> Option<Summary> {
    ratio(results, figure, EBB, BEFORE)
}

fn reached(value: Option<f64>, good: impl FnOnce(f64) -> bool) -> Verdict {
    match value {
        None => Verdict::Unmeasured,
        Some(value) if good(value) => Verdict::Met,
        Some(_) => Verdict::Missed,
    }
}

/// What the target is about: no mesh at all, or the better of the yardsticks that were measured.
fn yardstick(results: &Results, figure: &Figure) -> Option<String> {
    if matches!(figure.target, Target::OfDirectAtLeast(_)) {
        return results.summary(FLOOR, figure).map(|_| FLOOR.to_owned());
    }
    let medians = results
        .systems
        .iter()
        .filter(|system| system.yardstick)
        .filter_map(|system| Some((&system.name, results.summary(&system.name, figure)?.median)));
    let best = match figure.better {
        Better::Higher => medians.max_by(|left, right| left.1.total_cmp(&right.1)),
        Better::Lower => medians.min_by(|left, right| left.1.total_cmp(&right.1)),
    };
    best.map(|(name, _)| name.clone())
}

/// The ratio of `system` to `baseline` within rounds, of the values themselves.
pub(crate) fn plain_ratio(results: &Results, id: &str, system: &str, baseline: &str) -> Option<Summary> {
    Summary::of(statistics::ratios(results.series_of(system, id), results.series_of(baseline, id)))
}

/// The ratio of `system` to `yardstick` within rounds, of what is added over the floor where the target says so.
fn ratio(results: &Results, figure: &Figure, system: &str, yardstick: &str) -> Option<Summary> {
    let mut subject = results.series(system, figure).to_vec();
    let mut base = results.series(yardstick, figure).to_vec();
    if matches!(figure.target, Target::AddedRatioAtMost(_)) {
        let floor = results.series(FLOOR, figure);
        subject = statistics::added(&subject, floor);
        base = statistics::added(&base, floor);
        // Whoever seems to be faster than no mesh was measured on another machine than the floor, for some moments.
        for one in subject.iter_mut().chain(&mut base) {
            *one = one.filter(|added| *added > 0.0);
        }
    }
    Summary::of(statistics::ratios(&subject, &base))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layer::{self, Layer},
        results::tests as made,
    };

    fn figure(id: &str) -> Figure {
        Layer::L4.figures().into_iter().find(|figure| figure.id == id).unwrap()
    }

    fn results(figure: &Figure, systems: &[(&str, &[f64])]) -> Results {
        made::results(Layer::L4, figure, systems)
    }

    #[test]
    fn the_better_envoy_is_the_one_to_beat() {
        let cpu = &figure("http-16.cpu");
        let judged =
            judge(&results(cpu, &[("envoy-1", &[80.0]), ("envoy-2", &[100.0]), ("ebb", &[44.0])]), cpu);
        assert_eq!(judged.yardstick.as_deref(), Some("envoy-1"));
        assert_eq!(judged.ratio.map(|ratio| ratio.median), Some(0.55));
        assert_eq!(judged.verdict, Verdict::Met, "the bound itself is good enough");

        let rate = &figure("bulk-1.throughput");
        let judged =
            judge(&results(rate, &[("envoy-1", &[5.0]), ("envoy-2", &[6.0]), ("ebb", &[5.5])]), rate);
        assert_eq!(judged.yardstick.as_deref(), Some("envoy-2"));
        assert_eq!(judged.verdict, Verdict::Missed);
    }

    #[test]
    fn latency_is_judged_by_what_is_added_over_no_mesh() {
        let p50 = &figure("ping.p50");
        let systems: [(&str, &[f64]); 3] =
            [("direct", &[20.0, 40.0]), ("envoy-1", &[120.0, 240.0]), ("ebb", &[80.0, 160.0])];
        let judged = judge(&results(p50, &systems), p50);
        assert_eq!(judged.ratio.map(|ratio| ratio.median), Some(0.6));
        assert_eq!(judged.verdict, Verdict::Met);
        let disturbed: [(&str, &[f64]); 3] =
            [("direct", &[20.0, 900.0]), ("envoy-1", &[120.0, 240.0]), ("ebb", &[80.0, 160.0])];
        let judged = judge(&results(p50, &disturbed), p50);
        assert_eq!(
            judged.ratio.map(|ratio| (ratio.count, ratio.median)),
            Some((1, 0.6)),
            "a round of nonsense"
        );
        let without_floor = judge(&results(p50, &systems[1..]), p50);
        assert_eq!(without_floor.verdict, Verdict::Unmeasured);
    }

    #[test]
    fn what_stays_on_a_node_is_judged_by_no_mesh_and_of_ebb_without_a_tunnel() {
        let throughput =
            Layer::SameNode.figures().into_iter().find(|it| it.id == "bulk-1.throughput").unwrap();
        let judged = |own| {
            let systems: [(&str, &[f64]); 4] = [
                ("direct", &[50.0, 60.0]),
                ("envoy-1", &[10.0, 10.0]),
                ("bare-tcp", &[35.0, 42.0]),
                ("ebb-same-node", own),
            ];
            judge(&made::results(Layer::SameNode, &throughput, &systems), &throughput)
        };
        assert_eq!(judged(&[40.0, 48.0]).verdict, Verdict::Met);
        let missed = judged(&[30.0, 36.0]);
        assert_eq!((missed.verdict, missed.yardstick.as_deref()), (Verdict::Missed, Some("direct")));
        assert_eq!(missed.limits.first().map(|limit| limit.reached.median), Some(0.7));
        let tunnelled = made::results(Layer::SameNode, &throughput, &[("direct", &[50.0]), ("ebb", &[45.0])]);
        assert_eq!(judge(&tunnelled, &throughput).verdict, Verdict::Unmeasured);
    }

    #[test]
    fn an_absolute_bound_needs_no_yardstick() {
        let idle = &figure("memory.rss");
        assert_eq!(judge(&results(idle, &[("ebb", &[10.0])]), idle).verdict, Verdict::Met);
        assert_eq!(judge(&results(idle, &[("ebb", &[10.5])]), idle).verdict, Verdict::Missed);
        assert_eq!(judge(&results(idle, &[("envoy-1", &[128.0])]), idle).verdict, Verdict::Unmeasured);
    }

    #[test]
    fn a_missed_target_has_the_limits_of_the_machine_beside_it_in_its_own_terms() {
        let limits = |figure: &Figure, systems: &[(&str, &[f64])]| -> Vec<(String, f64)> {
            let limits = judge(&results(figure, systems), figure).limits;
            limits.into_iter().map(|limit| (limit.system, limit.reached.median)).collect()
        };
        let told = |tcp, tls| vec![("bare-tcp".to_owned(), tcp), ("bare-tls".to_owned(), tls)];
        let cpu = &figure("bulk-1.cpu");
        let bare: [(&str, &[f64]); 3] =
            [("bare-tcp", &[0.5, 1.0]), ("bare-tls", &[1.5, 3.0]), ("envoy-1", &[2.0, 4.0])];
        assert_eq!(limits(cpu, &[&bare[..], &[("ebb", &[1.8, 3.6])]].concat()), told(0.25, 0.75));
        assert_eq!(limits(cpu, &[&bare[..], &[("ebb", &[1.6, 3.2])]].concat()), [], "it was met");
        assert_eq!(limits(cpu, &[&bare[..2], &[("ebb", &[1.8])]].concat()), [], "there is no yardstick");

        let p50 = &figure("ping.p50");
        let added: [(&str, &[f64]); 5] = [
            ("direct", &[20.0]),
            ("bare-tcp", &[50.0]),
            ("bare-tls", &[60.0]),
            ("envoy-1", &[120.0]),
            ("ebb", &[100.0]),
        ];
        assert_eq!(limits(p50, &added), told(0.3, 0.4));

        let idle = &figure("memory.rss");
        let bare: [(&str, &[f64]); 2] = [("bare-tcp", &[4.0]), ("bare-tls", &[9.0])];
        assert_eq!(limits(idle, &[&bare[..], &[("ebb", &[11.0])]].concat()), told(4.0, 9.0));
    }

    #[test]
    fn what_was_not_measured_is_never_met() {
        for figure in layer::ALL.iter().flat_map(|layer| layer.figures()) {
            let verdict = judge(&Results::default(), &figure).verdict;
            assert!(matches!(verdict, Verdict::Unmeasured | Verdict::Shown), "{}: {verdict:?}", figure.id);
        }
    }
}
