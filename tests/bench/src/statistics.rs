//! Owns the arithmetic of repeated measurements: medians, quartiles, and ratios within a round.
//!
//! Knows neither systems nor units. The surprising thing: a ratio is never taken between two medians. On a shared machine
//! the speed of everything moves up to twofold while a run lasts, and only samples of the same round saw the same machine.

use serde::Serialize;

/// What a set of samples looks like. Quartiles rather than extremes: one burst of stolen CPU must not widen the spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// How many samples there were.
    pub(crate) count: usize,
    /// The middle sample, or the mean of the two in the middle.
    pub(crate) median: f64,
    /// A quarter of the samples lies below this.
    pub(crate) lower: f64,
    /// A quarter of the samples lies above this.
    pub(crate) upper: f64,
}

impl Summary {
    /// Summarizes `samples`; nothing comes of none. Values that are not finite are left out.
    #[must_use]
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let quantile = |share| quantile(&sorted, share);
        Some(Self {
            count: sorted.len(),
            median: quantile(0.5)?,
            lower: quantile(0.25)?,
            upper: quantile(0.75)?,
        })
    }

    /// Half the distance between the quartiles, as a share of the median; 0 for a median of 0.
    #[must_use]
    pub(crate) fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.upper - self.lower) / 2.0 / self.median.abs() }
    }
}

/// `share` of the way through `sorted`, between two samples in proportion.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = share * last as f64;
    let below = (position.floor() as usize).min(last);
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64))
}

/// One value for each round, where the sample of that round was good.
pub(crate) type Series = [Option<f64>];

/// `subject / yardstick` in each round that has both.
#[must_use]
pub(crate) fn ratios(subject: &Series, yardstick: &Series) -> Vec<f64> {
    paired(subject, yardstick).filter(|(_, base)| *base != 0.0).map(|(value, base)| value / base).collect()
}

/// What each round's sample has over the same round's `floor`.
#[must_use]
pub(crate) fn added(samples: &Series, floor: &Series) -> Vec<Option<f64>> {
    let rounds = samples.len().max(floor.len());
    let at = |series: &Series, round: usize| series.get(round).copied().flatten();
    (0..rounds).map(|round| Some(at(samples, round)? - at(floor, round)?)).collect()
}

fn paired<'a>(left: &'a Series, right: &'a Series) -> impl Iterator<Item = (f64, f64)> + 'a {
    left.iter().zip(right).filter_map(|(left, right)| Some(((*left)?, (*right)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_the_median_and_the_quartiles() {
        let odd = Summary::of([5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!(odd, Summary { count: 5, median: 3.0, lower: 2.0, upper: 4.0 });
        let even = Summary::of([1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((even.median, even.lower, even.upper), (2.5, 1.75, 3.25));
        let one = Summary::of([7.0]).unwrap();
        assert_eq!((one.median, one.spread()), (7.0, 0.0));
    }

    #[test]
    fn no_samples_and_samples_that_are_no_numbers_give_no_summary() {
        assert_eq!(Summary::of([]), None);
        assert_eq!(Summary::of([f64::NAN, f64::INFINITY]), None);
        assert_eq!(Summary::of([f64::NAN, 2.0]).map(|summary| summary.count), Some(1));
    }

    #[test]
    fn one_burst_does_not_move_the_median_or_the_spread_far() {
        let calm = Summary::of([10.0, 10.1, 9.9, 10.0, 10.1, 9.9, 10.0, 10.0]).unwrap();
        let burst = Summary::of([10.0, 10.1, 9.9, 10.0, 10.1, 9.9, 10.0, 90.0]).unwrap();
        assert!((calm.median - burst.median).abs() < 0.1, "{burst:?}");
        assert!(burst.spread() < 0.02, "{burst:?}");
    }

    #[test]
    fn a_ratio_needs_both_samples_of_its_round() {
        let subject = [Some(2.0), None, Some(9.0), Some(4.0)];
        let yardstick = [Some(4.0), Some(1.0), None, Some(4.0)];
        assert_eq!(ratios(&subject, &yardstick), [0.5, 1.0]);
        assert_eq!(ratios(&[Some(1.0)], &[Some(0.0)]), [0.0; 0], "a yardstick of nothing measures nothing");
    }

    #[test]
    fn a_machine_twice_as_slow_in_one_round_leaves_the_ratios_alone() {
        let subject = [Some(50.0), Some(100.0), Some(50.0)];
        let yardstick = [Some(100.0), Some(200.0), Some(100.0)];
        let ratio = Summary::of(ratios(&subject, &yardstick)).unwrap();
        assert_eq!((ratio.median, ratio.spread()), (0.5, 0.0));
    }

    #[test]
    fn what_is_added_is_taken_from_the_same_rounds_floor() {
        let mesh = [Some(100.0), Some(150.0), None];
        let direct = [Some(30.0), Some(60.0), Some(30.0), Some(30.0)];
        assert_eq!(added(&mesh, &direct), [Some(70.0), Some(90.0), None, None]);
    }
}
