use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use super::*;
use crate::refusal::Refusal;
use crate::telemetry::logging;
use crate::telemetry::test_mesh::{service, workload};

struct Ends {
    client: Workload,
    server: Workload,
    service: Service,
}

fn ends() -> Ends {
    Ends { client: workload("web"), server: workload("cart"), service: service("cart") }
}

impl Ends {
    fn outbound(&self) -> Connection<'_> {
        Connection {
            reporter: Reporter::Source,
            source: "10.0.0.7:45678".parse().unwrap(),
            source_workload: Some(&self.client),
            source_identity: Some(&self.client.identity),
            destination: "[::ffff:10.0.1.9]:15008".parse().unwrap(),
            tunnelled_to: Some(&"10.0.1.9:8080"),
            service: Some(&self.service),
            destination_workload: Some(&self.server),
            destination_identity: Some(&self.server.identity),
        }
    }
}

fn line(format: LogFormat, connection: &Connection<'_>, outcome: &Outcome<'_>) -> String {
    let mut out = Vec::new();
    write_completed(&mut out, format, UNIX_EPOCH, connection, outcome);
    String::from_utf8(out).unwrap()
}

const WELL: Outcome<'static> =
    Outcome { request_bytes: 83, response_bytes: 1024, duration: Duration::from_micros(12_900), error: None };

#[test]
fn a_completed_connection_reads_as_ztunnels_does() {
    let ends = ends();
    assert_eq!(
        line(LogFormat::Plain, &ends.outbound(), &WELL),
        "1970-01-01T00:00:00.000000Z\tinfo\taccess\tconnection complete\t\
         src.addr=10.0.0.7:45678 src.workload=\"web-1\" src.namespace=\"shop\" \
         src.identity=\"spiffe://cluster.local/ns/shop/sa/web\" \
         dst.addr=10.0.1.9:15008 dst.hbone_addr=10.0.1.9:8080 dst.service=\"cart.shop.svc.cluster.local\" \
         dst.workload=\"cart-1\" dst.namespace=\"shop\" dst.identity=\"spiffe://cluster.local/ns/shop/sa/cart\" \
         direction=\"outbound\" bytes_sent=83 bytes_recv=1024 duration=\"12ms\"\n"
    );
}

#[test]
fn the_json_form_has_the_same_fields() {
    let ends = ends();
    let refusal = Refusal::DeniedByPolicy("shop/deny-web".into());
    let outcome = Outcome { error: Some(&refusal), ..WELL };
    let text = line(LogFormat::Json, &ends.outbound(), &outcome);
    assert_eq!(
        text,
        "{\"level\":\"error\",\"time\":\"1970-01-01T00:00:00.000000Z\",\"scope\":\"access\",\
         \"message\":\"connection complete\",\"src.addr\":\"10.0.0.7:45678\",\"src.workload\":\"web-1\",\
         \"src.namespace\":\"shop\",\"src.identity\":\"spiffe://cluster.local/ns/shop/sa/web\",\
         \"dst.addr\":\"10.0.1.9:15008\",\"dst.hbone_addr\":\"10.0.1.9:8080\",\
         \"dst.service\":\"cart.shop.svc.cluster.local\",\"dst.workload\":\"cart-1\",\"dst.namespace\":\"shop\",\
         \"dst.identity\":\"spiffe://cluster.local/ns/shop/sa/cart\",\"direction\":\"outbound\",\
         \"bytes_sent\":83,\"bytes_recv\":1024,\"duration\":\"12ms\",\
         \"error\":\"denied by policy shop/deny-web\"}\n"
    );
    serde_json::from_str::<serde_json::Value>(&text).unwrap();
}

#[test]
fn bytes_are_as_the_local_pod_sees_them() {
    let ends = ends();
    let inbound = Connection { reporter: Reporter::Destination, ..ends.outbound() };
    let text = line(LogFormat::Plain, &inbound, &WELL);
    assert!(text.contains("direction=\"inbound\" bytes_sent=1024 bytes_recv=83 "), "{text}");
}

#[test]
fn an_identity_that_was_not_proved_is_not_shown() {
    let ends = ends();
    let plaintext = Connection {
        source_workload: None,
        source_identity: None,
        destination_identity: None,
        tunnelled_to: None,
        service: None,
        ..ends.outbound()
    };
    let text = line(LogFormat::Plain, &plaintext, &WELL);
    for key in ["identity", "src.workload", "src.namespace", "hbone_addr", "dst.service"] {
        assert!(!text.contains(key), "{key} in {text}");
    }
    assert!(text.contains("dst.workload=\"cart-1\""), "{text}");
}

#[test]
fn an_ipv6_address_keeps_its_brackets() {
    let ends = ends();
    let connection = Connection { source: "[fd00::1]:9".parse().unwrap(), ..ends.outbound() };
    assert!(line(LogFormat::Plain, &connection, &WELL).contains("src.addr=[fd00::1]:9 "));
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_level_of_the_target_access_decides_what_is_written() {
    let out = Captured::default();
    let (logging, subscriber) = logging::build("info", LogFormat::Plain, Box::new(out.clone())).unwrap();
    let ends = ends();
    let connection = ends.outbound();
    let log = &logging.access;
    let failed = Outcome { error: Some(&"broken"), ..WELL };
    let addresses = (connection.source, connection.destination);
    tracing::subscriber::with_default(subscriber, || {
        let all = || {
            log.opened(&connection);
            log.completed(&connection, &WELL);
            log.completed(&connection, &failed);
            log.refused_early(Reporter::Destination, addresses, &Refusal::UnknownWorkload);
        };
        all();
        for levels in ["access:debug", "access:error", "access:off"] {
            logging.control.set(levels, false).unwrap();
            all();
        }
    });
    assert!(logging.sink.flush(Duration::from_secs(10)));
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = text.lines().map(|line| line.splitn(5, '\t').collect::<Vec<_>>()).collect();
    let heads: Vec<_> = lines.iter().map(|line| (line[1], line[3])).collect();
    let (complete, failed) = (("info", "connection complete"), ("error", "connection complete"));
    let (opened, early) = (("debug", "connection opened"), ("warn", "connection failed"));
    assert_eq!(heads, [complete, failed, early, opened, complete, failed, early, failed]);
    assert_eq!(
        lines[2][4],
        "src.addr=10.0.0.7:45678 dst.addr=10.0.1.9:15008 direction=\"inbound\" error=\"unknown workload\""
    );
}

#[test]
#[ignore = "prints a measurement; run in release mode when the writer changes"]
fn cost_of_a_line() {
    let ends = ends();
    let connection = ends.outbound();
    let mut out = Vec::new();
    let rounds = 200_000u32;
    let started = std::time::Instant::now();
    for _ in 0..rounds {
        out.clear();
        write_completed(&mut out, LogFormat::Plain, SystemTime::now(), &connection, &WELL);
        std::hint::black_box(&out);
    }
    println!("{:?} a line of {} bytes", started.elapsed() / rounds, out.len());
}
