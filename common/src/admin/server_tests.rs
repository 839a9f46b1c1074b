use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::admin::response;
use crate::admin::{ReadinessHandler, StatsHandler};
use crate::lifecycle::readiness::Readiness;
use crate::telemetry::metrics::Metrics;

struct Echo;

impl Handler for Echo {
    fn handle(&self, request: &Parts) -> Response<Body> {
        response::text(StatusCode::OK, request.uri.path().to_owned())
    }
}

/// Starts a server on a port of its own and returns where; it ends with the runtime of the test.
fn start<H: Handler>(handler: H) -> SocketAddr {
    let server = HttpServer::bind("test", "127.0.0.1:0".parse().unwrap(), handler).unwrap();
    let address = server.address();
    tokio::spawn(server.serve(std::future::pending()));
    address
}

/// Sends `head` (a request line and headers) and returns everything until the server closes.
async fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn the_probe_names_what_is_awaited_until_all_is_done() {
    let readiness = Readiness::default();
    let (manifests, programs) = (readiness.await_task("manifests"), readiness.await_task("ebpf"));
    let address = start(ReadinessHandler::new(readiness));
    let ready = "GET /healthz/ready HTTP/1.1\r\nHost: x";

    let answer = ask(address, ready).await;
    assert_eq!(status(&answer), "500");
    assert!(answer.ends_with("not ready, pending: manifests, ebpf\n"), "{answer}");
    assert_eq!(status(&ask(address, "GET /healthz/live HTTP/1.1\r\nHost: x").await), "200");
    manifests.done();
    programs.done();
    let answer = ask(address, ready).await;
    assert_eq!(status(&answer), "200");
    assert!(answer.ends_with("\r\n\r\nready\n"), "{answer}");
    assert_eq!(status(&ask(address, "POST /healthz/ready HTTP/1.1\r\nHost: x").await), "405");
    assert_eq!(status(&ask(address, "GET /config_dump HTTP/1.1\r\nHost: x").await), "404");
}

#[tokio::test]
async fn metrics_are_served_under_both_paths_and_in_both_forms() {
    let (metrics, _recorder) = Metrics::build("ztunnel", "9.9.9");
    let address = start(StatsHandler::new(Arc::new(metrics)));
    for path in ["/metrics", "/stats/prometheus"] {
        let answer = ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x")).await;
        assert_eq!(status(&answer), "200");
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("istio_build{component=\"ztunnel\",tag=\"9.9.9\"} 1\n"), "{answer}");
    }
    let accept = "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0";
    let answer = ask(address, accept).await;
    assert!(answer.contains("content-type: application/openmetrics-text"), "{answer}");
    assert!(answer.contains("# EOF\n"), "{answer}");
}

#[tokio::test]
async fn requests_with_too_much_in_them_are_refused() {
    let address = start(Echo);
    let big = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Big: {}", "a".repeat(MAX_HEADER_BYTES + 1));
    assert_eq!(status(&ask(address, &big).await), "431");
    let many: String = (0..=MAX_HEADERS).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_eq!(status(&ask(address, &format!("GET / HTTP/1.1\r\n{many}Host: x")).await), "431");
    assert_eq!(status(&ask(address, "GET /fine HTTP/1.1\r\nHost: x").await), "200");
}

#[tokio::test]
async fn one_peer_cannot_take_all_connections() {
    let address = start(Echo);
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS_PER_PEER {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    let mut extra = TcpStream::connect(address).await.unwrap();
    assert_eq!(extra.read(&mut [0; 1]).await.unwrap_or(0), 0, "the connection beyond the bound was kept");
    drop(held.pop());
    // The place is free again once the server has seen the end of the connection: ask until it is.
    loop {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /again HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let mut answer = String::new();
        let written = stream.write_all(request).await;
        if written.is_ok() && stream.read_to_string(&mut answer).await.is_ok() && !answer.is_empty() {
            assert!(answer.ends_with("/again"), "{answer}");
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn seats_are_bounded_in_all_and_for_each_peer() {
    let peers = Peers::default();
    let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
    let seats: Vec<_> = (0..MAX_CONNECTIONS_PER_PEER).map(|n| peers.seat(a, n).unwrap()).collect();
    assert!(peers.seat(a, seats.len()).is_none());
    assert!(peers.seat(b, seats.len()).is_some());
    assert!(peers.seat(b, MAX_CONNECTIONS).is_none());
    drop(seats);
    assert!(peers.counts.lock().unwrap().is_empty(), "a peer that left is forgotten");
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_off() {
    tokio::time::pause();
    let address = start(Echo);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nX-Slow: ").await.unwrap();
    let before = tokio::time::Instant::now();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(before.elapsed() >= HEADER_TIMEOUT && before.elapsed() < CONNECTION_LIFETIME);
}

#[tokio::test]
async fn stopping_ends_the_server_and_its_connections() {
    let server = HttpServer::bind("test", "127.0.0.1:0".parse().unwrap(), Echo).unwrap();
    let address = server.address();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(async move { drop(stopped.await) }));
    let mut idle = TcpStream::connect(address).await.unwrap();
    assert_eq!(status(&ask(address, "GET / HTTP/1.1\r\nHost: x").await), "200");
    stop.send(()).unwrap();
    serving.await.unwrap();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let first = HttpServer::bind("stats", "127.0.0.1:0".parse().unwrap(), Echo).unwrap();
    let error = HttpServer::bind("stats", first.address(), Echo).err().expect("bound twice");
    let text = error.to_string();
    assert!(text.contains("stats") && text.contains(&first.address().to_string()), "{text}");
}

#[tokio::test]
async fn the_unspecified_ipv6_address_takes_ipv4_as_well() {
    let server = HttpServer::bind("test", "[::]:0".parse().unwrap(), Echo).unwrap();
    let port = server.address().port();
    tokio::spawn(server.serve(std::future::pending()));
    let answer = ask(SocketAddr::from(([127, 0, 0, 1], port)), "GET / HTTP/1.1\r\nHost: x").await;
    assert_eq!(status(&answer), "200");
}
