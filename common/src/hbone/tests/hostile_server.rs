//! Servers that misbehave: the client's flows fail with a reason, and its other connections do not notice.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::floods::Neighbour;
use super::hostile::frame;
use super::*;
use crate::refusal::Refusal;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const UNKNOWN: u8 = 0xbe;

const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// HPACK: `:status: 200` and `:status: 100`, of the static table and as a literal.
const OK: &[u8] = &[0x88];
const CONTINUE: &[u8] = b"\x08\x03100";

/// A client's tunnel to a server that writes frames as the test pleases.
struct Raw {
    io: DuplexStream,
    tunnel: Arc<Tunnel>,
    driver: JoinHandle<Result<(), String>>,
}

impl Raw {
    async fn new(budget: &Arc<Budget>) -> Self {
        let (near, mut io) = duplex(1024 * 1024);
        let (tunnel, driver) = client::handshake(near, budget, limits::IDLE_RELEASE).await.unwrap();
        let driver = tokio::spawn(driver);
        io.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self { io, tunnel, driver }
    }

    /// Begins to open a stream, of number 1; the server has its CONNECT by then.
    async fn opening(&mut self) -> JoinHandle<Result<Stream, client::OpenError>> {
        let lease = self.tunnel.lease().unwrap();
        let opening = tokio::spawn(async move { lease.open(&to_somewhere()).await });
        let mut header = [0; 9];
        let mut preface = [0; 24];
        self.io.read_exact(&mut preface).await.unwrap();
        while header[3] != HEADERS {
            self.io.read_exact(&mut header).await.unwrap();
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            self.io.read_exact(&mut vec![0; length]).await.unwrap();
        }
        opening
    }

    /// The client may have hung up already, which its driver tells.
    async fn write(&mut self, frames: &[u8]) {
        let _ = self.io.write_all(frames).await;
    }
}

fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let flood = 20 * limits::IDLE_FRAMES_PER_INTERVAL as usize;
    vec![
        ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]).repeat(flood)),
        ("PING", frame(PING, 0, 0, &[0; 8]).repeat(flood)),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]).repeat(flood)),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(flood)),
        ("frames of no known kind", frame(UNKNOWN, 0, 0, &[1]).repeat(flood)),
        ("a promise", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x88])),
        ("an answer nobody asked for", frame(HEADERS, END_HEADERS, 7, OK)),
        ("an answer on the server's own stream", frame(HEADERS, END_HEADERS, 2, OK)),
        ("DATA on a stream never opened", frame(DATA, 0, 9, b"x")),
        ("DATA on stream 0", frame(DATA, 0, 0, b"x")),
        ("no increment", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a window over 2^31", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("a second acknowledgement", frame(SETTINGS, ACK, 0, &[]).repeat(2)),
        ("a frame larger than we said", frame(DATA, 0, 1, &vec![0; limits::MAX_FRAME_BYTES as usize + 1])),
        ("HTTP/1.1", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec()),
    ]
}

#[tokio::test]
async fn a_server_that_floods_or_breaks_rules_loses_its_connection_and_nobody_else_does() {
    let budget = budget();
    let mut neighbour = Neighbour::new(&budget).await;
    for (name, frames) in attacks() {
        let mut raw = Raw::new(&budget).await;
        let opening = raw.opening().await;
        raw.write(&frames).await;
        let ended = timeout(Duration::from_secs(5), &mut raw.driver).await;
        assert!(ended.unwrap_or_else(|_| panic!("{name} is borne")).unwrap().is_err(), "{name}");
        assert!(opening.await.unwrap().is_err(), "{name}");
        assert!(raw.tunnel.lease().is_none(), "{name}: the connection is still offered");
        neighbour.still_works().await;
    }
    assert_eq!(budget.held(), 0);
}

#[tokio::test]
async fn an_answer_over_the_bound_fails_its_flow_alone() {
    let budget = budget();
    let mut raw = Raw::new(&budget).await;
    let opening = raw.opening().await;
    // Each field counts 10,000 bytes and 32 more; two of them exceed 16 KiB.
    let mut field = b"\x00\x01a\x7f\x91\x4d".to_vec();
    field.extend([b'b'; 10_000]);
    raw.write(&frame(HEADERS, END_HEADERS, 1, &[OK, &field, &field].concat())).await;
    let opened = timeout(Duration::from_secs(5), opening).await.unwrap().unwrap();
    assert!(opened.is_err(), "{opened:?}");
    assert!(!raw.driver.is_finished());
    assert_eq!(raw.tunnel.streams(), 0, "the place is given back");
}

#[tokio::test]
async fn what_is_not_200_is_a_refusal_and_interim_answers_are_none() {
    for (status, code) in [(&b"\x8d"[..], 404), (b"\x8e", 500), (b"\x89", 204), (b"\x08\x03301", 301)] {
        let budget = budget();
        let mut raw = Raw::new(&budget).await;
        let opening = raw.opening().await;
        raw.write(&frame(HEADERS, END_HEADERS, 1, CONTINUE).repeat(100)).await;
        raw.write(&frame(HEADERS, END_HEADERS, 1, status)).await;
        let opened = timeout(Duration::from_secs(5), opening).await.unwrap().unwrap();
        assert_eq!(opened.unwrap_err(), client::OpenError::Refused(Refusal::PeerRefused(code)));
    }
}

#[tokio::test(start_paused = true)]
async fn interim_answers_do_not_put_the_deadline_off() {
    let budget = budget();
    let mut raw = Raw::new(&budget).await;
    let opening = raw.opening().await;
    let started = tokio::time::Instant::now();
    while !opening.is_finished() {
        raw.write(&frame(HEADERS, END_HEADERS, 1, CONTINUE)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(started.elapsed() <= limits::ANSWER_DEADLINE + Duration::from_secs(2));
    }
    assert!(opening.await.unwrap().is_err());
}
