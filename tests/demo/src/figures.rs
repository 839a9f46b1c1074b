//! Percentiles, medians, and how durations and rates are written. Pure.

use std::time::Duration;

/// The value below which `share` (0 to 1) of the values lie, by nearest rank; zero when there are none.
#[must_use]
pub(crate) fn percentile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank is within the slice's length"
    )]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// The middle value; of an even number the lower of the two. Zero when there are none.
#[must_use]
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// Microseconds of a duration.
#[must_use]
pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A number of microseconds, with its unit.
#[must_use]
pub(crate) fn show_micros(micros: f64) -> String {
    if micros.abs() < 9_999.5 { format!("{micros:.0} us") } else { format!("{:.1} ms", micros / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<_> = (1..=100).rev().map(Duration::from_micros).collect();
        assert_eq!(percentile(&values, 0.5), Duration::from_micros(50));
        assert_eq!(percentile(&values, 0.99), Duration::from_micros(99));
        assert_eq!(percentile(&values, 1.0), Duration::from_micros(100));
        assert_eq!(percentile(&values[..1], 0.5), Duration::from_micros(100));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn one_round_that_went_wrong_does_not_move_the_median() {
        assert_eq!(median([3.0, 1.0, 1000.0, 2.0, 2.5]), 2.5);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn durations_are_written_with_their_unit() {
        assert_eq!(show_micros(61.4), "61 us");
        assert_eq!(show_micros(12_345.0), "12.3 ms");
    }
}
