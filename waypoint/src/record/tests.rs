use std::io::Write;
use std::sync::Mutex;

use bytes::Bytes;
use common::config::expression::Expression;
use common::config::telemetry::{Metric, MetricOverride, Mode, TagOverride};
use common::refusal::Refusal;
use common::snapshot::model::{Health, Likeness, LoadBalancing, ServicePort, TunnelProtocol, WorkloadKind};
use common::spiffe::Identity;
use common::telemetry::exposition::Format;
use common::telemetry::line::LogFormat;
use common::telemetry::logging::{self, Logging};
use common::telemetry::metrics::Metrics;
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::accept::Peer;
use crate::telemetry::{Effective, counted};

fn workload(name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        uid: format!("Kubernetes//Pod/shop/{name}-1").into(),
        incarnation: "0001".into(),
        name: format!("{name}-1").into(),
        addresses: Arc::new(["10.0.0.7".parse().unwrap()]),
        node: "node-a".into(),
        workload_name: name.into(),
        locality: Arc::default(),
        health: Health::Healthy,
        netns: None,
        likeness: Arc::new(Likeness {
            identity: Identity::new("cluster.local", "shop", name),
            protocol: TunnelProtocol::Hbone,
            host_network: false,
            canonical_name: name.into(),
            canonical_revision: "v2".into(),
            labels: Default::default(),
            workload_kind: WorkloadKind::Deployment,
            app: "".into(),
            version: "".into(),
            cluster: "Kubernetes".into(),
            enrolment: None,
            probed: Arc::default(),
            waypoint: None,
        }),
    })
}

fn service(name: &str) -> Arc<Service> {
    Arc::new(Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: format!("{name}.shop.svc.cluster.local").into(),
        vips: Box::new(["10.96.0.1".parse().unwrap()]),
        ports: Box::new([ServicePort { port: 80, name: "http".into(), app_protocol: "".into() }]),
        load_balancing: LoadBalancing::default(),
        waypoint: None,
        external: None,
    })
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A proxy that tells what it sees: its log and its metrics can be read back.
pub(super) struct Seen {
    pub(super) parties: Parties,
    metrics: Metrics,
    logging: Logging,
    out: Captured,
    _subscriber: tracing::subscriber::DefaultGuard,
}

pub(super) fn seen() -> Seen {
    let out = Captured::default();
    let (logging, subscriber) = logging::build("info", LogFormat::Plain, Box::new(out.clone())).unwrap();
    let (metrics, _) = Metrics::build("waypoint", "0");
    let caller = workload("web");
    let parties = Parties {
        ledger: Arc::new(Ledger::new(logging.access.clone(), &metrics)),
        peer: Arc::new(Peer {
            identity: caller.identity.clone(),
            address: "10.0.0.7:40000".parse().unwrap(),
            local: "10.0.0.20:15008".parse().unwrap(),
        }),
        proved: true,
        caller: Some(caller),
        client: "10.0.0.7:41000".parse().unwrap(),
        called: "10.96.0.1:80".parse().unwrap(),
        service: Some(service("cart")),
        workload: None,
        telemetry: Arc::default(),
    };
    let guard = tracing::subscriber::set_default(subscriber);
    Seen { parties, metrics, logging, out, _subscriber: guard }
}

impl Seen {
    fn begin(&self, request: &Request<()>) -> Record {
        Record::of(self.parties.clone(), request)
    }

    /// The line of the only record there was, without when it began, and with a duration of 0.
    pub(super) fn line(&self) -> String {
        assert!(self.logging.sink.flush(Duration::from_secs(10)));
        let text = String::from_utf8(self.out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "one line for each: {text}");
        let line = text.trim_end().split_once("] ").unwrap().1;
        // The blanks within quotes are no ends of fields.
        let mut is_quoted = false;
        let mut fields: Vec<_> = line
            .split(|character| {
                is_quoted ^= character == '"';
                character == ' ' && !is_quoted
            })
            .collect();
        fields[8].parse::<u64>().unwrap();
        fields[8] = "0";
        fields.join(" ")
    }

    fn scraped(&self) -> String {
        let chunks = self.metrics.scrape(Format::Text);
        chunks.map(|chunk| String::from_utf8(chunk.to_vec()).unwrap()).collect()
    }

    /// The one sample of `metric`: its labels and its value.
    fn sample(&self, metric: &str) -> (String, String) {
        let text = self.scraped();
        let begin = format!("{metric}{{");
        let found: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(&begin)).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        let (labels, value) = found[0].rsplit_once("} ").unwrap();
        (labels.to_owned(), value.to_owned())
    }
}

fn request() -> Request<()> {
    Request::get("/cart?id=1")
        .header("host", "cart")
        .header("user-agent", "curl/8")
        .header("x-request-id", "id-1")
        .header("x-forwarded-for", "203.0.113.9")
        .body(())
        .unwrap()
}

fn call() -> Request<()> {
    Request::post("http://cart/shop.Cart/Add")
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc+proto")
        .body(())
        .unwrap()
}

fn sent_upstream(record: &mut Record) {
    let cluster: Arc<str> = "outbound|80||cart.shop.svc.cluster.local".into();
    record.upstream(&cluster, "10.0.1.9:8080".parse().unwrap(), Some(&workload("cart")));
}

/// The words after the request's own: status, flags, details, termination details.
fn verdict(line: &str) -> String {
    let after = line.split_once("HTTP/").unwrap().1.split_once("\" ").unwrap().1;
    after.splitn(5, ' ').take(4).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_request_that_was_served_is_told_once_with_all_there_is_to_tell() {
    let seen = seen();
    let mut record = seen.begin(&request());
    record.route(&"default".into());
    sent_upstream(&mut record);
    record.service_time(Duration::from_millis(4));
    record.received(10);
    record.head(StatusCode::OK, &HeaderMap::new());
    record.sent(&[b'x'; 100]);
    record.sent(b"0123456789");
    record.ended(Ok(()));
    drop(record);
    assert_eq!(
        seen.line(),
        "\"GET /cart?id=1 HTTP/1.1\" 200 - via_upstream - \"-\" 10 110 0 4 \"203.0.113.9\" \"curl/8\" \"id-1\" \
         \"cart\" \"10.0.1.9:8080\" outbound|80||cart.shop.svc.cluster.local - 10.96.0.1:80 10.0.0.7:41000 - default"
    );
    let (labels, value) = seen.sample("istio_requests_total");
    assert_eq!(value, "1");
    for label in [
        "reporter=\"waypoint\"",
        "source_workload=\"web\"",
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/web\"",
        "destination_workload=\"cart\"",
        "destination_service=\"cart.shop.svc.cluster.local\"",
        "destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\"",
        "connection_security_policy=\"mutual_tls\"",
        "request_protocol=\"http\"",
        "response_code=\"200\"",
        "response_flags=\"-\"",
    ] {
        assert!(labels.contains(label), "{label} in {labels}");
    }
    assert_eq!(seen.sample("istio_request_bytes_sum").1, "10");
    assert_eq!(seen.sample("istio_response_bytes_sum").1, "110");
}

#[test]
fn a_client_that_leaves_before_the_answer_is_told_with_status_0() {
    let seen = seen();
    let mut record = seen.begin(&request());
    sent_upstream(&mut record);
    drop(record);
    assert_eq!(verdict(&seen.line()), "0 DC downstream_remote_disconnect -");
    let (labels, _) = seen.sample("istio_requests_total");
    assert!(labels.contains("response_code=\"0\"") && labels.contains("response_flags=\"DC\""), "{labels}");
}

#[test]
fn a_client_that_leaves_during_the_answer_is_told_with_the_status_it_got() {
    let seen = seen();
    let mut record = seen.begin(&request());
    sent_upstream(&mut record);
    record.head(StatusCode::OK, &HeaderMap::new());
    record.sent(b"begin");
    drop(record);
    assert_eq!(verdict(&seen.line()), "200 DC downstream_remote_disconnect -");
}

#[test]
fn an_answer_that_runs_out_of_time_is_the_upstreams_timeout() {
    let seen = seen();
    let mut record = seen.begin(&request());
    sent_upstream(&mut record);
    record.head(StatusCode::OK, &HeaderMap::new());
    record.ended(Err(&BodyError::TimedOut));
    drop(record);
    assert_eq!(verdict(&seen.line()), "200 UT upstream_response_timeout -");
}

#[test]
fn a_refusal_says_why_and_names_no_endpoint() {
    let seen = seen();
    let mut record = seen.begin(&request());
    record.flag(Flag::UpstreamConnectFailure);
    record.flag(Flag::RetryLimit);
    record.details(Details::ResetBeforeResponse(Reset::ConnectFailure));
    record.transport_failure(&Refusal::TlsFailed("bad certificate".into()));
    record.terminated(&"idle");
    record.head(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new());
    record.ended(Ok(()));
    let line = seen.line();
    assert!(
        line.contains(
            "503 UF,URX upstream_reset_before_response_started{remote_connection_failure} idle \
             \"tls handshake failed: bad certificate\" "
        ),
        "{line}"
    );
    let (labels, _) = seen.sample("istio_requests_total");
    assert!(labels.contains("destination_workload=\"unknown\""), "{labels}");
    assert!(labels.contains("destination_service_name=\"cart\""), "{labels}");
    assert!(labels.contains("response_flags=\"UF,URX\""), "{labels}");
}

#[test]
fn the_service_a_route_leads_to_is_the_one_that_is_told() {
    let seen = seen();
    let mut record = seen.begin(&request());
    record.service(&service("basket"));
    sent_upstream(&mut record);
    record.head(StatusCode::OK, &HeaderMap::new());
    record.ended(Ok(()));
    assert!(seen.sample("istio_requests_total").0.contains("destination_service_name=\"basket\""));
}

#[test]
fn the_path_before_it_was_rewritten_comes_first() {
    let seen = seen();
    let mut request = request();
    request.headers_mut().insert("x-envoy-original-path", HeaderValue::from_static("/before"));
    let mut record = seen.begin(&request);
    record.ended(Ok(()));
    assert!(seen.line().starts_with("\"GET /before HTTP/1.1\""), "{}", seen.line());
}

/// One message of gRPC.
fn message(length: u8) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, length];
    bytes.resize(5 + usize::from(length), b'x');
    bytes
}

#[tokio::test]
async fn a_call_of_grpc_has_the_status_of_its_trailers_and_its_messages() {
    let seen = seen();
    let mut record = seen.begin(&call());
    sent_upstream(&mut record);
    let body = Full::new(Bytes::from([message(3), message(0)].concat()));
    Counted::new(body, record.receiver()).collect().await.unwrap();
    record.head(StatusCode::OK, &HeaderMap::new());
    record.sent(&message(200));
    let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("5"))]);
    record.trailers(&trailers);
    record.ended(Ok(()));
    drop(record);
    let (labels, _) = seen.sample("istio_requests_total");
    assert!(labels.contains("request_protocol=\"grpc\",response_code=\"200\",grpc_response_status=\"5\""));
    assert_eq!(seen.sample("istio_request_messages_total").1, "2");
    assert_eq!(seen.sample("istio_response_messages_total").1, "1");
    assert_eq!(seen.sample("istio_request_bytes_sum").1, "13");
    let line = seen.line();
    assert!(line.starts_with("\"POST /shop.Cart/Add HTTP/2\" 200 - via_upstream - \"-\" 13 205 "), "{line}");
    assert!(line.contains("\"cart\" \"10.0.1.9:8080\""), "the authority: {line}");
}

#[test]
fn the_status_of_a_call_is_known_wherever_it_stands() {
    let value = HeaderValue::from_static;
    let cases = [
        (StatusCode::OK, Some(value("0")), "0"),
        (StatusCode::OK, Some(value("16")), "16"),
        (StatusCode::OK, Some(value("17")), "2"),
        (StatusCode::OK, Some(value("-1")), "2"),
        (StatusCode::OK, Some(HeaderValue::from_bytes(b"\xff").unwrap()), "2"),
        (StatusCode::OK, None, "2"),
        (StatusCode::SERVICE_UNAVAILABLE, None, "14"),
        (StatusCode::FORBIDDEN, None, "7"),
        (StatusCode::NOT_FOUND, None, "12"),
        (StatusCode::IM_A_TEAPOT, None, "2"),
    ];
    for (status, stated, expected) in cases {
        let seen = seen();
        let mut record = seen.begin(&call());
        let headers = stated.map(|stated| (GRPC_STATUS, stated)).into_iter().collect();
        record.head(status, &headers);
        record.ended(Ok(()));
        let (labels, _) = seen.sample("istio_requests_total");
        assert!(labels.contains(&format!("grpc_response_status=\"{expected}\"")), "{status}: {labels}");
    }
    let seen = seen();
    drop(seen.begin(&call()));
    assert!(
        seen.sample("istio_requests_total").0.contains("grpc_response_status=\"\""),
        "no answer, no status"
    );
}

#[test]
fn only_grpc_is_taken_for_grpc() {
    for (content_type, expected) in [
        ("application/grpc", true),
        ("application/grpc+json", true),
        ("application/grpc;charset=x", true),
        ("application/grpc-web", false),
        ("application/grpcx", false),
        ("application/json", false),
    ] {
        assert_eq!(is_grpc(&HeaderValue::from_static(content_type)), expected, "{content_type}");
    }
}

#[tokio::test]
async fn a_connection_is_counted_while_it_is_carried_and_told_at_its_end() {
    let seen = seen();
    let mut carried = Carried::of(seen.parties.clone());
    let cluster: Arc<str> = "outbound|80||cart.shop.svc.cluster.local".into();
    carried.upstream(&cluster, "10.0.1.9:8080".parse().unwrap(), Some(&workload("cart")), &service("cart"));
    assert_eq!(seen.sample("istio_tcp_connections_opened_total").1, "1");
    let (mut client, near) = tokio::io::duplex(1 << 20);
    let mut near = carried.metered(near);
    let sent = vec![b'x'; 300_000];
    client.write_all(&sent).await.unwrap();
    near.read_exact(&mut vec![0; sent.len()]).await.unwrap();
    near.write_all(b"0123456789").await.unwrap();
    let open: u64 = seen.sample("istio_tcp_received_bytes_total").1.parse().unwrap();
    assert!(open >= 256 * 1024, "{open} bytes while it is open");
    drop(carried);
    assert_eq!(seen.sample("istio_tcp_received_bytes_total").1, "300000");
    assert_eq!(seen.sample("istio_tcp_sent_bytes_total").1, "10");
    let (labels, _) = seen.sample("istio_tcp_connections_closed_total");
    assert!(labels.starts_with("reporter=\"waypoint\",request_protocol=\"tcp\""), "{labels}");
    assert_eq!(
        seen.line(),
        "\"- - -\" 0 - - - \"-\" 300000 10 0 - \"-\" \"-\" \"-\" \"-\" \"10.0.1.9:8080\" \
         outbound|80||cart.shop.svc.cluster.local - 10.96.0.1:80 10.0.0.7:41000 - -"
    );
}

#[test]
fn metrics_of_connections_are_as_they_are_stated() {
    let overrides = |metric: Option<Metric>, disabled, tags: &[(&str, &str)]| MetricOverride {
        mode: Mode::default(),
        metric,
        disabled,
        tags: tags
            .iter()
            .map(|(name, value)| {
                (Arc::from(*name), TagOverride::Upsert(Expression::value((*value).into()).unwrap()))
            })
            .collect(),
    };
    let stated = [
        overrides(None, None, &[("to", "destination.workload.name")]),
        overrides(Some(Metric::TcpSentBytes), Some(true), &[]),
        overrides(Some(Metric::TcpClosedConnections), None, &[("host", "request.host")]),
    ];
    let seen = seen();
    let effective =
        Effective { counted_connections: counted::Counted::connections(&stated), ..Effective::default() };
    let parties = Parties { telemetry: Arc::new(effective), ..seen.parties.clone() };
    let mut carried = Carried::of(parties);
    let cluster: Arc<str> = "outbound|80||cart.shop.svc.cluster.local".into();
    carried.upstream(&cluster, "10.0.1.9:8080".parse().unwrap(), Some(&workload("cart")), &service("cart"));
    let (opened, count) = seen.sample("istio_tcp_connections_opened_total");
    assert!(opened.contains("to=\"cart-1\"") && count == "1", "{opened} {count}");
    drop(carried);
    let (closed, count) = seen.sample("istio_tcp_connections_closed_total");
    assert!(
        closed.contains("host=\"unknown\"") && closed.contains("to=\"cart-1\"") && count == "1",
        "{closed}"
    );
    let text = seen.scraped();
    assert!(!text.contains("istio_tcp_sent_bytes_total{"), "{text}");
    assert!(text.contains("istio_tcp_sockets_open{reporter=\"waypoint\"} 0"), "{text}");
}

#[test]
fn a_connection_that_could_not_be_carried_is_told_with_its_reason() {
    let cases = [
        (Refusal::ConnectFailed("no".into()), "UF", "0 UF - - \"connection failed: no\""),
        (Refusal::NoHealthyUpstream("cart".into()), "UH", "0 UH - - \"no healthy upstream for cart\""),
        (
            Refusal::DeniedByPolicy("ns[a]-policy[p]-rule[0]".into()),
            "RBAC",
            "0 - - rbac_access_denied_matched_policy[ns[a]-policy[p]-rule[0]] \"-\"",
        ),
        (
            Refusal::NoAllowPolicyMatched("shop/p".into()),
            "RBAC",
            "0 - - rbac_access_denied_matched_policy[none] \"-\"",
        ),
    ];
    for (refusal, flag, expected) in cases {
        let seen = seen();
        let mut carried = Carried::of(seen.parties.clone());
        carried.refuse(refusal);
        drop(carried);
        assert!(seen.line().starts_with(&format!("\"- - -\" {expected} ")), "{}", seen.line());
        let (labels, _) = seen.sample("istio_tcp_connections_failed_total");
        assert!(labels.contains(&format!("response_flags=\"{flag}\"")), "{labels}");
    }
}

#[test]
#[ignore = "prints a measurement; run in release mode when records change"]
fn cost_of_a_record() {
    for level in ["info", "info,access=off"] {
        let (logging, subscriber) =
            logging::build(level, LogFormat::Plain, Box::new(std::io::sink())).unwrap();
        let (metrics, _) = Metrics::build("waypoint", "0");
        let ledger = Arc::new(Ledger::new(logging.access.clone(), &metrics));
        let parties = Parties { ledger, ..seen().parties };
        let (cart, cluster, route) = (workload("cart"), Arc::from("outbound|80||cart"), Arc::from("default"));
        let (request, headers) = (request(), HeaderMap::new());
        tracing::subscriber::with_default(subscriber, || {
            let rounds = 300_000u32;
            let began = Instant::now();
            for _ in 0..rounds {
                let mut record = Record::of(parties.clone(), &request);
                record.route(&route);
                record.upstream(&cluster, "10.0.1.9:8080".parse().unwrap(), Some(&cart));
                record.head(StatusCode::OK, &headers);
                record.sent(&[0; 100]);
                record.ended(Ok(()));
            }
            println!("{level}: {:?} a record", began.elapsed() / rounds);
        });
    }
}
