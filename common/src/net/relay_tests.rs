//! What a relayed TCP connection keeps, copied and spliced: bytes, half-close, resets, backpressure.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::net::kill::{Kill, kill_switch};
use crate::net::splice::PIPES_PER_WORKER;
use crate::net::splice::tests::{lend_all, lent_and_open};

/// As in use, which goes from one to the other, and each of both alone.
fn paces() -> [Pace; 3] {
    [Pace::new(), Pace::copying(), Pace::bulk()]
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (connected, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

struct Relayed {
    client: TcpStream,
    server: TcpStream,
    outcome: JoinHandle<Outcome>,
    kill: Kill,
    counted: Arc<Counted>,
}

/// What a relay told of while it was open.
#[derive(Default)]
struct Counted {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter for Counted {
    fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }
    fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }
}

async fn relayed(pace: Pace) -> Relayed {
    let ((client, near), (far, server)) = (sockets().await, sockets().await);
    let (kill, killed) = kill_switch();
    let counted = Arc::new(Counted::default());
    let meter = counted.clone();
    let outcome = tokio::spawn(async move { carry((near, far), &*meter, &killed, pace).await });
    Relayed { client, server, outcome, kill, counted }
}

async fn is_reset(socket: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(1), socket.read_to_end(&mut rest)).await;
    ended.unwrap().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

/// Writes until nothing more is taken. Returns how much was.
async fn fill(socket: &mut TcpStream) -> u64 {
    let written = Cell::new(0);
    let full = async {
        while let Ok(n) = socket.write(&[0; 65_536]).await {
            written.set(written.get() + n as u64);
        }
    };
    assert!(timeout(Duration::from_millis(300), full).await.is_err(), "the relay hoards what nobody reads");
    written.get()
}

fn noise(bytes: u32, salt: u32) -> Vec<u8> {
    (0..bytes).map(|i| (i.wrapping_add(salt).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test]
async fn each_half_closes_on_its_own_and_every_byte_arrives() {
    for pace in paces() {
        let Relayed { mut client, mut server, outcome, counted, .. } = relayed(pace).await;
        let question = noise(3_000_000, 0);
        let answer: Vec<u8> = question.iter().rev().copied().collect();
        let asking = async {
            client.write_all(&question).await.unwrap();
            client.shutdown().await.unwrap();
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.unwrap();
            read
        };
        let answering = async {
            let mut read = Vec::new();
            server.read_to_end(&mut read).await.unwrap();
            server.write_all(&answer).await.unwrap();
            server.shutdown().await.unwrap();
            read
        };
        let (got_answer, got_question) = tokio::join!(asking, answering);
        assert!(got_answer == answer && got_question == question);
        let bytes = question.len() as u64;
        assert_eq!(outcome.await.unwrap(), Outcome { sent: bytes, received: bytes, end: End::Closed });
        assert_eq!((counted.sent.load(Relaxed), counted.received.load(Relaxed)), (bytes, bytes));
        assert_eq!(lent_and_open().0, 0);
    }
}

/// As FTP and some databases send it: the byte itself goes by the way, as ever, and nothing else does.
#[tokio::test]
async fn what_comes_behind_an_urgent_byte_arrives() {
    use std::os::fd::AsRawFd as _;

    use nix::sys::socket::{MsgFlags, send};

    for pace in paces() {
        let Relayed { mut client, mut server, outcome, .. } = relayed(pace).await;
        let (before, after) = (noise(1_000_000, 3), noise(300_000, 4));
        let sending = async {
            client.write_all(&before).await.unwrap();
            client.writable().await.unwrap();
            while send(client.as_raw_fd(), b"!", MsgFlags::MSG_OOB | MsgFlags::MSG_DONTWAIT).is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            client.write_all(&after).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let both = async { tokio::join!(sending, server.read_to_end(&mut got)).1.unwrap() };
        timeout(Duration::from_secs(5), both).await.expect("it arrives");
        assert!(got == [before, after].concat(), "{} bytes", got.len());
        server.shutdown().await.unwrap();
        assert_eq!(outcome.await.unwrap().end, End::Closed);
    }
}

/// Pieces of every size, messages and streams in turn, with pauses on both sides.
#[tokio::test]
async fn whatever_the_sizes_the_bytes_are_the_same_in_the_same_order() {
    for (seed, pace) in paces().into_iter().cycle().take(12).enumerate() {
        let Relayed { client, server, outcome, .. } = relayed(pace).await;
        let (from_client, from_server) = (noise(4_000_000, 1), noise(2_500_000, 2));
        let (got_client, got_server) = tokio::join!(
            converse(client, from_client.clone(), seed as u64),
            converse(server, from_server.clone(), seed as u64 + 100)
        );
        assert!(got_client == from_server && got_server == from_client, "seed {seed}");
        let (sent, received) = (from_client.len() as u64, from_server.len() as u64);
        assert_eq!(outcome.await.unwrap(), Outcome { sent, received, end: End::Closed }, "seed {seed}");
        assert_eq!(lent_and_open().0, 0);
    }
}

/// Sends `bytes` in random pieces, closes, and reads to the end beside that. Returns what was read.
async fn converse(socket: TcpStream, bytes: Vec<u8>, seed: u64) -> Vec<u8> {
    let (mut read, mut write) = socket.into_split();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut pauses = StdRng::seed_from_u64(!seed);
    let sending = async {
        let mut left = &bytes[..];
        while !left.is_empty() {
            let most = 1 << rng.random_range(0..20);
            let (piece, after) = left.split_at(rng.random_range(1..=most).min(left.len()));
            write.write_all(piece).await.unwrap();
            left = after;
            if rng.random_ratio(1, 16) {
                tokio::time::sleep(Duration::from_micros(rng.random_range(0..2000))).await;
            }
        }
        write.shutdown().await.unwrap();
    };
    let reading = async {
        let (mut got, mut buffer) = (Vec::new(), vec![0; 1 << 18]);
        loop {
            let most = 1 << pauses.random_range(4..19);
            match read.read(&mut buffer[..most]).await.unwrap() {
                0 => return got,
                n => got.extend_from_slice(&buffer[..n]),
            }
            if pauses.random_ratio(1, 32) {
                tokio::time::sleep(Duration::from_micros(pauses.random_range(0..2000))).await;
            }
        }
    };
    tokio::join!(sending, reading).1
}

#[tokio::test]
async fn a_reset_of_either_side_is_a_reset_of_the_other() {
    for pace in paces() {
        let Relayed { client, mut server, outcome, .. } = relayed(pace.clone()).await;
        socket::reset(client);
        assert!(is_reset(&mut server).await);
        assert_eq!(outcome.await.unwrap().end, End::NearReset(io::ErrorKind::ConnectionReset));
        let Relayed { mut client, server, outcome, .. } = relayed(pace).await;
        socket::reset(server);
        assert!(is_reset(&mut client).await);
        let tcp = FarReset::Tcp(io::ErrorKind::ConnectionReset);
        assert_eq!(outcome.await.unwrap().end, End::FarReset(tcp));
    }
}

#[tokio::test]
async fn a_slow_reader_slows_its_writer_whose_reset_is_still_heard() {
    for pace in paces() {
        let splices = pace != Pace::copying();
        let Relayed { mut client, mut server, outcome, counted, .. } = relayed(pace).await;
        let written = fill(&mut client).await;
        assert_eq!(lent_and_open().0, usize::from(splices), "what waits, waits in a pipe");
        let (_, open) = lent_and_open();
        socket::reset(client);
        let outcome = timeout(Duration::from_secs(1), outcome).await.unwrap().unwrap();
        assert_eq!(outcome.end, End::NearReset(io::ErrorKind::ConnectionReset));
        assert!(outcome.sent <= written);
        assert_eq!(outcome.sent, counted.sent.load(Relaxed), "what is in a pipe was not handed on");
        assert!(is_reset(&mut server).await);
        assert_eq!(lent_and_open(), (0, open - usize::from(splices)), "its pipe went with what was in it");
    }
}

#[tokio::test]
async fn a_reader_that_resets_before_a_full_pipe_is_heard() {
    for pace in paces() {
        let Relayed { mut client, server, outcome, .. } = relayed(pace).await;
        fill(&mut client).await;
        socket::reset(server);
        let outcome = timeout(Duration::from_secs(1), outcome).await.unwrap().unwrap();
        assert!(matches!(outcome.end, End::FarReset(FarReset::Tcp(_))), "{outcome:?}");
        assert!(is_reset(&mut client).await);
        assert_eq!(lent_and_open().0, 0);
    }
}

#[tokio::test]
async fn a_reader_that_stalled_gets_all_of_it_and_then_the_end() {
    for pace in paces() {
        let Relayed { mut client, mut server, outcome, .. } = relayed(pace).await;
        let written = fill(&mut client).await;
        // The end is behind what is in the pipe.
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        timeout(Duration::from_secs(10), server.read_to_end(&mut got)).await.unwrap().unwrap();
        assert_eq!(got.len() as u64, written);
        server.write_all(b"still there").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"still there");
        assert_eq!(outcome.await.unwrap(), Outcome { sent: written, received: 11, end: End::Closed });
    }
}

#[tokio::test]
async fn an_idle_connection_holds_no_pipe() {
    let Relayed { mut client, mut server, .. } = relayed(Pace::new()).await;
    let stream = noise(8_000_000, 3);
    let mut got = vec![0; stream.len()];
    let (sent, read) = tokio::join!(client.write_all(&stream), server.read_exact(&mut got));
    sent.unwrap();
    read.unwrap();
    assert!(got == stream);
    // The relay has handed on all there was, or the bytes would not be here; it learns that nothing is left.
    tokio::task::yield_now().await;
    let (lent, open) = lent_and_open();
    assert_eq!((lent, open), (0, 1), "one was used and went back");
}

#[tokio::test]
async fn where_no_pipe_is_free_streams_are_copied() {
    let all = lend_all();
    assert_eq!(all.len(), PIPES_PER_WORKER);
    let Relayed { mut client, mut server, outcome, .. } = relayed(Pace::bulk()).await;
    let stream = noise(5_000_000, 4);
    let sending = async {
        client.write_all(&stream).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (_, read) = tokio::join!(sending, server.read_to_end(&mut got));
    read.unwrap();
    assert!(got == stream);
    drop(server);
    assert_eq!(outcome.await.unwrap().sent, stream.len() as u64);
}

#[tokio::test]
async fn a_killed_connection_is_reset_on_both_sides() {
    for pace in paces() {
        for is_full in [false, true] {
            let Relayed { mut client, mut server, outcome, kill, .. } = relayed(pace.clone()).await;
            if is_full {
                fill(&mut client).await;
            }
            kill.kill(Refusal::Draining);
            assert_eq!(outcome.await.unwrap().end, End::Killed(Refusal::Draining));
            assert!(is_reset(&mut client).await);
            assert!(is_reset(&mut server).await);
            assert_eq!(lent_and_open().0, 0);
        }
    }
}
