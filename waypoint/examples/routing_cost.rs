//! What routing costs: to match a request with a thousand rules, and to follow one change among ten thousand routes.
//!
//! `cargo run --release -p waypoint --example routing_cost [--json] [services]`: a table for people, or one JSON object in
//! the same units, with the costs of a match by shape and those of a change by what is changed.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use common::config::decode::yaml;
use common::config::names::Names;
use common::config::{Batch, ObjectName};
use common::snapshot::{Mesh, MeshSettings, Snapshot};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use waypoint::routes::{Found, RequestFacts, Tables, View, canonical_path, compile};

const RULES: usize = 1_000;
/// Entries of one VirtualService; decoding allows 256 regexes in one.
const RULES_PER_RESOURCE: usize = 250;
const MATCHES: u32 = 200_000;

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let as_json = arguments.first().is_some_and(|it| it == "--json");
    arguments.drain(..usize::from(as_json));
    let services = arguments.first().map(|it| it.parse()).transpose()?.unwrap_or(10_000);
    let mut costs = json!({});
    for (shape, rule, request) in SHAPES {
        costs["match_ns"][shape] = matching(shape, rule, request)?;
    }
    let started = Instant::now();
    for _ in 0..MATCHES {
        black_box(canonical_path(black_box("/api/v1/users/12345/orders?page=2")).is_ok());
    }
    costs["canonical_path_ns"] = json!(started.elapsed().as_nanos() as f64 / f64::from(MATCHES));
    costs["services"] = json!(services);
    costs["change_ms"] = following(services)?;
    if as_json {
        println!("{costs}")
    } else {
        print!("{}", table(&costs))
    }
    Ok(())
}

fn table(costs: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let mut text =
        format!("one request against {RULES} rules, ns: first rule, last rule, none, every rule in turn\n");
    for (shape, ..) in SHAPES {
        let of = |place: &str| number(&costs["match_ns"][shape][place]);
        let [first, last, none, in_turn] = ["first", "last", "none", "in_turn"].map(of);
        text += &format!("{shape:21}{first:9.0}{last:9.0}{none:9.0}{in_turn:9.0}\n");
    }
    text += &format!("canonical path {:23.0}\n", number(&costs["canonical_path_ns"]));
    text += &format!("{} services with a VirtualService each, ms:\n", costs["services"]);
    for (what, ms) in costs["change_ms"].as_object().into_iter().flatten() {
        text += &format!("{what:15}{:10.3}\n", number(ms));
    }
    text
}

/// A shape: its name, the match of rule `#`, and path and header `x-tenant` of a request for it.
type Shape = (&'static str, &'static str, (&'static str, &'static str));

const SHAPES: [Shape; 7] = [
    ("exact paths", "uri: {exact: /api/p#}", ("/api/p#", "t")),
    ("prefixes", "uri: {prefix: /api/p#/}", ("/api/p#/x/y", "t")),
    ("regexes of a start", "uri: {regex: '/api/p#/[0-9]+'}", ("/api/p#/123", "t")),
    ("one prefix, headers", "uri: {prefix: /api/}, headers: {x-tenant: {exact: t#}}", ("/api/x", "t#")),
    ("methods and prefixes", "method: {exact: GET}, uri: {prefix: /api/p#/}", ("/api/p#/x", "t")),
    ("bare regexes", "uri: {regex: '.*/p#/[0-9]+'}", ("/api/p#/123", "t")),
    ("header prefixes", "headers: {x-tenant: {prefix: t#-}}", ("/api/x", "t#-x")),
];

fn matching(shape: &str, rule: &str, (path, tenant): (&str, &str)) -> Result<Value> {
    let mut text = service("reviews");
    for first in (0..RULES).step_by(RULES_PER_RESOURCE) {
        let rules: String = (first..first + RULES_PER_RESOURCE)
            .map(|i| format!("  - match: [{{{}}}]\n    directResponse: {{status: 200}}\n", numbered(rule, i)))
            .collect();
        text += &virtual_service(&format!("v{first:05}"), "reviews", &rules);
    }
    let mesh = Arc::new(snapshot(&mut Mesh::new(MeshSettings::default()), "mesh.yaml", &text)?);
    let service = mesh.service("shop", "reviews").context("no service")?;
    let routes = compile(&mesh, &view(), service);
    let http = &routes.port(80).http;
    ensure!(http.rules().len() == RULES, "{} rules", http.rules().len());
    let mut costs = json!({});
    for (place, number) in [("first", 0), ("last", RULES - 1), ("none", RULES + 1)] {
        let (path, tenant) = (numbered(path, number), numbered(tenant, number));
        let headers = headers(&tenant);
        let facts = RequestFacts {
            method: "GET",
            scheme: "http",
            authority: "reviews.shop:80",
            path: &path,
            query: None,
            headers: &headers,
            port: 80,
            source: None,
            claims: None,
        };
        ensure!(matches!(http.find(&facts), Found::Rule(_)) == (number < RULES), "{shape} {number}");
        let slow = shape.starts_with("bare");
        let count = if slow { MATCHES / 100 } else { MATCHES };
        let started = Instant::now();
        for _ in 0..count {
            black_box(http.find(black_box(&facts)));
        }
        costs[place] = json!(started.elapsed().as_nanos() as f64 / f64::from(count));
    }
    costs["in_turn"] = json!(in_turn(http, (path, tenant))?);
    Ok(costs)
}

/// The mean over requests for every rule in turn, so that no rule stays in the cache by being the only one.
fn in_turn(http: &waypoint::routes::HttpRoutes, (path, tenant): (&str, &str)) -> Result<f64> {
    let requests: Vec<(String, HeaderMap)> =
        (0..RULES).map(|i| (numbered(path, i), headers(&numbered(tenant, i)))).collect();
    let rounds = 4;
    let mut started = Instant::now();
    for round in 0..=rounds {
        // The first makes what each regex makes when it is first used.
        if round == 1 {
            started = Instant::now();
        }
        for (path, headers) in &requests {
            let facts = RequestFacts {
                method: "GET",
                scheme: "http",
                authority: "reviews.shop:80",
                path,
                query: None,
                headers,
                port: 80,
                source: None,
                claims: None,
            };
            ensure!(matches!(http.find(black_box(&facts)), Found::Rule(_)), "no rule for {path}");
        }
    }
    Ok(started.elapsed().as_nanos() as f64 / (rounds * RULES) as f64)
}

/// What a browser sends, and the tenant.
fn headers(tenant: &str) -> HeaderMap {
    let names =
        ["accept", "accept-encoding", "user-agent", "cookie", "x-request-id", "traceparent", "content-type"];
    let mut headers: HeaderMap = names
        .into_iter()
        .map(|it| (HeaderName::from_static(it), HeaderValue::from_static("some value of usual length")))
        .collect();
    headers.insert("x-tenant", HeaderValue::try_from(tenant).expect("a tenant is ASCII"));
    headers
}

fn following(services: usize) -> Result<Value> {
    let mut mesh = Mesh::new(MeshSettings::default());
    let all: String = (0..services).map(|i| service(&format!("s{i}"))).collect();
    snapshot(&mut mesh, "services.yaml", &all)?;
    let mut now = Snapshot::default();
    for i in 0..services {
        let text = forwarding(&format!("s{i}"), "1s");
        now = snapshot(&mut mesh, &format!("v{i}.yaml"), &text)?;
    }
    let mut costs = json!({});
    let started = Instant::now();
    let mut tables = Tables::new(view(), &now);
    costs["from nothing"] = json!(started.elapsed().as_secs_f64() * 1e3);
    ensure!(tables.iter().count() == services, "a table for each service");
    let pattern =
        virtual_service("pattern", "'*.shop.svc.cluster.local'", "  - directResponse: {status: 200}\n");
    for (what, file, text) in [
        ("one route", "v7.yaml", forwarding("s7", "2s")),
        ("one route", "v8.yaml", forwarding("s8", "2s")),
        ("one service", "more.yaml", service("more")),
        ("one pattern", "pattern.yaml", pattern),
        ("one pod", "pod.yaml", "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\n".to_owned()),
    ] {
        let next = snapshot(&mut mesh, file, &text)?;
        let started = Instant::now();
        let later = tables.update(&now, &next);
        costs[what] = json!(started.elapsed().as_secs_f64() * 1e3);
        (tables, now) = (later, next);
    }
    Ok(costs)
}

fn numbered(text: &str, number: usize) -> String {
    text.replace('#', &format!("{number:04}"))
}

fn view() -> View {
    View { waypoint: ObjectName::new("shop", "waypoint"), cluster_domain: "cluster.local".into() }
}

fn snapshot(mesh: &mut Mesh, file: &str, text: &str) -> Result<Snapshot> {
    let file: Arc<str> = file.into();
    let decoded = yaml::decode(&file, text.as_bytes(), &mut Names::default());
    ensure!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    let batch = Batch { reread: vec![file], upserts: decoded.stated, ..Batch::default() };
    Ok(Arc::unwrap_or_clone(mesh.apply(batch)))
}

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, labels: \
         {{istio.io/use-waypoint: waypoint}}}}\nspec:\n  ports: [{{port: 80}}]\n"
    )
}

fn virtual_service(name: &str, host: &str, http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         hosts: [{host}]\n  http:\n{http}"
    )
}

fn forwarding(service: &str, timeout: &str) -> String {
    let http = format!("  - route: [{{destination: {{host: {service}}}}}]\n    timeout: {timeout}\n");
    virtual_service(service, service, &http)
}
