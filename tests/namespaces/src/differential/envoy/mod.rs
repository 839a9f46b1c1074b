//! Writes tables as Envoy's configuration, as istiod translates for a waypoint what the other writer states.
//!
//! Each port of a service is a listener with a virtual host for every authority, because a waypoint goes by the address
//! that was called and not by the authority. Endpoints are reached in plaintext, as Ebb reaches those outside the mesh.

mod parts;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use serde_json::{Value as Json, json};

use self::parts::{Headers, authority, cors, fault, hash_policy, matched, redirect, retries, seconds};
use super::{
    CLOSED_PORT,
    tables::{Action, Changes, Destination, HashTable, Match, Rule, Table},
};

/// Envoy's admin port, on loopback.
pub const ADMIN: u16 = 15000;

/// The listener of the first port of the first table.
const FIRST_LISTENER: usize = 20_000;

/// Instead of Envoy's 1,024, and 3 retries; Istio lifts both limits.
const UNLIMITED: u32 = u32::MAX;

/// The ports of each service that clients call.
const CALLED: [u16; 2] = [80, 81];

/// An endpoint: the version label of its pod, and its address.
pub type Endpoint = (String, Ipv4Addr);

/// Where Envoy takes requests to a port of a table's service.
#[must_use]
pub fn listener(table: usize, port: u16) -> u16 {
    let number = FIRST_LISTENER + 2 * table + usize::from(port == CALLED[1]);
    u16::try_from(number).expect("the number of tables is limited so that their listeners fit")
}

/// The whole configuration.
#[must_use]
pub fn configuration(tables: &[Table], endpoints: &[Endpoint]) -> Json {
    let mut clusters = BTreeMap::new();
    let mut listeners = Vec::new();
    for table in tables {
        for port in CALLED {
            let mut writer = Writer { table, port, endpoints, clusters: &mut clusters };
            listeners.push(writer.listener());
        }
    }
    json!({
        "admin": { "address": address("127.0.0.1", ADMIN) },
        "static_resources": {
            "listeners": listeners,
            "clusters": clusters.into_values().collect::<Vec<_>>(),
        },
    })
}

/// Writes what one port of a table needs.
struct Writer<'t> {
    table: &'t Table,
    port: u16,
    endpoints: &'t [Endpoint],
    clusters: &'t mut BTreeMap<String, Json>,
}

impl Writer<'_> {
    fn listener(&mut self) -> Json {
        let mut routes: Vec<Json> = self.table.rules.iter().flat_map(|rule| self.routes(rule)).collect();
        if self.table.rules.is_empty() {
            routes.push(self.default_route());
        }
        let manager = json!({
            "stat_prefix": "waypoint",
            "codec_type": "HTTP1",
            "use_remote_address": false,
            "normalize_path": true,
            "stream_idle_timeout": "0s",
            "http_filters": [
                filter("envoy.filters.http.fault", "filters.http.fault.v3.HTTPFault"),
                filter("envoy.filters.http.cors", "filters.http.cors.v3.Cors"),
                filter("envoy.filters.http.router", "filters.http.router.v3.Router"),
            ],
            "route_config": {
                "name": self.table.name(),
                "validate_clusters": false,
                "virtual_hosts": [{
                    "name": format!("inbound|http|{}", self.port),
                    "domains": ["*"],
                    "include_request_attempt_count": true,
                    "routes": routes,
                }],
            },
        });
        let manager = typed("filters.network.http_connection_manager.v3.HttpConnectionManager", manager);
        json!({
            "name": format!("{}:{}", self.table.name(), self.port),
            "address": address("0.0.0.0", listener(self.table.number, self.port)),
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager,
            }] }],
        })
    }

    /// What istiod writes for a service without a VirtualService.
    fn default_route(&mut self) -> Json {
        let whole = Destination { subset: None, port: None, weight: 1, headers: Changes::default() };
        let mut action = json!({
            "cluster": self.cluster(&whole),
            "timeout": "0s",
            "retry_policy": { "retry_on": "reset-before-request", "num_retries": 2 },
        });
        if let Some(hash) = &self.table.hash {
            action["hash_policy"] = json!([hash_policy(hash)]);
        }
        json!({ "name": "default", "match": { "prefix": "/" }, "route": action })
    }

    /// A route for each match that is for this port. `sourceLabels` leave a match out, `gateways` are not looked at.
    fn routes(&mut self, rule: &Rule) -> Vec<Json> {
        if rule.matches.is_empty() {
            return vec![self.route(rule, &Match::default())];
        }
        let own = self.port;
        let here = rule.matches.iter().filter(|it| it.port.is_none_or(|port| port == own));
        here.filter(|it| it.source_app.is_none()).map(|it| self.route(rule, it)).collect()
    }

    fn route(&mut self, rule: &Rule, stated: &Match) -> Json {
        let mut headers = Headers::default();
        headers.extend(&rule.headers);
        let mut made = json!({ "name": rule.tag, "match": matched(stated) });
        match &rule.action {
            Action::Redirect(stated) => made["redirect"] = redirect(stated, self.port),
            Action::Respond(status, body) => {
                made["direct_response"] = json!({ "status": status });
                if let Some(body) = body {
                    made["direct_response"]["body"] = json!({ "inline_string": body });
                }
            }
            Action::Forward(all) => made["route"] = self.forward(rule, all, &mut headers),
        }
        headers.write(&mut made);
        let mut filters = json!({});
        if let Some(stated) = &rule.fault {
            filters["envoy.filters.http.fault"] = fault(stated);
        }
        if let Some(stated) = &rule.cors {
            filters["envoy.filters.http.cors"] = cors(stated);
        }
        made["typed_per_filter_config"] = filters;
        made
    }

    /// The action of a route that sends requests on. What an only destination states of headers becomes the route's own.
    fn forward(&mut self, rule: &Rule, all: &[Destination], headers: &mut Headers) -> Json {
        let mut action = json!({ "timeout": seconds(rule.timeout.unwrap_or_default()) });
        let mut authority = authority(&rule.headers);
        if let Some(stated) = &rule.rewrite {
            match (stated.regex, &stated.path) {
                (Some((regex, by)), _) => {
                    action["regex_rewrite"] = json!({ "pattern": { "regex": regex }, "substitution": by });
                }
                (None, Some(path)) => action["prefix_rewrite"] = path.as_str().into(),
                (None, None) => {}
            }
            authority = stated.authority.clone().or(authority);
        }
        let weighted: Vec<_> = all.iter().filter(|it| all.len() == 1 || it.weight > 0).collect();
        if let [only] = weighted[..] {
            action["cluster"] = self.cluster(only).into();
            headers.extend(&only.headers);
            authority = authority.or(self::authority(&only.headers));
        } else {
            let one = |it: &&Destination| {
                let mut headers = Headers::default();
                headers.extend(&it.headers);
                let mut made = json!({ "name": self.cluster(it), "weight": it.weight });
                headers.write(&mut made);
                if let Some(authority) = self::authority(&it.headers) {
                    made["host_rewrite_literal"] = authority.into();
                }
                made
            };
            let clusters: Vec<Json> = weighted.iter().map(one).collect();
            action["weighted_clusters"] = json!({ "clusters": clusters });
        }
        if let Some(authority) = authority {
            action["host_rewrite_literal"] = authority.into();
        }
        if let Some(policy) = retries(rule.retries.as_ref()) {
            action["retry_policy"] = policy;
        }
        if let Some(hash) = &self.table.hash {
            action["hash_policy"] = json!([hash_policy(hash)]);
        }
        action
    }

    /// The name of a destination's cluster, which is written if there is none of that name yet.
    fn cluster(&mut self, destination: &Destination) -> String {
        let port = destination.port.unwrap_or(self.port);
        let subset = destination.subset.unwrap_or_default();
        if subset == super::UNKNOWN_SUBSET {
            return "unknown".into();
        }
        // Clusters that do not hash differ in nothing but their endpoints.
        let owner = if self.table.hash.is_some() { self.table.name() } else { "any".into() };
        let name = format!("{owner}|{port}|{subset}");
        if !self.clusters.contains_key(&name) {
            let made = self.write_cluster(&name, port, subset);
            self.clusters.insert(name.clone(), made);
        }
        name
    }

    fn write_cluster(&self, name: &str, port: u16, subset: &str) -> Json {
        let target = if port == CLOSED_PORT { 8082 } else { 8000 + port };
        let here = self.endpoints.iter().filter(|(version, _)| subset.is_empty() || version == subset);
        let endpoints: Vec<Json> = here
            .map(|(_, ip)| json!({ "endpoint": { "address": address(&ip.to_string(), target) } }))
            .collect();
        let mut made = json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "10s",
            "lb_policy": "LEAST_REQUEST",
            "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] },
            "circuit_breakers": { "thresholds": [{
                "max_connections": UNLIMITED,
                "max_pending_requests": UNLIMITED,
                "max_requests": UNLIMITED,
                "max_retries": UNLIMITED,
            }] },
        });
        match self.table.hash.as_ref().map(|it| it.upon) {
            Some(HashTable::Ring(size)) => {
                made["lb_policy"] = "RING_HASH".into();
                made["ring_hash_lb_config"] = json!({ "minimum_ring_size": size });
            }
            Some(HashTable::Maglev(size)) => {
                made["lb_policy"] = "MAGLEV".into();
                made["maglev_lb_config"] = json!({ "table_size": size });
            }
            None => {}
        }
        made
    }
}

fn filter(name: &str, kind: &str) -> Json {
    json!({ "name": name, "typed_config": typed(kind, json!({})) })
}

fn typed(kind: &str, mut config: Json) -> Json {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.{kind}").into();
    config
}

fn address(ip: &str, port: u16) -> Json {
    json!({ "socket_address": { "address": ip, "port_value": port } })
}

/// Where Envoy, in the pod of that address, takes requests to a port of a table's service.
#[must_use]
pub fn entrance(pod: Ipv4Addr, table: usize, port: u16) -> SocketAddr {
    SocketAddr::from((pod, listener(table, port)))
}
