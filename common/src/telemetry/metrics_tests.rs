use std::collections::BTreeMap;

use metrics::{Key, Label, Level, Metadata, Recorder};

use super::*;
use crate::telemetry::flags::Flag;
use crate::telemetry::labels::{EdgeLabels, Reporter, Security};
use crate::telemetry::requests::{Ending, RequestEdgeCache, RequestEnds, RequestProtocol, Took};
use crate::telemetry::test_mesh::{service, workload};

fn scraped(metrics: &Metrics, format: Format) -> String {
    metrics.scrape(format).map(|chunk| String::from_utf8(chunk.to_vec()).unwrap()).collect()
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Splits `a="1",b="2"` and checks the quoting.
fn parse_labels(mut text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").unwrap_or_else(|| panic!("no value in {text:?}"));
        assert!(is_name(name), "label {name:?}");
        let mut escaped = false;
        let end = rest.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.unwrap_or_else(|| panic!("open quotes in {rest:?}"));
        labels.push((name.to_owned(), rest[..end].to_owned()));
        text = rest[end + 1..].strip_prefix(',').unwrap_or(&rest[end + 1..]);
    }
    labels
}

/// Checks a scrape line by line as `promtool check metrics` would, and returns series to value.
fn parse(text: &str, format: Format) -> BTreeMap<String, f64> {
    let (mut kinds, mut helped, mut series) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for line in text.lines().filter(|line| !line.is_empty() && *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} declared twice");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            helped.insert(name.to_owned(), help.to_owned());
            continue;
        }
        let (id, value) = line.rsplit_once(' ').unwrap();
        let name = id.split('{').next().unwrap();
        assert!(is_name(name), "metric {name:?}");
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
            name.strip_suffix(suffix)
                .filter(|family| kinds.get(*family).is_some_and(|kind| kind == "histogram"))
        });
        let family = match format {
            _ if of_histogram.is_some() => of_histogram.unwrap(),
            Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
            Format::Text => name,
        };
        let kind = kinds.get(family).unwrap_or_else(|| panic!("{name} has no TYPE above it"));
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert_eq!(kind == "histogram", of_histogram.is_some(), "{name} is a {kind}");
        assert!(helped.contains_key(family), "{name} has no HELP");
        if let Some(labels) = id.strip_prefix(name).unwrap().strip_prefix('{') {
            let mut names: Vec<_> =
                parse_labels(labels.strip_suffix('}').unwrap()).into_iter().map(|(name, _)| name).collect();
            names.sort();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "a label twice in {line}");
        }
        assert!(series.insert(id.to_owned(), value.parse().unwrap()).is_none(), "{id} twice");
    }
    series
}

fn filled() -> Metrics {
    let (mut metrics, recorder) = Metrics::build("ztunnel", "0.1.0");
    metrics.collect_redirect(|| vec![("connect4", "redirect", 5), ("connect4", "pass", 1)]);
    let meta = Metadata::new("test", Level::INFO, None);
    recorder.describe_counter("istio_xds_message_total".into(), None, "Messages.".into());
    let key = Key::from_parts("istio_xds_message_total", vec![Label::new("url", "a\"b\\c")]);
    recorder.register_counter(&key, &meta).increment(9);
    let (web, cart, service) = (workload("web"), workload("cart"), service("cart"));
    let edge = metrics.tcp().edge(&EdgeLabels {
        reporter: Reporter::Destination,
        source: Some(&web),
        destination: Some(&cart),
        service: Some(&service),
        source_identity: Some(&web.identity),
        destination_identity: Some(&cart.identity),
        security: Security::MutualTls,
    });
    edge.opened();
    edge.closed(Some(&crate::refusal::Refusal::NotReady));
    let (web, cart, service) = (Arc::new(web), Arc::new(cart), Arc::new(service));
    let ends = RequestEnds {
        source: Some(&web),
        source_identity: Some(&web.identity),
        destination: Some(&cart),
        service: Some(&service),
    };
    let edge = RequestEdgeCache::new(metrics.requests()).edge(&ends);
    let ending = Ending {
        protocol: RequestProtocol::Grpc,
        status: 200,
        grpc_status: Some(0),
        flags: Flag::RetryLimit.into(),
    };
    let took = Took { duration: Duration::from_millis(7), request_messages: 1, ..Took::default() };
    for status in 200..300 {
        edge.ended(Ending { status, ..ending }, &took);
    }
    metrics
}

/// The labels of the first sample of `metric`, in order.
fn label_names(text: &str, metric: &str) -> Vec<String> {
    let line =
        text.lines().find(|line| line.strip_prefix(metric).is_some_and(|l| l.starts_with('{'))).unwrap();
    let labels = line.split_once('{').unwrap().1.rsplit_once('}').unwrap().0;
    let mut names: Vec<_> = parse_labels(labels).into_iter().map(|(name, _)| name).collect();
    names.sort();
    names
}

#[test]
fn a_scrape_is_valid_text() {
    let metrics = filled();
    let series = parse(&scraped(&metrics, Format::Text), Format::Text);
    assert_eq!(series["istio_build{component=\"ztunnel\",tag=\"0.1.0\"}"], 1.0);
    assert_eq!(series["ebb_redirect_total{hook=\"connect4\",verdict=\"redirect\"}"], 5.0);
    assert!(series["process_resident_memory_bytes"] > 0.0);
    assert_eq!(series.iter().find(|(id, _)| id.starts_with("istio_xds_message_total")).unwrap().1, &9.0);
    for metric in ["opened", "closed", "failed"] {
        let name = format!("istio_tcp_connections_{metric}_total{{");
        assert!(series.keys().any(|id| id.starts_with(&name)), "{name} is missing");
    }
}

#[test]
fn a_scrape_is_valid_openmetrics() {
    let metrics = filled();
    let text = scraped(&metrics, Format::OpenMetrics);
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
    assert!(!text.contains("\n\n"), "a blank line");
    let text_form = parse(&scraped(&metrics, Format::Text), Format::Text);
    let open_form = parse(&text, Format::OpenMetrics);
    assert_eq!(open_form.keys().collect::<Vec<_>>(), text_form.keys().collect::<Vec<_>>());
}

#[test]
fn the_labels_are_exactly_the_contract() {
    let metrics = filled();
    let text = scraped(&metrics, Format::Text);
    // ecosystem of Istio's dashboards and Kiali: they group by these and break when one is missing.
    let mut expected: Vec<String> = "reporter request_protocol response_flags connection_security_policy \
        destination_service destination_service_name destination_service_namespace"
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    for end in ["source", "destination"] {
        for label in
            "workload canonical_service canonical_revision workload_namespace principal app version cluster region zone"
                .split_whitespace()
        {
            expected.push(format!("{end}_{label}"));
        }
    }
    expected.sort();
    assert_eq!(label_names(&text, "istio_tcp_connections_opened_total"), expected);

    expected.extend(["response_code".to_owned(), "grpc_response_status".to_owned()]);
    expected.sort();
    assert_eq!(label_names(&text, "istio_requests_total"), expected);
    for histogram in ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"] {
        assert_eq!(label_names(&text, &format!("{histogram}_count")), expected);
        let mut with_bound = expected.clone();
        with_bound.push("le".into());
        with_bound.sort();
        assert_eq!(label_names(&text, &format!("{histogram}_bucket")), with_bound);
    }
}

#[test]
fn every_histogram_is_whole() {
    let metrics = filled();
    let series = parse(&scraped(&metrics, Format::Text), Format::Text);
    let name = "istio_request_duration_milliseconds";
    let counts: Vec<_> = series.iter().filter(|(id, _)| id.starts_with(&format!("{name}_count{{"))).collect();
    assert!(counts.len() > 30, "{}", counts.len());
    for (id, count) in counts {
        let labels = id.split_once('{').unwrap().1.strip_suffix('}').unwrap();
        let bucket = |bound: &str| series[&format!("{name}_bucket{{{labels},le=\"{bound}\"}}")];
        assert_eq!(bucket("+Inf"), *count);
        assert_eq!(bucket("5"), 0.0);
        assert_eq!(bucket("10"), *count);
        assert_eq!(series[&format!("{name}_sum{{{labels}}}")], *count * 7.0);
    }
}
