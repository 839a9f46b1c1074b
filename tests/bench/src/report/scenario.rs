//! Lays one scenario out as a table: a line for each system, a column for each figure, each value with its spread and its
//! ratio to the baseline. Pure.

use super::{
    table::{number, value},
    verdict::plain_ratio,
};
use crate::{
    figures::Figure,
    results::{OF_ROLE, Results},
    scenarios::Scenario,
};

/// Shown where there is no value.
const NONE: &str = "-";

/// The table of `scenario` in Markdown; nothing where nothing was measured.
pub(super) fn table(results: &Results, figures: &[Figure], scenario: Scenario) -> String {
    let columns: Vec<&Figure> = figures.iter().filter(|figure| figure.scenario == scenario).collect();
    let baseline = baseline(results);
    let mut rows = Vec::new();
    for system in &results.systems {
        let measured = columns.iter().any(|figure| results.summary(&system.name, figure).is_some());
        if measured {
            let cell = |figure: &&Figure| cell(results, figure, &system.name, baseline);
            rows.push((format!("`{}`", system.name), columns.iter().map(cell).collect()));
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let heads: Vec<String> = columns.iter().map(|figure| head(figure)).collect();
    lay_out("system", &heads, &rows)
}

/// Whom ratios are taken against: the layer's own baseline, else no mesh at all.
pub(super) fn baseline(results: &Results) -> &'static str {
    let own = results.layer.baseline();
    if results.samples.contains_key(own) { own } else { "direct" }
}

/// CPU of each role for a unit of work, in the scenarios in which it was counted.
pub(super) fn roles(results: &Results, scenario: Scenario) -> String {
    let mut roles: Vec<&str> =
        results.systems.iter().flat_map(|system| results.roles(&system.name, scenario)).collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        return String::new();
    }
    let heads: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
    let row = |name: &str| -> Vec<String> {
        let of = |role: &&str| results.summary_of(name, &format!("{scenario}.{OF_ROLE}{role}"));
        roles.iter().map(|role| of(role).map_or(String::new(), |summary| number(summary.median))).collect()
    };
    let rows: Vec<(String, Vec<String>)> = results
        .systems
        .iter()
        .filter(|system| !results.roles(&system.name, scenario).is_empty())
        .map(|system| (format!("`{}`", system.name), row(&system.name)))
        .collect();
    lay_out("system", &heads, &rows)
}

fn head(figure: &Figure) -> String {
    if figure.unit.is_empty() { figure.what.into() } else { format!("{}, {}", figure.what, figure.unit) }
}

fn cell(results: &Results, figure: &Figure, system: &str, baseline: &str) -> String {
    let Some(summary) = results.summary(system, figure) else { return NONE.into() };
    let value = value(Some(summary));
    let ratio = (system != baseline).then(|| plain_ratio(results, &figure.id, system, baseline)).flatten();
    match ratio {
        Some(ratio) => format!("{value} ({}x)", number(ratio.median)),
        None => value,
    }
}

/// A table of Markdown; the first column is of text, the others of numbers.
pub(super) fn lay_out(first: &str, heads: &[String], rows: &[(String, Vec<String>)]) -> String {
    let line = |name: &str, cells: &[String]| format!("| {name} | {} |\n", cells.join(" | "));
    let rule = vec!["---:".to_owned(); heads.len()];
    let mut text = line(first, heads) + &line("---", &rule);
    for (name, cells) in rows {
        text += &line(name, cells);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layer::Layer,
        results::{Contestant, sample},
    };

    fn results() -> Results {
        let mut results = Results { layer: Layer::L4, ..Results::default() };
        for (name, cpu) in [("direct", None), ("envoy-1", Some(2.0)), ("ebb", Some(1.0))] {
            results.systems.push(Contestant { name: name.into(), ..Contestant::default() });
            let mut values = sample([("throughput", 10.0), ("cpu:client", 0.5)]);
            values.extend(cpu.map(|cpu| ("cpu".to_owned(), cpu)));
            for round in 0..2 {
                results.record(name, Scenario::Bulk(1), round, &values);
            }
        }
        results
    }

    #[test]
    fn each_system_has_a_line_with_its_ratio_to_the_baseline() {
        let text = table(&results(), &Layer::L4.figures(), Scenario::Bulk(1));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "| system | throughput, Gbit/s | CPU, s/GB | total CPU, s/GB |");
        assert_eq!(lines[1], "| --- | ---: | ---: | ---: |");
        assert_eq!(lines[2], "| `direct` | 10.0 ±0% (1.00x) | - | - |");
        assert_eq!(lines[3], "| `envoy-1` | 10.0 ±0% | 2.00 ±0% | - |");
        assert_eq!(lines[4], "| `ebb` | 10.0 ±0% (1.00x) | 1.00 ±0% (0.50x) | - |");
        assert_eq!(table(&results(), &Layer::L4.figures(), Scenario::PingPong), "");
    }

    #[test]
    fn without_the_layers_baseline_ratios_are_to_no_mesh() {
        let mut results = results();
        assert_eq!(baseline(&results), "envoy-1");
        results.samples.remove("envoy-1");
        assert_eq!(baseline(&results), "direct");
    }

    #[test]
    fn roles_have_a_column_each() {
        let text = roles(&results(), Scenario::Bulk(1));
        assert_eq!(text.lines().next(), Some("| system | client |"));
        assert_eq!(text.lines().count(), 5);
        assert_eq!(roles(&results(), Scenario::PingPong), "");
    }
}
