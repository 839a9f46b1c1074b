//! Chance, from a generator that is handed in.

use common::config::routing::Share;
use rand::Rng;

/// Whether a request is among a share of all; exact to a millionth.
pub(super) fn falls_in(share: Share, rng: &mut impl Rng) -> bool {
    rng.random_range(0..Share::ALL.per_million()) < share.per_million()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn a_share_gets_its_part_and_the_ends_are_exact() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut count =
            |share| (0..1_000_000).filter(|_| falls_in(share, &mut rng)).count() as f64 / 1_000_000.0;
        assert_eq!(count(Share::NONE), 0.0);
        assert_eq!(count(Share::ALL), 1.0);
        for percent in [0.01, 12.5, 99.9] {
            let expected = percent / 100.0;
            let got = count(Share::percent(percent).unwrap());
            // Five standard deviations of a million draws.
            let deviation = 5.0 * (expected * (1.0 - expected) / 1e6_f64).sqrt();
            assert!((got - expected).abs() < deviation, "{percent} % came to {got}");
        }
    }
}
