use std::collections::BTreeSet;

use super::*;
use crate::telemetry::edges::EDGE_IDLE_EXPIRY;
use crate::telemetry::flags::Flag;
use crate::telemetry::test_mesh::{service, workload};

/// Shared values, as a snapshot has them.
struct Mesh {
    web: Arc<Workload>,
    cart: Arc<Workload>,
    service: Arc<Service>,
}

fn mesh() -> Mesh {
    Mesh {
        web: Arc::new(workload("web")),
        cart: Arc::new(workload("cart")),
        service: Arc::new(service("cart")),
    }
}

impl Mesh {
    fn ends(&self) -> RequestEnds<'_> {
        RequestEnds {
            source: Some(&self.web),
            source_identity: Some(&self.web.identity),
            destination: Some(&self.cart),
            service: Some(&self.service),
        }
    }
}

const OK: Ending =
    Ending { protocol: RequestProtocol::Http, status: 200, grpc_status: None, flags: Flags::NONE };

fn cache() -> (Arc<RequestMetrics>, RequestEdgeCache) {
    let metrics = Arc::new(RequestMetrics::default());
    (metrics.clone(), RequestEdgeCache::new(metrics))
}

fn scraped(metrics: &RequestMetrics) -> String {
    metrics.scrape(Format::Text).map(|chunk| String::from_utf8(chunk.to_vec()).unwrap()).collect()
}

/// The value of the one sample of `name` with all of `labels`.
fn value(text: &str, name: &str, labels: &[&str]) -> u64 {
    let of_metric = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|l| l.starts_with('{')));
    let found: Vec<_> = of_metric.filter(|line| labels.iter().all(|label| line.contains(label))).collect();
    assert_eq!(found.len(), 1, "{name} {labels:?} in {text}");
    found[0].rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// The sum of all samples of `name`.
fn sum(text: &str, name: &str) -> u64 {
    let of_metric = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|l| l.starts_with('{')));
    of_metric.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_proxy_that_serves_no_requests_shows_no_metric_of_them() {
    let (metrics, _) = cache();
    assert_eq!(scraped(&metrics), "");
}

#[test]
fn a_request_is_counted_with_what_it_took() {
    let (metrics, cache) = cache();
    let mesh = mesh();
    let took = Took {
        duration: Duration::from_micros(12_900),
        request_bytes: 0,
        response_bytes: 1234,
        ..Took::default()
    };
    cache.edge(&mesh.ends()).ended(OK, &took);
    let unavailable = Ending { status: 503, flags: Flag::NoHealthyUpstream.into(), ..OK };
    cache.edge(&mesh.ends()).ended(unavailable, &Took::default());
    let text = scraped(&metrics);
    let requests = text.lines().find(|line| line.starts_with("istio_requests_total{")).unwrap();
    assert_eq!(
        requests,
        "istio_requests_total{reporter=\"waypoint\",connection_security_policy=\"mutual_tls\",\
         source_workload=\"web\",source_canonical_service=\"web\",source_canonical_revision=\"v2\",\
         source_workload_namespace=\"shop\",source_app=\"web\",source_version=\"v2\",\
         source_cluster=\"Kubernetes\",destination_service=\"cart.shop.svc.cluster.local\",\
         destination_service_namespace=\"shop\",destination_service_name=\"cart\",destination_workload=\"cart\",\
         destination_canonical_service=\"cart\",destination_canonical_revision=\"v2\",\
         destination_workload_namespace=\"shop\",destination_app=\"cart\",destination_version=\"v2\",\
         destination_cluster=\"Kubernetes\",source_region=\"r1\",source_zone=\"z1\",destination_region=\"r1\",\
         destination_zone=\"z1\",source_principal=\"spiffe://cluster.local/ns/shop/sa/web\",\
         destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",request_protocol=\"http\",\
         response_code=\"200\",grpc_response_status=\"\",response_flags=\"-\"} 1"
    );
    let ok = "response_code=\"200\"";
    let name = "istio_request_duration_milliseconds";
    assert_eq!(value(&text, &format!("{name}_bucket"), &[ok, "le=\"10\""]), 0);
    assert_eq!(value(&text, &format!("{name}_bucket"), &[ok, "le=\"25\""]), 1);
    assert_eq!(value(&text, &format!("{name}_count"), &[ok]), 1);
    assert!(text.contains("response_flags=\"-\"} 12.900\n"), "the sum in milliseconds: {text}");
    assert_eq!(value(&text, "istio_request_bytes_bucket", &[ok, "le=\"0.5\""]), 1);
    assert_eq!(value(&text, "istio_response_bytes_sum", &[ok]), 1234);
    assert_eq!(value(&text, "istio_requests_total", &["response_code=\"503\"", "response_flags=\"UH\""]), 1);
    assert!(!text.contains("messages"), "a metric of gRPC without gRPC");
}

#[test]
fn calls_of_grpc_have_their_status_and_their_messages() {
    let (metrics, cache) = cache();
    let mesh = mesh();
    let took = Took { request_messages: 3, response_messages: 1, ..Took::default() };
    let ending = Ending { protocol: RequestProtocol::Grpc, grpc_status: Some(14), ..OK };
    for ending in [ending, ending, Ending { grpc_status: Some(0), ..ending }] {
        cache.edge(&mesh.ends()).ended(ending, &took);
    }
    let text = scraped(&metrics);
    let grpc = "request_protocol=\"grpc\"";
    assert_eq!(value(&text, "istio_requests_total", &[grpc, "grpc_response_status=\"14\""]), 2);
    assert_eq!(value(&text, "istio_requests_total", &[grpc, "grpc_response_status=\"0\""]), 1);
    assert_eq!(value(&text, "istio_request_messages_total", &[grpc]), 9);
    assert_eq!(value(&text, "istio_response_messages_total", &[grpc]), 3);
}

#[test]
fn every_ending_has_a_key_of_its_own() {
    let grpc = Ending { protocol: RequestProtocol::Grpc, ..OK };
    let endings = [
        OK,
        Ending { status: 0, ..OK },
        Ending { status: 999, ..OK },
        Ending { flags: Flag::Overload.into(), ..OK },
        grpc,
        Ending { grpc_status: Some(0), ..grpc },
        Ending { grpc_status: Some(255), ..grpc },
    ];
    let keys: BTreeSet<_> = endings.iter().map(|ending| ending.key()).collect();
    assert_eq!(keys.len(), endings.len());
    assert!(!keys.contains(&0), "the key of what has no series of its own");
}

#[test]
fn ten_thousand_statuses_cost_an_edge_a_bounded_number_of_series() {
    let (metrics, cache) = cache();
    let mesh = mesh();
    for status in 0..10_000 {
        cache.edge(&mesh.ends()).ended(Ending { status, ..OK }, &Took::default());
    }
    let text = scraped(&metrics);
    let series = text.lines().filter(|line| line.starts_with("istio_requests_total{")).count();
    assert_eq!(series, MAX_ENDINGS_PER_EDGE + 1);
    let further = value(&text, "istio_requests_total", &["response_code=\"overflow\""]);
    assert_eq!(further, 10_000 - MAX_ENDINGS_PER_EDGE as u64);
    assert_eq!(sum(&text, "istio_requests_total"), 10_000, "none is lost");
    // What had a series keeps it.
    cache.edge(&mesh.ends()).ended(Ending { status: 7, ..OK }, &Took::default());
    assert_eq!(value(&scraped(&metrics), "istio_requests_total", &["response_code=\"7\""]), 2);
}

#[test]
fn ten_thousand_clients_with_many_statuses_stay_within_the_bounds() {
    let (metrics, cache) = cache();
    let mesh = mesh();
    let clients: Vec<_> = (0..10_000).map(|n| Arc::new(workload(&format!("job-{n}")))).collect();
    for client in &clients {
        let ends =
            RequestEnds { source: Some(client), source_identity: Some(&client.identity), ..mesh.ends() };
        for status in 200..210 {
            cache.edge(&ends).ended(Ending { status, ..OK }, &Took::default());
        }
        assert!(cache.known().len() <= REQUEST_EDGE_CACHE_ENTRIES);
    }
    assert_eq!(metrics.edges(), MAX_REQUEST_EDGES);
    assert_eq!(metrics.room.load(Ordering::Relaxed), 0);
    let mut series = 0;
    let mut requests = 0;
    let mut largest = 0;
    for chunk in metrics.scrape(Format::Text) {
        largest = largest.max(chunk.len());
        let text = std::str::from_utf8(&chunk).unwrap();
        let of_metric = text.lines().filter(|line| line.starts_with("istio_requests_total{"));
        series += of_metric.count();
        requests += sum(text, "istio_requests_total");
        if !text.contains("istio_requests_total{") {
            break;
        }
    }
    assert_eq!(requests, 100_000, "none is lost");
    assert!(series <= MAX_REQUEST_SERIES + MAX_REQUEST_EDGES + 1, "{series} series");
    assert!(largest < 256 * 1024, "a chunk of {largest} bytes");
}

#[test]
fn room_for_series_comes_back_with_an_edge_that_expires() {
    let (metrics, cache) = cache();
    let mesh = mesh();
    let edge = cache.edge(&mesh.ends());
    for status in 200..205 {
        edge.ended(Ending { status, ..OK }, &Took::default());
    }
    assert_eq!(metrics.room.load(Ordering::Relaxed), MAX_REQUEST_SERIES - 5);
    let start = Instant::now();
    metrics.lock().scraped(start);
    metrics.lock().scraped(start + EDGE_IDLE_EXPIRY);
    assert_eq!(metrics.edges(), 1, "one that is held expired");
    drop(edge);
    metrics.lock().scraped(start);
    cache.edge(&mesh.ends()).ended(OK, &Took::default());
    metrics.lock().scraped(start + EDGE_IDLE_EXPIRY);
    assert_eq!(metrics.edges(), 1, "one that was used in between expired");
    metrics.lock().scraped(start + EDGE_IDLE_EXPIRY * 2);
    assert_eq!(metrics.edges(), 1, "one whose last count was scraped once expired");
    metrics.lock().scraped(start + EDGE_IDLE_EXPIRY * 2);
    assert_eq!(metrics.edges(), 0);
    assert_eq!(metrics.room.load(Ordering::Relaxed), MAX_REQUEST_SERIES);
    cache.edge(&mesh.ends()).ended(OK, &Took::default());
    assert_eq!(sum(&scraped(&metrics), "istio_requests_total"), 1, "the dropped one starts again");
}

#[test]
fn the_same_labels_are_one_edge_however_often_a_workload_is_replaced() {
    let (metrics, cache) = cache();
    let first = cache.edge(&mesh().ends());
    let again = cache.edge(&mesh().ends());
    assert!(Arc::ptr_eq(&first, &again));
    let mut basket = workload("cart");
    Arc::make_mut(&mut basket.likeness).app = "basket".into();
    let changed = Mesh { cart: Arc::new(basket), ..mesh() };
    assert!(!Arc::ptr_eq(&first, &cache.edge(&changed.ends())));
    assert_eq!(metrics.edges(), 2);
}

#[test]
fn strangers_are_told_apart_by_what_they_proved() {
    let (metrics, cache) = cache();
    let mesh = mesh();
    let strangers = ["a", "b", "a"].map(|name| Identity::new("other.mesh", "far", name));
    let edges = strangers.each_ref().map(|identity| {
        cache.edge(&RequestEnds { source: None, source_identity: Some(identity), ..mesh.ends() })
    });
    assert!(Arc::ptr_eq(&edges[0], &edges[2]) && !Arc::ptr_eq(&edges[0], &edges[1]));
    edges[1].ended(OK, &Took::default());
    let text = scraped(&metrics);
    let principal = "source_principal=\"spiffe://other.mesh/ns/far/sa/b\"";
    assert_eq!(value(&text, "istio_requests_total", &[principal, "source_workload=\"unknown\""]), 1);
}

#[test]
fn a_plain_endpoint_has_no_proved_identity() {
    let (metrics, cache) = cache();
    let mut plain = workload("cart");
    Arc::make_mut(&mut plain.likeness).protocol = TunnelProtocol::None;
    let mesh = Mesh { cart: Arc::new(plain), ..mesh() };
    cache.edge(&mesh.ends()).ended(OK, &Took::default());
    assert!(scraped(&metrics).contains("destination_principal=\"unknown\""));
}

#[test]
fn workers_that_count_at_once_lose_nothing() {
    let metrics = Arc::new(RequestMetrics::default());
    let mesh = mesh();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cache = RequestEdgeCache::new(metrics.clone());
                for n in 0..4000u16 {
                    cache.edge(&mesh.ends()).ended(Ending { status: n % 40, ..OK }, &Took::default());
                }
            });
        }
    });
    let text = scraped(&metrics);
    assert_eq!(sum(&text, "istio_requests_total"), 16_000);
    let series = text.lines().filter(|line| line.starts_with("istio_requests_total{")).count();
    assert_eq!(series, MAX_ENDINGS_PER_EDGE + 1);
    assert_eq!(metrics.room.load(Ordering::Relaxed), MAX_REQUEST_SERIES - MAX_ENDINGS_PER_EDGE);
}

#[test]
#[ignore = "prints a measurement; run in release mode when counting changes"]
fn cost_of_counting_a_request() {
    let (_, cache) = cache();
    let mesh = mesh();
    let took = Took { duration: Duration::from_millis(3), response_bytes: 512, ..Took::default() };
    let rounds = 1_000_000u32;
    let started = Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(cache.edge(&mesh.ends())).ended(OK, &took);
    }
    println!("{:?} to count a request", started.elapsed() / rounds);
}

#[test]
fn a_metric_that_is_turned_off_takes_no_count_from_the_others_and_comes_back() {
    let (metrics, cache) = cache();
    let mesh = mesh();
    let without_sizes = Variant::new(Family::Requests.bit() | Family::Duration.bit(), Vec::new(), Vec::new());
    let standard = || {
        let edge = cache.edge(&mesh.ends());
        edge.show(Family::ALL);
        edge.ended(OK, &Took::default());
    };
    let requests = || {
        let text = scraped(&metrics);
        let all: Vec<_> = text.lines().filter(|it| it.starts_with("istio_requests_total{")).collect();
        let [one] = &all[..] else { panic!("{all:#?}") };
        (one.rsplit(' ').next().map(str::to_owned), text.contains("istio_request_bytes"))
    };
    standard();
    assert_eq!(requests(), (Some("1".into()), true));
    cache.variant(&mesh.ends(), &without_sizes, &[]).ended(OK, &Took::default());
    assert_eq!(requests(), (Some("2".into()), false));
    standard();
    assert_eq!(requests(), (Some("3".into()), true));
}

#[test]
fn a_label_that_is_stated_of_more_metrics_than_before_shows_no_series_twice() {
    let (metrics, cache) = cache();
    let mesh = mesh();
    let of = |families| Variant::new(families, Vec::new(), vec!["t".into()]);
    let (one, all) = (of(Family::Requests.bit()), of(Family::ALL));
    for variant in [&one, &all, &one, &all] {
        cache.variant(&mesh.ends(), variant, &["1".into()]).ended(OK, &Took::default());
        let text = scraped(&metrics);
        let names: Vec<_> = text
            .lines()
            .filter(|it| it.contains("t=\"1\""))
            .map(|it| it.rsplit_once(' ').unwrap().0)
            .collect();
        let once: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), once.len(), "{names:#?}");
        assert_eq!(text.contains("istio_request_bytes_count{"), variant == &all);
    }
}

#[test]
fn what_one_destination_asks_for_hides_nothing_of_those_who_found_no_place() {
    let (metrics, _) = cache();
    metrics.overflow.ended(OK, &Took::default());
    metrics.overflow.show(Family::Duration.bit());
    assert!(scraped(&metrics).contains("istio_requests_total{"));
}

#[test]
fn metrics_that_differ_are_told_apart_and_bounded() {
    let (metrics, cache) = cache();
    let mesh = mesh();
    let count = Variant::new(
        Family::Requests.bit(),
        vec!["response_code".into(), "source_app".into()],
        vec!["host".into()],
    );
    let rest = Variant::new(Family::Duration.bit(), Vec::new(), Vec::new());
    for status in [200, 404] {
        let ending = Ending { status, ..OK };
        cache.variant(&mesh.ends(), &count, &["shop".into()]).ended(ending, &Took::default());
        cache.variant(&mesh.ends(), &rest, &[]).ended(ending, &Took::default());
    }
    let text = scraped(&metrics);
    let requests: Vec<_> = text.lines().filter(|it| it.starts_with("istio_requests_total{")).collect();
    let [one] = &requests[..] else { panic!("{requests:#?}") };
    assert!(one.ends_with(" 2") && one.contains("host=\"shop\""), "{one}");
    assert!(!one.contains("response_code=") && !one.contains("source_app="), "{one}");
    assert_eq!(text.matches("istio_request_duration_milliseconds_count{").count(), 2);
    assert!(!text.contains("istio_request_bytes"), "{text}");
    for host in 0..MAX_VARIANT_EDGES + 5 {
        cache.variant(&mesh.ends(), &count, &[host.to_string().into()]).ended(OK, &Took::default());
    }
    let text = scraped(&metrics);
    let of = |needle: &str| {
        text.lines().filter(|it| it.starts_with("istio_requests_total{") && it.contains(needle)).count()
    };
    assert_eq!(of("source_workload=\"overflow\""), 1);
    assert!(of("host=") <= MAX_VARIANT_EDGES, "{}", of("host="));
}

#[test]
fn an_edge_with_other_labels_is_found_again_by_what_makes_it() {
    let (_metrics, cache) = cache();
    let mesh = mesh();
    let named = |name: &str| Variant::new(Family::Requests.bit(), Vec::new(), vec![name.into()]);
    let edge = |name: &str, value: &'static str| cache.variant(&mesh.ends(), &named(name), &[value.into()]);
    let first = edge("host", "shop");
    assert!(Arc::ptr_eq(&first, &edge("host", "shop")));
    // Another value, another name, and other ends are other edges.
    assert!(!Arc::ptr_eq(&first, &edge("host", "market")));
    assert!(!Arc::ptr_eq(&first, &edge("home", "shop")));
    let nobody = RequestEnds { source: None, source_identity: None, ..mesh.ends() };
    assert!(!Arc::ptr_eq(&first, &cache.variant(&nobody, &named("host"), &["shop".into()])));
    assert!(Arc::ptr_eq(&first, &edge("host", "shop")));
}

#[test]
#[ignore = "prints a measurement; run in release mode when labels change"]
fn cost_of_a_variant() {
    let (_metrics, cache) = cache();
    let mesh = mesh();
    let variant =
        Variant::new(Family::ALL, vec!["source_app".into(), "response_flags".into()], vec!["host".into()]);
    let rounds = 300_000_u32;
    // Of a client that proved nothing the labels are put together for each request.
    let nobody = RequestEnds { source_identity: None, ..mesh.ends() };
    for (ends, how) in [(mesh.ends(), "found"), (nobody, "put together")] {
        let started = Instant::now();
        for _ in 0..rounds {
            cache.variant(&ends, &variant, &["shop".into()]).ended(OK, &Took::default());
        }
        println!("{:?} to count a request under other labels, {how}", started.elapsed() / rounds);
    }
}
