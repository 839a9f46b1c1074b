//! Who shares a connection, and what happens when it goes away.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use h2::Reason;

use super::*;
use crate::hbone::pool::{Key, Pool};
use crate::refusal::Refusal;
use crate::spiffe::Identity;

fn key() -> Key {
    Key {
        source_uid: "Kubernetes//Pod/shop/web".into(),
        source_incarnation: "1".into(),
        source: Identity::new("cluster.local", "shop", "web"),
        destination: Identity::new("cluster.local", "shop", "db"),
        address: "10.0.0.7:15008".parse().unwrap(),
        source_ip: "10.0.0.1".parse().unwrap(),
    }
}

/// A peer to dial: accepts every CONNECT, and keeps the streams open.
struct Peer {
    pool: Pool,
    dials: Cell<usize>,
    servers: RefCell<Vec<Ends>>,
    /// Time a dial takes.
    delay: Duration,
}

/// The server end of one connection.
struct Ends {
    task: JoinHandle<()>,
    drain: tokio::sync::oneshot::Sender<()>,
}

impl Peer {
    fn new() -> Self {
        Self {
            pool: Pool::new(limits::IDLE_RELEASE, budget()),
            dials: Cell::new(0),
            servers: RefCell::default(),
            delay: Duration::from_millis(1),
        }
    }

    async fn open(&self, key: &Key) -> Result<Stream, Refusal> {
        let dial = || async {
            self.dials.set(self.dials.get() + 1);
            tokio::time::sleep(self.delay).await;
            Ok(self.accept_all())
        };
        self.pool.open(&Arc::new(key.clone()), &to_somewhere(), dial).await
    }

    fn accept_all(&self) -> DuplexStream {
        let (near, far) = duplex(64 * 1024);
        let (drain, mut drained) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut server = server::accept(far, &budget()).await.unwrap();
            let mut streams = Vec::new();
            let mut draining = false;
            loop {
                let arrival = tokio::select! {
                    arrival = server.next() => arrival,
                    _ = &mut drained, if !draining => {
                        server.drain();
                        draining = true;
                        continue;
                    }
                };
                match arrival {
                    Some(Ok(Arrival::Connect(incoming))) => streams.push(incoming.accept(None).unwrap()),
                    _ => break,
                }
                // A stream whose client is gone is of no use any more.
                streams.retain_mut(|stream| !stream.recv.is_end_stream());
            }
        });
        self.servers.borrow_mut().push(Ends { task, drain });
        near
    }
}

#[tokio::test]
async fn of_many_flows_in_need_one_dials() {
    let peer = Peer::new();
    let key = key();
    let flows = (0..50).map(|_| peer.open(&key));
    let opened = futures_util::future::join_all(flows).await;
    assert!(opened.iter().all(Result::is_ok));
    assert_eq!(peer.dials.get(), 1);
    assert_eq!(peer.pool.stats().iter().map(|tunnel| tunnel.streams).sum::<usize>(), 50);
}

#[tokio::test]
async fn the_flow_after_the_hundredth_gets_another_connection() {
    let peer = Peer::new();
    let key = key();
    let opened = futures_util::future::join_all((0..250).map(|_| peer.open(&key))).await;
    assert!(opened.iter().all(Result::is_ok));
    assert_eq!(peer.dials.get(), 3);
    assert!(peer.pool.stats().iter().all(|tunnel| tunnel.streams <= limits::STREAMS_PER_CONNECTION));
    drop(opened);
    let _reused = peer.open(&key).await.unwrap();
    assert_eq!(peer.dials.get(), 3, "a place given back is used again");
}

#[tokio::test]
async fn flows_that_differ_in_any_part_of_the_key_share_nothing() {
    let peer = Peer::new();
    let other = Identity::new("cluster.local", "shop", "other");
    let keys = [
        key(),
        Key { source_uid: "Kubernetes//Pod/shop/other".into(), ..key() },
        Key { source_incarnation: "2".into(), ..key() },
        Key { source: other.clone(), ..key() },
        Key { destination: other, ..key() },
        Key { address: "10.0.0.8:15008".parse().unwrap(), ..key() },
        Key { source_ip: "10.0.0.2".parse().unwrap(), ..key() },
    ];
    let mut streams = Vec::new();
    for (dialled, key) in keys.iter().enumerate() {
        streams.push(peer.open(key).await.unwrap());
        assert_eq!(peer.dials.get(), dialled + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_dial_fails_everyone_who_waited_for_it_and_nobody_later() {
    let peer = Peer::new();
    let dials = Cell::new(0);
    let failing = || async {
        dials.set(dials.get() + 1);
        tokio::time::sleep(Duration::from_secs(5)).await;
        Err::<DuplexStream, _>(Refusal::TunnelUnreachable("10.0.0.7:15008".into()))
    };
    let (key, request) = (Arc::new(key()), to_somewhere());
    let flows = (0..20).map(|_| peer.pool.open(&key, &request, failing));
    for refused in futures_util::future::join_all(flows).await {
        assert_eq!(refused.unwrap_err(), Refusal::TunnelUnreachable("10.0.0.7:15008".into()));
    }
    assert_eq!(dials.get(), 1);
    assert!(peer.pool.stats().is_empty());
    peer.open(&key).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_is_given_up_passes_to_the_next_in_line() {
    let mut peer = Peer::new();
    peer.delay = Duration::from_secs(3);
    let key = key();
    let impatient = tokio::time::timeout(Duration::from_secs(1), peer.open(&key));
    let (given_up, opened) = tokio::join!(impatient, peer.open(&key));
    assert!(given_up.is_err());
    opened.unwrap();
    assert_eq!(peer.dials.get(), 2);
}

#[tokio::test]
async fn after_goaway_open_streams_go_on_and_new_ones_take_a_fresh_connection() {
    let peer = Peer::new();
    let key = key();
    let mut old = peer.open(&key).await.unwrap();
    let Ends { task, drain } = peer.servers.borrow_mut().pop().unwrap();
    drain.send(()).unwrap();
    // The GOAWAY travels while the pool still offers the connection.
    let _new = peer.open(&key).await.unwrap();
    let _newer = peer.open(&key).await.unwrap();
    assert!(peer.dials.get() <= 2, "{} dials", peer.dials.get());
    tokio::time::timeout(Duration::from_millis(100), async {
        while peer.open(&key).await.is_ok() && peer.dials.get() < 2 {}
    })
    .await
    .expect("the draining connection is handed out for ever");
    old.send.send_data("still here".into(), true).unwrap();
    drop(old);
    drop((_new, _newer));
    peer.pool.drain(&key.source_uid);
    tokio::time::timeout(Duration::from_secs(1), task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_died_unnoticed_is_replaced_once() {
    let peer = Peer::new();
    let key = key();
    drop(peer.open(&key).await.unwrap());
    for _ in 0..3 {
        let Ends { task, .. } = peer.servers.borrow_mut().pop().unwrap();
        task.abort();
        let _ = task.await;
        let dials = peer.dials.get();
        drop(peer.open(&key).await.unwrap());
        assert_eq!(peer.dials.get(), dials + 1);
    }
}

#[tokio::test]
async fn a_refused_stream_is_tried_once_more_and_no_more() {
    let pool = Pool::new(limits::IDLE_RELEASE, budget());
    let dials = Cell::new(0);
    let refusing = || async {
        dials.set(dials.get() + 1);
        let (near, far) = duplex(64 * 1024);
        tokio::spawn(async move {
            let mut server = h2::server::handshake(far).await.unwrap();
            while let Some(Ok((_, mut respond))) = server.accept().await {
                respond.send_reset(Reason::REFUSED_STREAM);
            }
        });
        Ok(near)
    };
    let refused = pool.open(&Arc::new(key()), &to_somewhere(), refusing).await.unwrap_err();
    assert!(matches!(refused, Refusal::Http2Failed(_)), "{refused}");
    assert_eq!(dials.get(), 2);
}

#[tokio::test]
async fn the_peers_status_is_the_refusal() {
    let mut wire = Wire::new(&budget()).await;
    let request = to_somewhere();
    let opening = wire.tunnel.lease().unwrap().open(&request);
    let refusing = async { wire.incoming.recv().await.unwrap().refuse(http::StatusCode::UNAUTHORIZED) };
    let (opened, ()) = tokio::join!(opening, refusing);
    assert_eq!(opened.unwrap_err(), client::OpenError::Refused(Refusal::PeerRefused(401)));
    assert_eq!(wire.tunnel.streams(), 0, "the place is given back");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_answers_is_given_up() {
    let wire = Wire::new(&budget()).await;
    let started = tokio::time::Instant::now();
    let error = wire.tunnel.lease().unwrap().open(&to_somewhere()).await.unwrap_err();
    assert!(matches!(error, client::OpenError::Refused(Refusal::Http2Failed(_))), "{error:?}");
    assert_eq!(started.elapsed().as_secs(), limits::ANSWER_DEADLINE.as_secs());
}

#[tokio::test]
async fn a_drained_workload_leaves_its_streams_and_shares_no_more() {
    let peer = Peer::new();
    let key = key();
    let old = peer.open(&key).await.unwrap();
    peer.pool.drain(&key.source_uid);
    assert!(peer.pool.stats().is_empty());
    let _new = peer.open(&key).await.unwrap();
    assert_eq!(peer.dials.get(), 2);
    let Ends { task, .. } = peer.servers.borrow_mut().remove(0);
    tokio::task::yield_now().await;
    assert!(!task.is_finished(), "the old stream is still open");
    drop(old);
    tokio::time::timeout(Duration::from_secs(1), task).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_goes_away_during_the_dial_gets_nothing() {
    let mut peer = Peer::new();
    peer.delay = Duration::from_secs(1);
    let key = key();
    let draining = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        peer.pool.drain(&key.source_uid);
    };
    let (opened, waited, ()) = tokio::join!(peer.open(&key), peer.open(&key), draining);
    assert_eq!(opened.unwrap_err(), Refusal::PodGone);
    assert_eq!(waited.unwrap_err(), Refusal::PodGone);
    assert!(peer.pool.stats().is_empty());
}

#[tokio::test]
async fn closing_a_workload_fails_its_streams() {
    let peer = Peer::new();
    let key = key();
    let mut stream = peer.open(&key).await.unwrap();
    peer.pool.close(&key.source_uid);
    let lost = std::future::poll_fn(|cx| stream.recv.poll_data(cx)).await.unwrap();
    assert!(lost.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_unused_connection_is_released() {
    let peer = Peer::new();
    let key = key();
    let stream = peer.open(&key).await.unwrap();
    tokio::time::sleep(2 * limits::IDLE_RELEASE).await;
    assert_eq!(peer.pool.stats().len(), 1, "it carries a stream");
    drop(stream);
    tokio::time::sleep(limits::IDLE_RELEASE - Duration::from_secs(1)).await;
    assert_eq!(peer.pool.stats().len(), 1, "not yet");
    tokio::time::sleep(Duration::from_secs(1) + limits::KEEPALIVE_INTERVAL).await;
    assert!(peer.pool.stats().is_empty());
    let Ends { task, .. } = peer.servers.borrow_mut().pop().unwrap();
    task.await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_costs_its_tasks_little() {
    let mut wire = Wire::new(&budget()).await;
    let (stream, _far) = wire.stream().await;
    let ((near, _), (_, killed)) = (sockets().await, kill_switch());
    let relay = relay::relay(near, stream, &(), &killed);
    assert!(std::mem::size_of_val(&relay) <= 1024, "{} bytes", std::mem::size_of_val(&relay));
    let peer = Peer::new();
    let key = key();
    // The dial of a real peer holds a TLS handshake of kilobytes; it must not become part of the flow's task.
    let big = || async {
        let handshake = std::hint::black_box([0_u8; 8192]);
        tokio::task::yield_now().await;
        assert_eq!(std::hint::black_box(handshake).len(), 8192);
        Ok(peer.accept_all())
    };
    let (key, request) = (Arc::new(key), to_somewhere());
    let open = peer.pool.open(&key, &request, big);
    assert!(std::mem::size_of_val(&open) <= 1536, "{} bytes", std::mem::size_of_val(&open));
}
