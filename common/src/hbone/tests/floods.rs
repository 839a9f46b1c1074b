//! Peers that send what costs work and carries nothing, or break the rules of HTTP/2: they lose their own connection,
//! and nobody else's notices.

use std::time::Duration;

use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::hostile::Raw;
use super::*;
use crate::net::relay::End;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const UNKNOWN: u8 = 0xbe;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Frames of one kind, far more than an honest peer has use for.
const FLOOD: u32 = 20 * limits::IDLE_FRAMES_PER_INTERVAL;

/// An honest connection on the same worker, with a flow on it.
pub(super) struct Neighbour {
    _wire: Wire,
    carried: Carried,
}

impl Neighbour {
    pub(super) async fn new(budget: &Arc<Budget>) -> Self {
        let mut wire = Wire::new(budget).await;
        let carried = wire.carried().await;
        Self { _wire: wire, carried }
    }

    /// Sends a round trip of a quarter of a megabyte.
    pub(super) async fn still_works(&mut self) {
        let (client, server) = (&mut self.carried.client, &mut self.carried.server);
        let sent = vec![7; 256 * 1024];
        let mut there = vec![0; sent.len()];
        let mut back = vec![0; sent.len()];
        let trip = async {
            tokio::try_join!(client.write_all(&sent), server.read_exact(&mut there))?;
            tokio::try_join!(server.write_all(&there), client.read_exact(&mut back))
        };
        timeout(Duration::from_secs(10), trip).await.expect("the neighbour is held up").unwrap();
        assert!(back == sent, "the neighbour's bytes changed");
    }
}

/// Kind, flags, stream and payload.
type Frame = (u8, u8, u32, Vec<u8>);

/// An attack, and the code its connection ends with.
type Attack<'a> = (&'a str, Reason, Vec<Frame>);

/// Fields of a request, and how it is answered.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a Option<Answer>);

fn update(by: u32) -> Vec<u8> {
    by.to_be_bytes().to_vec()
}

fn times(count: u32, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<Frame> {
    (0..count).map(|_| (kind, flags, stream, payload.to_vec())).collect()
}

/// Stream 1 is open, and more is said.
fn on_a_stream(more: Vec<Frame>) -> Vec<Frame> {
    let opening = (HEADERS, END_HEADERS, 1, super::hostile::connect_headers());
    std::iter::once(opening).chain(more).collect()
}

fn floods() -> Vec<Attack<'static>> {
    let calm = Reason::ENHANCE_YOUR_CALM;
    vec![
        ("SETTINGS", calm, times(FLOOD, SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("PING", calm, times(FLOOD, PING, 0, 0, &[0; 8])),
        ("PING answers nobody asked for", calm, times(FLOOD, PING, ACK, 0, &[9; 8])),
        ("PRIORITY", calm, times(FLOOD, PRIORITY, 0, 3, &[0, 0, 0, 1, 0])),
        ("frames of no known kind", calm, times(FLOOD, UNKNOWN, 0, 0, &[1, 2, 3])),
        ("RST_STREAM of a stream that is closed", calm, {
            on_a_stream(times(FLOOD, RST_STREAM, 0, 1, &[0, 0, 0, 8]))
        }),
        ("WINDOW_UPDATE of the connection", calm, times(FLOOD, WINDOW_UPDATE, 0, 0, &update(1))),
        ("WINDOW_UPDATE of a stream", calm, on_a_stream(times(FLOOD, WINDOW_UPDATE, 0, 1, &update(1)))),
        ("empty DATA on a stream that was reset", calm, {
            let reset = times(1, RST_STREAM, 0, 1, &[0, 0, 0, 8]);
            on_a_stream([reset, times(FLOOD, DATA, 0, 1, &[])].concat())
        }),
        // The first one is taken at its word.
        ("GOAWAY", Reason::NO_ERROR, times(FLOOD, GOAWAY, 0, 0, &[0; 8])),
    ]
}

/// `h2` calls every malformed frame a PROTOCOL_ERROR where the RFC has finer codes.
fn broken_rules() -> Vec<Attack<'static>> {
    let (protocol, flow) = (Reason::PROTOCOL_ERROR, Reason::FLOW_CONTROL_ERROR);
    let one = |kind, flags, stream, payload: &[u8]| times(1, kind, flags, stream, payload);
    vec![
        ("no increment for the connection", protocol, one(WINDOW_UPDATE, 0, 0, &update(0))),
        ("no increment for a stream", protocol, on_a_stream(one(WINDOW_UPDATE, 0, 1, &update(0)))),
        ("a window over 2^31", flow, one(WINDOW_UPDATE, 0, 0, &update(0x7fff_ffff))),
        ("DATA on a stream never opened", protocol, one(DATA, 0, 1, b"x")),
        ("DATA on stream 0", protocol, one(DATA, 0, 0, b"x")),
        ("HEADERS on an even stream", protocol, one(HEADERS, END_HEADERS, 2, &[0x88])),
        ("HEADERS on stream 0", protocol, one(HEADERS, END_HEADERS, 0, &[0x88])),
        ("RST_STREAM of a stream never opened", protocol, one(RST_STREAM, 0, 5, &[0; 4])),
        ("a promise from a client", protocol, one(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("CONTINUATION of nothing", protocol, one(CONTINUATION, END_HEADERS, 1, &[])),
        ("SETTINGS of half an entry", protocol, one(SETTINGS, 0, 0, &[0, 3, 0])),
        ("an acknowledgement with content", protocol, one(SETTINGS, ACK, 0, &[0; 6])),
        ("a second acknowledgement", protocol, times(2, SETTINGS, ACK, 0, &[])),
        ("a frame size below the least", protocol, one(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])),
        ("a window setting over 2^31", protocol, one(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        ("a PING of seven bytes", protocol, one(PING, 0, 0, &[0; 7])),
        ("DATA after END_STREAM", protocol, {
            on_a_stream([one(DATA, END_STREAM, 1, b"x"), one(DATA, 0, 1, b"y")].concat())
        }),
        ("HEADERS after END_STREAM", protocol, {
            on_a_stream(
                [one(DATA, END_STREAM, 1, b""), one(HEADERS, END_STREAM | END_HEADERS, 1, &[])].concat(),
            )
        }),
        ("a frame larger than we said", Reason::FRAME_SIZE_ERROR, {
            on_a_stream(one(DATA, 0, 1, &vec![0; limits::MAX_FRAME_BYTES as usize + 1]))
        }),
        ("headers that are no HPACK", protocol, one(HEADERS, END_HEADERS, 1, &[0xff; 9])),
    ]
}

#[tokio::test]
async fn who_floods_or_breaks_rules_loses_its_connection_and_nobody_else_does() {
    let budget = budget();
    let mut neighbour = Neighbour::new(&budget).await;
    let mut otherwise = Vec::new();
    for (name, reason, frames) in floods().into_iter().chain(broken_rules()) {
        let started = Instant::now();
        let mut raw = Raw::with(&budget).await;
        for (kind, flags, stream, payload) in frames {
            raw.frame(kind, flags, stream, &payload).await;
        }
        let ending = raw.ending().await;
        if ending != Some(reason) {
            otherwise.push((name, ending));
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{name} took {:?}", started.elapsed());
        neighbour.still_works().await;
    }
    assert_eq!(otherwise, []);
    assert_eq!(budget.held(), 0);
}

#[tokio::test]
async fn an_honest_peer_is_never_taken_for_a_flood() {
    let budget = budget();
    let mut raw = Raw::with(&budget).await;
    for _ in 0..limits::IDLE_FRAMES_PER_INTERVAL - 10 {
        raw.frame(PING, 0, 0, &[0; 8]).await;
    }
    raw.connect(1).await;
    assert!(timeout(Duration::from_secs(5), raw.incoming.recv()).await.unwrap().is_some());
    assert!(!raw.server.is_finished());
}

#[tokio::test]
async fn a_stream_whose_window_overflows_is_reset_alone() {
    let budget = budget();
    let mut raw = Raw::with(&budget).await;
    raw.connect(1).await;
    raw.connect(3).await;
    let (first, second) = (raw.incoming.recv().await.unwrap(), raw.incoming.recv().await.unwrap());
    let (_broken, mut other) = (first.accept(None).unwrap(), second.accept(None).unwrap());
    raw.frame(WINDOW_UPDATE, 0, 1, &update(0x7fff_ffff)).await;
    assert_eq!(raw.reset_of(1).await, Some(Reason::FLOW_CONTROL_ERROR));
    raw.frame(DATA, END_STREAM, 3, b"still there").await;
    let data = std::future::poll_fn(|cx| other.recv.poll_data(cx));
    assert_eq!(data.await.unwrap().unwrap(), "still there");
}

/// HPACK: fields as literals that change no table.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 0x7f, "lengths of one byte are enough here");
        [&[length], text.as_bytes()].concat()
    };
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// What a request is answered with: a status, or the code its stream is reset with.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Status(u16),
    Reset(Reason),
}

impl Raw {
    async fn answer(&mut self, stream: u32) -> Option<Answer> {
        let reading = async {
            loop {
                let (kind, of, payload) = self.next().await?;
                match kind {
                    RST_STREAM if of == stream => {
                        return Some(Answer::Reset(Reason::from(u32::from_be_bytes(
                            payload.try_into().unwrap(),
                        ))));
                    }
                    // The static table's entries for `:status` are 8 to 14, and 12 is 400.
                    HEADERS if of == stream && payload[0] == 0x8c => return Some(Answer::Status(400)),
                    HEADERS if of == stream => return Some(Answer::Status(0)),
                    _ => {}
                }
            }
        };
        timeout(Duration::from_secs(5), reading).await.expect("no answer")
    }
}

#[tokio::test]
async fn what_is_no_connect_is_answered_and_never_handed_on() {
    const METHOD: (&str, &str) = (":method", "CONNECT");
    const AUTHORITY: (&str, &str) = (":authority", "10.0.0.7:80");
    let bad = Some(Answer::Status(400));
    let malformed = Some(Answer::Reset(Reason::PROTOCOL_ERROR));
    // `h2` takes these for broken HPACK, and hangs up.
    let broken = None;
    let cases: &[Case<'_>] = &[
        (&[METHOD], &bad),
        (&[METHOD, (":authority", "")], &malformed),
        (&[METHOD, AUTHORITY, (":path", "/")], &malformed),
        (&[METHOD, AUTHORITY, (":scheme", "http")], &malformed),
        (&[METHOD, AUTHORITY, (":scheme", "https"), (":path", "/x")], &malformed),
        (&[METHOD, AUTHORITY, AUTHORITY], &malformed),
        (&[METHOD, METHOD, AUTHORITY], &malformed),
        (&[METHOD, ("host", "10.0.0.7:80")], &bad),
        (&[METHOD, AUTHORITY, ("connection", "upgrade")], &malformed),
        (&[METHOD, AUTHORITY, ("upgrade", "h2c")], &malformed),
        (&[METHOD, AUTHORITY, ("transfer-encoding", "chunked")], &malformed),
        (&[METHOD, AUTHORITY, (":status", "200")], &malformed),
        (&[METHOD, ("x", "y"), AUTHORITY], &malformed),
        (&[METHOD, AUTHORITY, ("Forwarded", "for=x")], &broken),
        (&[("GET", "/")], &broken),
        (&[(":method", "GET"), (":scheme", "http"), (":path", "/"), AUTHORITY], &bad),
        (&[(":method", "POST"), (":scheme", "https"), (":path", "/"), AUTHORITY], &bad),
        (&[(":method", "PUT"), (":scheme", "http"), (":path", "*"), AUTHORITY], &bad),
        (&[(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), AUTHORITY], &bad),
        (&[(":method", "connect"), (":scheme", "http"), (":path", "/"), AUTHORITY], &bad),
        (&[(":method", "PRI"), (":scheme", "http"), (":path", "*"), AUTHORITY], &bad),
        (&[(":method", ""), AUTHORITY], &broken),
        (&[(":method", "CONNECT x"), AUTHORITY], &broken),
    ];
    let budget = budget();
    let mut otherwise = Vec::new();
    for (request, expected) in cases {
        let mut raw = Raw::with(&budget).await;
        raw.frame(HEADERS, END_HEADERS, 1, &fields(request)).await;
        let answer = raw.answer(1).await;
        if answer != **expected {
            otherwise.push((request, answer));
        }
        assert!(raw.incoming.try_recv().is_err(), "{request:?} was handed on");
    }
    assert!(otherwise.is_empty(), "{otherwise:#?}");
}

#[tokio::test]
async fn an_authority_that_names_no_one_place_is_refused_on_the_wire() {
    let budget = budget();
    let mut raw = Raw::with(&budget).await;
    let mut stream = 1;
    for authority in crate::hbone::request::NOWHERE.iter().filter(|it| it.len() < 0x7f) {
        if !raw.server.is_finished() {
            raw.frame(
                HEADERS,
                END_HEADERS,
                stream,
                &fields(&[(":method", "CONNECT"), (":authority", authority)]),
            )
            .await;
            let answer = raw.answer(stream).await;
            // What is not even a URI is malformed before it is a bad request.
            let refused = [Some(Answer::Status(400)), Some(Answer::Reset(Reason::PROTOCOL_ERROR))];
            assert!(refused.contains(&answer), "{authority:?}: {answer:?}");
        }
        assert!(raw.incoming.try_recv().is_err(), "{authority:?} was handed on");
        stream += 2;
    }
    assert!(stream > 140, "the table is long");
    raw.connect(stream).await;
    assert!(raw.incoming.recv().await.is_some(), "the connection is as good as before");
}

#[tokio::test(start_paused = true)]
async fn a_preface_that_drips_is_cut_after_two_seconds() {
    let mut raw = Raw::silent();
    let started = Instant::now();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        let _ = raw.io.write_all(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let why = raw.server.await.unwrap().unwrap();
    assert!(why.contains("no preface in time"), "{why}");
    assert!(started.elapsed() < limits::PREFACE_DEADLINE + Duration::from_secs(1));
}

#[tokio::test]
async fn what_is_not_http2_is_cut_at_once() {
    for opening in [
        "GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "CONNECT 10.0.0.7:80 HTTP/1.1\r\n\r\n",
    ] {
        let mut raw = Raw::silent();
        raw.io.write_all(opening.as_bytes()).await.unwrap();
        let why = timeout(Duration::from_secs(1), raw.server).await.unwrap().unwrap();
        assert!(why.is_some(), "{opening}");
        assert!(raw.incoming.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_peer_that_reads_no_answers_is_held_to_what_it_may_queue() {
    // Nothing is read: what we owe queues until the transport is full, and then we stop reading.
    let budget = budget();
    let (mut io, far) = duplex(16 * 1024);
    let (_incoming, server) = serve(far, &budget);
    io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let ping = [0, 0, 8, PING, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    io.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
    let writing = async {
        for sent in 0..FLOOD {
            if io.write_all(&ping).await.is_err() {
                return sent;
            }
        }
        FLOOD
    };
    // Either we hang up on it or it can send no more; it never gets all of it through.
    if let Ok(sent) = timeout(Duration::from_secs(2), writing).await {
        assert!(sent < FLOOD, "all of it was taken");
    }
    drop(io);
    assert!(timeout(Duration::from_secs(5), server).await.is_ok());
}

#[tokio::test]
async fn a_flow_ends_with_the_connection_that_flooded_and_holds_nothing() {
    let budget = budget();
    let mut raw = Raw::with(&budget).await;
    raw.connect(1).await;
    let stream = raw.incoming.recv().await.unwrap().accept(None).unwrap();
    // An application that reads nothing, so that what arrives is held.
    let (application, near) = sockets().await;
    let (_kill, relay) = spawn_relay(near, stream);
    for _ in 0..60 {
        raw.frame(DATA, 0, 1, &[0; 16_000]).await;
    }
    for _ in 0..FLOOD {
        raw.frame(PING, 0, 0, &[0; 8]).await;
    }
    assert_eq!(raw.ending().await, Some(Reason::ENHANCE_YOUR_CALM));
    let outcome = timeout(Duration::from_secs(5), relay).await.unwrap().unwrap();
    assert!(matches!(outcome.end, End::FarReset(_)), "{:?}", outcome.end);
    assert_eq!(budget.held(), 0);
    drop(application);
}
