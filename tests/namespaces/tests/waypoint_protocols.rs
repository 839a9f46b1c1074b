//! gRPC, WebSocket and TCP through a waypoint, by the libraries that applications use, from pod to pod.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::mpsc::channel,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ebb_tests::{
    behind::{Behind, Port},
    load::Load,
    mesh::{SETTLED, eventually},
    peer::{SOON, Server},
};
use harness::report::{GrpcReport, WebSocketReport};

/// gRPC statuses.
const CANCELLED: i32 = 1;
const DEADLINE_EXCEEDED: i32 = 4;
const NOT_FOUND: i32 = 5;
const ABORTED: i32 = 10;
const UNAVAILABLE: i32 = 14;

fn grpc(behind: &Behind, arguments: &[&str]) -> Result<GrpcReport> {
    let to = Behind::at(Port::Grpc).to_string();
    let all: Vec<_> = ["grpc-call", &to].into_iter().chain(arguments.iter().copied()).collect();
    behind.report(&all)
}

/// What the gRPC server has seen: calls, and those withdrawn.
fn witness(behind: &Behind) -> Result<(u64, u64)> {
    let told = grpc(behind, &["witness"])?;
    let calls = told.text.strip_prefix("calls ").context("what the witness says")?.parse()?;
    Ok((calls, told.sum))
}

#[test]
fn every_shape_of_grpc_call_passes_with_its_trailers_and_its_status() -> Result<()> {
    let behind = Behind::build()?;
    let _server = behind.serve(&["grpc", "--port", "8081"])?;

    let unary = grpc(&behind, &["unary", "--number", "7", "--payload", "100000"])?;
    assert_eq!((unary.code, unary.notes, unary.sum, unary.text.as_str()), (0, 1, 7, "hello"));
    let failed = grpc(&behind, &["unary", "--text", "fail:5"])?;
    assert_eq!((failed.code, failed.message.as_str(), failed.notes), (NOT_FOUND, "as you like it", 0));
    assert_eq!(failed.trailers.get("x-reason").map(String::as_str), Some("asked"));

    let expanded = grpc(&behind, &["expand", "--number", "1000"])?;
    assert_eq!((expanded.code, expanded.notes, expanded.sum), (0, 1000, 1000 * 999 / 2));
    // Answers first, and the status behind them, in trailers.
    let cut = grpc(&behind, &["expand", "--number", "10", "--text", "fail:10"])?;
    assert_eq!((cut.code, cut.notes), (ABORTED, 10), "{cut:?}");

    let summed = grpc(&behind, &["sum", "--count", "1000", "--number", "3"])?;
    assert_eq!((summed.code, summed.sum, summed.text.as_str()), (0, 3000, "count 1000"));
    let chatted = grpc(&behind, &["chat", "--count", "1000", "--number", "2"])?;
    assert_eq!((chatted.code, chatted.notes, chatted.sum), (0, 1000, 2000));
    let failed = grpc(&behind, &["chat", "--count", "3", "--text", "fail:14"])?;
    assert_eq!((failed.code, failed.notes), (UNAVAILABLE, 0));

    // The log tells the gRPC path, and that the answers came whole.
    behind.logged(&["/ebb.Notes/Chat", "200"])?;
    behind.mesh.finish()
}

#[test]
fn a_stream_of_tiny_messages_is_not_taken_for_an_attack() -> Result<()> {
    const COUNT: &str = "100000";
    let behind = Behind::build()?;
    let _server = behind.serve(&["grpc", "--port", "8081"])?;
    let summed = grpc(&behind, &["sum", "--count", COUNT, "--text", ""])?;
    assert_eq!((summed.code, summed.sum), (0, 100_000), "{summed:?}");
    let expanded = grpc(&behind, &["expand", "--number", COUNT, "--text", ""])?;
    assert_eq!((expanded.code, expanded.notes), (0, 100_000), "{expanded:?}");
    let chatted = grpc(&behind, &["chat", "--count", COUNT, "--text", ""])?;
    assert_eq!((chatted.code, chatted.notes), (0, 100_000), "{chatted:?}");
    behind.mesh.finish()
}

#[test]
fn a_call_that_is_withdrawn_or_late_ends_at_the_server_too() -> Result<()> {
    let behind = Behind::build()?;
    let _server = behind.serve(&["grpc", "--port", "8081"])?;
    let late = grpc(&behind, &["unary", "--text", "hang", "--deadline-ms", "300"])?;
    // tonic's client says CANCELLED of a deadline that it kept itself.
    ensure!([CANCELLED, DEADLINE_EXCEEDED].contains(&late.code), "{late:?}");
    ensure!(late.elapsed_us < 3_000_000, "{late:?}");
    let withdrawn = grpc(&behind, &["unary", "--text", "hang", "--withdraw-ms", "300"])?;
    assert_eq!(withdrawn.code, CANCELLED);
    eventually("both to have ended at the server", SETTLED, || Ok(witness(&behind)?.1 == 2))?;
    behind.mesh.finish()
}

const GRPC_ROUTES: &str = r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: server, namespace: shop}
spec:
  hosts: [server]
  http:
    - match: [{uri: {exact: /ebb.Notes/Expand}}]
      fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}
      route: [{destination: {host: server}}]
    - retries: {attempts: 3, retryOn: unavailable}
      route: [{destination: {host: server}}]
"#;

#[test]
fn faults_and_retries_speak_grpc() -> Result<()> {
    let mut behind = Behind::build()?;
    let _server = behind.serve(&["grpc", "--port", "8081"])?;
    assert_eq!(grpc(&behind, &["unary", "--text", "flaky:before:1"])?.code, UNAVAILABLE);
    behind.mesh.apply("50-routes.yaml", GRPC_ROUTES)?;
    eventually("the fault to be in force", SETTLED, || {
        Ok(grpc(&behind, &["expand", "--number", "1"])?.code == UNAVAILABLE)
    })?;
    let (before, _) = witness(&behind)?;
    let aborted = grpc(&behind, &["expand", "--number", "1"])?;
    assert_eq!((aborted.code, aborted.notes), (UNAVAILABLE, 0), "{aborted:?}");
    // Fails twice, and its body of two windows goes out whole each time.
    let retried =
        grpc(&behind, &["unary", "--text", "flaky:twice:2", "--number", "9", "--payload", "500000"])?;
    assert_eq!((retried.code, retried.sum, retried.text.as_str()), (0, 9, "flaky:twice:2"), "{retried:?}");
    let given_up = grpc(&behind, &["unary", "--text", "flaky:often:9"])?;
    assert_eq!(given_up.code, UNAVAILABLE);
    let (after, _) = witness(&behind)?;
    // Nothing of the one that was aborted, three tries, four tries, and the witness.
    assert_eq!(after - before, 3 + 4 + 1);
    behind.mesh.finish()
}

fn websocket(behind: &Behind, arguments: &[&str]) -> Result<WebSocketReport> {
    let to = Behind::at(Port::Http).to_string();
    let all: Vec<_> = ["websocket-call", &to].into_iter().chain(arguments.iter().copied()).collect();
    behind.report(&all)
}

#[test]
fn a_websocket_is_a_websocket_from_its_upgrade_to_its_close() -> Result<()> {
    let behind = Behind::build()?;
    let _server = behind.serve(&["websocket", "--port", "8080"])?;
    let talked = websocket(&behind, &["--messages", "1000"])?;
    assert_eq!((talked.status, talked.texts, talked.binaries), (101, 500, 500));
    assert_eq!((talked.pings, talked.pongs), (1, 1));
    // The server answers the client's close with the same code.
    assert_eq!((talked.close_code, talked.is_clean), (Some(4002), true), "{talked:?}");
    let closed = websocket(&behind, &["--messages", "10", "--length", "100000", "--closed-by", "server"])?;
    assert_eq!((closed.close_code, closed.close_reason.as_str()), (Some(4001), "as you like it"));
    assert!(closed.is_clean, "{closed:?}");
    let refused = websocket(&behind, &["--path", "/refused"])?;
    // Its length is not told, so it may come in chunks, which this client's library shows as they are.
    ensure!(refused.status == 403 && refused.refusal.contains("not you"), "{refused:?}");
    // What is carried behind an upgrade is told of when it is over, as of any request.
    let carried = |line: &String| -> Option<(u64, u64)> {
        let (_, rest) = line.split_once("\"GET / HTTP/1.1\" 101 ")?;
        let mut numbers = rest.split_whitespace().filter_map(|word| word.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    let waypoint = behind.waypoint()?;
    eventually("the log to tell of both", SETTLED, || {
        let told: Vec<_> = waypoint.log_lines("HTTP/1.1\" 101")?.iter().filter_map(carried).collect();
        Ok(told.len() == 2 && told.iter().any(|(received, sent)| received.min(sent) > &1_000_000))
    })
    .with_context(|| waypoint.tail())?;
    behind.mesh.finish()
}

#[test]
fn a_server_that_speaks_first_is_heard_where_tcp_is_declared() -> Result<()> {
    let behind = Behind::build()?;
    let _server = Server::start(behind.pod("server")?.namespace(), Port::Tcp as u16, |mut stream, _| {
        let _ = stream.write_all(b"220 mail\r\n");
        let mut asked = Vec::new();
        let _ = stream.read_to_end(&mut asked);
        let _ = stream.write_all(&asked);
    })?;
    let began = Instant::now();
    let mut client = behind.pod("client")?.namespace().connect(Behind::at(Port::Tcp), SOON)?;
    client.set_read_timeout(Some(SOON))?;
    let mut greeting = [0; 10];
    client.read_exact(&mut greeting).context("the server's greeting")?;
    assert_eq!(&greeting, b"220 mail\r\n");
    ensure!(began.elapsed() < Duration::from_secs(5), "after {:?}", began.elapsed());
    client.write_all(behind.mesh.marker().as_bytes())?;
    client.shutdown(Shutdown::Write)?;
    let mut back = String::new();
    client.read_to_string(&mut back)?;
    assert_eq!(back, behind.mesh.marker());
    behind.mesh.finish()
}

#[test]
fn a_waypoint_that_is_told_to_end_turns_no_caller_away() -> Result<()> {
    let mut behind = Behind::build()?;
    behind.mesh.kubelet_mut().scale("shop", "wp", 2)?;
    behind.mesh.wait_ready("wp")?;
    let _server = Server::echo(behind.pod("server")?, Port::Tcp as u16)?;
    let from = behind.pod("client")?.namespace();
    let load = Load::start(from, Behind::at(Port::Tcp), behind.mesh.marker(), 4)?;
    eventually("calls to be made", SETTLED, || Ok(load.done() > 100))?;
    behind.mesh.kubelet_mut().scale("shop", "wp", 1)?;
    let before = load.done();
    eventually("calls to be made by the one that is left", SETTLED, || Ok(load.done() > before + 100))?;
    let report = load.stop()?;
    println!("{} calls, the slowest {:?}", report.done, report.worst);
    ensure!(
        report.failed.is_empty(),
        "{} of {} failed: {:?}",
        report.failed.len(),
        report.done,
        report.failed
    );
    behind.mesh.finish()
}

const RETRIES: &str = r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: server, namespace: shop}
spec:
  hosts: [server]
  http:
    - match: [{uri: {exact: /in-force}}]
      directResponse: {status: 418}
    - retries: {attempts: 2, retryOn: "5xx"}
      route: [{destination: {host: server}}]
"#;

/// Reads one request with a Content-Length whole, if it comes.
fn request(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut wanted = None;
    while wanted.is_none_or(|wanted| bytes.len() < wanted) {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the end in the middle of a request");
        bytes.extend_from_slice(&buffer[..read]);
        if let (None, Some(end)) = (wanted, bytes.windows(4).position(|four| four == b"\r\n\r\n")) {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.context("no length")?.parse()?;
            wanted = Some(end + 4 + length);
        }
    }
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").context("no head")?;
    Ok(bytes.split_off(end + 4))
}

#[test]
fn a_post_is_retried_with_its_whole_body_and_a_long_one_is_sent_once() -> Result<()> {
    let mut behind = Behind::build()?;
    let (sender, bodies) = channel();
    // Always fails, and says what it got.
    let _server =
        Server::start(behind.pod("server")?.namespace(), Port::Http as u16, move |mut stream, _| {
            let _ = stream.set_read_timeout(Some(SOON));
            while let Ok(body) = request(&mut stream) {
                let _ = sender.send(body);
                if stream.write_all(b"HTTP/1.1 503 no\r\nContent-Length: 2\r\n\r\nno").is_err() {
                    break;
                }
            }
        })?;
    behind.mesh.apply("50-routes.yaml", RETRIES)?;
    let client = behind.pod("client")?.namespace();
    eventually("the retries to be in force", SETTLED, || {
        Ok(client.http_get(Behind::at(Port::Http), "/in-force", SOON)?.0 == 418)
    })?;
    let post = |body: &[u8]| -> Result<String> {
        let mut stream = client.connect(Behind::at(Port::Http), SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        let head = format!("POST / HTTP/1.1\r\nHost: server\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes())?;
        // An answer may come before the body is through.
        let _ = stream.write_all(body);
        let mut status = [0; 12];
        stream.read_exact(&mut status).context("the answer")?;
        Ok(String::from_utf8_lossy(&status).into_owned())
    };
    for length in [1, 100_000, 900_000] {
        let body: Vec<u8> = (0..length).map(|at| (at % 253) as u8).collect();
        assert_eq!(post(&body)?, "HTTP/1.1 503");
        let got: Vec<_> = bodies.try_iter().collect();
        assert_eq!(got.len(), 3, "tries of a body of {length} bytes");
        assert!(got.iter().all(|it| *it == body), "a body of {length} bytes changed from try to try");
    }
    let long: Vec<u8> = (0..3_000_000).map(|at| (at % 253) as u8).collect();
    assert_eq!(post(&long)?, "HTTP/1.1 503");
    let got: Vec<_> = bodies.try_iter().collect();
    assert_eq!(got.len(), 1, "a body longer than is kept was sent again");
    assert!(got[0] == long);
    behind.mesh.finish()
}

#[test]
fn a_long_answer_is_whole_where_the_connection_ends_behind_it() -> Result<()> {
    let behind = Behind::build()?;
    let _server = behind.serve(&["http", "--name", "server"])?;
    let long = "x".repeat(300_000);
    let post = || -> Result<String> {
        let mut stream = behind.pod("client")?.namespace().connect(Behind::at(Port::Http), SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        let head =
            "POST /long HTTP/1.1\r\nHost: server.shop\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n";
        stream.write_all((head.to_owned() + &long).as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    eventually("the first answer", SETTLED, || Ok(post().is_ok()))?;
    for number in 0..60 {
        let answer = post().with_context(|| format!("request {number}"))?;
        ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&long), "{} bytes", answer.len());
    }
    behind.mesh.finish()
}
