//! Which of several destinations a request or connection goes to, in proportion to their weights.
//!
//! The weights need not add up to 100. One of 0 gets nothing, unless it is the only destination.

use rand::Rng;

use crate::routes::{ConnectionRoute, Forward, Route, Target};

/// The destination of one request; `None` when the route forwards nothing.
pub fn choose<'r>(route: &'r Route, rng: &mut impl Rng) -> Option<Forward<'r>> {
    let at = drawn(route.forwards().map(|it| it.stated.weight), rng)?;
    route.forwards().nth(at)
}

/// Every destination that gets anything, and its part of 1.
pub fn parts(route: &Route) -> Vec<(Forward<'_>, f64)> {
    let total: u64 = route.forwards().map(|it| u64::from(it.stated.weight)).sum();
    match total {
        0 => route.forwards().next().map(|it| (it, 1.0)).into_iter().collect(),
        _ => route.forwards().map(|it| (it, f64::from(it.stated.weight) / total as f64)).collect(),
    }
}

/// The destination of one connection.
pub fn choose_for_connection<'r>(route: &'r ConnectionRoute, rng: &mut impl Rng) -> Option<&'r Target> {
    let at = drawn(route.forwards().map(|(weight, _)| weight), rng)?;
    route.forwards().nth(at).map(|(_, target)| target)
}

/// A position, in proportion to the weights. The only one is chosen whatever its weight.
fn drawn(weights: impl Iterator<Item = u32> + Clone, rng: &mut impl Rng) -> Option<usize> {
    let total: u64 = weights.clone().map(u64::from).sum();
    if total == 0 {
        return weights.clone().next().map(|_| 0);
    }
    let mut left = rng.random_range(0..total);
    for (at, weight) in weights.enumerate() {
        match left.checked_sub(weight.into()) {
            Some(less) => left = less,
            None => return Some(at),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn destinations_get_their_part_whatever_the_weights_add_up_to() {
        let mut rng = SmallRng::seed_from_u64(3);
        for weights in [&[90, 10][..], &[10, 10, 80], &[1, 1], &[3, 1, 0], &[2_000_000_000, 2_000_000_000]] {
            let total: u64 = weights.iter().map(|it| u64::from(*it)).sum();
            let mut counts = vec![0_u32; weights.len()];
            for _ in 0..100_000 {
                counts[drawn(weights.iter().copied(), &mut rng).unwrap()] += 1;
            }
            for (weight, count) in weights.iter().zip(counts) {
                let expected = f64::from(*weight) / total as f64;
                let got = f64::from(count) / 100_000.0;
                assert!((got - expected).abs() < 0.008, "{weight} of {weights:?} got {got}");
                assert!(*weight > 0 || count == 0, "no weight, no requests");
            }
        }
    }

    #[test]
    fn the_only_destination_gets_everything_and_none_gets_nothing() {
        let mut rng = SmallRng::seed_from_u64(4);
        assert_eq!(drawn([0].into_iter(), &mut rng), Some(0));
        assert_eq!(drawn([5].into_iter(), &mut rng), Some(0));
        assert_eq!(drawn([].into_iter(), &mut rng), None);
    }
}
