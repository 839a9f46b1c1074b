//! How far a count may be from its expectation before the system is wrong and not the dice. Pure.
//!
//! Exact sums of the binomial distribution, no approximation: what is printed as the chance of a false alarm is one.

/// How often a lab by chance may fail a system that is right. There are fewer than ten of them, so that a whole demo
/// fails one less than once in a hundred thousand runs.
pub(super) const FALSE_ALARM: f64 = 1e-6;

/// The counts that a system that is right does not leave, but for a chance of `alarm`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    /// How often something was drawn.
    pub(super) draws: u32,
    /// What is expected on average.
    pub(super) mean: f64,
    /// The fewest that are believed.
    pub(super) fewest: u32,
    /// The most.
    pub(super) most: u32,
    /// The chance of fewer or more all the same.
    pub(super) alarm: f64,
}

impl Bounds {
    /// Of `draws` independent draws that each succeed with a chance of `share` (0 to 1).
    pub(super) fn of(draws: u32, share: f64) -> Self {
        let terms = terms(draws, share);
        let each_side = FALSE_ALARM / 2.0;
        let below = outside(terms.iter(), each_side);
        let above = outside(terms.iter().rev(), each_side);
        Self {
            draws,
            mean: f64::from(draws) * share,
            fewest: below.0,
            most: draws.saturating_sub(above.0),
            alarm: below.1 + above.1,
        }
    }

    /// Whether a count is believed.
    pub(super) fn hold(&self, count: usize) -> bool {
        (self.fewest as usize..=self.most as usize).contains(&count)
    }

    /// What is expected, in words.
    pub(super) fn text(&self) -> String {
        let Self { draws, mean, fewest, most, alarm } = self;
        format!(
            "{mean:.0} of {draws}, at least {fewest} and at most {most} (a correct system leaves that with a chance of {alarm:.0e})"
        )
    }
}

/// How many terms from one end sum up to at most `chance`, and to what.
fn outside<'a>(terms: impl Iterator<Item = &'a f64>, chance: f64) -> (u32, f64) {
    let (mut count, mut sum) = (0, 0.0);
    for term in terms {
        if sum + term > chance {
            break;
        }
        sum += term;
        count += 1;
    }
    (count, sum)
}

/// The chances of 0, 1, ... successes.
fn terms(draws: u32, share: f64) -> Vec<f64> {
    // In logarithms: a thousand draws leave the range of a double otherwise.
    let (yes, no) = (share.ln(), (1.0 - share).ln());
    let mut ways = 0.0;
    let mut terms = Vec::new();
    for count in 0..=draws {
        if count > 0 {
            ways += f64::from(draws + 1 - count).ln() - f64::from(count).ln();
        }
        terms.push((ways + f64::from(count) * yes + f64::from(draws - count) * no).exp());
    }
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_those_of_the_binomial_distribution() {
        let coins = terms(4, 0.5);
        for (count, ways) in [1.0, 4.0, 6.0, 4.0, 1.0].into_iter().enumerate() {
            assert!((coins[count] - ways / 16.0).abs() < 1e-12, "{coins:?}");
        }
        let sum: f64 = terms(1000, 0.1).iter().sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn bounds_are_as_tight_as_their_chance_allows() {
        let bounds = Bounds::of(1000, 0.1);
        let terms = terms(1000, 0.1);
        let below: f64 = terms[..bounds.fewest as usize].iter().sum();
        let above: f64 = terms[bounds.most as usize + 1..].iter().sum();
        assert!(below + above <= FALSE_ALARM && (below + above - bounds.alarm).abs() < 1e-15);
        assert!(below + terms[bounds.fewest as usize] > FALSE_ALARM / 2.0);
        assert!(above + terms[bounds.most as usize] > FALSE_ALARM / 2.0);
        // Five standard deviations, about.
        assert!((50..60).contains(&bounds.fewest) && (145..155).contains(&bounds.most), "{bounds:?}");
    }

    #[test]
    fn another_share_is_not_believed() {
        let bounds = Bounds::of(1000, 0.1);
        assert!(bounds.hold(100) && bounds.hold(70) && bounds.hold(135));
        assert!(!bounds.hold(0) && !bounds.hold(200) && !bounds.hold(500) && !bounds.hold(1000));
    }
}
