//! Requests that two servers would read differently, from a client in the mesh towards a careless server behind a waypoint.
//!
//! The server keeps every byte and reads it in several ways (see `recorder`). Whatever the client sends, all ways must
//! agree, and there must be no more requests than the client has asked and was answered.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ebb_tests::{
    behind::{Behind, Port},
    frames::{Field, Frames, kind},
    hostile::Answer,
    mesh::{SETTLED, eventually},
    peer::SOON,
    recorder::{Recorder, Requests, agreed},
};

/// What is to become of a client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// 400, the end of the connection, and nothing at the server.
    Refused,
    /// So many requests, each answered, and then 400 and the end.
    RefusedAfter(usize),
    /// Begun at the server, and never whole there: the fault is in the body.
    Cut,
    /// So many requests, all whole and all answered.
    Passed(usize),
}

use Fate::{Cut, Passed, Refused, RefusedAfter};

/// A request that is not to arrive.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: server\r\n\r\n";

fn get(more: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: server\r\n{more}\r\n")
}

/// A POST with these lines in its head, and this behind it.
fn post(lines: &str, rest: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: server\r\n{lines}\r\n{rest}")
}

/// A chunked POST with this body.
fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

type Case = (&'static str, String, Fate);

fn lengths() -> Vec<Case> {
    let hidden = |lines: &str| post(lines, &format!("0\r\n\r\n{SMUGGLED}"));
    vec![
        ("a length", post("Content-Length: 5\r\n", "hello"), Passed(1)),
        ("CL.TE", hidden("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n"), Refused),
        ("TE.CL", hidden("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n"), Refused),
        ("two lengths", hidden("Content-Length: 5\r\nContent-Length: 0\r\n"), Refused),
        ("two equal lengths", hidden("Content-Length: 5\r\nContent-Length: 5\r\n"), Refused),
        ("a list of lengths", hidden("Content-Length: 5, 5\r\n"), Refused),
        ("a signed length", hidden("Content-Length: +5\r\n"), Refused),
        ("a negative length", hidden("Content-Length: -5\r\n"), Refused),
        ("a hexadecimal length", hidden("Content-Length: 0x5\r\n"), Refused),
        ("a length with a fraction", hidden("Content-Length: 5.0\r\n"), Refused),
        ("a length with a space", hidden("Content-Length: 5 5\r\n"), Refused),
        ("a quoted length", hidden("Content-Length: \"5\"\r\n"), Refused),
        ("no number as length", hidden("Content-Length: five\r\n"), Refused),
        ("an empty length", hidden("Content-Length:\r\n"), Refused),
        ("a length over 64 bits", hidden("Content-Length: 18446744073709551621\r\n"), Refused),
        ("a length of many digits", hidden(&format!("Content-Length: {}5\r\n", "0".repeat(200))), Refused),
        ("a length and a space before its colon", hidden("Content-Length : 5\r\n"), Refused),
        ("a length in a folded line", hidden("X: y\r\n Content-Length: 5\r\n"), Refused),
        ("a folded length", hidden("Content-Length:\r\n 5\r\n"), Refused),
        ("a length with a vertical tab", hidden("Content-Length: \x0b5\r\n"), Refused),
        ("a length behind a NUL", hidden("X: \0\r\nContent-Length: 5\r\n"), Refused),
        ("an underlined length", hidden("Content_Length: 5\r\n"), RefusedAfter(1)),
        ("a length of zero with a body", post("Content-Length: 0\r\n", SMUGGLED), Passed(2)),
        ("no length with a body", post("", SMUGGLED), Passed(2)),
        (
            "a GET with a length",
            format!("GET / HTTP/1.1\r\nHost: server\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
            Passed(1),
        ),
    ]
}

fn codings() -> Vec<Case> {
    let hidden = |lines: &str| post(lines, &format!("0\r\n\r\n{SMUGGLED}"));
    let te = |value: &str| hidden(&format!("Transfer-Encoding: {value}\r\n"));
    vec![
        ("chunks", chunked("5\r\nhello\r\n0\r\n\r\n"), Passed(1)),
        ("chunks in capitals", post("TRANSFER-ENCODING: CHUNKED\r\n", "1\r\na\r\n0\r\n\r\n"), Passed(1)),
        ("an unknown coding", te("xchunked"), Refused),
        ("a list that ends in chunked", te("gzip, chunked"), Refused),
        ("a list that begins with chunked", te("chunked, identity"), Refused),
        ("chunked twice", te("chunked, chunked"), Refused),
        ("identity", te("identity"), Refused),
        ("an empty coding", te(""), Refused),
        ("a quoted coding", te("\"chunked\""), Refused),
        ("chunked with a parameter", te("chunked; q=1"), Refused),
        ("chunked with a comma", te("chunked,"), Refused),
        ("chunked behind a comma", te(",chunked"), Refused),
        ("chunked with a vertical tab", te("\x0bchunked"), Refused),
        ("chunked with a NUL", te("chunked\0"), Refused),
        ("chunked with a high byte", te("chunked\u{85}"), Refused),
        (
            "chunked in two headers",
            hidden("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
            Refused,
        ),
        (
            "chunked in two equal headers",
            hidden("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            Refused,
        ),
        ("a space before the colon", hidden("Transfer-Encoding : chunked\r\n"), Refused),
        ("a tab before the colon", hidden("Transfer-Encoding\t: chunked\r\n"), Refused),
        ("a space before the name", hidden("X: y\r\n Transfer-Encoding: chunked\r\n"), Refused),
        ("a folded coding", hidden("Transfer-Encoding:\r\n chunked\r\n"), Refused),
        ("a coding behind a bare line feed", hidden("X: y\nTransfer-Encoding: chunked\r\n"), Refused),
        ("a coding behind a bare carriage return", hidden("X: y\rTransfer-Encoding: chunked\r\n"), Refused),
        (
            "chunked with HTTP/1.0",
            format!(
                "POST / HTTP/1.0\r\nHost: server\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
            Refused,
        ),
        ("an underlined coding", hidden("Transfer_Encoding: chunked\r\n"), RefusedAfter(1)),
        (
            "a coding named by Connection",
            post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", "1\r\na\r\n0\r\n\r\n"),
            Passed(1),
        ),
        (
            "a length named by Connection",
            post("Connection: content-length\r\nContent-Length: 5\r\n", "hello"),
            Passed(1),
        ),
    ]
}

fn chunks() -> Vec<Case> {
    vec![
        ("an extension", chunked("5;a=b\r\nhello\r\n0\r\n\r\n"), Passed(1)),
        ("trailers", chunked("1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"), Passed(1)),
        ("a size of a sign", chunked(&format!("+5\r\nhello\r\n0\r\n\r\n{SMUGGLED}")), Cut),
        ("a size of a prefix", chunked(&format!("0x5\r\nhello\r\n0\r\n\r\n{SMUGGLED}")), Cut),
        ("a size with a space", chunked(&format!("5 \r\nhello\r\n0\r\n\r\n{SMUGGLED}")), Cut),
        ("a size behind a space", chunked(&format!(" 5\r\nhello\r\n0\r\n\r\n{SMUGGLED}")), Cut),
        ("no size", chunked(&format!("\r\nhello\r\n0\r\n\r\n{SMUGGLED}")), Cut),
        ("a size over 64 bits", chunked(&format!("10000000000000005\r\nhello\r\n0\r\n\r\n{SMUGGLED}")), Cut),
        ("a size and a bare line feed", chunked(&format!("5\nhello\r\n0\r\n\r\n{SMUGGLED}")), Cut),
        ("a chunk and a bare line feed", chunked(&format!("5\r\nhello\n0\r\n\r\n{SMUGGLED}")), Cut),
        ("a chunk longer than it says", chunked(&format!("3\r\nhello\r\n0\r\n\r\n{SMUGGLED}")), Cut),
        ("an extension with a line feed", chunked(&format!("5;\nhello\r\n0\r\n\r\n{SMUGGLED}")), Cut),
        ("an extension with a NUL", chunked(&format!("5;a=\0\r\nhello\r\n0\r\n\r\n{SMUGGLED}")), Cut),
        (
            "a long extension",
            chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n{SMUGGLED}", "a".repeat(5000))),
            Cut,
        ),
        ("a last chunk and a bare line feed", chunked(&format!("0\n\n{SMUGGLED}")), Cut),
        ("a last chunk of many noughts", chunked(&format!("{}\r\n\r\n{SMUGGLED}", "0".repeat(40))), Cut),
        ("a trailer that frames", chunked(&format!("0\r\nContent-Length: 5\r\n\r\n{SMUGGLED}")), Cut),
        (
            "a trailer that is chunked",
            chunked(&format!("0\r\nTransfer-Encoding: chunked\r\n\r\n{SMUGGLED}")),
            Cut,
        ),
        (
            "a trailer without a colon",
            chunked(&format!("0\r\nGET /smuggled HTTP/1.1\r\n\r\n{SMUGGLED}")),
            Cut,
        ),
    ]
}

fn heads() -> Vec<Case> {
    let line = |line: &str| format!("{line}\r\nHost: server\r\n\r\n{SMUGGLED}");
    vec![
        ("bare line feeds", "GET / HTTP/1.1\nHost: server\n\n".into(), Refused),
        ("a bare line feed at the end", "GET / HTTP/1.1\r\nHost: server\r\n\n".into(), Refused),
        (
            "a bare carriage return",
            format!("GET / HTTP/1.1\r\nHost: server\rX: y\r\n\r\n{SMUGGLED}"),
            Refused,
        ),
        ("a NUL in a name", get("X\0Y: z\r\n"), Refused),
        ("a NUL in a value", get("X: y\0z\r\n"), Refused),
        ("a control in a value", get("X: y\x08z\r\n"), Refused),
        ("a name of nothing", get(": y\r\n"), Refused),
        ("a line without a colon", get("X\r\n"), Refused),
        ("a folded line", get("X: y\r\n z\r\n"), Refused),
        ("a folded first line", "GET / HTTP/1.1\r\n X: y\r\nHost: server\r\n\r\n".into(), Refused),
        ("an empty line first", format!("\r\n{}", get("")), Refused),
        ("two spaces", line("GET  / HTTP/1.1"), Refused),
        ("a tab in the request line", line("GET\t/ HTTP/1.1"), Refused),
        ("a space in the target", line("GET /a b HTTP/1.1"), Refused),
        ("a space at the end", line("GET / HTTP/1.1 "), Refused),
        ("HTTP/0.9", line("GET /"), Refused),
        ("HTTP/1.2", line("GET / HTTP/1.2"), Refused),
        ("HTTP/2.0", line("GET / HTTP/2.0"), Refused),
        ("HTTP/1.1 in small letters", line("GET / http/1.1"), Refused),
        ("a method with a colon", line("GET: / HTTP/1.1"), Refused),
    ]
}

fn requests() -> Vec<Case> {
    vec![
        ("two requests", format!("{}{}", get(""), get("")), Passed(2)),
        ("no Host", format!("GET / HTTP/1.1\r\n\r\n{SMUGGLED}"), Refused),
        ("two Hosts", get("Host: other\r\n"), Refused),
        ("two equal Hosts", get("Host: server\r\n"), Refused),
        (
            "a Host with a path",
            format!("GET / HTTP/1.1\r\nHost: server/x\r\n\r\n{SMUGGLED}"),
            RefusedAfter(0),
        ),
        (
            "a Host with a user",
            format!("GET / HTTP/1.1\r\nHost: a@server\r\n\r\n{SMUGGLED}"),
            RefusedAfter(0),
        ),
        ("an absolute target", "GET http://server/ HTTP/1.1\r\nHost: server\r\n\r\n".into(), Passed(1)),
        (
            "an absolute target of another Host",
            format!("GET http://other/ HTTP/1.1\r\nHost: server\r\n\r\n{SMUGGLED}"),
            RefusedAfter(0),
        ),
        ("CONNECT", format!("CONNECT server:80 HTTP/1.1\r\nHost: server:80\r\n\r\n{SMUGGLED}"), Refused),
        (
            "an upgrade to h2c",
            format!(
                "{}{SMUGGLED}",
                get(
                    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
                )
            ),
            Passed(2),
        ),
        (
            "a WebSocket that is declined",
            format!("{}{SMUGGLED}", get("Connection: Upgrade\r\nUpgrade: websocket\r\n")),
            Passed(2),
        ),
        (
            "an upgrade with a body",
            post(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n",
                &format!("hello{SMUGGLED}"),
            ),
            Refused,
        ),
        (
            "HTTP/1.0 that is kept alive",
            format!("GET / HTTP/1.0\r\nHost: server\r\nConnection: keep-alive\r\n\r\n{}", get("")),
            Passed(2),
        ),
        ("HTTP/1.0 that is not", format!("GET / HTTP/1.0\r\nHost: server\r\n\r\n{SMUGGLED}"), Passed(1)),
        ("a request behind a fault", format!("{}{}{SMUGGLED}", get(""), get("X : y\r\n")), RefusedAfter(1)),
        ("a request behind a close", format!("{}{SMUGGLED}", get("Connection: close\r\n")), Passed(1)),
        ("100-continue", post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"), Passed(1)),
    ]
}

/// What the client reads until the connection ends: the final answers' statuses. `None` when it does not end by itself.
fn answers(stream: &mut TcpStream) -> Result<Option<Vec<u16>>> {
    let mut all = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let ended = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break true,
            Ok(read) => all.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break false,
            // A server that has not read everything resets.
            Err(_) => break true,
        }
    };
    let text = String::from_utf8_lossy(&all);
    // A client of HTTP/1.0 is answered in kind.
    let statuses = text.split("HTTP/1.").skip(1).map(|rest| rest.get(2..5).unwrap_or_default().parse());
    let statuses = statuses.collect::<Result<Vec<u16>, _>>().with_context(|| format!("answers {text:?}"))?;
    let last: Vec<_> = statuses.into_iter().filter(|status| *status != 100).collect();
    Ok(ended.then_some(last))
}

fn judge(fate: Fate, answered: Option<&[u16]>, arrived: &Requests) -> Result<()> {
    let answered = answered.context("the connection was left open")?;
    let came = (arrived.heads.len(), arrived.complete);
    match fate {
        Refused => ensure!(answered == [400] && came == (0, 0)),
        RefusedAfter(count) => {
            let expected: Vec<_> = std::iter::repeat_n(200, count).chain([400]).collect();
            // Of what is behind a refusal nothing is read.
            ensure!(answered == expected && came == (count, count));
        }
        Cut => ensure!(came.0 <= 1 && came.1 == 0 && !answered.contains(&200)),
        Passed(count) => ensure!(answered == vec![200; count] && came == (count, count)),
    }
    Ok(())
}

#[test]
fn no_request_is_smuggled_in_http1() -> Result<()> {
    let behind = Behind::build()?;
    let recorder = Recorder::start(behind.pod("server")?.namespace(), Port::Http as u16, Duration::ZERO)?;
    let cases = [lengths(), codings(), chunks(), heads(), requests()].concat();
    let mut wrong = Vec::new();
    for (name, bytes, fate) in &cases {
        let mut stream = behind.pod("client")?.namespace().connect(Behind::at(Port::Http), SOON)?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.set_nodelay(true)?;
        // Whoever refuses may have closed before it was all sent.
        let _ = stream.write_all(bytes.as_bytes());
        if let Passed(_) = fate {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let answered = answers(&mut stream).with_context(|| (*name).to_owned())?;
        drop(stream);
        let taken = recorder.take().with_context(|| (*name).to_owned())?;
        let mut arrived = Requests::default();
        let mut judged = Ok(());
        for connection in &taken {
            match agreed(connection).with_context(|| format!("{:?}", connection.escape_ascii().to_string())) {
                Ok(requests) => {
                    arrived.heads.extend(requests.heads);
                    arrived.complete += requests.complete;
                }
                Err(error) => judged = Err(error),
            }
        }
        if let Err(error) = judged.and_then(|()| judge(*fate, answered.as_deref(), &arrived)) {
            wrong.push(format!("{name}: {fate:?}, answered {answered:?}, arrived {arrived:?}: {error:#}"));
        }
    }
    ensure!(cases.len() >= 100, "{} cases", cases.len());
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    behind.mesh.finish()
}

/// The server speaks HTTP/1.1 whatever the client does, so that what HTTP/2 has no need of could come to mean something.
const DOWNGRADE: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: server, namespace: shop}
spec:
  host: server
  trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}}
"#;

fn open(behind: &Behind) -> Result<Frames> {
    let stream = behind.pod("client")?.namespace().connect(Behind::at(Port::Http), SOON)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Frames::open(stream)
}

/// A careless server of HTTP/1.1 behind a waypoint that takes HTTP/2.
fn downgraded() -> Result<(Behind, Recorder)> {
    let mut behind = Behind::build()?;
    let recorder = Recorder::start(behind.pod("server")?.namespace(), Port::Http as u16, Duration::ZERO)?;
    behind.mesh.apply("50-downgrade.yaml", DOWNGRADE)?;
    eventually("HTTP/1.1 to be spoken to the server", SETTLED, || {
        let mut client = open(&behind)?;
        let stream = client.request(&with(b":method", b"GET"), None)?;
        let answer = client.answer(stream)?;
        drop(client);
        recorder.take()?;
        Ok(answer == Answer::Status(200))
    })?;
    Ok((behind, recorder))
}

/// Name, fields and body of a request of HTTP/2, and whether it may arrive.
type Case2<'a> = (&'a str, Vec<Field<'a>>, Option<&'a [u8]>, bool);

fn base<'a>(more: &[Field<'a>]) -> Vec<Field<'a>> {
    let all: [Field<'a>; 4] =
        [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"server"), (b":path", b"/")];
    all.iter().chain(more).copied().collect()
}

/// With one of the four replaced.
fn with<'a>(name: &[u8], value: &'a [u8]) -> Vec<Field<'a>> {
    base(&[]).into_iter().map(|field| if field.0 == name { (field.0, value) } else { field }).collect()
}

fn cases2() -> Vec<Case2<'static>> {
    let injected: &[u8] = b"/ HTTP/1.1\r\nHost: server\r\n\r\nGET /smuggled HTTP/1.1\r\nX: y";
    let without = |name: &[u8]| base(&[]).into_iter().filter(|field| field.0 != name).collect::<Vec<_>>();
    vec![
        ("a GET", with(b":method", b"GET"), None, true),
        ("a body", base(&[(b"content-length", b"5")]), Some(b"hello"), true),
        ("a body without a length", base(&[]), Some(b"hello"), true),
        ("a length too long", base(&[(b"content-length", b"50")]), Some(b"hello"), false),
        ("a length too short", base(&[(b"content-length", b"2")]), Some(b"hello"), false),
        ("a length of zero", base(&[(b"content-length", b"0")]), Some(SMUGGLED.as_bytes()), false),
        ("two lengths", base(&[(b"content-length", b"5"), (b"content-length", b"0")]), Some(b"hello"), false),
        ("a signed length", base(&[(b"content-length", b"+5")]), Some(b"hello"), false),
        ("a list of lengths", base(&[(b"content-length", b"5,5")]), Some(b"hello"), false),
        (
            "chunked",
            base(&[(b"transfer-encoding", b"chunked")]),
            Some(b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"),
            false,
        ),
        ("connection", base(&[(b"connection", b"close")]), None, false),
        ("keep-alive", base(&[(b"keep-alive", b"5")]), None, false),
        ("proxy-connection", base(&[(b"proxy-connection", b"close")]), None, false),
        ("upgrade", base(&[(b"upgrade", b"websocket")]), None, false),
        ("te other than trailers", base(&[(b"te", b"gzip")]), None, false),
        ("te", base(&[(b"te", b"trailers")]), None, true),
        ("a line end in a value", base(&[(b"x", b"y\r\nX-Injected: 1")]), None, false),
        ("a line feed in a value", base(&[(b"x", b"y\nX-Injected: 1")]), None, false),
        ("a NUL in a value", base(&[(b"x", b"y\0z")]), None, false),
        ("a line end in a name", base(&[(b"x: y\r\nX-Injected", b"1")]), None, false),
        ("a colon in a name", base(&[(b"x-injected:", b"1")]), None, false),
        ("a space in a name", base(&[(b"x y", b"1")]), None, false),
        ("capitals in a name", base(&[(b"X-Injected", b"1")]), None, false),
        ("an empty name", base(&[(b"", b"1")]), None, false),
        ("a line end in the path", with(b":path", injected), None, false),
        ("a space in the path", with(b":path", b"/ HTTP/1.1"), None, false),
        ("an empty path", with(b":path", b""), None, false),
        ("a path without a slash", with(b":path", b"smuggled"), None, false),
        ("no path", without(b":path"), None, false),
        ("two paths", base(&[(b":path", b"/smuggled")]), None, false),
        ("a line end in the method", with(b":method", b"GET / HTTP/1.1\r\nX: y\r\n\r\nGET"), None, false),
        ("a space in the method", with(b":method", b"GET /smuggled"), None, false),
        ("an empty method", with(b":method", b""), None, false),
        ("no method", without(b":method"), None, false),
        ("two methods", base(&[(b":method", b"GET")]), None, false),
        ("a line end in the authority", with(b":authority", b"server\r\nX-Injected: 1"), None, false),
        ("a path in the authority", with(b":authority", b"server/smuggled"), None, false),
        ("a user in the authority", with(b":authority", b"a@server"), None, false),
        ("an empty authority", with(b":authority", b""), None, false),
        ("no authority", without(b":authority"), None, false),
        ("another host", base(&[(b"host", b"other")]), None, false),
        ("the same host", base(&[(b"host", b"server")]), None, true),
        (
            "a pseudo header behind the others",
            [base(&[(b"x", b"y")]), vec![(b":path", b"/smuggled")]].concat(),
            None,
            false,
        ),
        ("an unknown pseudo header", base(&[(b":smuggled", b"1")]), None, false),
        ("a pseudo header of an answer", base(&[(b":status", b"200")]), None, false),
        ("CONNECT", vec![(b":method", b"CONNECT"), (b":authority", b"server:80")], None, false),
        (
            "extended CONNECT",
            [with(b":method", b"CONNECT"), vec![(b":protocol", b"websocket")]].concat(),
            None,
            false,
        ),
        ("a scheme with a line end", with(b":scheme", b"http\r\nX-Injected: 1"), None, false),
    ]
}

#[test]
fn no_request_is_smuggled_from_http2_to_http1() -> Result<()> {
    let (behind, recorder) = downgraded()?;
    let (cases, mut wrong) = (cases2(), Vec::new());
    for (name, fields, body, passes) in &cases {
        let mut client = open(&behind)?;
        let stream = client.request(fields, *body)?;
        let answer = client.answer(stream).with_context(|| (*name).to_owned())?;
        // The connection of one fault is still good for others, or is gone.
        drop(client);
        let taken = recorder.take()?;
        let mut heads = Vec::new();
        let mut complete = 0;
        for connection in &taken {
            match agreed(connection) {
                Ok(requests) => {
                    heads.extend(requests.heads);
                    complete += requests.complete;
                }
                Err(error) => wrong.push(format!("{name}: {error:#}")),
            }
        }
        let told = heads
            .iter()
            .any(|head| head.contains("smuggled") || head.to_ascii_lowercase().contains("injected"));
        let right = match passes {
            true => answer == Answer::Status(200) && (heads.len(), complete) == (1, 1),
            false => answer != Answer::Status(200) && heads.len() <= 1 && complete == 0,
        };
        if told || !right {
            wrong.push(format!("{name}: {answer:?}, arrived {heads:?}, {complete} whole"));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    behind.mesh.finish()
}

#[test]
fn trailers_of_http2_become_no_head() -> Result<()> {
    let (behind, recorder) = downgraded()?;
    let trailers: [&[Field<'_>]; 4] = [
        &[(b":path", b"/smuggled")],
        &[(b"transfer-encoding", b"chunked")],
        &[(b"x", b"y\r\n\r\nGET /smuggled HTTP/1.1")],
        &[(b"content-length", b"0")],
    ];
    for fields in trailers {
        let mut client = open(&behind)?;
        client.send(kind::HEADERS, 4, 1, &ebb_tests::frames::block(&base(&[])))?;
        client.send(kind::DATA, 0, 1, b"hello")?;
        client.send(kind::HEADERS, 5, 1, &ebb_tests::frames::block(fields))?;
        let began = Instant::now();
        let answer = client.answer(1)?;
        drop(client);
        for connection in recorder.take()? {
            let text = connection.escape_ascii().to_string();
            let requests = agreed(&connection).with_context(|| format!("{fields:?}: {text}"))?;
            ensure!(requests.heads.len() <= 1 && !text.contains("smuggled"), "{fields:?}: {text}");
        }
        if began.elapsed() > Duration::from_secs(4) {
            bail!("{fields:?}: {answer:?} after {:?}", began.elapsed());
        }
    }
    behind.mesh.finish()
}
