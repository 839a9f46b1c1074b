use std::collections::BTreeMap;

use metrics::{Key, Label, Level, Metadata, Recorder};

use super::*;
use crate::telemetry::labels::{EdgeLabels, Reporter, Security};
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
        let family = match format {
            Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
            Format::Text => name,
        };
        let kind = kinds.get(family).unwrap_or_else(|| panic!("{name} has no TYPE above it"));
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
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
    metrics
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
    let line = text.lines().find(|line| line.starts_with("istio_tcp_connections_opened_total{")).unwrap();
    let labels = line.split_once('{').unwrap().1.rsplit_once('}').unwrap().0;
    let mut names: Vec<_> = parse_labels(labels).into_iter().map(|(name, _)| name).collect();
    names.sort();
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
    assert_eq!(names, expected);
}
