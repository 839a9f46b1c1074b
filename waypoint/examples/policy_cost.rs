//! What policies cost a request: none, and a hundred of several shapes, of which the last decides.
//!
//! `cargo run --release -p waypoint --example policy_cost`: nanoseconds for one verdict.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use common::config::Resource;
use common::config::decode::yaml;
use common::config::names::Names;
use common::spiffe::Identity;
use http::{HeaderMap, HeaderName, HeaderValue};
use waypoint::authz::{Effective, Facts, HttpFacts, PolicySet, policy};
use waypoint::routes::{RequestFacts, canonical_path};

const POLICIES: usize = 100;
const VERDICTS: u32 = 200_000;

/// A shape: its name, the action, and the rule of policy `#`. The request falls under the last.
const SHAPES: [(&str, &str, &str); 7] = [
    ("ALLOW by path", "ALLOW", "{to: [{operation: {paths: ['/api/p#']}}]}"),
    ("ALLOW by prefix", "ALLOW", "{to: [{operation: {paths: ['/api/p#*']}}]}"),
    ("ALLOW by template", "ALLOW", "{to: [{operation: {paths: ['/{*}/p#']}}]}"),
    ("ALLOW by principal", "ALLOW", "{from: [{source: {principals: [cluster.local/ns/shop/sa/a#]}}]}"),
    (
        "ALLOW by all of it",
        "ALLOW",
        "{from: [{source: {namespaces: [shop]}}], to: [{operation: {methods: [GET], paths: ['/api/p#']}}], when: [{key: \
         'request.headers[x-tenant]', values: [t#]}]}",
    ),
    ("DENY by header", "DENY", "{when: [{key: 'request.headers[x-tenant]', values: [u#]}]}"),
    ("DENY by host", "DENY", "{to: [{operation: {hosts: [h#.example.com]}}]}"),
];

fn main() -> Result<()> {
    println!("{:22}{:>8}", "no policy", verdict(&PolicySet::default())?);
    for (shape, action, rule) in SHAPES {
        println!("{:22}{:>8}", format!("{POLICIES} {shape}"), verdict(&set(action, rule)?)?);
    }
    Ok(())
}

fn set(action: &str, rule: &str) -> Result<PolicySet> {
    let one = |at: usize| {
        let rule = rule.replace('#', &format!("{at:02}"));
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{at}, namespace: shop}}\n\
             spec: {{action: {action}, rules: [{rule}]}}\n"
        )
    };
    let text: String = (0..POLICIES).map(one).collect();
    let decoded = yaml::decode(&Arc::from("p.yaml"), text.as_bytes(), &mut Names::default());
    ensure!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    let mut all = Vec::new();
    for stated in decoded.stated {
        let Resource::AuthorizationPolicy(stated) = stated.resource else { bail!("no policy") };
        all.push(Arc::new(policy(&stated)));
    }
    Ok(PolicySet::new(&all))
}

/// Nanoseconds, the canonical path not among them.
fn verdict(set: &PolicySet) -> Result<u128> {
    let last = POLICIES - 1;
    let path = format!("/api/p{last}");
    let canonical = canonical_path(&path)?;
    let headers = headers(&format!("t{last}"));
    let identity = Identity::new("cluster.local", "shop", format!("a{last}"));
    let request = RequestFacts {
        method: "GET",
        scheme: "http",
        authority: "reviews.shop:80",
        path: &canonical.path,
        query: None,
        headers: &headers,
        port: 80,
        source: None,
        claims: None,
    };
    let facts = Facts {
        identity: Some(&identity),
        caller: None,
        source: [10, 0, 0, 9].into(),
        destination: [10, 96, 0, 10].into(),
        port: 80,
        server_name: None,
        http: Some(HttpFacts { request, reads_twice: false, claims: None }),
    };
    let effective = Effective { unknown: None, sets: [None, Some(set)] };
    ensure!(effective.judge(&facts, &[]).is_ok(), "the last policy decides");
    let started = Instant::now();
    for _ in 0..VERDICTS {
        black_box(black_box(&effective).judge(black_box(&facts), &[]).is_ok());
    }
    Ok(started.elapsed().as_nanos() / u128::from(VERDICTS))
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
