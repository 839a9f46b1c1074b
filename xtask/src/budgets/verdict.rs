//! Compares what was measured with what was recorded. Pure.

use super::callgrind::Benchmark;
use super::record::Record;

/// How far a figure may be from what was recorded, in percent of that.
const TOLERANCE_PERCENT: u64 = 5;
/// The same where another compiler made the code: what it makes of everything is no gain or loss of ours.
const OTHER_COMPILER_TOLERANCE_PERCENT: u64 = 25;

/// How far figures may be from `record` when `compiler` made the code, in percent.
pub(crate) fn tolerance_percent(record: &Record, compiler: &str) -> u64 {
    if record.compiler == compiler { TOLERANCE_PERCENT } else { OTHER_COMPILER_TOLERANCE_PERCENT }
}

/// What a figure is to its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What was recorded.
    Within,
    /// More: the work has become dearer.
    Above,
    /// Less: a gain that is not recorded yet.
    Below,
    /// Nothing was recorded, or not of this unit.
    Unrecorded,
    /// Recorded, and not measured any more.
    Gone,
}

impl Verdict {
    /// Whether all is well.
    pub(crate) fn is_within(self) -> bool {
        self == Self::Within
    }

    fn of(recorded: u64, measured: u64, tolerance_percent: u64) -> Self {
        let is_far = measured.abs_diff(recorded) * 100 > recorded * tolerance_percent;
        match measured > recorded {
            _ if !is_far => Self::Within,
            true => Self::Above,
            false => Self::Below,
        }
    }

    fn shown(self) -> &'static str {
        match self {
            Self::Within => "",
            Self::Above => "ABOVE ITS BUDGET",
            Self::Below => "BELOW: record it",
            Self::Unrecorded => "NOT RECORDED",
            Self::Gone => "NOT MEASURED",
        }
    }
}

/// How much more was measured than recorded, in percent.
fn percent(recorded: u64, measured: u64) -> f64 {
    (measured as f64 / recorded as f64 - 1.0) * 100.0
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    name: String,
    unit: String,
    recorded: Option<u64>,
    measured: Option<u64>,
    /// What it is to its budget.
    pub(crate) verdict: Verdict,
}

impl Line {
    /// What is wrong and what to do about it; `None` where all is well.
    pub(crate) fn complaint(&self) -> Option<String> {
        let Self { name, unit, .. } = self;
        let far = || match (self.recorded, self.measured) {
            (Some(recorded), Some(measured)) => percent(recorded, measured).abs(),
            _ => 0.0,
        };
        Some(match self.verdict {
            Verdict::Within => return None,
            Verdict::Above => format!(
                "{name} takes {:.1} % more instructions per {unit} than its budget: `cargo xtask budgets --profile \
                 {name}` says where",
                far()
            ),
            Verdict::Below => format!(
                "{name} takes {:.1} % fewer instructions per {unit} than its budget: record the gain with `cargo xtask \
                 budgets --record`",
                far()
            ),
            Verdict::Unrecorded => {
                format!("{name} has no budget per {unit}: record it with `cargo xtask budgets --record`")
            }
            Verdict::Gone => {
                format!("{name} has a budget and is not measured: `cargo xtask budgets --record` removes it")
            }
        })
    }
}

/// A line for each benchmark and each budget, when `compiler` made what was measured.
pub(crate) fn compare(record: &Record, measured: &[(Benchmark, u64)], compiler: &str) -> Vec<Line> {
    let tolerance = tolerance_percent(record, compiler);
    let line = |(benchmark, measured): &(Benchmark, u64)| {
        let recorded = record.figures.get(&benchmark.name).filter(|it| it.unit == benchmark.unit);
        let recorded = recorded.map(|it| it.instructions);
        Line {
            name: benchmark.name.clone(),
            unit: benchmark.unit.clone(),
            recorded,
            measured: Some(*measured),
            verdict: recorded.map_or(Verdict::Unrecorded, |it| Verdict::of(it, *measured, tolerance)),
        }
    };
    let is_measured = |name: &str| measured.iter().any(|(benchmark, _)| benchmark.name == name);
    let gone = record.figures.iter().filter(|(name, _)| !is_measured(name)).map(|(name, figure)| Line {
        name: name.clone(),
        unit: figure.unit.clone(),
        recorded: Some(figure.instructions),
        measured: None,
        verdict: Verdict::Gone,
    });
    measured.iter().map(line).chain(gone).collect()
}

/// The table, for people.
pub(crate) fn table(lines: &[Line]) -> String {
    let mut text = format!(
        "{:<24} {:<11} {:>12} {:>12} {:>11}\n",
        "INSTRUCTIONS", "PER", "RECORDED", "MEASURED", "DIFFERENCE"
    );
    for line in lines {
        let number = |it: Option<u64>| it.map_or_else(|| "-".to_owned(), |it| it.to_string());
        let difference = match (line.recorded, line.measured) {
            (Some(recorded), Some(measured)) => format!("{:+.2} %", percent(recorded, measured)),
            _ => "-".to_owned(),
        };
        let (recorded, measured) = (number(line.recorded), number(line.measured));
        let row = format!(
            "{:<24} {:<11} {recorded:>12} {measured:>12} {difference:>11}  {}",
            line.name,
            line.unit,
            line.verdict.shown()
        );
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(figures: &[(&str, u64)]) -> Vec<(Benchmark, u64)> {
        let one = |(name, count): &(&str, u64)| {
            (Benchmark { name: (*name).into(), units: 1, unit: "request".into() }, *count)
        };
        figures.iter().map(one).collect()
    }

    fn verdicts(recorded: &[(&str, u64)], now: &[(&str, u64)]) -> Vec<Verdict> {
        let record = Record::of("rustc".into(), &measured(recorded));
        compare(&record, &measured(now), "rustc").into_iter().map(|line| line.verdict).collect()
    }

    #[test]
    fn a_figure_holds_within_five_percent_of_its_budget_either_way() {
        for (now, verdict) in [
            (950, Verdict::Within),
            (1_000, Verdict::Within),
            (1_050, Verdict::Within),
            (1_051, Verdict::Above),
            (949, Verdict::Below),
        ] {
            assert_eq!(verdicts(&[("a", 1_000)], &[("a", now)]), [verdict], "{now}");
        }
    }

    #[test]
    fn another_compiler_may_make_a_difference_and_no_multiple() {
        let record = Record::of("rustc 1".into(), &measured(&[("a", 1_000)]));
        for (now, verdict) in [(1_200, Verdict::Within), (800, Verdict::Within), (1_300, Verdict::Above)] {
            assert_eq!(compare(&record, &measured(&[("a", now)]), "rustc 2")[0].verdict, verdict, "{now}");
        }
        assert_eq!(compare(&record, &measured(&[("a", 1_200)]), "rustc 1")[0].verdict, Verdict::Above);
    }

    #[test]
    fn a_benchmark_without_a_budget_and_a_budget_without_a_benchmark_are_both_told_of() {
        assert_eq!(verdicts(&[("a", 1)], &[("b", 1)]), [Verdict::Unrecorded, Verdict::Gone]);
        let of_other_unit = Record::of("rustc".into(), &{
            let mut all = measured(&[("a", 10)]);
            all[0].0.unit = "connection".into();
            all
        });
        let lines = compare(&of_other_unit, &measured(&[("a", 10)]), "rustc");
        assert_eq!(lines[0].verdict, Verdict::Unrecorded);
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_do() {
        let record = Record::of("rustc".into(), &measured(&[("a", 1_000), ("b", 1_000), ("c", 1_000)]));
        let lines = compare(&record, &measured(&[("a", 1_000), ("b", 1_200), ("c", 800)]), "rustc");
        let complaints: Vec<_> = lines.iter().map(Line::complaint).collect();
        assert_eq!(complaints[0], None);
        assert!(
            complaints[1].as_ref().unwrap().contains("20.0 % more")
                && complaints[1].as_ref().unwrap().contains("--profile b")
        );
        assert!(
            complaints[2].as_ref().unwrap().contains("20.0 % fewer")
                && complaints[2].as_ref().unwrap().contains("--record")
        );
        let table = table(&lines);
        assert!(
            table.contains("+20.00 %  ABOVE ITS BUDGET\n") && table.contains("-20.00 %  BELOW: record it\n"),
            "{table}"
        );
    }
}
