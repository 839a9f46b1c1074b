//! What the applications promise without a mesh: right bytes, right names for failures, and plausible measurements.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use harness::{
    client::{Client, Running},
    cluster::{Cluster, Pod},
    interrupt::wait_for,
    report::{FailureKind, Fate, PeerReport, Receipt},
};

const SOON: Duration = Duration::from_secs(10);

struct Pair {
    // The cluster goes last, as its pods' processes must.
    server: Pod,
    client: Pod,
    _cluster: Cluster,
}

fn pair() -> Pair {
    let cluster = Cluster::two_nodes().expect("a cluster");
    let server = cluster.node(0).add_pod("server").expect("a pod");
    let client = cluster.node(1).add_pod("client").expect("a pod");
    Pair { server, client, _cluster: cluster }
}

impl Pair {
    fn serve(&self, arguments: &[&str]) -> Running {
        let running = Client::in_pod(&self.server).start(arguments).expect("a server");
        running.wait_ready(SOON).expect("it listens");
        running
    }

    fn to(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.server.addresses().v4.into(), port)
    }

    fn client(&self) -> Client<'_> {
        Client::in_pod(&self.client)
    }
}

#[test]
fn http_answers_as_asked() {
    let pair = pair();
    let _server = pair.serve(&["http", "--name", "me", "--version", "v7"]);
    let url = |path: &str| format!("http://{}{path}", pair.to(8080));
    let get = |path: &str, flags: &[&str]| pair.client().get_with(url(path), flags).unwrap().done().unwrap();
    let described = get("/a?b=c", &["-H", "x-test: 1", "--host", "shop.example"]).described().unwrap();
    assert_eq!((described.name.as_str(), described.version.as_str()), ("me", "v7"));
    assert_eq!((described.path.as_str(), described.headers["x-test"].as_str()), ("/a?b=c", "1"));
    assert_eq!(described.headers["host"], "shop.example");
    assert_eq!(get("/bytes/100000", &[]).body.len(), 100_000);
    assert_eq!(get("/bytes/0", &[]).body, "");
    assert_eq!(get("/status/503", &[]).status, 503);
    assert_eq!(get("/", &["-X", "POST", "-d", "hello"]).body, "hello");
    let start = Instant::now();
    get("/delay/200", &[]);
    assert!(start.elapsed() >= Duration::from_millis(200));
    let late = pair.client().get_with(url("/delay/2000"), &["--timeout-ms", "50"]).unwrap();
    assert_eq!(late.failure().unwrap().kind, FailureKind::Timeout);
}

#[test]
fn load_counts_what_it_did_and_a_fixed_rate_is_kept() {
    let pair = pair();
    let server = pair.serve(&["http"]);
    let url = format!("http://{}/bytes/1000", pair.to(8080));
    let closed = pair.client().load(&url, &["--seconds", "30", "--count", "2000", "-c", "4"]).unwrap();
    assert_eq!((closed.done, closed.failed(), closed.bytes), (2000, 0, 2_000_000));
    assert_eq!(closed.statuses[&200], 2000);
    assert!(closed.latency.p50_us > 5.0 && closed.latency.p50_us <= closed.latency.p99_us, "{closed:?}");
    let open = pair.client().load(&url, &["--seconds", "2", "--rate", "300", "-c", "3"]).unwrap();
    assert!((540..=601).contains(&open.done), "{} requests in 2 s at 300/s", open.done);
    drop(server);
    let refused = pair.client().load(&url, &["--seconds", "0.1", "-c", "1"]).unwrap();
    assert_eq!(refused.done, 0);
    assert!(refused.failures[&FailureKind::Refused] > 1);
}

#[test]
fn small_and_bulk_measurements_are_confirmed_by_the_other_end() {
    let pair = pair();
    let _http = pair.serve(&["http"]);
    let _echo = pair.serve(&["tcp-echo"]);
    let _sink = pair.serve(&["tcp-sink"]);
    let _source = pair.serve(&["tcp-source"]);
    let ping = pair.client().pingpong(pair.to(9001), &["--count", "500"]).unwrap();
    assert_eq!((ping.done, ping.bytes, ping.failed()), (500, 500, 0));
    let connections =
        pair.client().connrate(format!("http://{}/", pair.to(8080)), &["--count", "200"]).unwrap();
    assert_eq!((connections.done, connections.statuses[&200]), (200, 200));
    let up = pair.client().bulk(pair.to(9002), &["--bytes", "20000000", "--streams", "2"]).unwrap();
    assert_eq!((up.bytes, up.failures.len()), (40_000_000, 0));
    let down = pair.client().bulk(pair.to(9003), &["--bytes", "20000000", "--direction", "down"]).unwrap();
    assert_eq!((down.bytes, down.failures.len()), (20_000_000, 0));
    let timed = pair.client().bulk(pair.to(9002), &["--seconds", "0.3"]).unwrap();
    assert!(timed.bytes > 1_000_000 && timed.elapsed_s < 3.0, "{timed:?}");
}

#[test]
fn held_connections_are_counted_alive_or_dead_at_the_end() {
    let pair = pair();
    let echo = pair.serve(&["tcp-echo"]);
    let held = pair.client().hold(pair.to(9001), &["-c", "300"]).unwrap();
    assert_eq!(held.opened().opened, 300);
    assert!(echo.process().fd_count().unwrap() > 300);
    assert_eq!(held.release().unwrap().alive, Some(300));
    let held = pair.client().hold(pair.to(9001), &["-c", "20", "--timeout-ms", "500"]).unwrap();
    echo.process().kill9().unwrap();
    let report = held.release().unwrap();
    assert_eq!((report.alive, report.dead.values().sum::<u64>()), (Some(0), 20));
}

#[test]
fn a_ledger_knows_delivered_from_refused_from_cut() {
    let pair = pair();
    let sink = pair.serve(&["tcp-sink", "--ledger"]);
    let sent =
        pair.client().ledger(pair.to(9002), &["--records", "500", "--size", "3000", "--flow", "9"]).unwrap();
    assert_eq!(sent.fate(None), Fate::Delivered, "{sent:?}");
    let slow = ["--records", "100000", "--interval-us", "500", "--flow", "10"];
    let sending = Client::in_pod(&pair.client)
        .start(&[&["ledger", &pair.to(9002).to_string()], &slow[..]].concat())
        .unwrap();
    let table = || Ok(std::fs::read_to_string("/proc/thread-self/net/tcp6")?);
    wait_for("connection at the sink", SOON, || {
        // The heading, the listener, and then the connection.
        Ok((pair.server.namespace().within(table)?.lines().count() > 2).then_some(()))
    })
    .unwrap();
    // The sender is what is killed, so that the receiver lives to say what it has.
    sending.process().kill9().unwrap();
    let line = sink.process().wait_for_log("\"flow\":10", SOON).unwrap();
    let receipt: Receipt = serde_json::from_str(&line).unwrap();
    assert!(receipt.is_exact_prefix() && receipt.records < 100_000, "{receipt:?}");
    drop(sink);
    let refused = pair.client().ledger(pair.to(9002), &["--flow", "11"]).unwrap();
    assert_eq!(refused.fate(None), Fate::Refused, "{refused:?}");
}

#[test]
fn scripted_peers_see_each_order_of_closing_for_what_it_is() {
    let pair = pair();
    let cases: [(&[&str], &[&str], Option<FailureKind>); 4] = [
        (&["recv:10", "eof", "send:1000000", "fin"], &["send:10", "fin", "recv:1000000", "eof"], None),
        (&["send:5", "fin", "recv:5", "eof"], &["recv:5", "eof", "send:5", "fin"], None),
        (&["recv:5", "rst"], &["send:5", "eof"], Some(FailureKind::Reset)),
        (&["send:3", "close"], &["recv:4"], Some(FailureKind::Closed)),
    ];
    for (port, (serving, calling, failure)) in (7000_u16..).zip(cases) {
        let server = pair.serve(&[&["peer", "--listen", &port.to_string()], serving].concat());
        let called = pair.client().peer(pair.to(port), calling).unwrap();
        let served: PeerReport = server.report(SOON).unwrap();
        let last = called.steps.last().unwrap();
        assert_eq!(last.failure.as_ref().map(|failure| failure.kind), failure, "{calling:?}: {called:?}");
        assert!(served.complete, "{serving:?}: {served:?}");
    }
    let nobody = pair.client().peer(pair.to(6999), &["send:1"]).unwrap();
    assert_eq!(nobody.steps[0].failure.as_ref().unwrap().kind, FailureKind::Refused);
}
