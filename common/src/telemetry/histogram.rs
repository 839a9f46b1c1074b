//! A histogram with the buckets that Istio's dashboards are drawn with, counted without locks.
//!
//! Knows no labels and no metric names. The count is the sum of the buckets, not a number of its own: a scrape that
//! comes between two additions can never show a bucket above the count.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many bounds there are; values above the last one have a bucket of their own.
const BOUNDS: usize = 19;

/// Upper bounds as the label `le` shows them (Envoy's default buckets, which Istio keeps).
const BOUND_LABELS: [&str; BOUNDS + 1] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000",
    "60000", "300000", "600000", "1800000", "3600000", "+Inf",
];

/// [`BOUND_LABELS`] in thousandths.
const BOUND_THOUSANDTHS: [u64; BOUNDS] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// Counts values in buckets.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS + 1],
    /// In the unit of the values.
    sum: AtomicU64,
}

/// What one unit of a value is, as its metric shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Counted and shown in whole units (bytes).
    Whole,
    /// Counted in thousandths of what is shown (microseconds, shown as milliseconds).
    Thousandths,
}

impl Histogram {
    /// Counts one value.
    pub(super) fn add(&self, value: u64, unit: Unit) {
        let thousandths = match unit {
            Unit::Whole => value.saturating_mul(1000),
            Unit::Thousandths => value,
        };
        let bucket = BOUND_THOUSANDTHS.partition_point(|bound| *bound < thousandths);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        if value > 0 {
            self.sum.fetch_add(value, Ordering::Relaxed);
        }
    }

    /// How many values were counted.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// Appends its samples; `labels` is the inside of the braces.
    pub(super) fn write(&self, name: &str, labels: &str, unit: Unit, out: &mut String) {
        let sum = self.sum.load(Ordering::Relaxed);
        let mut count = 0;
        for (bucket, bound) in self.buckets.iter().zip(BOUND_LABELS) {
            count += bucket.load(Ordering::Relaxed);
            let separator = if labels.is_empty() { "" } else { "," };
            for part in [name, "_bucket{", labels, separator, "le=\"", bound, "\"} "] {
                out.push_str(part);
            }
            let _ = writeln!(out, "{count}");
        }
        let _ = match unit {
            Unit::Whole => writeln!(out, "{name}_sum{{{labels}}} {sum}"),
            Unit::Thousandths => writeln!(out, "{name}_sum{{{labels}}} {}.{:03}", sum / 1000, sum % 1000),
        };
        let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tables_of_bounds_say_the_same() {
        for (label, thousandths) in BOUND_LABELS.iter().zip(BOUND_THOUSANDTHS) {
            let bound: f64 = label.parse().unwrap();
            assert_eq!(bound * 1000.0, thousandths as f64);
        }
        assert_eq!(BOUND_LABELS[BOUNDS], "+Inf");
    }

    #[test]
    fn a_value_is_in_the_first_bucket_that_is_not_below_it() {
        for (value, unit, expected) in [
            (0, Unit::Whole, "0.5"),
            (1, Unit::Whole, "1"),
            (2, Unit::Whole, "5"),
            (3_600_000, Unit::Whole, "3600000"),
            (3_600_001, Unit::Whole, "+Inf"),
            (u64::MAX, Unit::Whole, "+Inf"),
            (500, Unit::Thousandths, "0.5"),
            (501, Unit::Thousandths, "1"),
            (12_900, Unit::Thousandths, "25"),
        ] {
            let histogram = Histogram::default();
            histogram.add(value, unit);
            let mut text = String::new();
            histogram.write("h", "a=\"b\"", unit, &mut text);
            let first = text.lines().find(|line| line.ends_with(" 1")).unwrap();
            assert_eq!(first, format!("h_bucket{{a=\"b\",le=\"{expected}\"}} 1"), "{value}");
        }
    }

    #[test]
    fn buckets_are_cumulative_and_end_in_the_count() {
        let histogram = Histogram::default();
        for value in [0, 7_000, 7_250, 1_000_000_000_000] {
            histogram.add(value, Unit::Thousandths);
        }
        let mut text = String::new();
        histogram.write("h", "a=\"b\"", Unit::Thousandths, &mut text);
        let of = |bound: &str| text.contains(bound);
        assert!(of("le=\"5\"} 1\n") && of("le=\"10\"} 3\n") && of("le=\"3600000\"} 3\n"), "{text}");
        assert!(of("le=\"+Inf\"} 4\nh_sum{a=\"b\"} 1000000014.250\nh_count{a=\"b\"} 4\n"), "{text}");
        assert_eq!(histogram.count(), 4);
    }
}
