use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::endpoint;
use crate::balance::locality::{
    Candidate, Distribute, Failover, LabelMatch, Level, Pattern, Place, Plan, Preference, Rules, plan,
};
use crate::balance::priority::{Headcount, loads};
use crate::config::Labels;
use crate::snapshot::model::Locality;

/// An endpoint of a test: `region/zone/subzone`, weight, whether it is ejected.
type Spot = (&'static str, u32, bool);

fn locality(text: &str) -> Locality {
    let mut parts = text.split('/').map(Into::into).chain(std::iter::repeat("".into()));
    let mut next = || parts.next().unwrap();
    Locality { region: next(), zone: next(), subzone: next() }
}

fn weight(of: u32) -> NonZeroU32 {
    NonZeroU32::new(of).unwrap()
}

/// Plans for a caller in `r1/z1/s1` with the label `app=web`.
fn plan_for<T>(spots: &[Spot], rules: &Rules, then: impl FnOnce(Plan, &[Candidate<'_>]) -> T) -> T {
    let places: Vec<Locality> = spots.iter().map(|(place, ..)| locality(place)).collect();
    let labels = Labels::default();
    let of = |n, place, spot: &Spot| Candidate {
        address: endpoint(n),
        weight: weight(spot.1),
        place: Place { locality: place, labels: &labels },
        ejected: spot.2,
    };
    let candidates: Vec<_> =
        places.iter().zip(spots).enumerate().map(|(n, (place, spot))| of(n, place, spot)).collect();
    let here = locality("r1/z1/s1");
    let own = Labels::new(vec![("app".into(), "web".into())]);
    then(plan(&candidates, Place { locality: &here, labels: &own }, rules), &candidates)
}

/// Of every hundred draws, how many each set of candidates takes.
fn spread(plan: &Plan) -> Vec<(u64, Vec<Vec<usize>>)> {
    let mut found: Vec<(u64, Vec<Vec<usize>>)> = Vec::new();
    for level in (0..100).filter_map(|draw| plan.level(draw)) {
        let members: Vec<_> = level.groups.iter().map(|it| it.members.clone()).collect();
        match found.last_mut().filter(|last| last.1 == members) {
            Some(last) => last.0 += 1,
            None => found.push((1, members)),
        }
    }
    found
}

fn failover(regions: &[(&str, &str)], labels: &[&str]) -> Rules {
    let regions = regions.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect();
    let labels = labels.iter().map(|it| LabelMatch::parse(it)).collect();
    Rules {
        preference: Preference::Failover(Failover { regions, labels }),
        detects_outliers: true,
        panic_percent: 0,
    }
}

fn distribute(entries: &[(&str, &[(&str, u32)])]) -> Rules {
    let entry = |(from, to): &(&str, &[(&str, u32)])| Distribute {
        from: Pattern::parse(from),
        to: to.iter().map(|(place, part)| (Pattern::parse(place), weight(*part))).collect(),
    };
    Rules { preference: Preference::Distribute(entries.iter().map(entry).collect()), ..Rules::default() }
}

const ZONES: [Spot; 5] = [
    ("r3/z9", 1, false),
    ("r2/z9", 1, false),
    ("r1/z2", 1, false),
    ("r1/z1/s2", 1, false),
    ("r1/z1/s1", 1, false),
];

fn ejected(spots: &[Spot], which: &[usize]) -> Vec<Spot> {
    spots.iter().enumerate().map(|(at, spot)| (spot.0, spot.1, which.contains(&at))).collect()
}

#[test]
fn without_rules_all_are_alike() {
    let off = failover(&[], &[]);
    let blind = Rules { detects_outliers: false, ..off };
    for rules in [Rules::default(), blind] {
        plan_for(&ZONES, &rules, |plan, _| assert_eq!(spread(&plan), [(100, vec![vec![0, 1, 2, 3, 4]])]));
    }
    plan_for(&[], &Rules::default(), |plan, _| {
        assert_eq!(spread(&plan), [(100, vec![])]);
    });
}

#[test]
fn the_nearest_take_all_until_they_fail() {
    let rules = failover(&[], &[]);
    for (gone, expected) in
        [(vec![], vec![4]), (vec![4], vec![3]), (vec![3, 4], vec![2]), (vec![2, 3, 4], vec![0, 1])]
    {
        plan_for(&ejected(&ZONES, &gone), &rules, |plan, _| {
            assert_eq!(spread(&plan), [(100, vec![expected])], "without {gone:?}");
        });
    }
}

#[test]
fn the_region_named_for_failover_comes_before_other_regions() {
    let rules = failover(&[("r9", "r3"), ("r1", "r3")], &[]);
    plan_for(&ejected(&ZONES, &[2, 3, 4]), &rules, |plan, _| {
        assert_eq!(spread(&plan), [(100, vec![vec![0]])])
    });
    plan_for(&ejected(&ZONES, &[0, 2, 3, 4]), &rules, |plan, _| {
        assert_eq!(spread(&plan), [(100, vec![vec![1]])]);
    });
}

#[test]
fn what_the_nearest_cannot_take_spills_over() {
    // Half of a zone of four: 1.4 times 50 is 70 percent.
    let spots =
        [("r1/z1", 1, true), ("r1/z1", 1, true), ("r1/z1", 1, false), ("r1/z1", 1, false), ("r2", 1, false)];
    plan_for(&spots, &failover(&[], &[]), |plan, _| {
        assert_eq!(spread(&plan), [(70, vec![vec![2, 3]]), (30, vec![vec![4]])]);
    });
}

#[test]
fn labels_order_by_how_many_of_the_first_are_shared() {
    let here = locality("r1/z1/s1");
    let own = Labels::new(vec![("app".into(), "web".into()), ("tier".into(), "gold".into())]);
    let theirs = [
        vec![("app", "web"), ("tier", "gold"), ("rack", "7")],
        vec![("app", "web"), ("tier", "gold")],
        vec![("app", "web"), ("rack", "7")],
        vec![("tier", "gold"), ("rack", "7")],
    ];
    let labels = theirs.map(|it| Labels::new(it.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()));
    let rules = failover(&[], &["app", "tier", "rack=7"]);
    let mut gone = BTreeSet::new();
    for expected in 0..4 {
        let candidate = |(n, labels)| Candidate {
            address: endpoint(n),
            weight: weight(1),
            place: Place { locality: &here, labels },
            ejected: gone.contains(&n),
        };
        let candidates: Vec<_> = labels.iter().enumerate().map(candidate).collect();
        let plan = plan(&candidates, Place { locality: &here, labels: &own }, &rules);
        assert_eq!(spread(&plan), [(100, vec![vec![expected]])]);
        gone.insert(expected);
    }
}

#[test]
fn topology_labels_are_the_places_and_regions_decide_between_equals() {
    let zones = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
    for (rules, after_zone) in
        [(failover(&[], &zones), vec![0, 1]), (failover(&[("r1", "r2")], &zones), vec![1])]
    {
        plan_for(&ZONES, &rules, |plan, _| assert_eq!(spread(&plan), [(100, vec![vec![4]])]));
        plan_for(&ejected(&ZONES, &[2, 3, 4]), &rules, |plan, _| {
            assert_eq!(spread(&plan), [(100, vec![after_zone])]);
        });
    }
}

#[test]
fn distribution_gives_places_their_parts_and_the_rest_nothing() {
    let rules = distribute(&[
        ("r7/*", &[("r2/*", 100)]),
        ("r1/z1/*", &[("r1/*", 20), ("r1/z1/s1", 70), ("r3", 10)]),
        ("*", &[("r2/*", 100)]),
    ]);
    plan_for(&ZONES, &rules, |plan, candidates| {
        // The specific one wins although it comes later; r2 is not named.
        assert_eq!(spread(&plan), [(100, vec![vec![2, 3], vec![4], vec![0]])]);
        let shares: BTreeMap<_, _> =
            plan.level(0).unwrap().shares(candidates).iter().map(|it| (it.candidate, it.portion)).collect();
        for (candidate, portion) in [(2, 0.1), (3, 0.1), (4, 0.7), (0, 0.1)] {
            assert!((shares[&candidate] - portion).abs() < 1e-12, "{candidate}: {shares:?}");
        }
    });
    let elsewhere = distribute(&[("r7/*", &[("r2/*", 100)])]);
    plan_for(&ZONES, &elsewhere, |plan, _| assert_eq!(spread(&plan), [(100, vec![vec![0, 1, 2, 3, 4]])]));
    let nowhere = distribute(&[("*", &[("r8", 100)])]);
    plan_for(&ZONES, &nowhere, |plan, _| assert_eq!(spread(&plan), [(100, vec![])]));
}

#[test]
fn a_place_of_which_much_is_ejected_gets_less() {
    let spots = [("r1", 1, false), ("r1", 1, true), ("r2", 1, false)];
    plan_for(&spots, &distribute(&[("*", &[("r1", 50), ("r2", 50)])]), |plan, _| {
        let weights: Vec<f64> = plan.level(0).unwrap().groups.iter().map(|it| it.weight).collect();
        assert!((weights[0] - 35.0).abs() < 1e-9 && (weights[1] - 50.0).abs() < 1e-9, "{weights:?}");
    });
}

#[test]
fn a_level_below_the_threshold_panics_and_uses_everyone() {
    let spots = ejected(&[("r1", 1, false); 4], &[0, 1, 2]);
    for (panic_percent, panics, members) in
        [(0, false, vec![3]), (25, false, vec![3]), (26, true, vec![0, 1, 2, 3])]
    {
        let rules = Rules { panic_percent, detects_outliers: true, ..Rules::default() };
        plan_for(&spots, &rules, |plan, _| {
            let level: &Level = plan.level(99).unwrap();
            assert_eq!((level.panicking, &level.groups[0].members), (panics, &members), "{panic_percent}");
        });
    }
    let all = ejected(&spots, &[0, 1, 2, 3]);
    plan_for(&all, &Rules::default(), |plan, _| assert_eq!(spread(&plan), [(100, vec![])]));
}

#[test]
fn levels_take_what_they_can() {
    // Counts of available and all per level, the threshold; percent and panic per level. Most are cases of Envoy's
    // documentation on priority levels and the panic threshold.
    type Case = (&'static [(usize, usize)], usize, &'static [(usize, bool)]);
    let cases: [Case; 14] = [
        (&[(100, 100), (100, 100)], 50, &[(100, false), (0, false)]),
        (&[(72, 100), (72, 100)], 50, &[(100, false), (0, false)]),
        (&[(71, 100), (71, 100)], 50, &[(99, false), (1, false)]),
        (&[(50, 100), (50, 100)], 50, &[(70, false), (30, false)]),
        (&[(25, 100), (100, 100)], 50, &[(35, false), (65, false)]),
        (&[(25, 100), (25, 100)], 50, &[(50, true), (50, true)]),
        (&[(5, 100), (65, 100)], 50, &[(8, true), (92, false)]),
        (&[(0, 100), (0, 300)], 50, &[(25, true), (75, true)]),
        (&[(0, 100), (0, 300)], 0, &[(100, false), (0, false)]),
        (&[(0, 0), (3, 3)], 50, &[(0, false), (100, false)]),
        (&[(1, 10), (1, 10), (1, 10)], 0, &[(34, false), (33, false), (33, false)]),
        (&[(0, 200), (1, 200)], 0, &[(0, false), (100, false)]),
        (&[(0, 0)], 50, &[(0, true)]),
        (&[], 50, &[]),
    ];
    for (levels, threshold, expected) in cases {
        let heads: Vec<_> =
            levels.iter().map(|(available, all)| Headcount { available: *available, all: *all }).collect();
        let found: Vec<_> = loads(&heads, threshold).iter().map(|it| (it.percent, it.panicking)).collect();
        assert_eq!(found, expected, "{levels:?} {threshold}");
    }
}

fn any_spot() -> impl Strategy<Value = Spot> {
    let places = vec!["r1/z1/s1", "r1/z1/s2", "r1/z2/s1", "r2/z1/s1", "r3/z1/s1", ""];
    (prop::sample::select(places), 1..5_u32, prop::bool::weighted(0.4))
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let preference = prop_oneof![
        Just(Rules::default()),
        Just(failover(&[("r1", "r2")], &[])),
        Just(failover(&[], &["topology.kubernetes.io/zone"])),
        Just(distribute(&[("r1/*", &[("r1/z1/*", 60), ("r1/*", 30), ("*", 10)])])),
        Just(distribute(&[("*", &[("r2", 1), ("r3/*", 3)])])),
    ];
    (preference, 0..=100_u8, any::<bool>()).prop_map(|(rules, panic_percent, detects_outliers)| Rules {
        panic_percent,
        detects_outliers,
        ..rules
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_ejected_one_is_in_no_plan_but_in_panic(spots in prop::collection::vec(any_spot(), 0..12), rules in any_rules()) {
        plan_for(&spots, &rules, |plan, candidates| {
            for level in (0..100).filter_map(|draw| plan.level(draw)) {
                let members: Vec<usize> = level.groups.iter().flat_map(|it| it.members.clone()).collect();
                assert!(level.panicking || members.iter().all(|at| !candidates[*at].ejected));
                assert_eq!(members.iter().collect::<BTreeSet<_>>().len(), members.len(), "nobody is in it twice");
                let shares = level.shares(candidates);
                assert_eq!(shares.iter().map(|it| it.candidate).collect::<Vec<_>>(), members);
                let total: f64 = shares.iter().map(|it| it.portion).sum();
                assert!(shares.is_empty() || (total - 1.0).abs() < 1e-9, "{total}");
            }
        });
    }

    #[test]
    fn while_one_is_available_every_request_of_an_order_finds_one(
        spots in prop::collection::vec(any_spot(), 0..12), one in any_spot(), rules in any_rules(),
    ) {
        let spots = [spots, vec![(one.0, one.1, false)]].concat();
        // A distribution may well name places where nobody is.
        let distributing = matches!(rules.preference, Preference::Distribute(_));
        let rules = if distributing { Rules { preference: Preference::None, ..rules } } else { rules };
        plan_for(&spots, &rules, |plan, _| {
            for draw in 0..100 {
                let level = plan.level(draw).expect("levels add up to 100");
                assert!(!level.groups.is_empty(), "{draw} of {plan:?}");
            }
        });
    }
}
