//! Adds up what the test programs said and draws the final table. Pure.

use std::time::Duration;

use crate::progress::seconds;

/// Numbers of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// That kept their promise.
    pub(crate) passed: usize,
    /// That did not.
    pub(crate) failed: usize,
    /// That were left out by their own mark.
    pub(crate) ignored: usize,
}

impl Counts {
    /// Reads a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let numbers = line.strip_prefix("test result: ")?;
        let number = |what: &str| -> Option<usize> {
            let part = numbers.split([';', '.']).map(str::trim).find_map(|part| part.strip_suffix(what))?;
            part.trim().parse().ok()
        };
        Some(Self { passed: number("passed")?, failed: number("failed")?, ignored: number("ignored")? })
    }

    /// Adds another program's numbers.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// How a stage ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Well.
    Passed,
    /// Badly, and why.
    Failed(String),
    /// It was left out on purpose, and why.
    Skipped(String),
}

/// One row of the final table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// The stage's name.
    pub(crate) stage: String,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// Its tests.
    pub(crate) counts: Counts,
    /// How long it took.
    pub(crate) took: Duration,
}

/// The sum over all stages. A stage that failed without a failing test (a lint, a crash, a missing tool) counts as
/// one failure, so that a bad run never ends with the words `0 failed`.
pub(crate) fn total(reports: &[Report]) -> Counts {
    let mut total = Counts::default();
    for report in reports {
        total.add(report.counts);
        if matches!(report.outcome, Outcome::Failed(_)) && report.counts.failed == 0 {
            total.failed += 1;
        }
    }
    total
}

/// The last line of a run: its numbers, and what they do not speak of, so that no part of a run looks like the whole.
/// `left_out` is each reason with the names it holds for.
pub(crate) fn last_line(total: Counts, left_out: &[(String, Vec<String>)]) -> String {
    let mut line = format!("{} passed, {} failed", total.passed, total.failed);
    if total.ignored > 0 {
        line.push_str(&format!(", {} ignored", total.ignored));
    }
    let reasons = left_out.iter().filter(|(_, names)| !names.is_empty());
    let reasons: Vec<_> = reasons.map(|(why, names)| format!("{} ({why})", names.join(", "))).collect();
    if !reasons.is_empty() {
        line.push_str(&format!("; INCOMPLETE, left out: {}", reasons.join("; ")));
    }
    line
}

/// The table of stages.
pub(crate) fn table(reports: &[Report]) -> String {
    let mut text = format!("{:<12} {:<8} {:>8}  {}\n", "STAGE", "RESULT", "TIME", "DETAIL");
    for report in reports {
        let (result, why) = match &report.outcome {
            Outcome::Passed => ("passed", ""),
            Outcome::Failed(why) => ("FAILED", why.as_str()),
            Outcome::Skipped(why) => ("skipped", why.as_str()),
        };
        let Counts { passed, failed, ignored } = report.counts;
        let tests = match (passed + failed, ignored) {
            (0, 0) => String::new(),
            (_, 0) => format!("{passed} passed, {failed} failed"),
            _ => format!("{passed} passed, {failed} failed, {ignored} ignored"),
        };
        let detail =
            [tests.as_str(), why].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        let row = format!("{:<12} {result:<8} {:>8}  {detail}", report.stage, seconds(report.took));
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcome: Outcome, passed: usize, failed: usize) -> Report {
        let counts = Counts { passed, failed, ignored: 0 };
        Report { stage: "unit".into(), outcome, counts, took: Duration::from_secs(2) }
    }

    #[test]
    fn a_summary_line_is_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 9 filtered out; finished in 0.01s";
        assert_eq!(Counts::of_line(line), Some(Counts { passed: 12, failed: 3, ignored: 1 }));
        assert_eq!(Counts::of_line("test x ... ok"), None);
        assert_eq!(Counts::of_line("test result: nonsense"), None);
    }

    #[test]
    fn a_failed_stage_is_never_counted_as_no_failure() {
        let lint = report(Outcome::Failed("clippy".into()), 0, 0);
        let tests = report(Outcome::Failed("2 tests".into()), 5, 2);
        let skipped = report(Outcome::Skipped("no root".into()), 0, 0);
        assert_eq!(total(&[lint, tests, skipped]), Counts { passed: 5, failed: 3, ignored: 0 });
    }

    #[test]
    fn only_a_whole_run_ends_with_its_numbers_alone() {
        let counts = Counts { passed: 12, failed: 0, ignored: 0 };
        assert_eq!(last_line(counts, &[]), "12 passed, 0 failed");
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let left_out = [
            ("--only".to_owned(), names(&["setup", "fuzz"])),
            ("--without-root was given".to_owned(), names(&["namespaces"])),
            ("interrupted".to_owned(), names(&[])),
        ];
        assert_eq!(
            last_line(counts, &left_out),
            "12 passed, 0 failed; INCOMPLETE, left out: setup, fuzz (--only); namespaces (--without-root was given)"
        );
        let ignored = Counts { ignored: 2, ..counts };
        assert_eq!(last_line(ignored, &[]), "12 passed, 0 failed, 2 ignored");
    }

    #[test]
    fn the_table_names_stage_result_time_and_reason() {
        let table = table(&[report(Outcome::Passed, 5, 0), report(Outcome::Failed("why".into()), 0, 0)]);
        assert_eq!(
            table.lines().skip(1).collect::<Vec<_>>(),
            ["unit         passed       2.0s  5 passed, 0 failed", "unit         FAILED       2.0s  why"]
        );
    }
}
