use std::sync::Arc;

use common::balance::outlier::{Cause, Detector, Outcome};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Cluster, Desk, NoUpstream, last, pod_with, policy_of_web, service, web};
use crate::upstream::Attempt;

fn desk(pods: u8, outlier: &str) -> Desk {
    Desk::new(&(web(pods) + &policy_of_web(&format!("outlierDetection: {{{outlier}}}"))))
}

/// Requests to one endpoint that all end like this; its last cause.
fn fail(
    desk: &mut Desk,
    cluster: &Arc<Cluster>,
    victim: u8,
    outcome: Outcome,
    times: usize,
) -> Option<Cause> {
    let mut cause = None;
    for _ in 0..times {
        let attempt = loop {
            let picked = desk.pick(cluster).unwrap();
            if last(picked.address) == victim {
                break picked.attempt;
            }
        };
        assert_eq!(cause, None, "ejected already");
        cause = attempt.finish(outcome, desk.now);
    }
    cause
}

#[test]
fn an_endpoint_that_fails_is_left_out_and_returns_when_its_time_is_over() {
    let mut desk = desk(3, "consecutive5xxErrors: 3, maxEjectionPercent: 50");
    let cluster = desk.web();
    assert_eq!(fail(&mut desk, &cluster, 2, Outcome::Answered(500), 3), Some(Cause::Consecutive5xx));
    assert_eq!(desk.seen(&cluster), [1, 3]);
    desk.pass(29);
    assert_eq!(desk.seen(&cluster), [1, 3]);
    desk.pass(1);
    assert_eq!(desk.seen(&cluster), [1, 2, 3], "30 s are over: picking notices by itself");
    assert_eq!(cluster.ejections(Cause::Consecutive5xx), 1);
}

#[test]
fn who_fails_again_stays_away_for_longer_and_is_forgiven_in_time() {
    let mut desk = desk(2, "consecutive5xxErrors: 1, maxEjectionPercent: 50");
    let cluster = desk.web();
    fail(&mut desk, &cluster, 1, Outcome::Answered(503), 1).unwrap();
    desk.pass(30);
    fail(&mut desk, &cluster, 1, Outcome::Answered(503), 1).unwrap();
    desk.pass(59);
    assert_eq!(desk.seen(&cluster), [2]);
    desk.pass(1);
    assert_eq!(desk.seen(&cluster), [1, 2], "twice 30 s");
    // Long without a request: the sweeps in between are made up for.
    desk.pass(3600);
    fail(&mut desk, &cluster, 1, Outcome::Answered(503), 1).unwrap();
    desk.pass(30);
    assert_eq!(desk.seen(&cluster), [1, 2], "30 s, as the first time");
}

#[test]
fn a_sweep_from_outside_brings_endpoints_back_without_requests() {
    let mut desk = desk(2, "consecutive5xxErrors: 1, maxEjectionPercent: 50");
    let cluster = desk.web();
    fail(&mut desk, &cluster, 1, Outcome::Failed, 1).unwrap();
    let ejected = |cluster: &Cluster| cluster.endpoints().iter().filter(|it| it.is_ejected()).count();
    desk.pass(20);
    desk.clusters.sweep(desk.now);
    assert_eq!(ejected(&cluster), 1);
    desk.pass(10);
    desk.clusters.sweep(desk.now);
    assert_eq!(ejected(&cluster), 0);
}

#[test]
fn a_success_between_failures_keeps_an_endpoint_in() {
    let mut desk = desk(1, "consecutive5xxErrors: 2");
    let cluster = desk.web();
    for _ in 0..20 {
        assert_eq!(fail(&mut desk, &cluster, 1, Outcome::Answered(500), 1), None);
        assert_eq!(fail(&mut desk, &cluster, 1, Outcome::Answered(200), 1), None);
    }
    assert_eq!(fail(&mut desk, &cluster, 1, Outcome::Answered(500), 2), Some(Cause::Consecutive5xx));
}

#[test]
fn successes_never_wait_for_the_lock() {
    let desk = desk(1, "consecutive5xxErrors: 2");
    let (cluster, now) = (desk.web(), desk.now);
    let attempt = Attempt::new(cluster.clone(), cluster.endpoints()[0].clone());
    let done = cluster.while_locked(|| {
        std::thread::scope(|scope| {
            let success = scope.spawn(|| {
                attempt.note(Outcome::Connected, now);
                attempt.note(Outcome::Answered(200), now);
            });
            // A thread that waited for the lock would never end, and neither would this.
            success.join().is_ok()
        })
    });
    assert!(done);
}

#[test]
fn passing_over_successes_that_end_no_run_changes_no_decision() {
    let stated = "consecutive5xxErrors: 3, consecutiveGatewayErrors: 2, maxEjectionPercent: 50";
    let split = "splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2";
    let outcomes = [
        Outcome::Answered(200),
        Outcome::Answered(500),
        Outcome::Answered(503),
        Outcome::Connected,
        Outcome::TimedOut,
        Outcome::Failed,
    ];
    for (stated, seed) in [stated.to_owned(), format!("{stated}, {split}")]
        .iter()
        .flat_map(|it| (0..40).map(move |seed| (it, seed)))
    {
        let desk = desk(4, stated);
        let (cluster, mut rng) = (desk.web(), StdRng::seed_from_u64(seed));
        let attempts: Vec<_> =
            cluster.endpoints().into_iter().map(|it| Attempt::new(cluster.clone(), it)).collect();
        let settings = cluster.policy().outlier.clone().unwrap();
        let mut asked_always = Detector::default();
        asked_always.track(attempts.iter().map(|it| it.endpoint().address));
        for step in 0..200 {
            let attempt = &attempts[rng.random_range(0..4)];
            let outcome = outcomes[rng.random_range(0..outcomes.len())];
            let expected = asked_always.record(&settings, attempt.endpoint().address, outcome, desk.now);
            assert_eq!(attempt.note(outcome, desk.now), expected, "{stated}, seed {seed}, step {step}");
        }
    }
}

#[test]
fn no_more_than_allowed_are_ejected_but_one_always_may_be() {
    for (pods, percent, allowed) in [(3, 10, 1), (4, 50, 2), (10, 30, 3)] {
        let outlier = format!("consecutive5xxErrors: 1, maxEjectionPercent: {percent}");
        let mut desk = desk(pods, &outlier);
        let cluster = desk.web();
        let mut attempts: Vec<_> = Vec::new();
        while attempts.len() < usize::from(pods) * 50 {
            attempts.push(desk.pick(&cluster).unwrap().attempt);
        }
        for attempt in attempts {
            attempt.finish(Outcome::Answered(500), desk.now);
        }
        let ejected = cluster.endpoints().iter().filter(|it| it.is_ejected()).count();
        assert_eq!(ejected, allowed, "{percent} % of {pods}");
    }
}

#[test]
fn a_sole_endpoint_that_is_ejected_leaves_nobody_unless_there_is_a_panic_threshold() {
    let mut without = desk(1, "consecutive5xxErrors: 1");
    let cluster = without.web();
    fail(&mut without, &cluster, 1, Outcome::Answered(500), 1).unwrap();
    assert_eq!(without.pick(&cluster).unwrap_err(), NoUpstream::NoHealthy);
    let mut with = desk(1, "consecutive5xxErrors: 1, minHealthPercent: 50");
    let cluster = with.web();
    fail(&mut with, &cluster, 1, Outcome::Answered(500), 1).unwrap();
    assert_eq!(with.seen(&cluster), [1], "better asked than nobody");
}

#[test]
fn what_an_endpoint_did_stays_with_it_and_not_with_its_address() {
    let outlier = policy_of_web("outlierDetection: {consecutive5xxErrors: 2, maxEjectionPercent: 50}");
    let mut desk = Desk::new(&(web(2) + &outlier));
    let cluster = desk.web();
    fail(&mut desk, &cluster, 1, Outcome::Answered(500), 2).unwrap();
    fail(&mut desk, &cluster, 2, Outcome::Answered(500), 1);
    desk.write("mesh.yaml", &(web(4) + &outlier));
    assert_eq!(desk.seen(&cluster), [2, 3, 4], "ejected through a rebuild");
    assert_eq!(
        fail(&mut desk, &cluster, 2, Outcome::Answered(500), 1),
        Some(Cause::Consecutive5xx),
        "as is a run"
    );
    let others =
        service("web") + &pod_with(1, "v1", "another", "Running") + &pod_with(2, "v1", "another", "Running");
    desk.write("mesh.yaml", &(others + &outlier));
    assert_eq!(desk.seen(&cluster), [1, 2], "other pods, at the addresses of those");
    assert_eq!(fail(&mut desk, &cluster, 1, Outcome::Answered(500), 1), None, "with no errors of their own");
}

#[test]
fn a_late_failure_of_a_pod_that_is_gone_is_not_its_successor_s() {
    let outlier = policy_of_web("outlierDetection: {consecutive5xxErrors: 1}");
    let mut desk = Desk::new(&(web(1) + &outlier));
    let cluster = desk.web();
    let attempt = desk.pick(&cluster).unwrap().attempt;
    desk.write("mesh.yaml", &(service("web") + &pod_with(1, "v1", "another", "Running") + &outlier));
    assert_eq!(attempt.finish(Outcome::Failed, desk.now), None);
    assert_eq!(desk.seen(&cluster), [1]);
}

#[test]
fn without_a_detection_nobody_is_ejected_and_taking_it_away_lets_everyone_return() {
    let mut without = Desk::new(&web(1));
    let cluster = without.web();
    assert_eq!(fail(&mut without, &cluster, 1, Outcome::Answered(500), 100), None);
    let mut desk = desk(2, "consecutive5xxErrors: 1");
    let cluster = desk.web();
    fail(&mut desk, &cluster, 1, Outcome::Answered(500), 1).unwrap();
    desk.write("mesh.yaml", &web(2));
    assert_eq!(desk.seen(&cluster), [1, 2]);
}

#[test]
fn an_ejection_is_seen_in_the_dump_and_the_metrics() {
    let mut desk = desk(2, "consecutive5xxErrors: 1, maxEjectionPercent: 50");
    let cluster = desk.web();
    fail(&mut desk, &cluster, 2, Outcome::Answered(500), 1).unwrap();
    let dump: Vec<_> = desk.clusters.dump().collect();
    assert_eq!(dump.len(), 1);
    let endpoints = dump[0]["endpoints"].as_array().unwrap();
    let ejected: Vec<_> =
        endpoints.iter().map(|it| (it["address"].as_str(), it["ejected"].as_bool())).collect();
    assert_eq!(ejected, [(Some("10.0.0.1:8080"), Some(false)), (Some("10.0.0.2:8080"), Some(true))]);
    let mut text = String::new();
    let format = common::telemetry::exposition::Format::Text;
    desk.clusters.families().iter().for_each(|it| it.write(format, &mut text));
    let labels = "destination_service_namespace=\"shop\",destination_service_name=\"web\",destination_port=\"80\",\
                  destination_subset=\"\"";
    assert!(
        text.contains(&format!("ebb_upstream_ejections_total{{{labels},cause=\"consecutive_5xx\"}} 1")),
        "{text}"
    );
    assert!(text.contains(&format!("ebb_upstream_ejected_endpoints{{{labels}}} 1")), "{text}");
}
