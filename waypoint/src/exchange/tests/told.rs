//! What is told of requests: spans and logs, as Telemetry states them.

use std::sync::Arc;

use super::rig::{Rig, web};
use super::{exchange, route, said};
use crate::spans::tests::{Collector, spans};
use crate::telemetry::tests::{MESH, telemetry};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every request is traced.
fn traced() -> String {
    let all = "{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100, customTags: {user: {header: {name: \
               x-user}}}}]}";
    MESH.to_owned() + &telemetry("edge", "t", all)
}

/// A pod that answers with what it was told of the trace.
async fn listens(rig: &Rig) {
    rig.listens(1, async |request| {
        let header = |name| request.headers().get(name).map_or("-", |it| it.to_str().unwrap()).to_owned();
        said(format!("{} {} {}", header("traceparent"), header("x-b3-spanid"), header("b3")))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_traced_request_is_two_spans_and_a_delay_shows() {
    let delay = route("fault: {delay: {fixedDelay: 2s, percentage: {value: 100}}}");
    let collector = Arc::new(Collector::default());
    let rig = Rig::told_to(&(web(1, &[]) + &delay + &traced()), collector.clone());
    listens(&rig).await;
    let request = format!(
        "GET /a?b HTTP/1.1\r\nhost: web\r\nx-user: ann\r\nconnection: close\r\ntraceparent: 00-{TRACE}-{SPAN}-01\r\n\r\n"
    );
    let answer = exchange(rig.client(), &request).await;
    let all = spans(&collector.received(1).await);
    let [client, server] = &all[..] else { panic!("{all:?}") };
    assert_eq!((hex(&server.trace), hex(&server.parent)), (TRACE.to_owned(), SPAN.to_owned()));
    assert_eq!((client.parent.clone(), client.trace.clone()), (server.id.clone(), server.trace.clone()));
    assert_eq!((server.kind, client.kind), (2, 3));
    assert_eq!(server.name, "web.shop.svc.cluster.local:80/*");
    assert_eq!(client.name, "router outbound|80||web.shop.svc.cluster.local egress");
    let tag = |name| server.tag(name);
    assert_eq!((tag("response_flags"), tag("http.status_code")), (Some("DI"), Some("200")));
    assert_eq!((tag("http.url"), tag("http.method")), (Some("http://web/a?b"), Some("GET")));
    assert_eq!((tag("component"), tag("user")), (Some("proxy"), Some("ann")));
    assert_eq!(tag("istio.destination_namespace"), Some("shop"));
    assert_eq!(client.tag("upstream_address"), Some("10.0.0.1:8080"));
    let own = hex(&client.id);
    assert!(answer.contains(&format!("00-{TRACE}-{own}-01 {own} -")), "{answer}\n{own}");
}

#[tokio::test(start_paused = true)]
async fn what_the_caller_decided_counts_and_what_is_not_recorded_goes_on_all_the_same() {
    let collector = Arc::new(Collector::default());
    let rig = Rig::told_to(&(web(1, &[]) + &traced()), collector.clone());
    listens(&rig).await;
    let request =
        |headers: &str| format!("GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{headers}\r\n");
    let answer = exchange(rig.client(), &request(&format!("b3: {TRACE}-{SPAN}-0\r\n"))).await;
    assert!(answer.contains(&format!("00-{TRACE}-")) && answer.contains("-00 - "), "{answer}");
    assert!(!answer.contains(SPAN) && answer.contains("-0-"), "{answer}");
    // One that begins here is recorded, and is the only one.
    listens(&rig).await;
    let answer = exchange(rig.client(), &request("")).await;
    let all = spans(&collector.received(1).await);
    let [client, server] = &all[..] else { panic!("{all:?}") };
    assert!(server.parent.is_empty());
    assert!(answer.contains(&format!("00-{}-{}-01", hex(&server.trace), hex(&client.id))), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn without_a_word_on_tracing_headers_stay_as_they_are() {
    let rig = Rig::new(&web(1, &[]));
    listens(&rig).await;
    let request = format!(
        "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\ntraceparent: 00-{TRACE}-{SPAN}-01\r\n\r\n"
    );
    let answer = exchange(rig.client(), &request).await;
    assert!(answer.contains(&format!("00-{TRACE}-{SPAN}-01 {SPAN} -")), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn logs_are_as_they_are_stated() {
    for (spec, expected) in [
        ("{providers: [{name: text}]}", "T 200 -\n"),
        ("{providers: [{name: json}]}", "{\"code\":200,\"user\":\"ann\"}\n"),
        ("{providers: [{name: text}], filter: {expression: 'response.code >= 400'}}", ""),
        (
            "{providers: [{name: text}], filter: {expression: \"request.headers['x-user'] == 'ann'\"}}",
            "T 200 -\n",
        ),
        ("{disabled: true}", ""),
    ] {
        let stated = telemetry("edge", "t", &format!("{{accessLogging: [{spec}]}}"));
        let rig = Rig::new(&(web(1, &[]) + MESH + &stated));
        listens(&rig).await;
        let request = "GET / HTTP/1.1\r\nhost: web\r\nx-user: ann\r\nconnection: close\r\n\r\n";
        let answer = exchange(rig.client(), request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // Beside them there may be what a waypoint without certificates has to say.
        let log = rig.log();
        let lines: Vec<_> = log.lines().filter(|line| !line.contains("\twarn\t")).collect();
        assert_eq!(lines, expected.lines().collect::<Vec<_>>(), "{spec}");
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_are_as_they_are_stated() {
    let stated = "{metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {host: {value: request.host}, user: \
                  {value: \"request.headers['x-user']\"}, response_code: {operation: REMOVE}}}, {match: {metric: \
                  REQUEST_DURATION}, disabled: true}, {match: {metric: TCP_SENT_BYTES}, disabled: true}]}]}";
    let rig = Rig::new(&(web(1, &[]) + MESH + &telemetry("edge", "t", stated)));
    listens(&rig).await;
    exchange(rig.client(), "GET / HTTP/1.1\r\nhost: web\r\nx-user: ann\r\nconnection: close\r\n\r\n").await;
    let text = rig.scraped();
    let of = |name: &str| text.lines().filter(|it| it.starts_with(name)).collect::<Vec<_>>();
    let [one] = &of("istio_requests_total{")[..] else { panic!("{text}") };
    assert!(
        one.contains("host=\"web\"") && one.contains("user=\"ann\"") && !one.contains("response_code="),
        "{one}"
    );
    assert!(of("istio_request_duration_milliseconds").is_empty(), "{text}");
    assert_eq!(of("istio_request_bytes_count{").len(), 1);
    assert!(of("istio_request_bytes_count{")[0].contains("response_code=\"200\""));
}

#[tokio::test(start_paused = true)]
async fn lines_go_to_a_log_service_as_they_are_stated() {
    let collector = Arc::new(Collector::default());
    let stated = telemetry("edge", "t", "{accessLogging: [{providers: [{name: als}]}]}");
    let rig = Rig::told_to(&(web(1, &[]) + MESH + &stated), collector.clone());
    listens(&rig).await;
    exchange(rig.client(), "GET /a HTTP/1.1\r\nhost: web\r\nx-user: ann\r\nconnection: close\r\n\r\n").await;
    let received = collector.received(1).await;
    let (path, kind, body) = &received[0];
    assert_eq!(path, "/opentelemetry.proto.collector.logs.v1.LogsService/Export");
    assert_eq!(kind, "application/grpc");
    let text = String::from_utf8_lossy(body);
    for part in ["GET /a 200", "user", "ann", "log_name", "shop-log", "service.name"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let log = rig.log();
    assert!(!log.contains("GET /a"), "{log}");
}
