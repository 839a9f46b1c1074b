//! Bursts of requests towards one endpoint.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use common::balance::budget::{Overflow, Resource};
use futures_util::future::join_all;
use http::Version;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::duplex;
use tokio::time::{sleep, timeout};

use super::*;
use crate::upstream::connection::Sender;

const SECOND: Duration = Duration::from_secs(1);

fn key() -> PoolKey {
    PoolKey {
        cluster: "a".into(),
        address: "10.0.0.7:8080".parse().unwrap(),
        incarnation: "one".into(),
        version: Version::HTTP_2,
        client: IpAddr::from([10, 0, 0, 1]),
        tls: None,
        external: None,
        namespace: "shop".into(),
    }
}

/// An endpoint to which a connection takes a second.
struct Endpoint {
    pool: Connections,
    most: u32,
    refuses: bool,
    dialled: Cell<usize>,
}

impl Endpoint {
    fn new(most: u32) -> Self {
        Self { pool: Connections::default(), most, refuses: false, dialled: Cell::new(0) }
    }

    async fn make(&self) -> Result<Pooled, Failed> {
        self.dialled.set(self.dialled.get() + 1);
        sleep(SECOND).await;
        if self.refuses {
            return Err(Failed::Connect(Refusal::ConnectFailed("refused".into())));
        }
        let (near, far) = duplex(1024);
        let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
        tokio::spawn(async move {
            let _ = driver.await;
            drop(far);
        });
        let mut pooled = Pooled {
            sender: Sender::Http2(sender),
            made_under: Arc::default(),
            taken: 0,
            most: None,
            idle: None,
            until: None,
            most_streams: self.most,
            streams: Arc::default(),
            place: Weak::<()>::new(),
        };
        let shared = pooled.share().unwrap();
        self.pool.keep(&key(), pooled);
        Ok(shared)
    }

    /// What a request gets that waits for five seconds at most.
    async fn request(&self) -> Result<Pooled, Failed> {
        let late = Instant::now() + 5 * SECOND;
        self.pool.share((&key(), &Arc::default()), (self.most, late), || self.make()).await
    }

    async fn burst(&self, requests: usize) -> Vec<Result<Pooled, Failed>> {
        let all = join_all((0..requests).map(|_| self.request())).await;
        assert!(self.pool.lock().expected.is_empty());
        all
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_makes_as_many_connections_as_it_needs() {
    for (most, connections) in [(100, 1), (4, 3), (1, 10)] {
        let endpoint = Endpoint::new(most);
        let began = Instant::now();
        let all = endpoint.burst(10).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!((endpoint.dialled.get(), began.elapsed()), (connections, SECOND), "{most} streams each");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_what_fails_fails_with_it() {
    let endpoint = Endpoint { refuses: true, ..Endpoint::new(100) };
    let began = Instant::now();
    for one in endpoint.burst(10).await {
        assert!(matches!(one, Err(Failed::Connect(Refusal::ConnectFailed(_)))), "{one:?}");
    }
    assert_eq!((endpoint.dialled.get(), began.elapsed()), (1, SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_maker_that_is_withdrawn_leaves_it_to_one_of_the_others() {
    let endpoint = Endpoint::new(100);
    let impatient = timeout(SECOND / 2, endpoint.request());
    let (impatient, others) = tokio::join!(impatient, endpoint.burst(10));
    assert!(impatient.is_err() && others.iter().all(Result::is_ok));
    assert_eq!(endpoint.dialled.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_others_longer_than_for_a_connection_of_its_own() {
    let pool = Connections::default();
    let key = key();
    let late = Instant::now() + 5 * SECOND;
    let full = Overflow { resource: Resource::Connection, limit: 1 };
    let stated = Arc::default();
    let slow = pool.share((&key, &stated), (100, late), std::future::pending);
    let waiting = pool.share((&key, &stated), (100, late), || async { Err(Failed::Overflow(full)) });
    let waited = tokio::select! {
        biased;
        _ = slow => panic!("it never ends"),
        waited = waiting => waited,
    };
    // It hears what it met itself, and blames no endpoint.
    assert!(matches!(waited, Err(Failed::Overflow(it)) if it == full), "{waited:?}");
    assert_eq!(Instant::now(), late);
}
