//! What a carried connection keeps: every byte, each half-close, the kind of ending, and its neighbours' speed.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::*;
use crate::net::relay::{End, FarReset};
use crate::net::socket;
use crate::refusal::Refusal;

/// What an application does after it has written its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Half-closes, then reads on.
    FinAfterWriting,
    /// Half-closes without having written anything, then reads.
    FinAtOnce,
    /// Half-closes only when it has read everything.
    FinAfterReading,
    /// Resets once its payload is written.
    Reset,
}

use Ending::{FinAfterReading, FinAfterWriting, FinAtOnce, Reset};

impl Ending {
    fn payload(self, size: usize, seed: u32) -> Vec<u8> {
        let size = if self == FinAtOnce { 0 } else { size };
        (0..size as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 11) as u8).collect()
    }
}

/// Plays an application; returns what it read and how reading ended.
async fn play(socket: TcpStream, ending: Ending, payload: Vec<u8>) -> (Vec<u8>, Option<ErrorKind>) {
    if ending == Reset {
        let mut socket = socket;
        // The other side may reset as well, and first.
        let _ = socket.write_all(&payload).await;
        socket::reset(socket);
        return (Vec::new(), None);
    }
    let (mut reader, mut writer) = socket.into_split();
    if ending == FinAfterReading {
        let (_, read) = tokio::join!(writer.write_all(&payload), read_all(&mut reader));
        finish(&mut writer).await;
        return read;
    }
    let writing = async {
        // A reset by the other side is asserted where it is read.
        let _ = writer.write_all(&payload).await;
        finish(&mut writer).await;
    };
    tokio::join!(writing, read_all(&mut reader)).1
}

async fn finish(writer: &mut OwnedWriteHalf) {
    let _ = writer.shutdown().await;
}

async fn read_all(reader: &mut OwnedReadHalf) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let failed = reader.read_to_end(&mut bytes).await.err().map(|error| error.kind());
    (bytes, failed)
}

async fn check_endings(client: Ending, server: Ending, size: usize) {
    let mut wire = Wire::new(&budget()).await;
    let carried = wire.carried().await;
    let (sent, answer) = (client.payload(size, 1), server.payload(size, 2));
    let played = tokio::time::timeout(Duration::from_secs(10), async {
        tokio::join!(
            play(carried.client, client, sent.clone()),
            play(carried.server, server, answer.clone()),
            carried.outbound,
            carried.inbound,
        )
    });
    let case = format!("{client:?} against {server:?}, {size} bytes");
    let (at_client, at_server, outbound, inbound) =
        played.await.unwrap_or_else(|_| panic!("{case}: nothing moves any more"));
    let (outbound, inbound) = (outbound.unwrap(), inbound.unwrap());
    if client != Reset && server != Reset {
        assert!(at_client == (answer.clone(), None), "{case}: the client read something else");
        assert!(at_server == (sent.clone(), None), "{case}: the server read something else");
        let closed = |sent: &[u8], received: &[u8]| Outcome {
            sent: sent.len() as u64,
            received: received.len() as u64,
            end: End::Closed,
        };
        assert_eq!(outbound, closed(&sent, &answer), "{case}");
        assert_eq!(inbound, closed(&answer, &sent), "{case}");
    }
    for (reader, reads, bytes, (got, failed)) in
        [(client, server, &answer, &at_client), (server, client, &sent, &at_server)]
    {
        if reader != Reset && reads == Reset {
            assert_eq!(*failed, Some(ErrorKind::ConnectionReset), "{case}: a reset must not look like FIN");
            assert!(bytes.starts_with(got), "{case}: what was read is not a prefix of what was sent");
        }
    }
}

#[tokio::test]
async fn endings_of_every_order_arrive_as_they_were_sent() {
    let endings = [FinAfterWriting, FinAtOnce, FinAfterReading, Reset];
    let mut cases = 0;
    for size in [10, 700_000] {
        for client in endings {
            for server in endings {
                if (client, server) != (FinAfterReading, FinAfterReading) {
                    check_endings(client, server, size).await;
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 30);
}

#[tokio::test]
async fn a_reset_is_heard_even_while_nothing_can_be_read() {
    let mut wire = Wire::new(&budget()).await;
    let mut carried = wire.carried().await;
    // The server never reads: the stream's window and the sockets fill up, and the relay stops reading.
    let full = async { while carried.client.write_all(&[0; 65_536]).await.is_ok() {} };
    let _ = tokio::time::timeout(Duration::from_millis(300), full).await;
    socket::reset(carried.client);
    let ends = async { tokio::join!(carried.outbound, carried.inbound) };
    let (outbound, inbound) = tokio::time::timeout(Duration::from_secs(1), ends).await.unwrap();
    assert_eq!(outbound.unwrap().end, End::NearReset(ErrorKind::ConnectionReset));
    let connect_error = h2::Reason::CONNECT_ERROR.into();
    assert_eq!(inbound.unwrap().end, End::FarReset(FarReset::Stream(connect_error)));
    let mut bytes = Vec::new();
    let error = carried.server.read_to_end(&mut bytes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_after_fin_is_heard() {
    let mut wire = Wire::new(&budget()).await;
    let mut carried = wire.carried().await;
    carried.client.shutdown().await.unwrap();
    assert_eq!(carried.server.read(&mut [0; 8]).await.unwrap(), 0);
    // The client dies while it waits for an answer.
    socket::reset(carried.client);
    let outcome = tokio::time::timeout(Duration::from_secs(1), carried.inbound).await.unwrap().unwrap();
    assert!(matches!(outcome.end, End::FarReset(FarReset::Stream(_))), "{outcome:?}");
    // Having read FIN, the kernel tells of the reset when the server answers.
    let error = carried.server.write_all(b"answer").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
}

#[tokio::test]
async fn a_killed_connection_is_reset_on_both_sides_and_its_neighbour_lives() {
    let mut wire = Wire::new(&budget()).await;
    let mut carried = wire.carried().await;
    let mut neighbour = wire.carried().await;
    carried.client.write_all(b"hello").await.unwrap();
    carried.server.read_exact(&mut [0; 5]).await.unwrap();
    carried.kill.kill(Refusal::PodGone);
    assert_eq!(
        carried.outbound.await.unwrap(),
        Outcome { sent: 5, received: 0, end: End::Killed(Refusal::PodGone) }
    );
    for end in [&mut carried.client, &mut carried.server] {
        assert_eq!(end.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    neighbour.client.write_all(b"still").await.unwrap();
    neighbour.server.read_exact(&mut [0; 5]).await.unwrap();
}

#[tokio::test]
async fn a_lost_tunnel_resets_what_it_carried() {
    let mut wire = Wire::new(&budget()).await;
    let mut carried = wire.carried().await;
    wire.server.abort();
    for outcome in [carried.outbound.await.unwrap(), carried.inbound.await.unwrap()] {
        assert_eq!(outcome.end, End::FarReset(FarReset::TunnelLost));
    }
    for end in [&mut carried.client, &mut carried.server] {
        assert_eq!(end.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_slow_reader_holds_one_window_and_does_not_slow_99_neighbours() {
    const EACH: usize = 64 * 1024;
    let budget = budget();
    let mut wire = Wire::new(&budget).await;
    let mut stalled = wire.carried().await;
    let full = async { while stalled.client.write_all(&[0; 65_536]).await.is_ok() {} };
    let _ = tokio::time::timeout(Duration::from_millis(300), full).await;
    assert!(budget.held() > 0, "the server application reads nothing");
    assert!(budget.held() <= limits::STREAM_WINDOW_BYTES as usize, "{} bytes held", budget.held());
    let started = Instant::now();
    let mut neighbours = Vec::new();
    for _ in 0..99 {
        let mut carried = wire.carried().await;
        neighbours.push(tokio::spawn(async move {
            let payload = vec![7; EACH];
            let mut read = vec![0; EACH];
            for _ in 0..4 {
                let (wrote, got) =
                    tokio::join!(carried.client.write_all(&payload), carried.server.read_exact(&mut read));
                wrote.unwrap();
                got.unwrap();
            }
        }));
    }
    for neighbour in neighbours {
        neighbour.await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn slow_readers_never_take_the_connections_window_from_a_neighbour() {
    let budget = budget();
    let mut wire = Wire::new(&budget).await;
    let mut stalled = Vec::new();
    // Together they fill the connection's own window twice.
    let enough = 2 * limits::CONNECTION_WINDOW_BYTES / limits::STREAM_WINDOW_BYTES;
    for _ in 0..enough {
        let (mut near, far) = wire.stream().await;
        let (application, socket) = sockets().await;
        let relay = spawn_relay(socket, far);
        let window = limits::STREAM_WINDOW_BYTES as usize;
        near.send.send_data(bytes::Bytes::from(vec![0; window]), false).unwrap();
        stalled.push((near, application, relay));
    }
    let mut neighbour = wire.carried().await;
    let exchange = async {
        neighbour.client.write_all(b"hello").await.unwrap();
        neighbour.server.read_exact(&mut [0; 5]).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(5), exchange).await.expect("the neighbour starves");
    drop(stalled);
}

#[tokio::test]
async fn beyond_the_workers_budget_the_stream_that_wants_more_is_reset() {
    let mut wire = Wire::new(&Budget::new(100_000)).await;
    let mut carried = wire.carried().await;
    let full = async { while carried.client.write_all(&[0; 65_536]).await.is_ok() {} };
    let ends = async { tokio::join!(carried.inbound, full) };
    let (outcome, ()) = tokio::time::timeout(Duration::from_secs(5), ends).await.expect("nobody is reset");
    assert_eq!(outcome.unwrap().end, End::Killed(Refusal::LimitReached("HELD_BYTES_PER_WORKER")));
}

#[tokio::test]
async fn a_million_frames_of_one_byte_to_a_slow_reader_are_not_cut() {
    const FRAMES: usize = 1_000_000;
    let mut wire = Wire::new(&budget()).await;
    let (mut near, far) = wire.stream().await;
    let (mut application, socket) = sockets().await;
    let (_kill, inbound) = spawn_relay(socket, far);
    let byte = bytes::Bytes::from_static(b"x");
    let writing = async {
        for _ in 0..FRAMES {
            while near.send.capacity() == 0 {
                near.send.reserve_capacity(1);
                std::future::poll_fn(|cx| near.send.poll_capacity(cx)).await.unwrap().unwrap();
            }
            near.send.send_data(byte.clone(), false).unwrap();
        }
        near.send.send_data(bytes::Bytes::new(), true).unwrap();
    };
    let reading = async {
        let mut read = 0;
        let mut buffer = vec![0; 64 * 1024];
        // Slow: half the stream's window piles up before anything is read.
        tokio::time::sleep(Duration::from_millis(300)).await;
        loop {
            match application.read(&mut buffer).await.unwrap() {
                0 => break read,
                n => read += n,
            }
            tokio::task::yield_now().await;
        }
    };
    let ((), read) = tokio::join!(writing, reading);
    assert_eq!(read, FRAMES);
    drop(application);
    assert_eq!(inbound.await.unwrap().received, FRAMES as u64);
}
