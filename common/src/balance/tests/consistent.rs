//! Ring and Maglev table: parts, and what moves when endpoints go. That they are Envoy's is in `golden.rs`.

use proptest::prelude::*;

use super::{endpoint, shares};
use crate::balance::Share;
use crate::balance::maglev::{MAX_TABLE_SLOTS, Maglev, TableSize};
use crate::balance::ring_hash::{DEFAULT_MINIMUM_ENTRIES, Ring};

/// Hashes spread evenly over all there are.
fn hashes(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |n| u64::MAX / count * n + n)
}

fn without(shares: &[Share], gone: usize) -> Vec<Share> {
    let gone_portion = shares[gone].portion;
    let left = shares.iter().filter(|it| it.candidate != gone);
    left.map(|it| Share { portion: it.portion / (1.0 - gone_portion), ..*it }).collect()
}

fn parts(count: usize, choose: impl Fn(u64) -> Option<usize>) -> Vec<f64> {
    const ASKED: u64 = 40_000;
    let mut found = vec![0.0; count];
    hashes(ASKED).for_each(|hash| found[choose(hash).unwrap()] += 1.0 / ASKED as f64);
    found
}

#[test]
fn nobody_is_chosen_where_nobody_has_a_share() {
    let nobody = [Share { candidate: 0, address: endpoint(0), portion: 0.0 }];
    for shares in [&[][..], &nobody] {
        assert_eq!(Ring::build(shares, DEFAULT_MINIMUM_ENTRIES).choose(7), None);
        assert_eq!(Maglev::build(shares, TableSize::default()).choose(7), None);
    }
}

#[test]
fn the_candidate_is_named_and_not_its_place_among_the_shares() {
    let shares = [
        Share { candidate: 4, address: endpoint(0), portion: 0.0 },
        Share { candidate: 9, address: endpoint(1), portion: 1.0 },
    ];
    assert_eq!(Ring::build(&shares, 1).choose(u64::MAX), Some(9));
    assert_eq!(Maglev::build(&shares, TableSize::default()).choose(u64::MAX), Some(9));
}

#[test]
fn only_primes_within_the_bound_are_table_sizes() {
    for (slots, fits) in [
        (0, false),
        (1, false),
        (2, true),
        (3, true),
        (4, false),
        (65_537, true),
        (65_536, false),
        (251 * 251, false),
        (MAX_TABLE_SLOTS, true),
        (5_000_077, false),
        (u64::MAX, false),
    ] {
        assert_eq!(TableSize::new(slots).is_some(), fits, "{slots}");
    }
    assert_eq!(TableSize::new(65_537), Some(TableSize::default()));
}

#[test]
fn the_order_of_endpoints_does_not_matter() {
    let there = shares((0..9).map(|n| (endpoint(n), 1)));
    let mut back = there.clone();
    back.reverse();
    let tables = [&there, &back].map(|it| Maglev::build(it, TableSize::default()));
    let rings = [&there, &back].map(|it| Ring::build(it, DEFAULT_MINIMUM_ENTRIES));
    for hash in hashes(5000) {
        assert_eq!(tables[0].choose(hash), tables[1].choose(hash));
        assert_eq!(rings[0].choose(hash), rings[1].choose(hash));
    }
}

#[test]
fn a_table_has_room_for_more_endpoints_than_slots() {
    let many = shares((0..100).map(|n| (endpoint(n), 1)));
    let table = Maglev::build(&many, TableSize::new(13).unwrap());
    assert!((0..13).all(|hash| table.choose(hash).is_some()));
}

fn any_shares() -> impl Strategy<Value = Vec<Share>> {
    prop::collection::vec(1..6_u32, 2..12)
        .prop_map(|weights| shares(weights.into_iter().enumerate().map(|(n, weight)| (endpoint(n), weight))))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn weights_hold(shares in any_shares()) {
        let table = Maglev::build(&shares, TableSize::default());
        let ring = Ring::build(&shares, 1 << 14);
        let (even, rough) = (parts(shares.len(), |it| table.choose(it)), parts(shares.len(), |it| ring.choose(it)));
        for (at, share) in shares.iter().enumerate() {
            // A table is exact but for a slot or two; the samples taken of it are not.
            prop_assert!((even[at] - share.portion).abs() < 0.012, "table {at}: {} for {}", even[at], share.portion);
            // A part of n random entries spreads by one over the root of n; four of those, and the samples.
            let spread = 4.0 * share.portion / (share.portion * f64::from(1 << 14)).sqrt() + 0.01;
            prop_assert!((rough[at] - share.portion).abs() < spread, "ring {at}: {} for {}", rough[at], share.portion);
        }
    }

    #[test]
    fn when_one_of_equals_goes_a_ring_moves_its_requests_and_no_others(count in 2..20_usize, gone in 0..20_usize) {
        let gone = gone % count;
        let before = shares((0..count).map(|n| (endpoint(n), 1)));
        // As many entries for each as before, which is what a minimum in proportion asks for.
        let per_endpoint = 64;
        let ring = Ring::build(&before, per_endpoint * count as u64);
        let after = Ring::build(&without(&before, gone), per_endpoint * (count as u64 - 1));
        for hash in hashes(5000) {
            let owner = ring.choose(hash).unwrap();
            if owner == gone {
                prop_assert_ne!(after.choose(hash), Some(gone));
            } else {
                prop_assert_eq!(after.choose(hash), Some(owner));
            }
        }
    }

    #[test]
    fn when_one_goes_hardly_more_than_its_requests_move(weights in any_shares(), gone in 0..12_usize) {
        let gone = gone % weights.len();
        let left = without(&weights, gone);
        let tables = [&weights, &left].map(|it| Maglev::build(it, TableSize::default()));
        let rings = [&weights, &left].map(|it| Ring::build(it, DEFAULT_MINIMUM_ENTRIES));
        let moved = |choose: &dyn Fn(usize, u64) -> Option<usize>| {
            hashes(20_000).filter(|hash| choose(0, *hash) != choose(1, *hash)).count() as f64 / 20_000.0
        };
        let portion = weights[gone].portion;
        let (table, ring) = (moved(&|at, hash| tables[at].choose(hash)), moved(&|at, hash| rings[at].choose(hash)));
        prop_assert!(table >= portion - 0.02, "the {portion} of the one that is gone must move: {table}");
        prop_assert!(table < portion + 0.15, "table: {table} moved for {portion}");
        prop_assert!(ring < portion + 0.25, "ring: {ring} moved for {portion}");
    }
}
