//! Writes the report for whoever runs a platform: first whether the targets were reached, then what was compared where, then
//! each comparison with its plots and tables, then how it was done. Pure.

use std::fmt::Write as _;

use super::{
    method::{METHOD, REPRODUCE},
    scenario,
    table::{measured, number, reached, target, value, verdict},
    verdict::{Judgement, Limit, Verdict, judge},
};
use crate::{
    figures::{Figure, Target},
    layer::Layer,
    machine::Machine,
    results::{Comparison, Document, Results},
    scenarios::Scenario,
    statistics::Summary,
};

/// Shown where there is no value.
const NONE: &str = "-";

/// A plot that has been drawn.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    /// The comparison it is of.
    pub(super) layer: Layer,
    /// Its file's name.
    pub(super) name: String,
    /// What it shows.
    pub(super) title: String,
}

/// The report.
pub(super) fn report(document: &Document, plots: &[Drawn]) -> String {
    let mut text = "# Ebb, measured\n\n".to_owned();
    text += "Made by `cargo xtask bench`; do not edit. All samples are in [results.json](results.json).\n\n";
    if document.comparisons.iter().any(|comparison| comparison.plan.quick) {
        text +=
            "**Few and short rounds (`--quick`): this shows that everything works, and proves nothing.**\n\n";
    }
    text += &targets(document);
    text += &compared(document);
    for comparison in &document.comparisons {
        text += &one(comparison, plots);
    }
    text + METHOD + REPRODUCE
}

/// Every figure that has a target, with what was reached.
fn targets(document: &Document) -> String {
    let (mut rows, mut limits) = (Vec::new(), Vec::new());
    let mut met = (0, 0);
    for comparison in &document.comparisons {
        let results = &comparison.results;
        for figure in results.layer.figures().iter().filter(|figure| figure.target != Target::Shown) {
            let judgement = judge(results, figure);
            if results.summary(results.layer.subject(), figure).is_none() {
                continue;
            }
            met.0 += usize::from(judgement.verdict == Verdict::Met);
            met.1 += usize::from(judgement.verdict != Verdict::Unmeasured);
            limits.extend(limit_row(results, figure, &judgement));
            rows.push(target_row(results, figure, &judgement));
        }
    }
    if rows.is_empty() {
        return "## Targets\n\nNo figure with a target was measured.\n\n".into();
    }
    let heads = ["target", "Ebb", "against", "ratio (quartiles)", ""].map(str::to_owned);
    format!(
        "## Targets\n\n{} of {} are met. A ratio is Ebb's to the better of the systems it is judged by, taken round by round; \
         `added` means of what each adds to having no mesh at all, `direct` that this is what it is judged by. CPU is that of all proxies together.\n\n{}\n",
        met.0,
        met.1,
        scenario::lay_out("figure", &heads, &rows)
    ) + &limits_of_the_machine(&limits)
}

/// What the machine itself allows where targets were missed; nothing where none was.
fn limits_of_the_machine(rows: &[(String, Vec<String>)]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heads = ["target", "Ebb", "bare relays"].map(str::to_owned);
    format!(
        "### Limits\n\nWhat was missed, and in the same terms and the same rounds what relays reach that do nothing else: the \
         kernel's part alone (`bare-tcp`), and with the cipher (`bare-tls`). The method says how far they are limits.\n\n{}\n",
        scenario::lay_out("figure", &heads, rows)
    )
}

/// A missed target with the limits that were measured; nothing where it was met, or there are none.
fn limit_row(results: &Results, figure: &Figure, judgement: &Judgement) -> Option<(String, Vec<String>)> {
    let limit = |limit: &Limit| format!("`{}` {}", limit.system, reached(Some(limit.reached), figure));
    let limits: Vec<String> = judgement.limits.iter().map(limit).collect();
    let own = match figure.target {
        Target::AtMost(_) => results.summary(results.layer.subject(), figure),
        _ => judgement.ratio,
    };
    let row = vec![target(figure.target), reached(own, figure), limits.join(", ")];
    (!limits.is_empty()).then(|| (format!("{}, {}", results.layer, figure.label()), row))
}

fn target_row(results: &Results, figure: &Figure, judgement: &Judgement) -> (String, Vec<String>) {
    let own = value(results.summary(results.layer.subject(), figure));
    let unit = if figure.unit.is_empty() { String::new() } else { format!(" {}", figure.unit) };
    let absolute = matches!(figure.target, Target::AtMost(_));
    let yardstick = judgement.yardstick.as_ref().filter(|_| !absolute);
    let against = yardstick.map_or(NONE.into(), |name| {
        let theirs = results.summary(name, figure).map_or(NONE.into(), |summary| number(summary.median));
        format!("`{name}` {theirs}")
    });
    let ratio = judgement.ratio.filter(|_| !absolute).map_or(NONE.into(), |ratio| {
        format!("{:.2}x ({:.2} to {:.2})", ratio.median, ratio.lower, ratio.upper)
    });
    let verdict = match judgement.verdict {
        Verdict::Met => verdict(Verdict::Met).to_owned(),
        other => format!("**{}**", verdict(other)),
    };
    let name = format!("{}, {}", results.layer, figure.label());
    (name, vec![target(figure.target), format!("{own}{unit}"), against, ratio, verdict])
}

/// The machine, and the systems with their versions.
fn compared(document: &Document) -> String {
    let mut text = "## What was compared, and where\n\n".to_owned();
    let mut machines: Vec<(&Machine, Vec<String>)> = Vec::new();
    for comparison in &document.comparisons {
        let when = format!("{} at {} UTC", comparison.results.layer, comparison.taken);
        match machines.iter_mut().find(|(machine, _)| same(machine, &comparison.machine)) {
            Some((_, taken)) => taken.push(when),
            None => machines.push((&comparison.machine, vec![when])),
        }
    }
    for (machine, taken) in machines {
        let Machine { kernel, cpus, model, memory, congestion_control } = machine;
        let congestion = match congestion_control.as_str() {
            "" => String::new(),
            name => format!(", congestion control `{name}`"),
        };
        // A String takes everything that is written to it.
        let _ = writeln!(
            text,
            "{cpus} CPUs of {model}, {:.0} GiB of memory, Linux {kernel}{congestion}: {}.\n",
            *memory as f64 / f64::from(1 << 30),
            taken.join(", ")
        );
    }
    text += "| comparison | system | version | TLS, as seen on the wire | what it is |\n| --- | --- | --- | --- | --- |\n";
    for comparison in &document.comparisons {
        for system in &comparison.results.systems {
            let _ = writeln!(
                text,
                "| {} | `{}` | {} | {} | {} |",
                comparison.results.layer,
                system.name,
                cell(&system.version),
                cell(system.cipher.as_deref().unwrap_or_default()),
                cell(&system.about)
            );
        }
    }
    text + "\n"
}

/// Whether two comparisons ran on one machine; one without traffic has no congestion control.
fn same(one: &Machine, other: &Machine) -> bool {
    let without_traffic = other.congestion_control.is_empty();
    let congestion_control =
        if without_traffic { &one.congestion_control } else { &other.congestion_control };
    *one == Machine { congestion_control: congestion_control.clone(), ..other.clone() }
}

/// Text that fits in a cell.
fn cell(text: &str) -> String {
    let line = text.replace('\n', " ").replace('|', "\\|");
    if line.is_empty() { NONE.into() } else { line }
}

/// One comparison: plots, tables, and what went wrong.
fn one(comparison: &Comparison, plots: &[Drawn]) -> String {
    let results = &comparison.results;
    let (layer, figures) = (results.layer, measured(results));
    let mut text = format!("## {}\n\n{}\n\n", layer.title(), layer.about());
    let _ = writeln!(
        text,
        "Medians of {} rounds (memory, starts and changes: of as many samples as were taken) with half the distance between \
         the quartiles; in brackets the ratio to `{}`, taken round by round.\n",
        comparison.plan.rounds,
        scenario::baseline(results)
    );
    if let Some((median, most)) = stolen(results) {
        let _ = writeln!(
            text,
            "CPU time stolen by the hypervisor while samples were taken: {:.1} % in the middle, {:.0} % at most.\n",
            median * 100.0,
            most * 100.0
        );
    }
    for plot in plots.iter().filter(|plot| plot.layer == layer) {
        let _ = writeln!(text, "![{}]({})", plot.title, plot.name);
    }
    text.push('\n');
    for scenario in layer.scenarios() {
        let table = scenario::table(results, &figures, *scenario);
        if !table.is_empty() {
            let _ = writeln!(text, "### {}\n\n`{scenario}`\n\n{table}", capital(&scenario.title()));
            text += &by_role(results, &figures, *scenario);
        }
    }
    text + &mishaps(results)
}

/// The share of CPU time that was stolen: of the sample in the middle, and the most.
fn stolen(results: &Results) -> Option<(f64, f64)> {
    let median = Summary::of(results.stolen())?.median;
    Some((median, results.stolen().fold(0.0, f64::max)))
}

fn by_role(results: &Results, figures: &[Figure], scenario: Scenario) -> String {
    let roles = scenario::roles(results, scenario);
    let unit = figures.iter().find(|figure| figure.scenario == scenario && figure.what == "CPU");
    match unit {
        Some(figure) if !roles.is_empty() => {
            format!("CPU by role, {}:\n\n{roles}\n", figure.unit)
        }
        _ => String::new(),
    }
}

fn mishaps(results: &Results) -> String {
    let mut text = String::new();
    for mishap in &results.mishaps {
        let reason = mishap.reason.lines().next().unwrap_or_default();
        let _ =
            writeln!(text, "- {}, `{}`, round {}: {reason}", mishap.scenario, mishap.system, mishap.round);
    }
    if text.is_empty() {
        return text;
    }
    format!(
        "### Samples that were disturbed or failed\n\nEach was taken once more; see the method.\n\n{text}\n"
    )
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Contestant, Mishap, sample, tests::comparison};

    fn document() -> Document {
        let mut results = Results { layer: Layer::L4, ..Results::default() };
        for (name, cpu) in [("envoy-1", 100.0), ("ebb", 50.0)] {
            results.systems.push(Contestant {
                name: name.into(),
                about: "two\nlines | a bar".into(),
                version: "1.2.3".into(),
                cipher: Some("AES-128-GCM, X25519".into()),
                yardstick: name == "envoy-1",
                limit: false,
            });
            for round in 0..3 {
                let values = sample([("cpu", cpu), ("rate", 9000.0), ("cpu:client", 3.0)]);
                results.record(name, Scenario::Http(16), round, &values);
            }
        }
        results.mishaps.push(Mishap {
            system: "ebb".into(),
            scenario: Scenario::Http(16),
            round: 2,
            reason: "31 % of the CPU time was stolen".into(),
        });
        Document::new(vec![comparison(results)])
    }

    #[test]
    fn targets_come_first_with_what_was_reached() {
        let text = report(&document(), &[]);
        let row = "| l4, HTTP, 16 connections: CPU | <= 0.55x | 50.0 ±0% us/req | `envoy-1` 100 | 0.50x (0.50 to 0.50) | met |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("1 of 1 are met"), "{text}");
        let place = |heading: &str| text.find(heading).unwrap_or_else(|| panic!("{heading} in {text}"));
        let order = ["## Targets", "## What was compared", "## Connections (l4)", "## Method", "## Again"];
        assert!(order.map(place).is_sorted());
    }

    #[test]
    fn a_missed_target_stands_beside_the_limits_of_the_machine() {
        assert!(!report(&document(), &[]).contains("### Limits"), "nothing was missed");
        let mut document = document();
        let results = &mut document.comparisons[0].results;
        results.systems.push(Contestant { name: "bare-tls".into(), limit: true, ..Contestant::default() });
        for round in 0..3 {
            results.record("ebb", Scenario::Http(16), round, &sample([("cpu", 60.0)]));
            results.record("bare-tls", Scenario::Http(16), round, &sample([("cpu", 40.0)]));
        }
        let text = report(&document, &[]);
        let row = "| l4, HTTP, 16 connections: CPU | <= 0.55x | 0.60x (0.60..0.60) | `bare-tls` 0.40x (0.40..0.40) |";
        assert!(text.contains("### Limits") && text.contains(row), "{text}");
    }

    #[test]
    fn the_machine_the_systems_and_what_went_wrong_are_told() {
        let text = report(&document(), &[]);
        assert!(
            text.contains("| l4 | `ebb` | 1.2.3 | AES-128-GCM, X25519 | two lines \\| a bar |"),
            "{text}"
        );
        assert!(text.contains("l4 at 2030-01-01 00:00 UTC"), "{text}");
        assert!(text.contains("- http-16, `ebb`, round 2: 31 % of the CPU time was stolen"), "{text}");
        assert!(text.contains("CPU by role, us/req:\n\n| system | client |"), "{text}");
    }

    #[test]
    fn plots_stand_with_their_comparison() {
        let plot = |layer, name: &str| Drawn { layer, name: name.into(), title: "t".into() };
        let text = report(&document(), &[plot(Layer::L4, "l4-x.svg"), plot(Layer::L7, "l7-x.svg")]);
        assert!(text.contains("![t](l4-x.svg)") && !text.contains("l7-x.svg"), "{text}");
    }

    #[test]
    fn a_quick_run_says_that_it_proves_nothing() {
        let mut quick = document();
        quick.comparisons[0].plan.quick = true;
        assert!(report(&quick, &[]).contains("proves nothing"));
        assert!(!report(&document(), &[]).contains("proves nothing"));
    }
}
