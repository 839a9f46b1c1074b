//! Reads the Prometheus text format into samples that tests can sum by label.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// One line of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name, with `_bucket`, `_sum` or `_count` for histograms.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// All samples of one scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(Vec<Sample>);

impl Metrics {
    /// Reads a scrape.
    ///
    /// # Errors
    /// A line is neither a comment nor a sample; the error holds it.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let sample = |line| sample(line).with_context(|| format!("not a sample: {line}"));
        lines.map(sample).collect::<Result<_>>().map(Self)
    }

    /// Every sample, in the order of the scrape.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.0
    }

    /// The samples of a metric that carry all of `labels`.
    pub fn select(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        let carries = |sample: &Sample| {
            labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
        };
        self.0.iter().filter(move |sample| sample.name == name && carries(sample))
    }

    /// The sum over the samples of a metric that carry all of `labels`; 0 when there are none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels).map(|sample| sample.value).sum()
    }
}

fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ', '\t']).context("no value")?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_whitespace().next().context("no value")?;
    Ok(Sample { name: name.to_owned(), labels, value: value.parse().context("the value is not a number")? })
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Result<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"").context("a label without a quoted value")?;
        let (value, after) = unquote(quoted)?;
        labels.insert(name.trim().to_owned(), value);
        rest = after;
    }
}

/// A quoted value, its opening quote gone, and what follows its closing quote.
fn unquote(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match letters.next().context("an escape at the end")?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    bail!("a label value without end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_label() {
        let text = "# HELP x y\n# TYPE opened counter\nopened{src=\"a\",dst=\"b\"} 3\nopened{src=\"a\",dst=\"c\",} 4 1700000\n\nup 1\nbig{le=\"+Inf\"} +Inf\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.samples().len(), 4);
        assert_eq!(metrics.sum("opened", &[("src", "a")]), 7.0);
        assert_eq!(metrics.sum("opened", &[("src", "a"), ("dst", "c")]), 4.0);
        assert_eq!(metrics.sum("opened", &[("src", "z")]), 0.0);
        assert_eq!(metrics.sum("up", &[]), 1.0);
        assert!(metrics.sum("big", &[]).is_infinite());
    }

    #[test]
    fn quotes_braces_and_commas_in_values_are_values() {
        let metrics = Metrics::parse(r#"m{path="a\"},b\\\n",x="1"} 2"#).unwrap();
        assert_eq!(metrics.samples()[0].labels["path"], "a\"},b\\\n");
        assert_eq!(metrics.sum("m", &[("x", "1")]), 2.0);
    }

    #[test]
    fn what_is_not_a_sample_is_an_error() {
        for text in ["<html>", "m{a=\"b} 1", "m{a} 1", "m x"] {
            assert!(Metrics::parse(text).is_err(), "{text}");
        }
    }
}
