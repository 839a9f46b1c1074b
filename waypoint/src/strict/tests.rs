use std::sync::Arc;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Feeds everything at once, and byte by byte: where reads cut must not matter.
fn judge(bytes: &[u8]) -> Result<(), Violation> {
    let whole = Strict::default().feed(bytes).map(|_| ()).map_err(|(_, why)| why);
    let mut strict = Strict::default();
    let mut single = Ok(());
    for byte in bytes {
        if let Err((_, why)) = strict.feed(&[*byte]) {
            single = Err(why);
            break;
        }
    }
    assert_eq!(whole, single, "{}", bytes.escape_ascii());
    whole
}

#[test]
fn what_has_one_reading_passes() {
    let cases: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a?b HTTP/1.0\r\n\r\n",
        b"GET http://a/b HTTP/1.1\r\nhost:a\r\n\r\nHEAD / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na\nbGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n00A\r\n0123456789\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Name: \x80\xff caf\xc3\xa9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Empty:\r\nX-Tab:\ta\t\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ];
    for case in cases {
        assert_eq!(judge(case), Ok(()), "{}", case.escape_ascii());
    }
}

#[test]
fn what_has_two_readings_is_refused() {
    use Violation as V;
    let head = |line: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
    let cases = [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(), V::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(), V::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(), V::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n".to_owned(), V::BareCarriageReturn),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), V::RequestLine),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), V::RequestLine),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n".to_owned(), V::RequestLine),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), V::RequestLine),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), V::RequestLine),
        ("GET / http/1.1\r\nHost: a\r\n\r\n".to_owned(), V::RequestLine),
        ("GET / HTTP/1.10\r\nHost: a\r\n\r\n".to_owned(), V::RequestLine),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), V::RequestLine),
        ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), V::RequestLine),
        ("GET /\r\nHost: a\r\n\r\n".to_owned(), V::RequestLine),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), V::RequestLine),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), V::Fragment),
        ("GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), V::Fragment),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), V::Connect),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), V::Host),
        (head("Host: b"), V::Host),
        (head("Content-Length: 1\r\nContent-Length: 1"), V::ContentLength),
        (head("Content-Length: 1, 1"), V::ContentLength),
        (head("Content-Length: +1"), V::ContentLength),
        (head("Content-Length: 0x1"), V::ContentLength),
        (head("Content-Length: -1"), V::ContentLength),
        (head("Content-Length:"), V::ContentLength),
        (head("Content-Length: 9999999999999999999999"), V::ContentLength),
        (head("Content-Length: 1\r\nTransfer-Encoding: chunked"), V::TransferEncoding),
        (head("Transfer-Encoding: chunked\r\nContent-Length: 1"), V::TransferEncoding),
        (head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), V::TransferEncoding),
        (head("Transfer-Encoding: gzip, chunked"), V::TransferEncoding),
        (head("Transfer-Encoding: chunked, identity"), V::TransferEncoding),
        (head("Transfer-Encoding: identity"), V::TransferEncoding),
        (head("Transfer-Encoding: \"chunked\""), V::TransferEncoding),
        (head("Transfer-Encoding: xchunked"), V::TransferEncoding),
        (head("Transfer-Encoding: \x0bchunked"), V::HeaderLine),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), V::TransferEncoding),
        (head("Transfer-Encoding : chunked"), V::HeaderLine),
        (head(" Transfer-Encoding: chunked"), V::HeaderLine),
        (head("X: a\r\n b"), V::HeaderLine),
        (head("X: a\r\n\tb"), V::HeaderLine),
        (head("X: a\0b"), V::HeaderLine),
        (head("X"), V::HeaderLine),
        (head(": a"), V::HeaderLine),
        (head("X\u{e9}: a"), V::HeaderLine),
        (head("Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 3"), V::UpgradeWithBody),
        (head(&format!("X: {}", "a".repeat(HEAD_BYTES))), V::TooLong),
    ];
    for (case, why) in cases {
        assert_eq!(
            judge(case.as_bytes()),
            Err(why),
            "{}",
            case.as_bytes()[..case.len().min(200)].escape_ascii()
        );
    }
}

#[test]
fn chunks_have_one_reading_too() {
    use Violation as V;
    let chunked =
        |body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let cases = [
        (chunked("\r\n"), V::Chunk),
        (chunked("3\nabc\r\n"), V::BareLineFeed),
        (chunked("0x3\r\nabc\r\n"), V::Chunk),
        (chunked("3 \r\nabc\r\n"), V::Chunk),
        (chunked("3\r\nabcd\r\n"), V::Chunk),
        (chunked("00000000000000003\r\nabc\r\n"), V::Chunk),
        (chunked(&format!("3;{}\r\nabc\r\n", "x".repeat(300))), V::Chunk),
        (chunked("3;a=\0\r\nabc\r\n"), V::Chunk),
        (chunked("0\r\nContent-Length: 3\r\n\r\n"), V::Trailer),
        (chunked("0\r\nTransfer-Encoding: chunked\r\n\r\n"), V::Trailer),
        (chunked("0\r\n X: a\r\n\r\n"), V::HeaderLine),
        (chunked(&format!("0\r\nX: {}", "a".repeat(HEAD_BYTES))), V::TooLong),
    ];
    for (case, why) in cases {
        assert_eq!(
            judge(case.as_bytes()),
            Err(why),
            "{}",
            case.as_bytes()[..case.len().min(200)].escape_ascii()
        );
    }
}

#[test]
fn extensions_of_all_chunks_share_one_bound() {
    let mut body = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    for _ in 0..32 {
        body.push_str("1;a=bcdefgh\r\nx\r\n");
    }
    assert_eq!(judge(body.as_bytes()), Err(Violation::Chunk));
}

#[tokio::test]
async fn a_fault_reaches_the_parser_as_a_nul_and_nothing_after_it() {
    let (mut client, server) = tokio::io::duplex(1024);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\nGET /admin HTTP/1.1\r\n").await.unwrap();
    drop(client);
    let mut seen = Vec::new();
    let mut server = StrictIo::new(server, std::time::Duration::from_secs(10), Arc::default());
    server.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\0\r\n\r\n");
}

#[tokio::test]
async fn early_bytes_wait_until_the_protocol_has_changed_or_not() {
    let request =
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (answer, early, refused) in [
        (101, &b"\x81\x00\0binary\n"[..], false),
        (200, b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n", false),
        (403, b"\x81\x00\n", true),
    ] {
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(&[&request[..], early].concat()).await.unwrap();
        let verdicts = Arc::<Verdicts>::default();
        let mut server = StrictIo::new(server, std::time::Duration::from_secs(10), verdicts.clone());
        let mut head = vec![0; request.len()];
        server.read_exact(&mut head).await.unwrap();
        assert_eq!(head, request);
        let mut next = [0; 64];
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), server.read(&mut next));
        assert!(waiting.await.is_err(), "bytes passed before the answer");
        // What is written says nothing: it may be of an answer before.
        server.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.unwrap();
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), server.read(&mut next));
        assert!(waiting.await.is_err(), "bytes passed before the answer");
        verdicts.answered(StatusCode::from_u16(answer).unwrap());
        let read = server.read(&mut next).await.unwrap();
        if refused {
            assert!(next[..read].contains(&0), "{:?}", &next[..read]);
        } else {
            assert_eq!(&next[..read], early);
        }
    }
}

#[tokio::test]
async fn a_request_for_another_protocol_waits_for_its_own_answer() {
    let first = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let asking = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let early = b"\x81\x00 bytes that no parser of HTTP would take\n";
    let (mut client, server) = tokio::io::duplex(1024);
    client.write_all(&[&first[..], asking, early].concat()).await.unwrap();
    let verdicts = Arc::<Verdicts>::default();
    let mut server = StrictIo::new(server, std::time::Duration::from_secs(10), verdicts.clone());
    let mut heads = vec![0; first.len() + asking.len()];
    server.read_exact(&mut heads).await.unwrap();
    let mut next = [0; 64];
    verdicts.answered(StatusCode::OK);
    let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), server.read(&mut next));
    assert!(waiting.await.is_err(), "the answer before decided");
    verdicts.answered(StatusCode::SWITCHING_PROTOCOLS);
    let read = server.read(&mut next).await.unwrap();
    assert_eq!(&next[..read], early);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_nobody_looks_for_is_not_late() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut client, server) = tokio::io::duplex(1024);
    client.write_all(&[&head[..], &head[..10]].concat()).await.unwrap();
    let verdicts = Arc::<Verdicts>::default();
    let ten = std::time::Duration::from_secs(10);
    let mut server = StrictIo::new(server, ten, verdicts.clone());
    let mut seen = vec![0; head.len() + 10];
    server.read_exact(&mut seen).await.unwrap();
    // So long the answer to the first takes, and the rest of the second has come meanwhile.
    tokio::time::sleep(3 * ten).await;
    client.write_all(&head[10..20]).await.unwrap();
    let mut more = [0; 10];
    server.read_exact(&mut more).await.unwrap();
    assert_eq!((&more[..], verdicts.is_head_late()), (&head[10..20], false));
    // Now it is looked for, and does not come.
    let began = tokio::time::Instant::now();
    assert_eq!(server.read(&mut more).await.unwrap(), 0);
    assert_eq!((began.elapsed(), verdicts.is_head_late()), (ten, true));
}

#[test]
fn the_room_of_a_long_line_is_not_kept() {
    let mut strict = Strict::default();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(HEAD_BYTES / 2));
    assert_eq!(strict.feed(head.as_bytes()), Ok(head.len()));
    assert!(strict.line.capacity() <= LINE_KEPT_BYTES, "{}", strict.line.capacity());
}
