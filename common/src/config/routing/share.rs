//! Exact shares of requests: what `percentage` says, in millionths.

use std::fmt;

/// A share of requests in parts per million, 0 to 1,000,000: Envoy's and Istio's precision of 0.0001 %.
/// None by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share(u32);

/// All of a million.
const WHOLE: u32 = 1_000_000;
/// Parts per million in one percent.
const PER_PERCENT: u32 = 10_000;

impl Share {
    /// No request.
    pub const NONE: Self = Self(0);
    /// Every request.
    pub const ALL: Self = Self(WHOLE);

    /// From a percentage.
    ///
    /// # Errors
    /// In words, unless it is 0 or from 0.0001 to 100.
    pub fn percent(percent: f64) -> Result<Self, String> {
        if percent == 0.0 {
            return Ok(Self::NONE);
        }
        if !(0.0001..=100.0).contains(&percent) {
            return Err(format!("{percent} is not a percentage: 0, or 0.0001 to 100"));
        }
        // At most 1,000,000 by the check above, so the cast loses only what is below the precision.
        let parts = (percent * f64::from(PER_PERCENT)).round() as u32;
        Ok(Self(parts))
    }

    /// Parts per million, 0 to 1,000,000.
    pub fn per_million(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) / f64::from(PER_PERCENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_exact_to_a_ten_thousandth_and_within_its_range() {
        for (percent, parts) in
            [(0.0, 0), (0.0001, 1), (0.1, 1_000), (12.5, 125_000), (33.3333, 333_333), (100.0, 1_000_000)]
        {
            assert_eq!(Share::percent(percent).map(Share::per_million), Ok(parts), "{percent}");
        }
        assert_eq!(Share::percent(-0.0), Ok(Share::NONE));
        for bad in [-1.0, -0.0001, 0.00001, 100.0001, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(Share::percent(bad).is_err(), "{bad}");
        }
        assert_eq!(Share::percent(0.1).unwrap().to_string(), "0.1 %");
    }
}
