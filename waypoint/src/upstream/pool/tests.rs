//! What is kept, for whom, and for how long.

use std::num::NonZeroU32;

use common::config::destination::pool::{ConnectionPool, HttpPool};
use http::{Request, Response};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::duplex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::payload::Payload;

fn key(cluster: &str, client: u8) -> PoolKey {
    PoolKey {
        cluster: cluster.into(),
        address: "10.0.0.7:8080".parse().unwrap(),
        incarnation: "one".into(),
        version: Version::HTTP_11,
        client: IpAddr::from([10, 0, 0, client]),
        tls: None,
        external: None,
        namespace: "shop".into(),
    }
}

/// A connection whose requests are answered, and its end.
async fn connection(idle: Option<Duration>) -> (Pooled, JoinHandle<()>) {
    let (near, far) = duplex(1024);
    let answer = service_fn(|_| async { Ok::<_, std::convert::Infallible>(Response::new(Payload::Empty)) });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), answer);
    tokio::spawn(served);
    let (sender, driver) = http1::handshake(TokioIo::new(near)).await.unwrap();
    let over = tokio::spawn(async move {
        let _ = driver.await;
    });
    // It is ready once it has had a turn.
    tokio::task::yield_now().await;
    let pooled = Pooled {
        sender: Sender::Http1(sender),
        made_under: Arc::default(),
        taken: 1,
        most: None,
        idle,
        until: None,
        most_streams: u32::MAX,
        streams: Arc::default(),
        place: Weak::<()>::new(),
    };
    (pooled, over)
}

/// A connection of HTTP/2 on which nothing is answered before `until` is told, and its end.
async fn shared_connection(until: &Arc<Notify>) -> (Pooled, JoinHandle<()>) {
    let (near, far) = duplex(1024);
    let until = until.clone();
    let answer = service_fn(move |_| {
        let until = until.clone();
        async move {
            until.notified().await;
            Ok::<_, std::convert::Infallible>(Response::new(Payload::Empty))
        }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    tokio::spawn(server.serve_connection(TokioIo::new(far), answer));
    let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
    let over = tokio::spawn(async move {
        let _ = driver.await;
    });
    let (of_http1, _) = connection(None).await;
    (Pooled { sender: Sender::Http2(sender), ..of_http1 }, over)
}

/// What a request on it is answered with; it is over then.
async fn status(mut taken: Pooled) -> u16 {
    taken.sender.send(Request::new(Payload::Empty)).await.unwrap().status().as_u16()
}

/// Another statement than the default.
fn another() -> Arc<Stated> {
    let http = HttpPool { max_requests_per_connection: NonZeroU32::new(1), ..HttpPool::default() };
    Arc::new(ConnectionPool { http, ..ConnectionPool::default() }.into())
}

fn count(connections: &Connections) -> usize {
    let kept = connections.lock();
    assert_eq!(kept.count, kept.by_key.values().map(Vec::len).sum::<usize>(), "the count is wrong");
    kept.count
}

#[tokio::test]
async fn a_connection_serves_again_whom_it_served_and_nobody_else() {
    let connections = Connections::default();
    let (pooled, _over) = connection(None).await;
    connections.keep(&key("a", 1), pooled);
    let others = [
        key("b", 1),
        key("a", 2),
        PoolKey { address: "10.0.0.8:8080".parse().unwrap(), ..key("a", 1) },
        PoolKey { incarnation: "two".into(), ..key("a", 1) },
        PoolKey { version: Version::HTTP_2, ..key("a", 1) },
    ];
    for other in others {
        assert!(connections.take(&other, &Arc::default()).is_none(), "{other:?}");
    }
    let mut taken = connections.take(&key("a", 1), &Arc::default()).unwrap();
    assert_eq!((taken.taken, count(&connections)), (2, 0));
    assert!(connections.take(&key("a", 1), &Arc::default()).is_none());
    let answer = taken.sender.send(Request::new(Payload::Empty)).await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_connection_serves_only_those_who_go_by_what_it_was_made_under_and_ends_with_that() {
    let connections = Connections::default();
    let (pooled, over) = connection(None).await;
    let before = pooled.made_under.clone();
    connections.keep(&key("a", 1), pooled);
    assert!(connections.take(&key("a", 1), &another()).is_none());
    connections.sweep(Instant::now());
    assert_eq!(count(&connections), 1, "whoever asks under another one may be the one who is late");
    // The same said anew is the same.
    let pooled = connections.take(&key("a", 1), &Arc::default()).unwrap();
    connections.keep(&key("a", 1), pooled);
    before.end();
    connections.sweep(Instant::now());
    assert_eq!(count(&connections), 0);
    over.await.unwrap();
}

#[tokio::test]
async fn what_is_under_way_keeps_a_connection_that_was_made_under_what_is_in_force_no_more() {
    let connections = Connections::default();
    let until = Arc::new(Notify::new());
    let (pooled, over) = shared_connection(&until).await;
    let before = pooled.made_under.clone();
    connections.keep(&key("a", 1), pooled);
    let running = tokio::spawn(status(connections.take(&key("a", 1), &before).unwrap()));
    before.end();
    connections.sweep(Instant::now());
    // It is not given to just anybody, but where there may be no other one.
    assert!(connections.take(&key("a", 1), &another()).is_none());
    connections.evict("a");
    assert!(connections.take_busy(&key("a", 1)).is_some_and(|it| it.taken == 3));
    until.notify_one();
    assert_eq!(running.await.unwrap(), 200);
    assert!(connections.take_busy(&key("a", 1)).is_none());
    connections.sweep(Instant::now());
    assert_eq!(count(&connections), 0);
    over.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_lasts_no_longer_is_swept_and_what_is_under_way_on_it_goes_on() {
    let connections = Connections::default();
    let until = Arc::new(Notify::new());
    let (mut idle, over) = connection(None).await;
    let (mut busy, busy_over) = shared_connection(&until).await;
    let ten_seconds = Some(Instant::now() + Duration::from_secs(10));
    (idle.until, busy.until) = (ten_seconds, ten_seconds);
    connections.keep(&key("a", 1), idle);
    connections.keep(&key("a", 2), busy);
    let running = tokio::spawn(status(connections.take(&key("a", 2), &Arc::default()).unwrap()));
    connections.sweep(Instant::now());
    assert_eq!(count(&connections), 2);
    sleep(Duration::from_secs(10)).await;
    connections.sweep(Instant::now());
    assert_eq!(count(&connections), 0);
    over.await.unwrap();
    until.notify_one();
    assert_eq!(running.await.unwrap(), 200);
    busy_over.await.unwrap();
}

#[tokio::test]
async fn what_is_closed_or_spent_is_not_given_out_and_not_counted() {
    let connections = Connections::default();
    let (mut spent, _over) = connection(None).await;
    (spent.taken, spent.most) = (3, Some(3));
    connections.keep(&key("a", 1), spent);
    assert_eq!(count(&connections), 0);
    let (closed, over) = connection(None).await;
    connections.keep(&key("a", 1), closed);
    assert_eq!(count(&connections), 1);
    over.abort();
    let _ = over.await;
    assert!(connections.take(&key("a", 1), &Arc::default()).is_none());
    assert_eq!(count(&connections), 0);
    connections.sweep(Instant::now());
    assert!(connections.lock().by_key.is_empty(), "an empty list stays after a sweep");
}

#[tokio::test]
async fn the_bound_holds_over_all_keys() {
    let connections = Connections::default();
    connections.lock().count = MAX_IDLE_CONNECTIONS - 1;
    let (one, _one) = connection(None).await;
    let (other, mut over) = connection(None).await;
    connections.keep(&key("a", 1), one);
    connections.keep(&key("b", 2), other);
    assert_eq!(connections.lock().count, MAX_IDLE_CONNECTIONS);
    assert!(connections.take(&key("b", 2), &Arc::default()).is_none());
    (&mut over).await.unwrap();
    assert!(connections.take(&key("a", 1), &Arc::default()).is_some());
    assert_eq!(connections.lock().count, MAX_IDLE_CONNECTIONS - 1);
}

#[tokio::test]
async fn room_is_made_by_one_connection_of_that_cluster() {
    let connections = Connections::default();
    let mut overs = Vec::new();
    for (cluster, client) in [("a", 1), ("a", 1), ("a", 2), ("b", 1)] {
        let (pooled, over) = connection(None).await;
        connections.keep(&key(cluster, client), pooled);
        overs.push(over);
    }
    connections.evict("c");
    assert_eq!(count(&connections), 4);
    for left in [3, 2, 1, 1] {
        connections.evict("a");
        assert_eq!(count(&connections), left);
    }
    assert!(connections.take(&key("b", 1), &Arc::default()).is_some());
    for over in overs.drain(..3) {
        over.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_too_long_is_swept() {
    let connections = Connections::default();
    let (short, over) = connection(Some(Duration::from_secs(10))).await;
    let (long, _long) = connection(Some(Duration::from_secs(100))).await;
    let (ever, _ever) = connection(None).await;
    for (client, pooled) in [(1, short), (2, long), (3, ever)] {
        connections.keep(&key("a", client), pooled);
    }
    sleep(Duration::from_secs(9)).await;
    connections.sweep(Instant::now());
    assert_eq!(count(&connections), 3);
    sleep(Duration::from_secs(1)).await;
    connections.sweep(Instant::now());
    assert_eq!(count(&connections), 2);
    over.await.unwrap();
    sleep(Duration::from_secs(1000)).await;
    connections.sweep(Instant::now());
    assert_eq!(count(&connections), 1);
    assert!(connections.take(&key("a", 3), &Arc::default()).is_some());
}

#[test]
fn the_first_connection_of_a_key_is_told_from_others_as_long_as_one_lives() {
    let connections = Connections::default();
    let first = connections.begin_first(&key("a", 1)).expect("there is none");
    assert!(connections.begin_first(&key("a", 1)).is_none());
    assert!(connections.begin_first(&key("a", 2)).is_some(), "another client has none");
    let second = connections.begin(&key("a", 1));
    drop(first);
    assert!(connections.begin_first(&key("a", 1)).is_none());
    connections.sweep(Instant::now());
    assert_eq!(connections.lock().alive.len(), 1);
    drop(second);
    connections.sweep(Instant::now());
    assert!(connections.lock().alive.is_empty());
    assert!(connections.begin_first(&key("a", 1)).is_some());
}
