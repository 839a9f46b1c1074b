//! The two text forms a scrape can ask for: Prometheus text 0.0.4 and OpenMetrics 1.0.
//!
//! They differ in how a counter is named above its samples, in blank lines, and in the end marker. Knows no metric.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The form of a scrape's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, version 0.0.4.
    Text,
    /// OpenMetrics text, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// Chooses by the `Accept` header: OpenMetrics when it is named there, text otherwise.
    pub fn negotiate(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Text,
        }
    }

    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What ends the answer.
    pub fn end(self) -> &'static str {
        match self {
            Self::Text => "",
            Self::OpenMetrics => "# EOF\n",
        }
    }
}

/// Whether a metric only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values in buckets.
    Histogram,
}

/// The value of one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A count, written exactly.
    Count(u64),
    /// A measure.
    Measure(f64),
}

/// One series of a [`Family`] at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Label names and values.
    pub labels: Vec<(&'static str, Cow<'static, str>)>,
    /// Its value.
    pub value: Value,
}

/// A metric with its series, read at the moment of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Its name; a counter's ends in `_total`.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its series.
    pub samples: Vec<Sample>,
}

impl Family {
    /// A metric without labels.
    pub fn single(name: &'static str, help: &'static str, kind: Kind, value: Value) -> Self {
        Self { name, help, kind, samples: vec![Sample { labels: Vec::new(), value }] }
    }

    /// Appends it to a scrape's answer.
    pub fn write(&self, format: Format, out: &mut String) {
        write_head(self.name, self.help, self.kind, format, out);
        for sample in &self.samples {
            out.push_str(self.name);
            for (n, (name, value)) in sample.labels.iter().enumerate() {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _ = write!(out, "{}{name}=\"{value}\"", if n == 0 { '{' } else { ',' });
            }
            out.push_str(if sample.labels.is_empty() { " " } else { "} " });
            let _ = match sample.value {
                Value::Count(count) => writeln!(out, "{count}"),
                Value::Measure(measure) => writeln!(out, "{measure}"),
            };
        }
    }
}

/// Appends the lines above a metric's samples.
pub(super) fn write_head(name: &str, help: &str, kind: Kind, format: Format, out: &mut String) {
    let (name, kind) = match kind {
        Kind::Counter => (family_name(name, format), "counter"),
        Kind::Gauge => (name, "gauge"),
        Kind::Histogram => (name, "histogram"),
    };
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn family_name(name: &str, format: Format) -> &str {
    match format {
        Format::Text => name,
        Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
    }
}

/// Appends what the `metrics` recorder rendered, in the form asked for.
///
/// In OpenMetrics a counter's samples must be called as its family with `_total`; a counter that is not is declared
/// `unknown`, so that one odd name does not spoil the whole scrape.
pub(super) fn append_rendered(rendered: &str, format: Format, out: &mut String) {
    if format == Format::Text {
        out.push_str(rendered);
        return;
    }
    let counters: Vec<&str> =
        rendered.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    for line in rendered.lines().filter(|line| !line.is_empty()) {
        let mut words = line.splitn(4, ' ');
        let head = (words.next(), words.next(), words.next(), words.next());
        if let (Some("#"), Some(what), Some(name), Some(rest)) = head
            && counters.contains(&name)
        {
            let rest = if what == "TYPE" && !name.ends_with("_total") { "unknown" } else { rest };
            let _ = writeln!(out, "# {what} {} {rest}", family_name(name, format));
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_openmetrics_only_when_it_asks() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4";
        assert_eq!(Format::negotiate(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(Format::negotiate(Some("*/*")), Format::Text);
        assert_eq!(Format::negotiate(None), Format::Text);
    }

    #[test]
    fn a_counter_loses_its_suffix_only_above_openmetrics_samples() {
        let family = Family {
            name: "ebb_x_total",
            help: "X.",
            kind: Kind::Counter,
            samples: vec![Sample { labels: vec![("a", "q\"\\\n".into())], value: Value::Count(u64::MAX) }],
        };
        let (mut text, mut open) = (String::new(), String::new());
        family.write(Format::Text, &mut text);
        family.write(Format::OpenMetrics, &mut open);
        let sample = "ebb_x_total{a=\"q\\\"\\\\\\n\"} 18446744073709551615\n";
        assert_eq!(text, format!("# HELP ebb_x_total X.\n# TYPE ebb_x_total counter\n{sample}"));
        assert_eq!(open, format!("# HELP ebb_x X.\n# TYPE ebb_x counter\n{sample}"));
    }

    #[test]
    fn what_the_recorder_rendered_becomes_valid_openmetrics() {
        let rendered = "# HELP a_total A of all.\n# TYPE a_total counter\na_total{x=\"y\"} 1\n\n\
                        # TYPE odd counter\nodd 2\n\n# TYPE g gauge\ng 3\n\n";
        let mut out = String::new();
        append_rendered(rendered, Format::OpenMetrics, &mut out);
        assert_eq!(
            out,
            "# HELP a A of all.\n# TYPE a counter\na_total{x=\"y\"} 1\n# TYPE odd unknown\nodd 2\n# TYPE g gauge\ng 3\n"
        );
    }
}
