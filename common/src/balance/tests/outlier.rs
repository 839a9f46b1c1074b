use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::endpoint;
use crate::balance::outlier::{Cause, Detector, MAX_EJECTION, Outcome, Settings};

use Outcome::{Answered, Connected, Failed, Opened, TimedOut};

const A: usize = 0;

/// A detector of so many endpoints, and a clock.
struct Watch {
    detector: Detector,
    settings: Settings,
    now: Instant,
}

impl Watch {
    fn new(endpoints: usize, settings: Settings) -> Self {
        let mut detector = Detector::default();
        detector.track((0..endpoints).map(endpoint));
        Self { detector, settings, now: Instant::now() }
    }

    fn record(&mut self, at: usize, outcome: Outcome) -> Option<Cause> {
        self.detector.record(&self.settings, endpoint(at), outcome, self.now)
    }

    /// The cause that the last of so many same outcomes had; none before may have one.
    fn record_times(&mut self, at: usize, outcome: Outcome, times: usize) -> Option<Cause> {
        for _ in 1..times {
            assert_eq!(self.record(at, outcome), None);
        }
        self.record(at, outcome)
    }

    fn pass(&mut self, seconds: u64) -> Vec<SocketAddr> {
        self.now += Duration::from_secs(seconds);
        self.detector.sweep(&self.settings, self.now)
    }

    fn ejected(&self) -> usize {
        (0..1000).filter(|at| self.detector.is_ejected(endpoint(*at))).count()
    }
}

fn gateway(threshold: u32) -> Settings {
    Settings { consecutive_gateway: threshold, ..Settings::default() }
}

fn split() -> Settings {
    Settings { split_local_origin: true, consecutive_local_origin: 3, ..Settings::default() }
}

#[test]
fn a_run_of_errors_ejects() {
    let (by_5xx, by_gateway) = (Some(Cause::Consecutive5xx), Some(Cause::ConsecutiveGateway));
    let codes = Settings { error_codes: [429, 503].into(), ..gateway(2) };
    let off = Settings { consecutive_5xx: 0, ..Settings::default() };
    for (settings, outcome, times, expected) in [
        (Settings::default(), Answered(500), 5, by_5xx),
        (Settings::default(), Answered(599), 5, by_5xx),
        (Settings::default(), Failed, 5, by_5xx),
        (Settings::default(), TimedOut, 5, by_5xx),
        (Settings::default(), Answered(499), 50, None),
        (off.clone(), Answered(500), 50, None),
        (gateway(3), Answered(502), 3, by_gateway),
        (gateway(3), Failed, 3, by_gateway),
        (gateway(3), TimedOut, 3, by_gateway),
        (gateway(3), Answered(500), 5, by_5xx),
        (gateway(9), Answered(503), 5, by_5xx),
        (codes.clone(), Answered(429), 5, by_5xx),
        (codes.clone(), Answered(503), 5, by_5xx),
        (codes.clone(), Answered(500), 50, None),
        (codes, Failed, 2, by_gateway),
        (split(), Failed, 3, Some(Cause::ConsecutiveLocalOrigin)),
        (split(), TimedOut, 3, Some(Cause::ConsecutiveLocalOrigin)),
        (split(), Answered(503), 5, by_5xx),
        (Settings { consecutive_local_origin: 0, ..split() }, Failed, 50, None),
    ] {
        let mut watch = Watch::new(1, settings);
        assert_eq!(watch.record_times(A, outcome, times), expected, "{outcome:?} {:?}", watch.settings);
        assert_eq!(watch.detector.is_ejected(endpoint(A)), expected.is_some());
    }
}

#[test]
fn a_success_ends_the_run_of_its_kind() {
    for (settings, error, success, ends) in [
        (Settings::default(), Answered(500), Answered(200), true),
        (Settings::default(), Answered(500), Answered(404), true),
        (Settings::default(), Failed, Opened, true),
        (Settings::default(), Answered(500), Connected, false),
        (split(), Answered(500), Connected, false),
        (split(), Failed, Connected, true),
        (split(), Failed, Opened, true),
        (split(), Failed, Answered(200), false),
    ] {
        let before = if settings.split_local_origin && error == Failed { 2 } else { 4 };
        let mut watch = Watch::new(1, settings);
        assert_eq!(watch.record_times(A, error, before), None);
        assert_eq!(watch.record(A, success), None);
        assert_eq!(
            watch.record(A, error).is_none(),
            ends,
            "{success:?} between {error:?}, {:?}",
            watch.settings
        );
    }
}

#[test]
fn an_error_of_another_kind_ends_a_run_of_gateway_errors() {
    let mut watch = Watch::new(1, Settings { consecutive_5xx: 0, ..gateway(2) });
    for _ in 0..20 {
        assert_eq!(watch.record(A, Answered(502)), None);
        assert_eq!(watch.record(A, Answered(500)), None);
    }
    assert_eq!(watch.record_times(A, Answered(502), 2), Some(Cause::ConsecutiveGateway));
}

#[test]
fn each_ejection_lasts_longer_up_to_a_limit_and_good_conduct_is_rewarded() {
    let mut watch = Watch::new(1, Settings::default());
    for times in 1..=14_u64 {
        watch.record_times(A, Answered(500), 5).unwrap();
        let lasts = (30 * times).min(MAX_EJECTION.as_secs());
        assert_eq!(watch.pass(lasts - 1), [], "ejection {times}");
        assert!(watch.detector.is_ejected(endpoint(A)));
        assert_eq!(watch.pass(1), [endpoint(A)], "ejection {times}");
        assert!(!watch.detector.is_ejected(endpoint(A)));
    }
    // Eleven are remembered. Nothing is forgiven within an interval of the return, then one ejection at a time.
    watch.pass(9);
    (0..10).for_each(|_| assert_eq!(watch.pass(10), []));
    watch.record_times(A, Answered(500), 5).unwrap();
    assert_eq!(watch.pass(59), []);
    assert_eq!(watch.pass(1), [endpoint(A)], "one remembered, and this one");
}

#[test]
fn a_base_time_above_the_limit_holds() {
    let base_ejection = Duration::from_secs(1000);
    let mut watch = Watch::new(1, Settings { base_ejection, ..Settings::default() });
    for _ in 0..3 {
        watch.record_times(A, Answered(500), 5).unwrap();
        assert_eq!(watch.pass(999), []);
        assert_eq!(watch.pass(1), [endpoint(A)]);
    }
}

#[test]
fn errors_during_an_ejection_do_not_count_after_it() {
    let mut watch = Watch::new(1, Settings::default());
    watch.record_times(A, Answered(500), 5).unwrap();
    assert_eq!(watch.record_times(A, Answered(500), 100), None, "it is ejected already");
    watch.pass(30);
    assert_eq!(watch.record_times(A, Answered(500), 5), Some(Cause::Consecutive5xx), "a run of its own");
}

#[test]
fn no_more_are_ejected_than_allowed_but_one_always_may_be() {
    for (endpoints, percent, allowed) in
        [(1, 0, 1), (3, 10, 1), (20, 10, 2), (29, 10, 2), (4, 50, 2), (4, 100, 4)]
    {
        let settings = Settings { max_ejection_percent: percent, ..Settings::default() };
        let mut watch = Watch::new(endpoints, settings);
        for at in 0..endpoints {
            watch.record_times(at, Answered(500), 5);
        }
        assert_eq!(watch.ejected(), allowed, "{percent} % of {endpoints}");
    }
}

#[test]
fn who_could_not_be_ejected_needs_a_new_run() {
    let mut watch = Watch::new(2, Settings::default());
    watch.record_times(0, Answered(500), 5).unwrap();
    assert_eq!(watch.record_times(1, Answered(500), 7), None);
    watch.pass(30);
    assert_eq!(
        watch.record_times(1, Answered(500), 3),
        Some(Cause::Consecutive5xx),
        "two of seven still counted"
    );
}

#[test]
fn what_is_known_stays_with_the_endpoint_and_goes_with_it() {
    let mut watch = Watch::new(3, Settings::default());
    watch.record_times(0, Answered(500), 5).unwrap();
    watch.detector.track([endpoint(0), endpoint(7)]);
    assert!(watch.detector.is_ejected(endpoint(0)));
    watch.detector.track([endpoint(7)]);
    watch.detector.track([endpoint(0), endpoint(7)]);
    assert!(!watch.detector.is_ejected(endpoint(0)));
    assert_eq!(watch.record_times(3, Answered(500), 50), None, "nobody knows it");
    assert!(!watch.detector.is_ejected(endpoint(3)));
}

#[derive(Debug, Clone)]
enum Step {
    Record(usize, Outcome),
    Pass(u64),
    Track(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let outcome =
        prop::sample::select(vec![Answered(200), Answered(500), Answered(503), Connected, TimedOut, Failed]);
    prop_oneof![
        60 => (0..25_usize, outcome).prop_map(|(at, outcome)| Step::Record(at, outcome)),
        3 => (0..60_u64).prop_map(Step::Pass),
        1 => (1..25_usize).prop_map(Step::Track),
    ]
}

proptest! {
    #[test]
    fn never_more_are_ejected_than_allowed(
        steps in prop::collection::vec(any_step(), 1..600), percent in 0..=100_u8, consecutive in 1..4_u32, split: bool,
    ) {
        let settings = Settings {
            consecutive_5xx: consecutive,
            consecutive_gateway: 2,
            split_local_origin: split,
            consecutive_local_origin: consecutive,
            max_ejection_percent: percent,
            ..Settings::default()
        };
        let mut watch = Watch::new(20, settings);
        let mut endpoints = 20;
        let allowed = |endpoints: usize| (endpoints * usize::from(percent) / 100).max(1);
        for step in steps {
            let before = watch.ejected();
            match step {
                Step::Record(at, outcome) => {
                    let cause = watch.record(at, outcome);
                    prop_assert_eq!(watch.ejected(), before + usize::from(cause.is_some()));
                    prop_assert!(cause.is_none() || watch.ejected() <= allowed(endpoints));
                }
                Step::Pass(seconds) => {
                    let returned = watch.pass(seconds);
                    prop_assert_eq!(watch.ejected(), before - returned.len());
                }
                Step::Track(count) => {
                    endpoints = count;
                    watch.detector.track((0..count).map(endpoint));
                    prop_assert!(watch.ejected() <= before);
                }
            }
        }
        // Whoever was ejected returns when its time is over.
        watch.pass(MAX_EJECTION.as_secs());
        prop_assert_eq!(watch.ejected(), 0);
    }
}
