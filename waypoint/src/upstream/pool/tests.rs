//! What is kept, for whom, and for how long.

use std::num::NonZeroU32;

use common::config::destination::pool::HttpPool;
use http::{Request, Response};
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::duplex;
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
async fn a_connection_serves_nobody_any_more_once_something_else_is_stated_of_connections() {
    let connections = Connections::default();
    let (pooled, over) = connection(None).await;
    connections.keep(&key("a", 1), pooled);
    let http = HttpPool { max_requests_per_connection: NonZeroU32::new(1), ..HttpPool::default() };
    let stated = Arc::new(ConnectionPool { http, ..ConnectionPool::default() });
    assert!(connections.take(&key("a", 1), &stated).is_none());
    assert_eq!(count(&connections), 0);
    over.await.unwrap();
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
    assert!(connections.lock().by_key.is_empty());
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
