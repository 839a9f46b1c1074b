//! Spans on their way to a collector in memory, by `common`'s `spans`, as a waypoint has them sent.

use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use common::config::mesh::{
    OpenTelemetry, OtelLog, OtlpGrpc, OtlpHttp, Provider, ProviderKind, ProviderService, Zipkin,
};
use common::spans::export::{
    Exporter, Exporters, FLUSH_DEADLINE, LAST_EXPORTS_DEADLINE, MAX_BATCH_BYTES, MAX_BATCH_SPANS,
    MAX_QUEUED_BYTES, MAX_QUEUED_SPANS, Takes,
};
use common::spans::reach::{Connecting, Dial, Wanted, Way};
use common::spans::{Entry, MAX_LOG_VALUE_BYTES, MAX_TAGS, Me, Side, Span, otlp};
use common::telemetry::exposition::Value;
use http::{HeaderMap, Response, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::duplex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// What a collector was sent: the path, the kind of its body, and the body.
type Received = (String, String, Bytes);

/// A collector in memory.
#[derive(Default)]
pub(crate) struct Collector {
    received: Mutex<Vec<Received>>,
    arrived: Notify,
    /// Nobody is at home.
    pub(crate) is_away: bool,
    /// It takes nothing.
    pub(crate) refuses: bool,
    /// What it answers over gRPC, with its frame.
    pub(crate) answer: &'static [u8],
    /// It never answers.
    pub(crate) is_stuck: bool,
}

impl Collector {
    /// Everything that came, once there is so much.
    pub(crate) async fn received(&self, count: usize) -> Vec<Received> {
        loop {
            let arrived = self.arrived.notified();
            let received = self.received.lock().unwrap().clone();
            if received.len() >= count {
                return received;
            }
            arrived.await;
        }
    }

    async fn take(self: Arc<Self>, request: http::Request<Incoming>) -> Response<Frames> {
        let (head, body) = request.into_parts();
        let kind = head.headers["content-type"].to_str().unwrap().to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        let is_grpc = kind == "application/grpc";
        self.received.lock().unwrap().push((head.uri.path().to_owned(), kind, body));
        self.arrived.notify_waiters();
        let status = if self.refuses { "8" } else { "0" };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        trailers.insert("grpc-message", "too much".parse().unwrap());
        if self.is_stuck {
            std::future::pending::<()>().await;
        }
        let frames = match is_grpc {
            true => vec![Frame::trailers(trailers), Frame::data(Bytes::from_static(self.answer))],
            false => Vec::new(),
        };
        let mut response = Response::new(Frames(frames));
        if self.refuses && !is_grpc {
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    }
}

/// Frames, the last one first.
struct Frames(Vec<Frame<Bytes>>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(self.0.pop().map(Ok))
    }
}

/// Connections to a collector.
pub(crate) struct To(pub(crate) Arc<Collector>);

impl Dial for To {
    fn connect<'c>(&'c self, Wanted { version, .. }: Wanted<'c>) -> Connecting<'c> {
        let collector = self.0.clone();
        Box::pin(async move {
            if collector.is_away {
                return Err("nobody is at home".to_owned());
            }
            let (near, far) = duplex(64 * 1024);
            let service = service_fn(move |request| {
                let taken = collector.clone().take(request);
                async move { Ok::<_, std::convert::Infallible>(taken.await) }
            });
            tokio::spawn(async move {
                let io = TokioIo::new(far);
                let _ = match version {
                    Version::HTTP_2 => {
                        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        server.serve_connection(io, service).await
                    }
                    _ => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
                };
            });
            Ok(Way { io: Box::new(near), keepalive: None })
        })
    }
}

fn service() -> ProviderService {
    ProviderService { namespace: None, host: "otel.obs.svc.cluster.local".into(), port: 4317 }
}

fn provider(kind: ProviderKind) -> Arc<Provider> {
    Arc::new(Provider { name: "p".into(), kind })
}

fn otlp(http: Option<OtlpHttp>) -> Arc<Provider> {
    let grpc = OtlpGrpc::default();
    provider(ProviderKind::OpenTelemetry(OpenTelemetry {
        service: service(),
        max_tag_length: None,
        http,
        grpc,
    }))
}

fn zipkin() -> Arc<Provider> {
    provider(ProviderKind::Zipkin(Zipkin {
        service: service(),
        max_tag_length: Some(4),
        short_trace_ids: false,
        path: "/api/v2/spans".into(),
        with_w3c: false,
    }))
}

fn span(id: u64) -> Span {
    Span {
        trace: 0xabcd << 64 | 0x12,
        id,
        parent: Some(7),
        side: Side::Client,
        name: "router web egress".into(),
        began: UNIX_EPOCH + Duration::from_millis(1_500),
        took: Duration::from_millis(20),
        is_error: true,
        tags: vec![("response_flags".into(), "DI".into())],
    }
}

fn started(provider: Arc<Provider>, collector: &Arc<Collector>) -> Arc<Exporter> {
    let me = Arc::new(Me { service: "waypoint.shop".into(), ..Me::default() });
    Exporter::start(provider, me, Arc::new(To(collector.clone())), &Handle::current())
}

/// Whatever there is to read in an export, by the numbers of its fields.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, Message)]
struct OfResource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Read>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Read {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) parent: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(crate) name: String,
    #[prost(int32, tag = "6")]
    pub(crate) kind: i32,
    #[prost(fixed64, tag = "7")]
    began: u64,
    #[prost(fixed64, tag = "8")]
    ended: u64,
    #[prost(message, repeated, tag = "9")]
    tags: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Text>,
}

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

impl Read {
    /// What it says under a name.
    pub(crate) fn tag(&self, name: &str) -> Option<&str> {
        let tag = self.tags.iter().find(|it| it.key == name)?;
        tag.value.as_ref().map(|it| it.text.as_str())
    }
}

fn read(body: &[u8]) -> Vec<Read> {
    let export = Export::decode(body).unwrap();
    export.resources.into_iter().flat_map(|it| it.scopes).flat_map(|it| it.spans).collect()
}

/// The spans in what a collector received over gRPC.
pub(crate) fn spans(received: &[Received]) -> Vec<Read> {
    received.iter().flat_map(|(_, _, body)| read(&body[5..])).collect()
}

#[tokio::test(start_paused = true)]
async fn spans_arrive_over_grpc_and_http() {
    let http = OtlpHttp { path: "/v1/traces".into(), timeout: None, headers: Box::default() };
    for (provider, path, kind, prefix) in [
        (otlp(None), otlp::EXPORT, "application/grpc", 5),
        (otlp(Some(http)), "/v1/traces", "application/x-protobuf", 0),
    ] {
        let collector = Arc::new(Collector::default());
        let exporter = started(provider, &collector);
        exporter.push(span(9));
        let received = collector.received(1).await;
        let (to, of, body) = &received[0];
        assert_eq!((to.as_str(), of.as_str()), (path, kind));
        let expected = Read {
            trace: (0xabcd_u128 << 64 | 0x12).to_be_bytes().to_vec(),
            id: 9_u64.to_be_bytes().to_vec(),
            parent: 7_u64.to_be_bytes().to_vec(),
            name: "router web egress".into(),
            kind: 3,
            began: 1_500_000_000,
            ended: 1_520_000_000,
            tags: vec![Attribute { key: "response_flags".into(), value: Some(Text { text: "DI".into() }) }],
        };
        assert_eq!(read(&body[prefix..]), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn spans_arrive_at_zipkin() {
    let collector = Arc::new(Collector::default());
    let exporter = started(zipkin(), &collector);
    assert_eq!(exporter.max_tag(), 4);
    exporter.push(span(9));
    exporter.push(Span { parent: None, side: Side::Server, is_error: false, trace: 5, ..span(10) });
    let received = collector.received(1).await;
    let (path, kind, body) = &received[0];
    assert_eq!((path.as_str(), kind.as_str()), ("/api/v2/spans", "application/json"));
    let all: serde_json::Value = serde_json::from_slice(body).unwrap();
    let expected = serde_json::json!([
        {"traceId": "000000000000abcd0000000000000012", "id": "0000000000000009", "parentId": "0000000000000007",
         "kind": "CLIENT", "name": "router web egress", "timestamp": 1_500_000, "duration": 20_000,
         "localEndpoint": {"serviceName": "waypoint.shop"}, "tags": {"response_flags": "DI", "error": "true"}},
        {"traceId": "0000000000000005", "id": "000000000000000a", "kind": "SERVER", "name": "router web egress",
         "timestamp": 1_500_000, "duration": 20_000, "localEndpoint": {"serviceName": "waypoint.shop"},
         "tags": {"response_flags": "DI"}},
    ]);
    assert_eq!(all, expected);
}

#[tokio::test(start_paused = true)]
async fn many_spans_go_in_batches_on_one_connection() {
    let collector = Arc::new(Collector::default());
    let exporter = started(otlp(None), &collector);
    for id in 1..=2 * MAX_BATCH_SPANS as u64 {
        exporter.push(span(id));
    }
    let received = collector.received(2).await;
    let counts: Vec<_> = received.iter().map(|(_, _, body)| read(&body[5..]).len()).collect();
    assert_eq!(counts, [MAX_BATCH_SPANS, MAX_BATCH_SPANS]);
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_place_or_no_collector_is_counted_and_waited_for_by_nobody() {
    let away = Arc::new(Collector { is_away: true, ..Collector::default() });
    let exporter = started(otlp(None), &away);
    let more = MAX_QUEUED_SPANS as u64 + 10;
    for id in 1..=more {
        exporter.push(span(id));
    }
    assert_eq!(exporter.counted(), [0, 10, 0]);
    while exporter.counted()[2] < more - 10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let refusing = Arc::new(Collector { refuses: true, ..Collector::default() });
    for provider in [otlp(None), zipkin()] {
        let exporter = started(provider, &refusing);
        exporter.push(span(1));
        while exporter.counted() != [0, 0, 1] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_collector_says_it_did_not_take_is_counted_as_lost() {
    let answer = &[0, 0, 0, 0, 4, 0x0a, 0x02, 0x08, 0x02];
    let collector = Arc::new(Collector { answer, ..Collector::default() });
    let exporter = started(otlp(None), &collector);
    (1..=3).for_each(|id| exporter.push(span(id)));
    while exporter.counted() != [1, 0, 2] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn log() -> Arc<Provider> {
    provider(ProviderKind::OtelLog(OtelLog {
        service: service(),
        log_name: "log".into(),
        text: None,
        labels: Box::default(),
    }))
}

#[tokio::test(start_paused = true)]
async fn long_lines_are_cut_and_go_in_exports_that_collectors_take() {
    let collector = Arc::new(Collector::default());
    let exporter = started(log(), &collector);
    let long = || "é".repeat(32 * 1024);
    let entry = || Entry {
        at: UNIX_EPOCH,
        body: long(),
        attributes: (0..4).map(|_| ("user".into(), long())).collect(),
        trace: None,
    };
    let told = 2 * (MAX_QUEUED_BYTES / (5 * MAX_LOG_VALUE_BYTES));
    (0..told).for_each(|_| exporter.log(entry()));
    let [_, overflowed, _] = exporter.counted();
    assert!((told / 3..told).contains(&(overflowed as usize)), "{overflowed} of {told}");
    while exporter.counted()[0] + overflowed < told as u64 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let received = collector.received(MAX_QUEUED_BYTES / MAX_BATCH_BYTES - 1).await;
    for (_, _, body) in &received {
        assert!(body.len() < MAX_BATCH_BYTES + 4096, "{}", body.len());
    }
    let text = String::from_utf8_lossy(&received[0].2).into_owned();
    assert!(
        text.contains(&long()[..MAX_LOG_VALUE_BYTES]) && !text.contains(&long()[..MAX_LOG_VALUE_BYTES + 2])
    );
    // Room again.
    exporter.log(entry());
    assert_eq!(exporter.counted()[1], overflowed);
}

fn outcomes(exporters: &Exporters) -> Vec<Value> {
    exporters.families().into_iter().flat_map(|it| it.samples).map(|it| it.value).collect()
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_what_is_told_and_no_longer_than_it_may() {
    for is_stuck in [false, true] {
        let collector = Arc::new(Collector { is_stuck, ..Collector::default() });
        let exporters = Exporters::new(Arc::default(), Arc::new(To(collector)), Handle::current());
        let exporter = exporters.get(&otlp(None), Takes::Spans).unwrap();
        (1..=3).for_each(|id| exporter.push(span(id)));
        let began = tokio::time::Instant::now();
        exporters.flush().await;
        assert_eq!(began.elapsed() >= FLUSH_DEADLINE, is_stuck);
        assert_eq!(exporter.counted(), if is_stuck { [0, 0, 3] } else { [3, 0, 0] });
        exporters.flush().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_gone_is_sent_to_for_some_seconds_and_no_longer() {
    let collector = Arc::new(Collector { is_stuck: true, ..Collector::default() });
    let exporters = Exporters::new(Arc::default(), Arc::new(To(collector)), Handle::current());
    let exporter = exporters.get(&otlp(None), Takes::Spans).unwrap();
    let many = 4 * MAX_BATCH_SPANS as u64;
    (1..=many).for_each(|id| exporter.push(span(id)));
    drop(exporter);
    tokio::time::sleep(LAST_EXPORTS_DEADLINE + Duration::from_secs(1)).await;
    assert_eq!(outcomes(&exporters), [Value::Count(0), Value::Count(0), Value::Count(many)]);
}

#[test]
fn tags_are_bounded() {
    let mut one = span(1);
    one.tag("long", "é".repeat(10), 5);
    assert_eq!(one.tags.last().unwrap().1, "éé");
    for _ in 0..2 * MAX_TAGS {
        one.tag("more", "x", 5);
    }
    assert_eq!(one.tags.len(), MAX_TAGS);
}
