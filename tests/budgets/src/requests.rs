//! What a waypoint decides of one request: its rule among a thousand, whether a hundred policies let it through, and the
//! path that both look at.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use common::config::decode::yaml;
use common::config::names::Names;
use common::config::{ObjectName, Resource};
use common::spiffe::Identity;
use http::{HeaderMap, HeaderName, HeaderValue};
use waypoint::authz::{Effective, Facts, HttpFacts, PolicySet, policy};
use waypoint::routes::{Found, RequestFacts, View, canonical_path, compile};

use crate::counted::{Units, counted};
use crate::mesh;

const RULES: usize = 1_000;
const POLICIES: usize = 100;
/// Entries of one VirtualService.
const RULES_PER_RESOURCE: usize = 250;

/// The rule of a request among a thousand prefixes, in turn for every rule.
pub(crate) fn route(units: Units) -> Result<()> {
    let mut text = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, labels: \
                    {istio.io/use-waypoint: waypoint}}\nspec: {ports: [{port: 80}]}\n"
        .to_owned();
    for first in (0..RULES).step_by(RULES_PER_RESOURCE) {
        writeln!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{first:04}, namespace: \
             shop}}\nspec:\n  hosts: [web]\n  http:"
        )?;
        for i in first..first + RULES_PER_RESOURCE {
            writeln!(
                text,
                "  - match: [{{uri: {{prefix: /api/p{i:04}/}}}}]\n    directResponse: {{status: 200}}"
            )?;
        }
    }
    let mesh = mesh::snapshot(&text)?;
    let view = View { waypoint: ObjectName::new("shop", "waypoint"), cluster_domain: "cluster.local".into() };
    let routes = compile(&mesh, &view, mesh.service("shop", "web").context("no service")?);
    let http = &routes.port(80).http;
    ensure!(http.rules().len() == RULES, "{} rules", http.rules().len());
    let (paths, headers) = (paths(), headers());
    counted(units, &mut |i| {
        let found = http.find(black_box(&facts(&paths[i % RULES], &headers)));
        ensure!(matches!(found, Found::Rule(_)), "no rule for request {i}");
        Ok(())
    })
}

/// The verdict of a hundred policies, of which one admits the request, in turn for every policy.
pub(crate) fn authorize(units: Units) -> Result<()> {
    let one = |at: usize| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{at}, namespace: shop}}\n\
             spec: {{action: ALLOW, rules: [{{from: [{{source: {{namespaces: [shop]}}}}], to: [{{operation: {{methods: \
             [GET], paths: ['/api/p{at:04}/*']}}}}]}}]}}\n"
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
    let set = PolicySet::new(&all);
    let effective = Effective { unknown: None, sets: [None, Some(&set)] };
    let identity = Identity::new("cluster.local", "shop", "caller");
    let (paths, headers) = (paths(), headers());
    counted(units, &mut |i| {
        let request = facts(&paths[i % POLICIES], &headers);
        let facts = Facts {
            identity: Some(&identity),
            caller: None,
            source: [10, 0, 0, 9].into(),
            destination: [10, 96, 0, 10].into(),
            port: 80,
            server_name: None,
            http: Some(HttpFacts { request, reads_twice: false, claims: None }),
        };
        ensure!(effective.judge(black_box(&facts), &[]).is_ok(), "refused: request {i}");
        Ok(())
    })
}

/// The path of a request as rules see it.
pub(crate) fn path(units: Units) -> Result<()> {
    counted(units, &mut |_| {
        black_box(canonical_path(black_box("/api/v1/users/12345/orders?page=2"))?);
        Ok(())
    })
}

fn paths() -> Vec<String> {
    (0..RULES).map(|i| format!("/api/p{i:04}/users/12345/orders")).collect()
}

fn facts<'a>(path: &'a str, headers: &'a HeaderMap) -> RequestFacts<'a> {
    RequestFacts {
        method: "GET",
        scheme: "http",
        authority: "web.shop:80",
        path,
        query: None,
        headers,
        port: 80,
        source: None,
        claims: None,
    }
}

/// What a browser sends.
fn headers() -> HeaderMap {
    let names =
        ["accept", "accept-encoding", "user-agent", "cookie", "x-request-id", "traceparent", "content-type"];
    names
        .into_iter()
        .map(|it| (HeaderName::from_static(it), HeaderValue::from_static("some value of usual length")))
        .collect()
}
