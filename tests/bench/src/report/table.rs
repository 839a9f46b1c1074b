//! Lays the results out for a person: one line for each figure, its medians, the ratio, the target and the verdict.
//!
//! Pure: takes results, gives text. Columns are as wide as their widest cell.

use super::verdict::{Verdict, against_before, judge};
use crate::{
    figures::{Figure, Target},
    results::Results,
    statistics::Summary,
    systems::BEFORE,
};

/// Shown where there is no value.
const NONE: &str = "-";

/// The table of every figure that has at least one sample.
#[must_use]
pub(crate) fn table(results: &Results) -> String {
    let mut rows = vec![head(results)];
    let mut scenario = None;
    for figure in &measured(results) {
        // An empty line between scenarios.
        if scenario.replace(figure.scenario).is_some_and(|last| last != figure.scenario) {
            rows.push(Vec::new());
        }
        rows.push(row(results, figure));
    }
    lay_out(&rows)
}

/// Whether anything that was measured has a target.
#[must_use]
pub(crate) fn has_targets(results: &Results) -> bool {
    measured(results).iter().any(|figure| figure.target != Target::Shown)
}

/// One line a missed target, for the end of the report; empty when none was missed.
#[must_use]
pub(crate) fn missed(results: &Results) -> Vec<String> {
    let figures = measured(results);
    let judged = figures.iter().map(|figure| (figure, judge(results, figure)));
    judged
        .filter(|(_, judgement)| judgement.verdict == Verdict::Missed)
        .map(|(figure, judgement)| {
            let own = results.summary(results.layer.subject(), figure);
            let value = own.map_or(NONE.into(), |summary| number(summary.median));
            let against = match (judgement.ratio, judgement.yardstick, figure.target) {
                (Some(ratio), Some(name), target) if !matches!(target, Target::AtMost(_)) => {
                    format!(", {:.2}x {name}", ratio.median)
                }
                _ => String::new(),
            };
            let limits = judgement.limits.iter();
            let limits = limits.map(|one| format!("{} {}", one.system, reached(Some(one.reached), figure)));
            let limits = match limits.collect::<Vec<_>>().join(", ") {
                none if none.is_empty() => none,
                some => format!("; limits: {some}"),
            };
            format!(
                "{}: {value} {}{against}; target {}{limits}",
                figure.label(),
                figure.unit,
                target(figure.target)
            )
        })
        .collect()
}

/// The figures of which there is at least one sample.
pub(super) fn measured(results: &Results) -> Vec<Figure> {
    let mut figures = results.layer.figures();
    figures.retain(|figure| {
        results.systems.iter().any(|system| !results.series(&system.name, figure).is_empty())
    });
    figures
}

fn head(results: &Results) -> Vec<String> {
    let mut cells = vec!["figure".to_owned(), "unit".to_owned()];
    cells.extend(results.systems.iter().map(|system| system.name.clone()));
    if has_before(results) {
        cells.push("ebb / before".to_owned());
    }
    cells.push(format!("{} / yardstick", results.layer.subject()));
    cells.extend(["target", "verdict"].map(str::to_owned));
    cells
}

fn row(results: &Results, figure: &Figure) -> Vec<String> {
    let judgement = judge(results, figure);
    let mut cells = vec![figure.label(), figure.unit.to_owned()];
    cells.extend(results.systems.iter().map(|system| value(results.summary(&system.name, figure))));
    if has_before(results) {
        cells.push(compared(against_before(results, figure), figure));
    }
    cells.extend([
        compared(judgement.ratio, figure),
        target(figure.target),
        verdict(judgement.verdict).to_owned(),
    ]);
    cells
}

fn has_before(results: &Results) -> bool {
    results.systems.iter().any(|system| system.name == BEFORE)
}

pub(super) fn value(summary: Option<Summary>) -> String {
    match summary {
        None => NONE.into(),
        Some(summary) if summary.count == 1 => number(summary.median),
        Some(summary) => format!("{} ±{:.0}%", number(summary.median), summary.spread() * 100.0),
    }
}

pub(super) fn compared(ratio: Option<Summary>, figure: &Figure) -> String {
    match ratio {
        None => NONE.into(),
        Some(ratio) if ratio.count == 1 => format!("{:.2}x{}", ratio.median, of_what(figure)),
        Some(ratio) => {
            format!("{:.2}x ({:.2}..{:.2}){}", ratio.median, ratio.lower, ratio.upper, of_what(figure))
        }
    }
}

fn of_what(figure: &Figure) -> &'static str {
    if matches!(figure.target, Target::AddedRatioAtMost(_)) { " added" } else { "" }
}

pub(super) fn target(target: Target) -> String {
    match target {
        Target::RatioAtLeast(bound) => format!(">= {bound:.2}x"),
        Target::RatioAtMost(bound) => format!("<= {bound:.2}x"),
        Target::OfDirectAtLeast(bound) => format!(">= {bound:.2}x direct"),
        Target::AddedRatioAtMost(bound) => format!("<= {bound:.2}x added"),
        Target::AtMost(bound) => format!("<= {}", number(bound)),
        Target::Shown => String::new(),
    }
}

/// What was reached, in the terms of the target: a value, or a ratio.
pub(super) fn reached(reached: Option<Summary>, figure: &Figure) -> String {
    match figure.target {
        Target::AtMost(_) => value(reached),
        _ => compared(reached, figure),
    }
}

pub(super) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met => "met",
        Verdict::Missed => "MISSED",
        Verdict::Unmeasured => "not measured",
        Verdict::Shown => "",
    }
}

/// Three digits that matter, and thousands apart: `0.53`, `6.61`, `28.1`, `585`, `21,000`.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => {
            let digits = format!("{:.0}", value.abs());
            let groups: Vec<&str> =
                digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
            format!("{}{}", if value < 0.0 { "-" } else { "" }, groups.join(","))
        }
    }
}

fn lay_out(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        // Names to the left, numbers to the right, so that digits of one size stand under each other.
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            last if last + 1 == columns => cell.clone(),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        results::{Contestant, sample},
        scenarios::Scenario,
    };

    fn results() -> Results {
        let contestant = |name: &str| Contestant {
            name: name.into(),
            yardstick: name.starts_with("envoy"),
            limit: name.starts_with("bare"),
            ..Contestant::default()
        };
        let mut results =
            Results { systems: ["direct", "envoy-1", "ebb"].map(contestant).into(), ..Results::default() };
        let bulk = Scenario::Bulk(1);
        for round in 0..3 {
            results.record("direct", bulk, round, &sample([("throughput", 35.1)]));
            results.record("envoy-1", bulk, round, &sample([("throughput", 6.6), ("cpu", 2.0)]));
            results.record("ebb", bulk, round, &sample([("throughput", 9.9), ("cpu", 2.5)]));
        }
        results.record("ebb", Scenario::Memory, 0, &sample([("rss", 17.0)]));
        results
    }

    #[test]
    fn numbers_have_three_digits_that_matter() {
        let cases = [
            (0.53, "0.53"),
            (6.612, "6.61"),
            (9.996, "10.0"),
            (28.14, "28.1"),
            (584.6, "585"),
            (21_000.0, "21,000"),
        ];
        for (value, expected) in cases {
            assert_eq!(number(value), expected);
        }
        assert_eq!(number(-1234.0), "-1,234");
    }

    #[test]
    fn the_table_shows_medians_ratio_target_and_verdict() {
        let expected = "\
figure unit direct envoy-1 ebb ebb / yardstick target verdict
memory, idle and with idle connections: resident (RSS) MB - - 17.0 - <= 10.0 MISSED
";
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = table(&results());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(squeeze(&lines[..2].join("\n")), squeeze(expected), "{text}");
        assert_eq!(lines[2], "", "scenarios are set apart: {text}");
        let bulk =
            "one bulk stream: throughput Gbit/s 35.1 ±0% 6.60 ±0% 9.90 ±0% 1.50x (1.50..1.50) >= 1.20x met";
        assert_eq!(squeeze(lines[3]), bulk);
        assert!(lines[4].ends_with("<= 0.82x  MISSED"), "{text}");
        assert_eq!(lines.len(), 5, "figures without a sample have no line: {text}");
    }

    #[test]
    fn columns_stand_under_each_other() {
        let text = table(&results());
        let place =
            |line: &str| line.find("Gbit/s").or(line.find("s/GB")).or(line.find(" MB").map(|at| at + 1));
        let units: Vec<usize> = text.lines().skip(1).filter_map(place).collect();
        assert_eq!(units.len(), 3, "{text}");
        assert!(units.iter().all(|place| *place == units[0]), "{text}");
    }

    #[test]
    fn each_missed_target_is_named_with_its_value() {
        assert_eq!(
            missed(&results()),
            [
                "memory, idle and with idle connections: resident (RSS): 17.0 MB; target <= 10.0",
                "one bulk stream: CPU: 2.50 s/GB, 1.25x envoy-1; target <= 0.82x",
            ]
        );
    }

    #[test]
    fn the_limits_of_the_machine_stand_beside_what_was_missed() {
        let mut results = results();
        results.systems.push(Contestant { name: "bare-tls".into(), limit: true, ..Contestant::default() });
        results.record("bare-tls", Scenario::Bulk(1), 0, &sample([("throughput", 12.0), ("cpu", 1.5)]));
        results.record("bare-tls", Scenario::Memory, 0, &sample([("rss", 7.5)]));
        assert_eq!(
            missed(&results),
            [
                "memory, idle and with idle connections: resident (RSS): 17.0 MB; target <= 10.0; limits: bare-tls 7.50",
                "one bulk stream: CPU: 2.50 s/GB, 1.25x envoy-1; target <= 0.82x; limits: bare-tls 0.75x",
            ]
        );
    }
}
