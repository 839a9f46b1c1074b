use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

use common::balance::budget::{Overflow, Resource};

use super::{Desk, NoUpstream, policy_of_web, web};

const LIMITS: &str = "connectionPool: {tcp: {maxConnections: 2}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 3, \
                      maxRetries: 1}}";

fn desk(policy: &str) -> Desk {
    Desk::new(&(web(2) + &policy_of_web(policy)))
}

#[test]
fn each_resource_has_its_own_limit_and_a_dropped_permit_frees_its_place() {
    let desk = desk(LIMITS);
    let cluster = desk.web();
    for (resource, limit) in
        [(Resource::Connection, 2), (Resource::Pending, 1), (Resource::Request, 3), (Resource::Retry, 1)]
    {
        let mut held: Vec<_> = (0..limit).map(|_| cluster.admit(resource, desk.now).unwrap()).collect();
        let refused = cluster.admit(resource, desk.now).unwrap_err();
        assert_eq!(refused, Overflow { resource, limit: limit as u64 });
        assert_eq!(NoUpstream::from(refused).flag(), "UO");
        held.pop();
        cluster.admit(resource, desk.now).unwrap();
    }
    assert_eq!(cluster.in_use(), common::balance::budget::InUse::default(), "all were given back");
}

#[test]
fn never_more_than_the_limit_are_admitted_however_many_ask_at_once() {
    const LIMIT: u32 = 3;
    let desk = desk(LIMITS);
    let (cluster, now) = (desk.web(), desk.now);
    let (held, most, admitted) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..20_000 {
                    let Ok(permit) = cluster.admit(Resource::Request, now) else { continue };
                    let together = held.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(together, Ordering::SeqCst);
                    admitted.fetch_add(1, Ordering::Relaxed);
                    held.fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                }
            });
        }
    });
    assert!(most.load(Ordering::SeqCst) <= LIMIT, "{most:?} at once");
    assert!(admitted.load(Ordering::Relaxed) >= 20_000);
    assert_eq!(cluster.in_use().requests, 0);
}

#[test]
fn a_retry_budget_follows_the_requests_under_way_and_beats_max_retries() {
    let desk =
        desk("connectionPool: {http: {maxRetries: 1}}, retryBudget: {percent: 20, minRetryConcurrency: 2}");
    let cluster = desk.web();
    let retries = |held: &mut Vec<_>| {
        held.clear();
        while let Ok(permit) = cluster.admit(Resource::Retry, desk.now) {
            held.push(permit);
        }
        held.len()
    };
    let mut held = Vec::new();
    assert_eq!(retries(&mut held), 2);
    let requests: Vec<_> = (0..25).map(|_| cluster.admit(Resource::Request, desk.now).unwrap()).collect();
    assert_eq!(retries(&mut held), 5);
    drop(requests);
    assert_eq!(retries(&mut held), 2);
}

#[test]
fn a_budget_with_an_interval_counts_requests_that_are_over_as_well() {
    let mut desk = desk("retryBudget: {percent: 10, minRetryConcurrency: 1, budgetInterval: 10s}");
    let cluster = desk.web();
    let retries = |now| {
        let held: Vec<_> = std::iter::from_fn(|| cluster.admit(Resource::Retry, now).ok()).collect();
        held.len()
    };
    assert_eq!(retries(desk.now), 1);
    (0..50).for_each(|_| drop(cluster.admit(Resource::Request, desk.now).unwrap()));
    assert_eq!(retries(desk.now), 5);
    desk.pass(15);
    assert_eq!(retries(desk.now), 2, "half of those before are within the last 10 s");
    (0..20).for_each(|_| drop(cluster.admit(Resource::Request, desk.now).unwrap()));
    assert_eq!(retries(desk.now), 4);
    desk.pass(60);
    assert_eq!(retries(desk.now), 1);
}

#[test]
fn what_is_in_use_survives_a_change_of_policy_and_the_new_limit_holds_at_once() {
    let mut desk = desk(LIMITS);
    let cluster = desk.web();
    let _held: Vec<_> = (0..3).map(|_| cluster.admit(Resource::Request, desk.now).unwrap()).collect();
    let wider = policy_of_web("connectionPool: {http: {http2MaxRequests: 4}}");
    desk.write("mesh.yaml", &(web(3) + &wider));
    let one = cluster.admit(Resource::Request, desk.now).unwrap();
    assert!(cluster.admit(Resource::Request, desk.now).is_err());
    let narrower = policy_of_web("connectionPool: {http: {http2MaxRequests: 1}}");
    desk.write("mesh.yaml", &(web(3) + &narrower));
    drop(one);
    assert!(cluster.admit(Resource::Request, desk.now).is_err(), "three are under way still");
}
