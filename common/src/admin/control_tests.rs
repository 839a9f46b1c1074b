use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::lifecycle::shutdown::{Shutdown, StopReason};
use crate::telemetry::line::LogFormat;
use crate::telemetry::logging::{self, Logging};

struct Fixture {
    address: SocketAddr,
    shutdown: Shutdown,
    logging: Logging,
    /// Holds the levels, which `logging` only changes.
    _subscriber: tracing::Dispatch,
}

/// An admin server on a port of its own; it ends with the runtime of the test.
fn start() -> Fixture {
    let (logging, subscriber) = logging::build("info", LogFormat::Plain, Box::new(std::io::sink())).unwrap();
    let shutdown = Shutdown::listen().unwrap();
    let sections = vec![
        DumpSection::list("workloads", || Box::new((0..20_000).map(|n| json!({ "uid": n })))),
        DumpSection::value("config", || json!({"localNode": "node-a"})),
    ];
    let handler = AdminHandler::new(sections, logging.control.clone(), shutdown.request());
    let server = handler.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.address();
    tokio::spawn(server.serve(std::future::pending()));
    Fixture { address, shutdown, logging, _subscriber: tracing::Dispatch::new(subscriber) }
}

/// Status and body of the answer to `method path` with these header lines.
async fn ask_with(address: SocketAddr, request: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Version 1.0, so that the body comes without chunk sizes in it.
    let text = format!("{request} HTTP/1.0\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn ask(address: SocketAddr, request: &str) -> (u16, String) {
    ask_with(address, request, "Host: localhost:15000\r\n").await
}

#[tokio::test]
async fn the_dump_is_the_sections_handed_in() {
    let admin = start();
    let (status, body) = ask(admin.address, "GET /config_dump").await;
    assert_eq!(status, 200);
    let dump: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(dump["workloads"].as_array().unwrap().len(), 20_000);
    assert_eq!(dump["config"]["localNode"], "node-a");
}

#[tokio::test]
async fn the_index_names_every_route() {
    let admin = start();
    let (status, body) = ask(admin.address, "GET /").await;
    assert_eq!(status, 200);
    for route in ["/config_dump", "/logging", "/quitquitquit"] {
        assert!(body.contains(route), "{route}");
        assert_ne!(ask(admin.address, &format!("OPTIONS {route}")).await.0, 404, "{route}");
    }
    assert_eq!(ask(admin.address, "GET /debug").await.0, 404);
}

#[tokio::test]
async fn levels_are_listed_changed_and_reset() {
    let admin = start();
    let (status, body) = ask(admin.address, "GET /logging").await;
    assert_eq!(status, 405);
    assert!(body.contains("usage: POST /logging"), "{body}");
    assert_eq!(ask(admin.address, "POST /logging").await, (200, "current log level is info\n".into()));
    let (status, body) = ask(admin.address, "POST /logging?level=access:debug%2Cwarn").await;
    assert_eq!(status, 200);
    assert!(body.contains("access=debug") && body.contains("warn"), "{body}");
    assert_eq!(admin.logging.control.current(), body.trim_end().rsplit(' ').next().unwrap());
    let (status, body) = ask(admin.address, "POST /logging?level=loud").await;
    assert_eq!(status, 400);
    assert!(body.contains("\"loud\" is not a level"), "{body}");
    assert_eq!(ask(admin.address, "POST /logging?reset").await, (200, "current log level is info\n".into()));
}

#[tokio::test]
async fn quitting_takes_a_post() {
    let mut admin = start();
    assert_eq!(ask(admin.address, "GET /quitquitquit").await.0, 405);
    assert_eq!(ask(admin.address, "POST /quitquitquit").await, (200, "shutdown now\n".into()));
    // Signals belong to the process, and another test sends it some.
    while admin.shutdown.wait().await != StopReason::Asked {}
}

#[tokio::test]
async fn a_web_page_can_neither_read_nor_change_anything() {
    let admin = start();
    for host in
        ["evil.example", "evil.example:15000", "10.0.0.7:15000", "localhost.evil.example", "a b", "[::2]"]
    {
        let headers = format!("Host: {host}\r\n");
        assert_eq!(ask_with(admin.address, "GET /config_dump", &headers).await.0, 403, "{host}");
    }
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:15000", "127.9.9.9", "[::1]:15000"] {
        let headers = format!("Host: {host}\r\n");
        assert_eq!(ask_with(admin.address, "GET /", &headers).await.0, 200, "{host}");
    }
    let page = "Host: localhost:15000\r\nOrigin: https://evil.example\r\n";
    for route in ["/quitquitquit", "/logging?level=off"] {
        assert_eq!(ask_with(admin.address, &format!("POST {route}"), page).await.0, 403, "{route}");
    }
    assert_eq!(admin.logging.control.current(), "info");
}

#[tokio::test]
async fn only_loopback_addresses_are_bound() {
    let (logging, _subscriber) = logging::build("info", LogFormat::Plain, Box::new(std::io::sink())).unwrap();
    let stop = Shutdown::listen().unwrap().request();
    for address in ["0.0.0.0:0", "[::]:0", "10.0.0.7:0", "[::ffff:10.0.0.7]:0"] {
        let handler = AdminHandler::new(Vec::new(), logging.control.clone(), stop.clone());
        let error = handler.bind(address.parse().unwrap()).err().expect(address);
        assert!(error.to_string().contains("loopback addresses only"), "{error}");
    }
}

#[test]
fn queries_are_decoded_and_garbage_is_no_level() {
    for (query, level, reset) in [
        ("level=debug", Some("debug"), false),
        ("level=a%3Adebug%2cinfo&reset", Some("a:debug,info"), true),
        ("reset=true", None, true),
        ("level", Some(""), false),
        ("level=%ff", Some("?"), false),
        ("level=%", Some("%"), false),
        ("level=%2", Some("%2"), false),
        ("level=%+5", Some("%+5"), false),
        ("levels=debug", None, false),
        ("", None, false),
    ] {
        assert_eq!(level_query(query), (level.map(str::to_owned), reset), "{query:?}");
    }
}
