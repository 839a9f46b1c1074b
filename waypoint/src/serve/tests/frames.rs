//! HTTP/2 frame by frame: what RFC 9113 calls malformed is refused with the error it names, and nobody gets to see it.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// PROTOCOL_ERROR (RFC 9113, section 7).
const PROTOCOL: u32 = 1;
/// ENHANCE_YOUR_CALM.
const CALM: u32 = 11;

type Field<'a> = (&'a str, &'a [u8]);

/// What a client hears of its first stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Answer,
    Reset(u32),
    GoAway(u32),
    Closed,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Every field literal, with a name of its own and never indexed (RFC 7541, section 6.2.2); none is longer than 126 bytes.
fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let string = |text: &[u8]| [&[u8::try_from(text.len()).unwrap()], text].concat();
    fields
        .iter()
        .flat_map(|(name, value)| [vec![0], string(name.as_bytes()), string(value)].concat())
        .collect()
}

/// Sends `bytes` behind the preface, and reads what comes of the first stream. How many requests were seen, too.
async fn heard(bytes: &[u8]) -> (Heard, usize) {
    let (mut client, server) = duplex(1024 * 1024);
    let seen = Arc::new(AtomicUsize::new(0));
    let counting = seen.clone();
    tokio::spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let seen = counting.clone();
            async move {
                // One whose body breaks off is nothing an endpoint takes for whole.
                if request.into_body().collect().await.is_ok() {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let _ = http2_server(None).serve_connection(TokioIo::new(server), service).await;
    });
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    // Whoever refuses may have closed before it was all sent.
    let _ = client.write_all(bytes).await;
    let heard = timeout(Duration::from_secs(5), async {
        loop {
            let mut head = [0; 9];
            if client.read_exact(&mut head).await.is_err() {
                return Heard::Closed;
            }
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            client.read_exact(&mut payload).await.unwrap();
            let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            match head[3] {
                HEADERS => return Heard::Answer,
                RST_STREAM => return Heard::Reset(code(0)),
                GOAWAY if code(4) != 0 => return Heard::GoAway(code(4)),
                _ => {}
            }
        }
    });
    let heard = heard.await.expect("something is heard");
    (heard, seen.load(Ordering::Relaxed))
}

const BASE: [Field<'static>; 4] =
    [(":method", b"POST"), (":scheme", b"http"), (":authority", b"web"), (":path", b"/")];

fn with(more: &[Field<'static>]) -> Vec<Field<'static>> {
    BASE.iter().chain(more).copied().collect()
}

fn without(name: &str) -> Vec<Field<'static>> {
    BASE.into_iter().filter(|(it, _)| *it != name).collect()
}

fn replaced(name: &str, value: &'static [u8]) -> Vec<Field<'static>> {
    BASE.into_iter().map(|it| if it.0 == name { (it.0, value) } else { it }).collect()
}

#[tokio::test]
async fn what_is_malformed_is_reset_with_the_error_of_the_specification_and_never_seen() {
    let good = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&BASE));
    assert_eq!(heard(&good).await, (Heard::Answer, 1));
    for (name, fields) in [
        ("capitals in a name (8.2.1)", with(&[("X-Name", b"1")])),
        ("a space in a name", with(&[("x name", b"1")])),
        ("a colon in a name", with(&[("x:name", b"1")])),
        ("a line feed in a value", with(&[("x", b"1\ny: 2")])),
        ("a carriage return in a value", with(&[("x", b"1\ry")])),
        ("a NUL in a value", with(&[("x", b"1\0")])),
        ("connection (8.2.2)", with(&[("connection", b"close")])),
        ("keep-alive", with(&[("keep-alive", b"5")])),
        ("proxy-connection", with(&[("proxy-connection", b"close")])),
        ("transfer-encoding", with(&[("transfer-encoding", b"chunked")])),
        ("upgrade", with(&[("upgrade", b"websocket")])),
        ("te other than trailers", with(&[("te", b"gzip")])),
        ("a pseudo-header behind others (8.3)", [with(&[("x", b"1")]), vec![(":path", b"/b")]].concat()),
        ("an unknown one", with(&[(":protocol-x", b"1")])),
        ("one of answers", with(&[(":status", b"200")])),
        ("no :method (8.3.1)", without(":method")),
        ("no :scheme", without(":scheme")),
        ("no :path", without(":path")),
        ("an empty :path", replaced(":path", b"")),
        ("two of :method", with(&[(":method", b"GET")])),
        ("two of :path", with(&[(":path", b"/b")])),
        ("two of :authority", with(&[(":authority", b"b")])),
        ("a space in :path", replaced(":path", b"/a b")),
        ("a line end in :path", replaced(":path", b"/a\r\nx: y")),
        ("a NUL in :path", replaced(":path", b"/a\0")),
        ("a space in :method", replaced(":method", b"GET /b")),
        ("a user in :authority", replaced(":authority", b"a b")),
    ] {
        let bytes = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields));
        let (heard, seen) = heard(&bytes).await;
        // An error of a stream may be taken for one of the connection (section 5.4).
        assert!(matches!(heard, Heard::Reset(PROTOCOL) | Heard::GoAway(PROTOCOL)), "{name}: {heard:?}");
        assert_eq!(seen, 0, "{name}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says_is_reset() {
    for (stated, body) in [
        ("5", &b"hello, and more"[..]),
        ("50", b"hello"),
        ("0", b"hello"),
        ("+5", b"hello"),
        ("5,5", b"hello"),
    ] {
        let stated: &'static [u8] = stated.as_bytes();
        let head = frame(HEADERS, END_HEADERS, 1, &block(&with(&[("content-length", stated)])));
        let bytes = [head, frame(0, END_STREAM, 1, body)].concat();
        assert_eq!(heard(&bytes).await, (Heard::Reset(PROTOCOL), 0), "{stated:?}");
    }
}

#[tokio::test]
async fn a_head_in_endless_pieces_ends_the_connection() {
    let mut bytes = frame(HEADERS, 0, 1, &block(&BASE));
    for _ in 0..20_000 {
        bytes.extend(frame(CONTINUATION, 0, 1, &block(&[("x", b"y")])));
    }
    assert_eq!(heard(&bytes).await, (Heard::GoAway(CALM), 0));
    // Nothing may come between its pieces (section 6.10).
    let mixed = [frame(HEADERS, 0, 1, &block(&BASE)), frame(SETTINGS, 0, 0, &[])].concat();
    assert_eq!(heard(&mixed).await, (Heard::GoAway(PROTOCOL), 0));
}
