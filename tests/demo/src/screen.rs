//! What the audience sees: numbered steps, the facts of each in aligned rows, and what is claimed of them.
//!
//! Holds no opinion on any step. Colours only where a terminal shows them and `NO_COLOR` is not set.

use std::{
    env,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
};

/// Columns a line may take; longer values go on in the next line.
const WIDTH: usize = 110;

/// Column in which values begin.
const VALUE_AT: usize = 30;

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "1;31";

/// A line of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// A name and a value.
    Fact(String, String),
    /// Text that keeps its spaces, such as a line of a table.
    Text(String),
}

impl Row {
    /// A name and a value.
    pub(crate) fn fact(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Fact(name.into(), value.into())
    }

    /// Text that keeps its spaces.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }
}

/// Something the demo says of what it measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// What is said.
    pub(crate) text: String,
    /// Whether the facts bear it out.
    pub(crate) holds: bool,
}

impl Claim {
    /// Says `text`, which the facts bear out or not.
    pub(crate) fn new(text: impl Into<String>, holds: bool) -> Self {
        Self { text: text.into(), holds }
    }
}

/// What a step measured, and what is said of it. Both are pure.
pub(crate) trait Facts {
    /// The facts, for reading.
    fn rows(&self) -> Vec<Row>;

    /// Everything claimed of them.
    fn claims(&self) -> Vec<Claim>;
}

/// Standard output.
#[derive(Debug)]
pub(crate) struct Screen {
    coloured: bool,
}

impl Screen {
    /// Looks at what standard output is.
    #[must_use]
    pub(crate) fn new() -> Self {
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { coloured: io::stdout().is_terminal() && !plain }
    }

    /// The heading of step `number`, before it runs.
    pub(crate) fn step(&self, number: usize, title: &str) {
        self.write(&format!("\n{}\n\n", self.paint(BOLD, &format!("{number}. {title}"))));
    }

    /// What a step found; returns how many of its claims do not hold.
    pub(crate) fn tell(&self, facts: &dyn Facts) -> usize {
        let (text, failed) = self.told(facts);
        self.write(&text);
        failed
    }

    fn told(&self, facts: &dyn Facts) -> (String, usize) {
        let rows: String = facts.rows().iter().map(|row| self.row(row)).collect();
        let claims = facts.claims();
        let said: String = claims.iter().map(|claim| self.claim(claim)).collect();
        (format!("{rows}\n{said}"), claims.iter().filter(|claim| !claim.holds).count())
    }

    /// Rows that belong to no step.
    pub(crate) fn rows(&self, rows: &[Row]) {
        self.write(&rows.iter().map(|row| self.row(row)).collect::<String>());
    }

    /// A line by itself, after an empty one.
    pub(crate) fn line(&self, text: &str) {
        self.write(&format!("\n{}\n", self.paint(BOLD, text)));
    }

    fn claim(&self, claim: &Claim) -> String {
        let mark = if claim.holds { self.paint(GREEN, "ok    ") } else { self.paint(RED, "FAILED") };
        format!("   {mark}  {}\n", claim.text)
    }

    fn row(&self, row: &Row) -> String {
        match row {
            Row::Text(text) if text.is_empty() => "\n".to_owned(),
            Row::Text(text) => format!("   {text}\n"),
            Row::Fact(name, value) => {
                let mut out = format!("   {}", self.paint(DIM, name));
                let mut used = 3 + name.chars().count();
                for line in wrap(value, WIDTH - VALUE_AT) {
                    if used >= VALUE_AT {
                        out.push('\n');
                        used = 0;
                    }
                    let _ = writeln!(out, "{:1$}{line}", "", VALUE_AT - used);
                    used = 0;
                }
                out
            }
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn write(&self, text: &str) {
        // Whoever closed our output does not read on; the exit code still says how it went.
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// Breaks at spaces; a word longer than a line gets a line of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Screen = Screen { coloured: false };

    #[test]
    fn values_are_aligned_and_go_on_below_themselves() {
        let row = PLAIN.row(&Row::fact("log", "word ".repeat(30)));
        let starts: Vec<_> = row.lines().map(|line| line.find("word")).collect();
        assert_eq!(starts, [Some(VALUE_AT), Some(VALUE_AT)], "{row}");
        assert!(row.lines().all(|line| line.len() <= WIDTH), "{row}");
    }

    #[test]
    fn a_name_as_long_as_its_column_has_its_value_below() {
        let row = PLAIN.row(&Row::fact("n".repeat(VALUE_AT), "value"));
        assert_eq!(row.lines().nth(1).and_then(|line| line.find("value")), Some(VALUE_AT), "{row}");
    }

    #[test]
    fn only_a_terminal_gets_colours() {
        let claim = Claim::new("it holds", true);
        assert!(!PLAIN.claim(&claim).contains('\x1b'));
        assert!(Screen { coloured: true }.claim(&claim).contains('\x1b'));
    }

    #[test]
    fn claims_that_fail_are_counted() {
        struct Two;
        impl Facts for Two {
            fn rows(&self) -> Vec<Row> {
                Vec::new()
            }
            fn claims(&self) -> Vec<Claim> {
                vec![Claim::new("a", true), Claim::new("b", false)]
            }
        }
        assert_eq!(PLAIN.told(&Two), ("\n   ok      a\n   FAILED  b\n".to_owned(), 1));
    }
}
