//! Peers that misbehave, frame by frame.

use std::time::Duration;

use h2::Reason;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::*;
use crate::refusal::Refusal;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;

/// A client that writes frames as the test pleases.
pub(super) struct Raw {
    pub(super) io: DuplexStream,
    pub(super) incoming: mpsc::Receiver<Box<Incoming>>,
    pub(super) server: JoinHandle<Option<String>>,
}

impl Raw {
    /// Connected, with nothing said.
    pub(super) fn silent() -> Self {
        Self::silent_with(&budget())
    }

    fn silent_with(budget: &Arc<Budget>) -> Self {
        let (io, far) = duplex(1024 * 1024);
        let (incoming, server) = serve(far, budget);
        Self { io, incoming, server }
    }

    /// Connected, with preface and SETTINGS exchanged.
    async fn new() -> Self {
        Self::with(&budget()).await
    }

    /// The same, to a worker with this budget.
    pub(super) async fn with(budget: &Arc<Budget>) -> Self {
        let mut raw = Self::silent_with(budget);
        raw.io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        raw.frame(SETTINGS, 0, 0, &[]).await;
        raw
    }

    /// Writes a frame. The server may have hung up already, which [`Raw::ending`] reports.
    pub(super) async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let _ = self.io.write_all(&frame(kind, flags, stream, payload)).await;
    }

    pub(super) async fn connect(&mut self, stream: u32) {
        self.frame(HEADERS, END_HEADERS, stream, &connect_headers()).await;
    }

    /// The next frame of the server: its kind, stream and payload. `None` at the end of the connection.
    pub(super) async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut header = [0; 9];
        self.io.read_exact(&mut header).await.ok()?;
        let [a, b, c, kind, _, stream @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.io.read_exact(&mut payload).await.unwrap();
        Some((kind, u32::from_be_bytes(stream), payload))
    }

    /// The same, once the server's SETTINGS hold: before, a stream's window is that of RFC 9113.
    async fn settled(budget: &Arc<Budget>) -> Self {
        let mut raw = Self::with(budget).await;
        while !matches!(raw.next().await, None | Some((SETTINGS, ..))) {}
        raw.frame(SETTINGS, ACK, 0, &[]).await;
        raw
    }

    /// Waits until the server has taken what was sent so far.
    async fn heard(&mut self) {
        self.frame(PING, 0, 0, b"heard???").await;
        let reading = async { while !matches!(self.next().await, None | Some((PING, ..))) {} };
        timeout(Duration::from_secs(5), reading).await.expect("the PING is not answered");
    }

    /// Reads until the server resets a stream; the code it does so with, or `None` when the connection ends instead.
    pub(super) async fn reset_of(&mut self, stream: u32) -> Option<Reason> {
        let reading = async {
            loop {
                let (kind, of, payload) = self.next().await?;
                if kind == RST_STREAM && of == stream {
                    return Some(Reason::from(u32::from_be_bytes(payload.try_into().unwrap())));
                }
            }
        };
        timeout(Duration::from_secs(5), reading).await.expect("the stream is not reset")
    }

    /// Reads to the end of the connection; the code of the GOAWAY that ended it.
    pub(super) async fn ending(mut self) -> Option<Reason> {
        let mut code = None;
        let reading = async {
            while let Some((kind, _, payload)) = self.next().await {
                if kind == GOAWAY {
                    code = Some(Reason::from(u32::from_be_bytes(payload[4..8].try_into().unwrap())));
                }
            }
        };
        timeout(Duration::from_secs(40), reading).await.expect("the server does not hang up");
        code
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// HPACK: `:method: CONNECT`, `:authority: 10.0.0.7:8080`, as literals that change no table.
pub(super) fn connect_headers() -> Vec<u8> {
    [b"\x02\x07CONNECT".as_slice(), b"\x01\x0d10.0.0.7:8080".as_slice()].concat()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_cut_after_two_seconds() {
    let raw = Raw::silent();
    let started = Instant::now();
    let why = raw.server.await.unwrap().unwrap();
    assert!(why.contains("no preface in time"), "{why}");
    assert_eq!(started.elapsed().as_secs(), limits::PREFACE_DEADLINE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_withholds_its_settings_is_cut_after_two_seconds() {
    let mut raw = Raw::silent();
    let started = Instant::now();
    raw.io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // A frame that never becomes whole.
    raw.io.write_all(&[0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 1]).await.unwrap();
    assert_eq!(raw.server.await.unwrap().unwrap(), "no SETTINGS in time");
    assert_eq!(started.elapsed().as_secs(), limits::PREFACE_DEADLINE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sent_its_settings_may_be_silent_as_long_as_it_answers_pings() {
    let budget = budget();
    let wire = Wire::new(&budget).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(!wire.tunnel.is_ended());
    assert!(!wire.server.is_finished());
}

#[tokio::test]
async fn the_first_frame_must_be_settings() {
    let mut raw = Raw::silent();
    raw.io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    raw.connect(1).await;
    let why = raw.server.await.unwrap().unwrap();
    assert!(why.contains("not SETTINGS"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_answer_pings_is_dead_after_thirty_seconds() {
    let started = Instant::now();
    let mut raw = Raw::new().await;
    raw.connect(1).await;
    let incoming = raw.incoming.recv().await.unwrap();
    let mut stream = incoming.accept(None).unwrap();
    assert_eq!(raw.server.await.unwrap().unwrap(), "no sign of life");
    assert_eq!(started.elapsed().as_secs(), 30);
    let lost = std::future::poll_fn(|cx| stream.recv.poll_data(cx)).await.unwrap();
    assert!(lost.is_err(), "streams of a dead connection fail");
}

#[tokio::test]
async fn rapid_reset_is_calmed() {
    let mut raw = Raw::new().await;
    for stream in (1..20_000).step_by(2) {
        raw.connect(stream).await;
        raw.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()).await;
    }
    assert_eq!(raw.ending().await, Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn requests_withdrawn_one_by_one_are_calmed_too() {
    let mut wire = Wire::new(&budget()).await;
    let request = to_somewhere();
    let mut withdrawn = 0;
    while let Some(lease) = wire.tunnel.lease() {
        let opening = Box::pin(lease.open(&request));
        let arrived = wire.incoming.recv();
        let futures_util::future::Either::Right((Some(mut incoming), opening)) =
            futures_util::future::select(opening, Box::pin(arrived)).await
        else {
            break;
        };
        drop(opening);
        incoming.withdrawn().await;
        incoming.refuse(StatusCode::SERVICE_UNAVAILABLE);
        withdrawn += 1;
        assert!(withdrawn <= limits::WITHDRAWN_PER_INTERVAL + 2, "nobody minds");
    }
    assert!(withdrawn >= limits::WITHDRAWN_PER_INTERVAL, "cut after {withdrawn} already");
}

#[tokio::test]
async fn headers_without_end_are_calmed() {
    let mut raw = Raw::new().await;
    raw.frame(HEADERS, 0, 1, &connect_headers()).await;
    for _ in 0..1000 {
        raw.frame(CONTINUATION, 0, 1, &[0x00, 0x01, b'a', 0x01, b'b']).await;
    }
    assert_eq!(raw.ending().await, Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn an_oversized_header_list_never_becomes_a_request() {
    let mut raw = Raw::new().await;
    // Each field costs its 10,000 bytes and 32 more; seven of them exceed 64 KiB.
    let mut field = b"\x00\x01a\x7f\x91\x4d".to_vec();
    field.extend([b'b'; 10_000]);
    raw.frame(HEADERS, 0, 1, &connect_headers()).await;
    for _ in 0..4 {
        raw.frame(CONTINUATION, 0, 1, &field.repeat(6)).await;
    }
    raw.frame(CONTINUATION, END_HEADERS, 1, &field).await;
    let Raw { io, mut incoming, server } = raw;
    drop(io);
    server.await.unwrap();
    assert!(incoming.recv().await.is_none());
}

#[tokio::test]
async fn empty_frames_are_calmed() {
    let mut raw = Raw::new().await;
    raw.connect(1).await;
    for _ in 0..10_000 {
        raw.frame(DATA, 0, 1, &[]).await;
    }
    assert_eq!(raw.ending().await, Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn what_comes_ahead_of_an_answer_counts_as_held_until_it_is_read_or_refused() {
    const SENT: usize = 1024 * 1024;
    let budget = budget();
    let mut raw = Raw::settled(&budget).await;
    for (stream, frame) in [(1, &[1; 16_384][..]), (3, &[3; 64])] {
        raw.connect(stream).await;
        for _ in 0..SENT / frame.len() {
            raw.frame(DATA, 0, stream, frame).await;
        }
    }
    raw.heard().await;
    let uncounted = 2 * SENT - budget.held();
    assert!(uncounted < limits::UNCOUNTED_AHEAD_BYTES + limits::TURN_READ_BYTES, "{uncounted}");
    let first = raw.incoming.recv().await.unwrap().accept(None).unwrap();
    raw.incoming.recv().await.unwrap().refuse(StatusCode::UNAUTHORIZED);
    assert!(budget.held() <= SENT, "{}", budget.held());
    let (mut application, near) = sockets().await;
    let (_kill, relay) = spawn_relay(near, first);
    raw.frame(DATA, END_STREAM, 1, b"the end").await;
    let mut read = Vec::new();
    application.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, [&[1; SENT][..], b"the end"].concat());
    drop(application);
    relay.await.unwrap();
    assert_eq!(budget.held(), 0);
}

#[tokio::test]
async fn who_sends_more_ahead_of_an_answer_than_the_worker_can_hold_is_reset_alone() {
    let budget = Budget::new(256 * 1024);
    let mut raw = Raw::settled(&budget).await;
    raw.connect(1).await;
    let neighbour = raw.incoming.recv().await.unwrap();
    raw.connect(3).await;
    let mut greedy = raw.incoming.recv().await.unwrap();
    let filling = async {
        for _ in 0..64 {
            raw.frame(DATA, 0, 3, &[0; 16_384]).await;
        }
    };
    let ((), why) = tokio::join!(filling, greedy.withdrawn());
    assert!(matches!(why, Refusal::LimitReached("HELD_BYTES_PER_WORKER")), "{why}");
    assert!(matches!(greedy.accept(None), Err(Refusal::LimitReached("HELD_BYTES_PER_WORKER"))));
    assert_eq!(raw.reset_of(3).await, Some(Reason::CANCEL));
    assert_eq!(budget.held(), 0);
    assert!(neighbour.accept(None).is_ok());
}

#[tokio::test]
async fn tiny_frames_ahead_of_an_answer_cost_no_more_than_they_carry() {
    const FRAMES: usize = 60_000;
    let budget = budget();
    let mut raw = Raw::settled(&budget).await;
    raw.connect(1).await;
    for _ in 0..FRAMES {
        raw.frame(DATA, 0, 1, b"x").await;
    }
    raw.heard().await;
    assert!(budget.held() > FRAMES / 2, "{}", budget.held());
    assert!(raw.incoming.recv().await.unwrap().accept(None).is_ok());
}

#[tokio::test]
async fn more_than_the_window_is_an_error() {
    let mut raw = Raw::new().await;
    raw.connect(1).await;
    let frame = vec![0; 16_384];
    for _ in 0..2 * limits::CONNECTION_WINDOW_BYTES as usize / frame.len() {
        raw.frame(DATA, 0, 1, &frame).await;
    }
    assert_eq!(raw.ending().await, Some(Reason::FLOW_CONTROL_ERROR));
}

#[tokio::test]
async fn making_us_reset_streams_is_calmed() {
    let mut raw = Raw::new().await;
    for stream in (1..2_000).step_by(2) {
        raw.connect(stream).await;
        // An increment that overflows the stream's window is that stream's error, which we must reset.
        raw.frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes()).await;
    }
    assert_eq!(raw.ending().await, Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_the_others_live() {
    let mut raw = Raw::new().await;
    let limit = limits::MAX_CONCURRENT_STREAMS;
    for stream in 0..limit + 10 {
        raw.connect(2 * stream + 1).await;
    }
    for _ in 0..limit {
        raw.incoming.recv().await.unwrap();
    }
    assert!(!raw.server.is_finished());
    assert!(timeout(Duration::from_millis(50), raw.incoming.recv()).await.is_err());
}

#[tokio::test]
async fn what_is_no_connect_to_an_authority_gets_400() {
    let (near, far) = duplex(64 * 1024);
    let (mut incoming, _server) = serve(far, &budget());
    let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    for (method, uri) in [
        ("GET", "http://10.0.0.7:8080/"),
        ("POST", "http://10.0.0.7:8080/x"),
        ("CONNECT", "10.0.0.7:0"),
        ("CONNECT", "user@10.0.0.7:80"),
        ("CONNECT", "10.0.0.7"),
        ("CONNECT", "[::ffff:127.0.0.1]:80"),
    ] {
        let request = http::Request::builder().method(method).uri(uri).body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), http::StatusCode::BAD_REQUEST, "{method} {uri}");
    }
    assert!(incoming.try_recv().is_err());
}
