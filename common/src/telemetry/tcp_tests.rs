use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::snapshot::model::Workload;
use crate::spiffe::Identity;
use crate::telemetry::edges::EDGE_IDLE_EXPIRY;
use crate::telemetry::labels::Security;
use crate::telemetry::test_mesh::{service, workload};

fn labels<'a>(source: &'a Workload, destination: &'a Workload) -> EdgeLabels<'a> {
    EdgeLabels {
        reporter: Reporter::Source,
        source: Some(source),
        destination: Some(destination),
        service: None,
        source_identity: Some(&source.identity),
        destination_identity: Some(&destination.identity),
        security: Security::MutualTls,
    }
}

fn scraped(metrics: &TcpMetrics) -> String {
    metrics.scrape(Format::Text).map(|chunk| String::from_utf8(chunk.to_vec()).unwrap()).collect()
}

/// The samples of `metric`, each as (response flag, value).
fn samples(text: &str, metric: &str) -> Vec<(String, u64)> {
    let of_metric = text.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{'));
    of_metric
        .map(|line| {
            let (labels, value) = line.rsplit_once("} ").unwrap();
            let (_, flag) = labels.rsplit_once("response_flags=").unwrap();
            (flag.trim_matches('"').to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn every_common_label_is_there_and_mapped_from_the_model() {
    let (mut web, cart, service) = (workload("web"), workload("cart"), service("cart"));
    let likeness = Arc::make_mut(&mut web.likeness);
    (likeness.app, likeness.version) = ("frontend".into(), "blue".into());
    let labels = EdgeLabels { service: Some(&service), ..labels(&web, &cart) };
    assert_eq!(
        labels.text(),
        "reporter=\"source\",request_protocol=\"tcp\",connection_security_policy=\"mutual_tls\",\
         source_workload=\"web\",source_canonical_service=\"web\",source_canonical_revision=\"v2\",\
         source_workload_namespace=\"shop\",source_app=\"frontend\",source_version=\"blue\",\
         source_cluster=\"Kubernetes\",destination_service=\"cart.shop.svc.cluster.local\",\
         destination_service_namespace=\"shop\",destination_service_name=\"cart\",destination_workload=\"cart\",\
         destination_canonical_service=\"cart\",destination_canonical_revision=\"v2\",\
         destination_workload_namespace=\"shop\",destination_app=\"cart\",destination_version=\"v2\",\
         destination_cluster=\"Kubernetes\",source_region=\"r1\",source_zone=\"z1\",destination_region=\"r1\",\
         destination_zone=\"z1\",source_principal=\"spiffe://cluster.local/ns/shop/sa/web\",\
         destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\""
    );
}

#[test]
fn what_is_not_known_is_called_unknown() {
    let stranger = Identity::new("other.mesh", "far", "someone");
    let labels = EdgeLabels {
        reporter: Reporter::Destination,
        source: None,
        destination: None,
        service: None,
        source_identity: Some(&stranger),
        destination_identity: None,
        security: Security::None,
    };
    let text = labels.text();
    assert!(text.contains("source_workload=\"unknown\"") && text.contains("destination_service=\"unknown\""));
    assert!(text.contains("source_workload_namespace=\"far\""), "the proven namespace is known: {text}");
    assert!(text.contains("destination_principal=\"unknown\""));
    assert!(text.contains("connection_security_policy=\"none\""));
    assert!(!text.contains("=\"\""), "an empty value in {text}");
}

#[test]
fn regions_and_zones_are_labels_where_nodes_state_them_and_not_elsewhere() {
    let nowhere = |name| Workload { locality: Arc::default(), ..workload(name) };
    let (web, cart) = (workload("web"), nowhere("cart"));
    let text = labels(&web, &cart).text();
    let expected =
        "source_region=\"r1\",source_zone=\"z1\",destination_region=\"unknown\",destination_zone=\"unknown\"";
    assert!(text.contains(expected), "{text}");
    let text = labels(&nowhere("web"), &cart).text();
    assert!(!text.contains("_region") && !text.contains("_zone"), "{text}");
}

#[test]
fn labels_are_recognised_only_when_they_are_the_same() {
    let (web, cart, other) = (workload("web"), workload("cart"), workload("cart2"));
    let state = RandomState::new();
    let first = labels(&web, &cart);
    let text = first.text();
    assert!(first.are(&text));
    let cart_service = service("cart");
    let zone = crate::snapshot::model::Locality { zone: "z2".into(), ..Default::default() };
    let moved = Workload { locality: Arc::new(zone), ..workload("cart") };
    for different in [
        labels(&web, &other),
        labels(&web, &moved),
        labels(&cart, &web),
        EdgeLabels { reporter: Reporter::Destination, ..first },
        EdgeLabels { security: Security::Unknown, ..first },
        EdgeLabels { source_identity: None, ..first },
        EdgeLabels { service: Some(&cart_service), ..first },
    ] {
        assert!(!different.are(&text));
        assert_ne!(different.hash(&state), first.hash(&state));
    }
    assert!(!first.are(&text[..text.len() - 1]) && !first.are(&format!("{text}x")));
}

#[test]
fn a_label_value_cannot_end_its_quotes() {
    let (mut web, cart) = (workload("web"), workload("cart"));
    Arc::make_mut(&mut web.likeness).app = "a\"b\\c\nd".into();
    let labels = labels(&web, &cart);
    assert!(labels.text().contains("source_app=\"a\\\"b\\\\c\\nd\""), "{}", labels.text());
    assert!(labels.are(&labels.text()));
}

#[test]
fn open_connections_are_shown_by_reporter() {
    let metrics = TcpMetrics::default();
    let (web, cart, other) = (workload("web"), workload("cart"), workload("other"));
    let open = || {
        let text = scraped(&metrics);
        let of = |reporter| {
            let begin = format!("istio_tcp_sockets_open{{reporter=\"{reporter}\"}} ");
            let mut found = text.lines().filter_map(|line| line.strip_prefix(&begin));
            let value: u64 = found.next().unwrap().parse().unwrap();
            assert_eq!(found.next(), None);
            value
        };
        assert!(text.contains("# TYPE istio_tcp_sockets_open gauge\n"), "{text}");
        (of("source"), of("destination"))
    };
    assert_eq!(open(), (0, 0));
    let edges = [labels(&web, &cart), labels(&web, &other)].map(|labels| metrics.edge(&labels));
    let inbound = metrics.edge(&EdgeLabels { reporter: Reporter::Destination, ..labels(&web, &cart) });
    edges.iter().chain([&inbound]).for_each(|edge| edge.opened());
    edges[0].opened();
    assert_eq!(open(), (3, 1));
    edges[0].closed(None);
    inbound.closed(Some(&Refusal::PodGone));
    assert_eq!(open(), (2, 0));
}

#[test]
fn a_connection_is_counted_from_open_to_close() {
    let metrics = Arc::new(TcpMetrics::default());
    let cache = EdgeCache::new(metrics.clone());
    let (web, cart) = (workload("web"), workload("cart"));
    let edge = cache.edge(&labels(&web, &cart));
    edge.opened();
    edge.request_bytes(10);
    edge.response_bytes(2000);
    edge.closed(None);
    let again = cache.edge(&labels(&web, &cart));
    assert!(Arc::ptr_eq(&edge, &again), "the same labels gave two edges");
    again.opened();
    again.closed(Some(&Refusal::DeniedByPolicy("shop/p".into())));
    again.opened();
    again.closed(Some(&Refusal::PodGone));

    let text = scraped(&metrics);
    let one = |flag: &str, value| (flag.to_owned(), value);
    assert_eq!(samples(&text, "istio_tcp_connections_opened_total"), [one("-", 3)]);
    assert_eq!(
        samples(&text, "istio_tcp_connections_closed_total"),
        [one("-", 1), one("DENY", 1), one("CONNECT", 1)]
    );
    assert_eq!(samples(&text, "istio_tcp_connections_failed_total"), [one("DENY", 1), one("CONNECT", 1)]);
    assert_eq!(samples(&text, "istio_tcp_received_bytes_total"), [one("-", 10)]);
    assert_eq!(samples(&text, "istio_tcp_sent_bytes_total"), [one("-", 2000)]);
}

#[test]
fn every_flag_of_a_refusal_has_its_own_count() {
    let flags =
        ["DENY", "TLS_FAILURE", "H2_HANDSHAKE_FAILURE", "NETWORK_POLICY", "IDENTITY_ERROR", "CONNECT"];
    let refusals = [
        Refusal::NoAllowPolicyMatched("shop/allow".into()),
        Refusal::TlsFailed("".into()),
        Refusal::Http2Failed("".into()),
        Refusal::TunnelUnreachable("".into()),
        Refusal::IdentityUnavailable("".into()),
        Refusal::Draining,
    ];
    for (flag, refusal) in flags.iter().zip(refusals) {
        assert_eq!(refusal.flag(), *flag);
        let edge = Edge::new("".into(), Reporter::Source);
        edge.closed(Some(&refusal));
        let at = FLAGS.iter().position(|known| known == flag).unwrap();
        assert_eq!(edge.closed[at].load(Ordering::Relaxed), 1, "{flag}");
    }
}

#[test]
fn metrics_that_an_operator_changes_differ_from_the_others_and_open_sockets_are_counted_once() {
    let (metrics, [web, cart]) = (Arc::new(TcpMetrics::default()), ["web", "cart"].map(workload));
    let (cache, labels) = (EdgeCache::new(metrics.clone()), labels(&web, &cart));
    let bit = |it: TcpFamily| 1 << it as u8;
    let names = |all: &[&str]| all.iter().map(|it| Arc::from(*it)).collect::<Vec<_>>();
    // Opened and closed without how it ended and with another label, received bytes as ever, sent bytes not at all.
    let ended = Variant::new(
        bit(TcpFamily::Opened) | bit(TcpFamily::Closed),
        names(&["response_flags", "source_app"]),
        names(&["zone"]),
    );
    let bytes = Variant::new(bit(TcpFamily::ReceivedBytes), Vec::new(), Vec::new());
    for refusal in [None, Some(Refusal::Draining), None] {
        let edges = [
            cache.variant(&labels, (&ended, false), &["z1".into()]),
            cache.variant(&labels, (&bytes, true), &[]),
        ];
        for edge in &edges {
            edge.opened();
            edge.request_bytes(5);
            edge.response_bytes(7);
        }
        let is_open = "istio_tcp_sockets_open{reporter=\"source\"} 1";
        assert!(scraped(&metrics).lines().any(|line| line == is_open));
        edges.iter().for_each(|edge| edge.closed(refusal.as_ref()));
    }
    let text = scraped(&metrics);
    let of = |name: &str| text.lines().filter(|it| it.starts_with(&format!("{name}{{"))).collect::<Vec<_>>();
    for name in ["istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"] {
        let [one] = &of(name)[..] else { panic!("{text}") };
        assert!(one.ends_with(",zone=\"z1\"} 3") && one.contains("destination_app=\"cart\""), "{one}");
        assert!(!one.contains("response_flags") && !one.contains("source_app"), "{one}");
    }
    let [one] = &of("istio_tcp_received_bytes_total")[..] else { panic!("{text}") };
    assert!(one.ends_with(",response_flags=\"-\"} 15") && one.contains("source_app=\"web\""), "{one}");
    assert!(
        of("istio_tcp_sent_bytes_total").is_empty() && of("istio_tcp_connections_failed_total").is_empty()
    );
    assert_eq!(
        of("istio_tcp_sockets_open"),
        [
            "istio_tcp_sockets_open{reporter=\"source\"} 0",
            "istio_tcp_sockets_open{reporter=\"destination\"} 0"
        ]
    );
}

#[test]
fn a_metric_of_connections_that_is_turned_off_takes_no_count_from_the_others_and_comes_back() {
    let (metrics, [web, cart]) = (Arc::new(TcpMetrics::default()), ["web", "cart"].map(workload));
    let (cache, labels) = (EdgeCache::new(metrics.clone()), labels(&web, &cart));
    let without_bytes = Variant::new(1 << TcpFamily::Opened as u8, Vec::new(), Vec::new());
    for (count, is_off) in [(1, false), (2, true), (3, false)] {
        let edge = match is_off {
            true => cache.variant(&labels, (&without_bytes, true), &[]),
            false => cache.edge(&labels),
        };
        if !is_off {
            edge.show_all();
        }
        edge.opened();
        edge.closed(None);
        let text = scraped(&metrics);
        assert_eq!(samples(&text, "istio_tcp_connections_opened_total"), [("-".to_owned(), count)]);
        assert_eq!(samples(&text, "istio_tcp_sent_bytes_total").is_empty(), is_off);
    }
}

#[test]
fn a_label_that_is_stated_of_more_metrics_than_before_shows_no_series_twice() {
    let (metrics, [web, cart]) = (Arc::new(TcpMetrics::default()), ["web", "cart"].map(workload));
    let (cache, labels) = (EdgeCache::new(metrics.clone()), labels(&web, &cart));
    let of = |families| Variant::new(families, Vec::new(), vec!["zone".into()]);
    let (one, all) = (of(1 << TcpFamily::Opened as u8), of(ALL_FAMILIES));
    for (variant, counts_open) in [(&one, false), (&all, true), (&one, true), (&all, true)] {
        cache.variant(&labels, (variant, counts_open), &["z1".into()]).opened();
        let text = scraped(&metrics);
        let shown: Vec<_> = text.lines().filter(|it| it.contains("zone=\"z1\"")).collect();
        let names: BTreeSet<_> = shown.iter().map(|it| it.rsplit_once(' ').unwrap().0).collect();
        assert_eq!(shown.len(), names.len(), "{shown:#?}");
        assert!(shown.iter().any(|it| it.starts_with("istio_tcp_connections_opened_total")), "{shown:#?}");
    }
}

#[test]
fn values_that_operators_state_cannot_make_series_without_end() {
    let (metrics, [web, cart]) = (Arc::new(TcpMetrics::default()), ["web", "cart"].map(workload));
    let cache = EdgeCache::new(metrics.clone());
    let variant = Variant::new(ALL_FAMILIES, Vec::new(), vec!["port".into()]);
    for port in 0..MAX_TCP_VARIANT_EDGES + 5 {
        cache.variant(&labels(&web, &cart), (&variant, true), &[port.to_string().into()]).opened();
    }
    let text = scraped(&metrics);
    let opened = |needle: &str| {
        text.lines()
            .filter(|it| it.starts_with("istio_tcp_connections_opened_total{") && it.contains(needle))
            .count()
    };
    assert_eq!((opened("port="), opened("source_workload=\"overflow\"")), (MAX_TCP_VARIANT_EDGES, 1));
}

/// Resident memory now, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Run by the test below in a process of its own, so that only its own memory is measured.
#[test]
#[ignore = "is the child of fifty_thousand_short_lived_peers_cost_a_bounded_number_of_series_and_bytes"]
fn child_that_meets_fifty_thousand_peers() {
    let metrics = Arc::new(TcpMetrics::default());
    let cache = EdgeCache::new(metrics.clone());
    let cart = workload("cart");
    let before = resident();
    for peer in 0..50_000 {
        let peer = workload(&format!("job-{peer}"));
        let edge = cache.edge(&labels(&peer, &cart));
        edge.opened();
        edge.closed(None);
    }
    assert_eq!(metrics.edges(), MAX_EDGES);
    let (mut chunks, mut largest, mut opened) = (0, 0, 0);
    for chunk in metrics.scrape(Format::Text) {
        chunks += 1;
        largest = largest.max(chunk.len());
        let text = std::str::from_utf8(&chunk).unwrap();
        opened += samples(text, "istio_tcp_connections_opened_total").iter().map(|(_, n)| n).sum::<u64>();
    }
    assert_eq!(opened, 50_000, "connections beyond the bound are counted as overflow, not lost");
    assert!(chunks > 100 && largest < 2 * CHUNK_BYTES, "{chunks} chunks, the largest of {largest} bytes");
    let grown = resident().saturating_sub(before);
    assert!(grown < 50 << 20, "memory grew by {grown} bytes");
    println!("bounded at {grown} bytes");
}

#[test]
fn fifty_thousand_short_lived_peers_cost_a_bounded_number_of_series_and_bytes() {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let test = "telemetry::tcp::tests::child_that_meets_fifty_thousand_peers";
    let output = child.args(["--ignored", "--exact", "--nocapture", test]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("bounded at"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn overflow_is_a_series_of_its_own() {
    let metrics = TcpMetrics::default();
    assert!(!scraped(&metrics).contains("overflow"), "shown before it was needed");
    metrics.overflow(Reporter::Destination).opened();
    let text = scraped(&metrics);
    let line = text.lines().find(|line| line.starts_with("istio_tcp_connections_opened_total")).unwrap();
    assert!(
        line.contains("reporter=\"destination\"") && line.contains("source_workload=\"overflow\""),
        "{line}"
    );
    assert!(line.contains("source_app=\"unknown\""), "{line}");
}

#[test]
fn an_edge_expires_only_when_no_connection_holds_it() {
    let metrics = Arc::new(TcpMetrics::default());
    let cache = EdgeCache::new(metrics.clone());
    let (web, cart, held) = (workload("web"), workload("cart"), workload("held"));
    cache.edge(&labels(&web, &cart)).opened();
    let open = cache.edge(&labels(&held, &cart));
    open.opened();

    let start = Instant::now();
    let sweep = |at| metrics.lock().scraped(at);
    sweep(start);
    sweep(start + EDGE_IDLE_EXPIRY - Duration::from_secs(1));
    assert_eq!(metrics.edges(), 2, "expired too early");
    sweep(start + EDGE_IDLE_EXPIRY);
    assert_eq!(metrics.edges(), 1, "the idle edge stayed");

    // A count through the held edge is not lost, and the dropped one starts again.
    open.request_bytes(7);
    cache.edge(&labels(&web, &cart)).opened();
    assert_eq!(metrics.edges(), 2);
    let text = scraped(&metrics);
    let received = samples(&text, "istio_tcp_received_bytes_total");
    assert_eq!(received.iter().map(|(_, bytes)| bytes).sum::<u64>(), 7);
    let opened = samples(&text, "istio_tcp_connections_opened_total");
    assert_eq!(opened, [("-".to_owned(), 1), ("-".to_owned(), 1)]);
}

#[test]
fn an_edge_that_is_met_again_stays() {
    let metrics = Arc::new(TcpMetrics::default());
    let cache = EdgeCache::new(metrics.clone());
    let (web, cart) = (workload("web"), workload("cart"));
    let start = Instant::now();
    for hour in 0..4 {
        cache.edge(&labels(&web, &cart)).opened();
        metrics.lock().scraped(start + EDGE_IDLE_EXPIRY * hour);
    }
    let text = scraped(&metrics);
    assert_eq!(samples(&text, "istio_tcp_connections_opened_total"), [("-".to_owned(), 4)]);
}

#[test]
fn a_workers_cache_is_bounded() {
    let metrics = Arc::new(TcpMetrics::default());
    let cache = EdgeCache::new(metrics.clone());
    let cart = workload("cart");
    for peer in 0..EDGE_CACHE_ENTRIES + 10 {
        cache.edge(&labels(&workload(&format!("p{peer}")), &cart)).opened();
        assert!(cache.known().len() <= EDGE_CACHE_ENTRIES);
    }
    assert_eq!(metrics.edges(), EDGE_CACHE_ENTRIES + 10);
}

#[test]
#[ignore = "prints a measurement; run in release mode when the labels change"]
fn cost_of_an_edge() {
    let metrics = Arc::new(TcpMetrics::default());
    let cache = EdgeCache::new(metrics);
    let (web, cart, service) = (workload("web"), workload("cart"), service("cart"));
    let labels = EdgeLabels { service: Some(&service), ..labels(&web, &cart) };
    let rounds = 200_000u32;
    let started = Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(cache.edge(&labels)).opened();
    }
    println!("{:?} to find an edge", started.elapsed() / rounds);
}

#[test]
fn a_waypoint_reports_in_the_words_of_envoy() {
    let metrics = TcpMetrics::default();
    let (web, cart) = (workload("web"), workload("cart"));
    let edge = metrics.edge(&EdgeLabels { reporter: Reporter::Waypoint, ..labels(&web, &cart) });
    let refusals = [
        (Refusal::NoHealthyUpstream("".into()), "UH"),
        (Refusal::LimitReached("streams"), "UO"),
        (Refusal::DeniedByPolicy("shop/p".into()), "RBAC"),
        (Refusal::TlsFailed("".into()), "UF"),
    ];
    for (refusal, flag) in &refusals {
        edge.opened();
        edge.closed_at_waypoint(Some(refusal));
        assert_eq!(envoy_flag(refusal), *flag);
    }
    edge.opened();
    edge.closed_at_waypoint(None);
    edge.opened();
    let text = scraped(&metrics);
    let mut failed = samples(&text, "istio_tcp_connections_failed_total");
    failed.sort();
    let expected = ["RBAC", "UF", "UH", "UO"].map(|flag| (flag.to_owned(), 1));
    assert_eq!(failed, expected);
    assert!(text.contains("istio_tcp_connections_opened_total{reporter=\"waypoint\","), "{text}");
    assert!(text.contains("istio_tcp_sockets_open{reporter=\"waypoint\"} 1\n"), "{text}");
}

#[test]
fn a_nodes_proxy_shows_nothing_of_waypoints() {
    let metrics = TcpMetrics::default();
    metrics.edge(&labels(&workload("web"), &workload("cart"))).opened();
    assert!(!scraped(&metrics).contains("waypoint"));
}
