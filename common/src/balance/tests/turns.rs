//! Round robin, least request and chance.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{rng, tally, tolerance};
use crate::balance::least_request::{LeastRequest, Load};
use crate::balance::random::Random;
use crate::balance::round_robin::RoundRobin;

fn any_weights() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec((1..20_u32).prop_map(f64::from), 1..12)
}

#[test]
fn without_candidates_there_is_no_choice() {
    let mut rng = rng(1);
    assert_eq!(RoundRobin::new(&[], &mut rng).choose(|_| 1.0), None);
    assert_eq!(LeastRequest::new(&[], &mut rng).choose(|_| unreachable!(), &mut rng), None);
    assert_eq!(Random::new([]).choose(&mut rng), None);
    assert_eq!(Random::new([0.0, 0.0]).choose(&mut rng), None);
}

#[test]
fn equal_ones_take_turns_and_not_all_begin_with_the_same() {
    let mut first = BTreeSet::new();
    for seed in 0..40 {
        let mut turns = RoundRobin::new(&[1.0; 4], &mut rng(seed));
        let round: Vec<_> = (0..4).map(|_| turns.choose(|_| 1.0).unwrap()).collect();
        assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), 4);
        for _ in 0..3 {
            let next: Vec<_> = (0..4).map(|_| turns.choose(|_| 1.0).unwrap()).collect();
            assert_eq!(next, round, "every round goes like the first");
        }
        first.insert(round[0]);
    }
    assert_eq!(first.len(), 4);
}

#[test]
fn a_weight_that_grows_brings_turns_closer() {
    let mut turns = RoundRobin::new(&[1.0, 0.1], &mut rng(3));
    let cold = tally(2, 1100, || turns.choose(|at| [1.0, 0.1][at]).unwrap());
    let warm = tally(2, 1000, || turns.choose(|_| 1.0).unwrap());
    assert!(cold[1].abs_diff(100) <= 1, "{cold:?}");
    assert!(warm[1].abs_diff(500) <= 6, "{warm:?}");
}

#[test]
fn the_idle_one_is_taken_of_two_and_the_busiest_of_many_never() {
    let load = |at: usize| Load { outstanding: at as u32, weight: 1.0, tried: false };
    let mut rng = rng(5);
    let mut two = LeastRequest::new(&[1.0; 2], &mut rng);
    assert_eq!(tally(2, 500, || two.choose(load, &mut rng).unwrap()), [500, 0]);
    let mut five = LeastRequest::new(&[1.0; 5], &mut rng);
    let found = tally(5, 10_000, || five.choose(load, &mut rng).unwrap());
    // Of ten pairs four have the idlest in them, three the next, and so on.
    for (at, often) in found.into_iter().enumerate() {
        let chance = (4 - at) as f64 / 10.0;
        assert!((often as f64 - chance * 10_000.0).abs() <= tolerance(10_000, chance), "{at}: {often}");
    }
}

#[test]
fn equally_busy_ones_are_taken_alike() {
    let mut rng = rng(6);
    let mut all = LeastRequest::new(&[2.0; 8], &mut rng);
    for often in tally(8, 20_000, || {
        all.choose(|_| Load { outstanding: 7, weight: 2.0, tried: false }, &mut rng).unwrap()
    }) {
        assert!((often as f64 - 2500.0).abs() <= tolerance(20_000, 0.125), "{often}");
    }
}

#[test]
fn a_busy_one_gets_its_weight_divided() {
    // Twice the weight and three requests under way: half of what the idle one gets.
    let load = |at: usize| {
        [
            Load { outstanding: 0, weight: 1.0, tried: false },
            Load { outstanding: 3, weight: 2.0, tried: false },
        ][at]
    };
    let mut rng = rng(7);
    let mut both = LeastRequest::new(&[1.0, 2.0], &mut rng);
    let found = tally(2, 3000, || both.choose(load, &mut rng).unwrap());
    assert!(found[0].abs_diff(2000) <= 3, "{found:?}");
}

proptest! {
    #[test]
    fn every_turn_taken_is_the_weight_s_part_give_or_take_one(weights in any_weights(), seed: u64, draws in 1..2000_usize) {
        let mut rng = rng(seed);
        let sum: f64 = weights.iter().sum();
        let mut robin = RoundRobin::new(&weights, &mut rng);
        let mut least = LeastRequest::new(&weights, &mut rng);
        let uneven = weights.windows(2).any(|pair| pair[0] != pair[1]);
        let by_turns = tally(weights.len(), draws, || robin.choose(|at| weights[at]).unwrap());
        let idle = |at: usize| Load { outstanding: 0, weight: weights[at], tried: false };
        let by_load = tally(weights.len(), draws, || least.choose(idle, &mut rng).unwrap());
        for (at, weight) in weights.iter().enumerate() {
            let fair = draws as f64 * weight / sum;
            // A stretch of the schedule's time holds each one's turns but for one; its length is only known so well.
            let slack = 1.0 + weights.len() as f64 * weight / sum;
            prop_assert!((by_turns[at] as f64 - fair).abs() <= slack, "{at}: {by_turns:?} of {weights:?}");
            prop_assert!(!uneven || (by_load[at] as f64 - fair).abs() <= slack, "{at}: {by_load:?} of {weights:?}");
        }
    }

    #[test]
    fn chance_follows_weights(weights in prop::collection::vec(0..10_u32, 1..8), seed: u64) {
        let sum = f64::from(weights.iter().sum::<u32>());
        prop_assume!(sum > 0.0);
        let random = Random::new(weights.iter().map(|it| f64::from(*it)));
        let mut rng = rng(seed);
        let found = tally(weights.len(), 5000, || random.choose(&mut rng).unwrap());
        for (often, weight) in found.into_iter().zip(&weights) {
            let chance = f64::from(*weight) / sum;
            // Weightless ones never: no tolerance there.
            prop_assert!((often as f64 - chance * 5000.0).abs() <= tolerance(5000, chance) - f64::from(u8::from(*weight == 0)));
        }
    }
}
