//! Manifests in, questions to the tables.

mod applying;
mod connections;
mod delegates;
mod destinations;
mod following;
mod gateway;
mod matching;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::config::decode::yaml;
use common::config::names::Names;
use common::config::{Batch, Key, ObjectName, Removal};
use common::snapshot::{Mesh, MeshSettings, Snapshot};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Found, RequestFacts, Rule, ServiceRoutes, View, compile};

/// A mesh made of files that can be written anew.
pub(crate) struct Desk {
    mesh: Mesh,
    names: Names,
    files: BTreeMap<Arc<str>, Vec<Key>>,
    pub(crate) now: Arc<Snapshot>,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let mesh = Mesh::new(MeshSettings::default());
        Self { mesh, names: Names::default(), files: BTreeMap::new(), now: Arc::default() }
    }

    pub(crate) fn with(text: &str) -> Self {
        let mut desk = Self::new();
        desk.write("mesh.yaml", text);
        desk
    }

    /// Writes a file, whole. Everything in it has to be accepted.
    pub(crate) fn write(&mut self, file: &str, text: &str) -> Arc<Snapshot> {
        let file: Arc<str> = file.into();
        let decoded = yaml::decode(&file, text.as_bytes(), &mut self.names);
        assert!(decoded.rejected.is_empty(), "{:#?}\n{text}", decoded.rejected);
        let keys: Vec<Key> = decoded.stated.iter().map(|it| it.resource.key()).collect();
        let before = self.files.insert(file.clone(), keys.clone()).unwrap_or_default();
        let gone = before.into_iter().filter(|it| !keys.contains(it));
        let removals = gone.map(|key| Removal { file: file.clone(), key }).collect();
        self.now = self.mesh.apply(Batch {
            reread: vec![file],
            upserts: decoded.stated,
            removals,
            rejected: decoded.rejected,
            ..Batch::default()
        });
        self.now.clone()
    }

    /// The routes of a service of the namespace `shop`.
    pub(crate) fn routes(&self, service: &str) -> ServiceRoutes {
        let service = self.now.service("shop", service).unwrap_or_else(|| panic!("no service {service}"));
        compile(&self.now, &view(), service)
    }
}

/// The waypoint `waypoint` of the namespace `edge`.
pub(crate) fn view() -> View {
    View { waypoint: ObjectName::new("edge", "waypoint"), cluster_domain: "cluster.local".into() }
}

/// A service that the waypoint stands for.
pub(crate) fn service(namespace: &str, name: &str, ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(|it| format!("{{name: http-{it}, port: {it}}}")).collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  labels: \
         {{istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: edge}}\nspec:\n  ports: [{}]\n",
        ports.join(", ")
    )
}

/// A VirtualService `NAMESPACE/NAME`, `spec` as it is written below `spec`.
pub(crate) fn virtual_service(object: &str, created: u32, spec: &str) -> String {
    let (namespace, name) = object.split_once('/').unwrap();
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  \
         creationTimestamp: \"2026-01-01T00:00:{created:02}Z\"\nspec:\n{spec}"
    )
}

/// The first rule of the only route of a service `reviews`, `stated` as it is written below `spec.http[0]`.
pub(crate) fn rule(stated: &str) -> Rule {
    let route: String = stated.lines().map(|line| format!("  {line}\n")).collect();
    let spec = format!("hosts: [reviews]\nhttp:\n-\n{route}");
    let desk = Desk::with(&(service("shop", "reviews", &[80]) + &virtual_service("shop/r", 0, &spec)));
    let routes = desk.routes("reviews");
    routes.port(80).http.rules().first().cloned().unwrap_or_else(|| panic!("no rule of {stated}"))
}

/// A request to port 80, as lines: `METHOD PATH[?QUERY]`, then headers; `host` is the authority.
pub(crate) fn ask<'r>(routes: &'r ServiceRoutes, port: u16, request: &str) -> Found<'r> {
    let mut lines = request.split('\n');
    let (method, target) = lines.next().unwrap().split_once(' ').unwrap();
    let (mut authority, mut headers) = ("reviews".to_owned(), HeaderMap::new());
    for line in lines {
        match line.split_once(": ").unwrap() {
            ("host", value) => authority = value.to_owned(),
            (name, value) => {
                headers.append(
                    HeaderName::try_from(name).unwrap(),
                    HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                );
            }
        }
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let facts = RequestFacts {
        method,
        scheme: "http",
        authority: &authority,
        path,
        query,
        headers: &headers,
        port,
        source: None,
        claims: None,
    };
    routes.port(port).http.find(&facts)
}

/// The name of the rule a request falls under, `404` or `service`.
pub(crate) fn name(found: &Found<'_>) -> String {
    match found {
        Found::Rule(rule) => rule.name().to_string(),
        Found::NoRoute => "404".into(),
        Found::Service => "service".into(),
    }
}
