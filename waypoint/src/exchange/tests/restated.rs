//! What is stated of connections: where there may be only one, and where that changes while requests are under way.

use std::sync::Arc;
use std::time::Duration;

use common::balance::budget::Resource;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::rig::{Rig, web};
use super::{exchange, route, said};
use crate::routes::tests::virtual_service;

/// A rule for `web`: one connection of HTTP/2, and this besides.
fn one_connection(stated: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: \
         shop}}\nspec:\n  host: web\n  trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 1, connectTimeout: 3s}}, http: \
         {{h2UpgradePolicy: UPGRADE{stated}}}}}}}\n"
    )
}

fn asked(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
}

/// Pod 1 listens on the only connection that there may be. An answer to `/long` begins when the second of these is told, and
/// the first is told then that it is waited for.
async fn listens_in_place(rig: &Rig) -> (Arc<Notify>, Arc<Notify>) {
    let (begun, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let told = (begun.clone(), end.clone());
    rig.listens_in_place(1, move |request| {
        let (begun, end) = told.clone();
        async move {
            if request.uri().path() == "/long" {
                begun.notify_one();
                end.notified().await;
            }
            said(request.uri().path().to_owned())
        }
    })
    .await;
    (begun, end)
}

/// A request for `path` is under way.
fn asks(rig: &Rig, path: &'static str) -> JoinHandle<String> {
    let client = rig.client();
    tokio::spawn(async move { exchange(client, &asked(path)).await })
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_only_connection_is_served_when_it_is_free_however_late() {
    let mut rig = Rig::new(&web(1, &[]));
    rig.states(&one_connection(", maxConcurrentStreams: 1"));
    let (begun, end) = listens_in_place(&rig).await;
    let long = asks(&rig, "/long");
    begun.notified().await;
    let began = Instant::now();
    let short = asks(&rig, "/short");
    sleep(Duration::from_secs(60)).await;
    assert_eq!((rig.cluster().in_use().pending, short.is_finished()), (1, false));
    end.notify_one();
    let answer = short.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/short"), "{answer}");
    assert_eq!((began.elapsed().as_secs(), rig.cluster().in_use().connections), (60, 1));
    assert!(long.await.unwrap().ends_with("/long"));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_when_the_one_before_has_no_time_left_and_is_refused_a_place_once() {
    let mut rig = Rig::new(&(web(1, &[]) + &route("timeout: 60s\n  retries: {attempts: 0}")));
    rig.states(&one_connection(", maxConcurrentStreams: 1"));
    let (begun, _end) = listens_in_place(&rig).await;
    let long = asks(&rig, "/long");
    begun.notified().await;
    let began = Instant::now();
    sleep(Duration::from_secs(30)).await;
    let short = asks(&rig, "/short");
    let answer = short.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/short"), "{answer}");
    assert_eq!(began.elapsed().as_secs(), 60);
    assert!(long.await.unwrap().starts_with("HTTP/1.1 504"));
    assert_eq!(rig.cluster().overflows(Resource::Connection), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_no_further_request_makes_room_when_its_last_one_is_answered() {
    // In the mesh, where a connection of its own fails for want of a certificate.
    let mut rig = Rig::new(&(web(1, &[1]) + &route("retries: {attempts: 0}")));
    rig.states(&one_connection(", maxRequestsPerConnection: 2"));
    let (begun, end) = listens_in_place(&rig).await;
    let long = asks(&rig, "/long");
    begun.notified().await;
    let began = Instant::now();
    let short = asks(&rig, "/short");
    sleep(Duration::from_secs(60)).await;
    assert!(!short.is_finished());
    end.notify_one();
    assert!(long.await.unwrap().ends_with("/long"));
    short.await.unwrap();
    let log = rig.log();
    assert!(log.contains(" UF ") && !log.contains(" UO "), "{log}");
    assert_eq!((began.elapsed().as_secs(), rig.cluster().in_use().connections), (60, 0));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_hears_that_there_are_more() {
    let mut rig = Rig::new(&(web(1, &[1]) + &route("retries: {attempts: 0}")));
    rig.states(&one_connection(", maxConcurrentStreams: 1"));
    let (begun, end) = listens_in_place(&rig).await;
    let long = asks(&rig, "/long");
    begun.notified().await;
    let short = asks(&rig, "/short");
    sleep(Duration::from_secs(60)).await;
    assert!(!short.is_finished());
    let two = one_connection(", maxConcurrentStreams: 1").replace("maxConnections: 1", "maxConnections: 2");
    rig.states(&two);
    short.await.unwrap();
    assert!(rig.log().contains(" UF "), "it was let through to an endpoint out of reach: {}", rig.log());
    end.notify_one();
    assert!(long.await.unwrap().ends_with("/long"));
}

#[tokio::test(start_paused = true)]
async fn who_has_no_connection_at_all_is_kept_from_one_by_others_for_a_while_only() {
    let mut rig = Rig::new(&(web(1, &[1]) + &route("retries: {attempts: 0}")));
    rig.states(&one_connection(""));
    let of_another_client = rig.cluster().admit(Resource::Connection, Instant::now().into()).unwrap();
    let began = Instant::now();
    asks(&rig, "/short").await.unwrap();
    let log = rig.log();
    assert!(log.contains(" UF ") && !log.contains(" UO "), "{log}");
    assert_eq!((began.elapsed().as_secs(), rig.cluster().in_use().connections), (3, 1));
    drop(of_another_client);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_not_blamed_for_the_time_that_a_request_waits_for_a_place() {
    let rule = "hosts: [web]\nhttp:\n- match: [{uri: {exact: /short}}]\n  timeout: 2s\n  retries: {attempts: 0}\n  route: [{destination: {host: \
                web}}]\n- route: [{destination: {host: web}}]";
    let mut rig = Rig::new(&(web(1, &[]) + &virtual_service("shop/web", 0, rule)));
    let ejects = "{outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}, connectionPool:";
    rig.states(&one_connection(", maxConcurrentStreams: 1").replace("{connectionPool:", ejects));
    let (begun, end) = listens_in_place(&rig).await;
    let long = asks(&rig, "/long");
    begun.notified().await;
    let answer = asks(&rig, "/short").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(!rig.cluster().endpoints()[0].is_ejected());
    end.notify_one();
    assert!(long.await.unwrap().ends_with("/long"));
}

#[tokio::test(start_paused = true)]
async fn sharing_a_connection_that_was_made_under_another_statement_takes_no_place_among_those_who_wait() {
    let mut rig = Rig::new(&web(1, &[]));
    rig.states(&one_connection(", http1MaxPendingRequests: 1"));
    let (begun, end) = listens_in_place(&rig).await;
    let long = asks(&rig, "/long");
    begun.notified().await;
    rig.states(&one_connection(", http1MaxPendingRequests: 1, idleTimeout: 7s"));
    let waiting = rig.cluster().admit(Resource::Pending, Instant::now().into()).unwrap();
    let answer = asks(&rig, "/short").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/short"), "{answer}");
    drop(waiting);
    end.notify_one();
    assert!(long.await.unwrap().ends_with("/long"));
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_on_the_only_connection_keeps_nobody_waiting_when_another_thing_is_stated() {
    let mut rig = Rig::new(&web(1, &[]));
    rig.states(&one_connection(""));
    let (begun, end) = listens_in_place(&rig).await;
    let long = asks(&rig, "/long");
    begun.notified().await;
    for stated in [", idleTimeout: 7s", ", idleTimeout: 8s"] {
        rig.states(&one_connection(stated));
        let began = Instant::now();
        let answer = exchange(rig.client(), &asked("/short")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/short"), "{answer}");
        assert_eq!((began.elapsed().as_secs(), rig.cluster().in_use().connections), (0, 1));
    }
    end.notify_one();
    let answer = long.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/long"), "{answer}");
    // Nobody asks any more, and it does not stay.
    rig.limited().sweep(Instant::now());
    let ended = async {
        while rig.cluster().in_use().connections > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(1), ended).await.expect("its place is free");
}
