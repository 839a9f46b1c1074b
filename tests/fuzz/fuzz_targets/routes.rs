//! Routes out of arbitrary manifests, and requests that ask them.
//!
//! The input is a request and a history: its first piece, between bytes 0x1e (which no manifest may hold), is a request
//! line and header lines, and each other one is what a file of manifests says next, beside services that stay. After each
//! step the tables that followed the change are those that the mesh gives from nothing, and the rule that the index finds
//! is the first in their order that takes the request.

#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use common::config::decode::yaml;
use common::config::names::Names;
use common::config::{Batch, Key, ObjectName, Removal};
use common::snapshot::{Mesh, MeshSettings, Snapshot};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use waypoint::routes::{Found, HttpRoutes, RequestFacts, ServiceRoutes, Tables, View, canonical_path};

/// Pieces of one history; more would only make inputs slow.
const MAX_PIECES: usize = 5;

/// What is there whatever the input says.
const BASE: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: wp}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: grpc, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}
";

fuzz_target!(|input: &[u8]| {
    let mut pieces = input.splitn(MAX_PIECES, |byte| *byte == 0x1e);
    let Some(request) = pieces.next().and_then(Request::read) else { return };
    let mut desk = Desk::new();
    for piece in pieces {
        desk.write("b.yaml", piece);
        desk.check(&request);
    }
});

/// A request, as far as routes look at it.
struct Request<'a> {
    method: &'a str,
    authority: &'a str,
    target: &'a str,
    headers: HeaderMap,
}

impl<'a> Request<'a> {
    fn read(text: &'a [u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        let mut words = lines.next()?.split(' ');
        let (method, authority, target) = (words.next()?, words.next()?, words.next()?);
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?))
        });
        Some(Self { method, authority, target, headers: headers.collect() })
    }

    fn ask(&self, port: u16, rules: &HttpRoutes) {
        let Ok(target) = canonical_path(self.target) else { return };
        let facts = RequestFacts {
            method: self.method,
            scheme: "http",
            authority: self.authority,
            path: &target.path,
            query: target.query,
            headers: &self.headers,
            port,
            source: None,
            claims: None,
        };
        let first = rules.rules().iter().find(|it| it.takes(&facts));
        match (rules.find(&facts), first) {
            (Found::Rule(found), Some(first)) => assert!(std::ptr::eq(found, first), "not the first"),
            (Found::NoRoute, None) => assert!(!rules.rules().is_empty()),
            (Found::Service, None) => assert!(rules.rules().is_empty()),
            (found, first) => panic!("{found:?} instead of {first:?}"),
        }
    }
}

/// Whose rules there are, and what they say.
fn gist(tables: &Tables) -> Vec<String> {
    let of_service = |it: &Arc<ServiceRoutes>| {
        let ports = [(80, None), (81, None), (80, Some("market"))];
        let ports = ports.map(|(port, caller)| it.port_for(port, caller));
        let rules = ports.map(|it| it.http.rules());
        format!("{} {rules:?} {:?}", it.service, ports.map(|it| &it.connections))
    };
    tables.iter().map(of_service).collect()
}

/// A mesh, and the tables that follow it.
struct Desk {
    mesh: Mesh,
    names: Names,
    files: BTreeMap<Arc<str>, Vec<Key>>,
    now: Arc<Snapshot>,
    tables: Tables,
}

static VIEW: LazyLock<(ObjectName, Arc<str>)> =
    LazyLock::new(|| (ObjectName::new("shop", "wp"), "cluster.local".into()));

fn view() -> View {
    View { waypoint: VIEW.0.clone(), cluster_domain: VIEW.1.clone() }
}

impl Desk {
    fn new() -> Self {
        let mut desk = Self {
            mesh: Mesh::new(MeshSettings::default()),
            names: Names::default(),
            files: BTreeMap::new(),
            now: Arc::default(),
            tables: Tables::new(view(), &Snapshot::default()),
        };
        desk.write("a.yaml", BASE.as_bytes());
        desk
    }

    fn write(&mut self, file: &str, bytes: &[u8]) {
        let file: Arc<str> = file.into();
        let decoded = yaml::decode(&file, bytes, &mut self.names);
        let keys: Vec<Key> = decoded.stated.iter().map(|it| it.resource.key()).collect();
        let before = self.files.insert(file.clone(), keys.clone()).unwrap_or_default();
        let gone = before.into_iter().filter(|it| !keys.contains(it));
        let now = self.mesh.apply(Batch {
            reread: vec![file.clone()],
            removals: gone.map(|key| Removal { file: file.clone(), key }).collect(),
            upserts: decoded.stated,
            rejected: decoded.rejected,
            ..Batch::default()
        });
        self.tables = self.tables.update(&self.now, &now);
        self.now = now;
    }

    fn check(&self, request: &Request<'_>) {
        let fresh = Tables::new(view(), &self.now);
        assert!(gist(&self.tables) == gist(&fresh), "tables depend on how they came about");
        for table in self.tables.iter() {
            for port in [80, 81] {
                for caller in [None, Some("shop"), Some("market")] {
                    request.ask(port, &table.port_for(port, caller).http);
                }
            }
        }
    }
}
