use std::time::Duration;

use proptest::prelude::*;

use crate::balance::warmup::{DEFAULT_AGGRESSION, DEFAULT_MINIMUM_PERCENT, Warmup};

fn warmup(minimum_percent: f64, aggression: f64) -> Warmup {
    Warmup { duration: Duration::from_secs(100), minimum_percent, aggression }
}

#[test]
fn weight_grows_from_the_minimum_to_all_of_it() {
    let even = warmup(DEFAULT_MINIMUM_PERCENT, DEFAULT_AGGRESSION);
    for (age, expected) in [(0, 0.1), (5, 0.1), (10, 0.1), (25, 0.25), (99, 0.99), (100, 1.0), (1000, 1.0)] {
        let factor = even.factor(Duration::from_secs(age));
        assert!((factor - expected).abs() < 1e-12, "{age}: {factor}");
    }
}

#[test]
fn aggression_brings_weight_early() {
    let quarter = Duration::from_secs(25);
    assert!((warmup(10.0, 2.0).factor(quarter) - 0.5).abs() < 1e-12);
    assert!((warmup(10.0, 0.5).factor(quarter) - 0.1).abs() < 1e-12, "the minimum holds");
    for senseless in [0.0, -1.0, f64::NAN] {
        assert!((warmup(10.0, senseless).factor(quarter) - 0.25).abs() < 1e-12, "{senseless} counts as 1");
    }
}

#[test]
fn without_a_duration_all_weight_is_there() {
    let none = Warmup { duration: Duration::ZERO, minimum_percent: 10.0, aggression: 1.0 };
    assert_eq!(none.factor(Duration::ZERO), 1.0);
}

proptest! {
    #[test]
    fn a_factor_is_a_part_and_never_shrinks(
        minimum in 0.0..100.0_f64, aggression in 0.01..100.0_f64, age in 0..200_000_u64, later in 0..200_000_u64,
    ) {
        let it = warmup(minimum, aggression);
        let (young, old) = (it.factor(Duration::from_millis(age)), it.factor(Duration::from_millis(age + later)));
        prop_assert!(young > 0.0 && young <= old && old <= 1.0);
    }
}
