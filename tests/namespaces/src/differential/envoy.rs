//! Writes tables as Envoy's configuration, as istiod translates for a waypoint what the other writer states.
//!
//! Each port of a service is a listener with a virtual host for every authority, because a waypoint goes by the address
//! that was called and not by the authority. Endpoints are reached in plaintext, as Ebb reaches those outside the mesh.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use serde_json::{Value as Json, json};

use super::{
    CLOSED_PORT,
    tables::{
        Abort, Action, Changes, Cors, Destination, Fault, Hash, HashKey, HashTable, Match, Redirect,
        RedirectPort, Retries, Rule, Table, Text, Value,
    },
};

/// Envoy's admin port, on loopback.
pub const ADMIN: u16 = 15000;

/// The listener of the first port of the first table.
const FIRST_LISTENER: usize = 20_000;

/// Instead of Envoy's 1,024, and 3 retries; Istio lifts both limits.
const UNLIMITED: u32 = u32::MAX;

/// When istiod lets a waypoint retry where a route does not say.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

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
        let routes: Vec<Json> = self.table.rules.iter().flat_map(|rule| self.routes(rule)).collect();
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

/// Changes to headers in Envoy's order: of each set what is set comes before what is added, by name.
#[derive(Default)]
struct Headers {
    request: Vec<Json>,
    response: Vec<Json>,
    request_removed: Vec<&'static str>,
    response_removed: Vec<&'static str>,
}

impl Headers {
    fn extend(&mut self, stated: &Changes) {
        for (operations, to, removed) in [
            (&stated.request, &mut self.request, &mut self.request_removed),
            (&stated.response, &mut self.response, &mut self.response_removed),
        ] {
            for (all, how) in [
                (&operations.set, "OVERWRITE_IF_EXISTS_OR_ADD"),
                (&operations.add, "APPEND_IF_EXISTS_OR_ADD"),
            ] {
                let mut all: Vec<_> = all.iter().filter(|(name, _)| !is_special(name)).collect();
                all.sort_by_key(|(name, _)| *name);
                to.extend(all.into_iter().map(|(name, value)| {
                    json!({ "header": { "key": name, "value": value }, "append_action": how })
                }));
            }
            removed.extend(operations.remove.iter().filter(|it| !is_special(it)));
        }
    }

    fn write(self, to: &mut Json) {
        to["request_headers_to_add"] = self.request.into();
        to["response_headers_to_add"] = self.response.into();
        to["request_headers_to_remove"] = self.request_removed.into();
        to["response_headers_to_remove"] = self.response_removed.into();
    }
}

fn is_special(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

/// The authority that changes to a request's headers state.
fn authority(stated: &Changes) -> Option<String> {
    let of = |all: &[(&str, String)]| {
        let found = all.iter().find(|(name, _)| matches!(*name, ":authority" | "host"));
        found.map(|(_, value)| value.clone())
    };
    of(&stated.request.set).or(of(&stated.request.add))
}

fn matched(stated: &Match) -> Json {
    let mut made = match &stated.path {
        None => json!({ "prefix": "/" }),
        Some(Text::Exact(text)) => json!({ "path": text }),
        Some(Text::Prefix(text)) => json!({ "prefix": text }),
        Some(Text::Regex(pattern)) => json!({ "safe_regex": { "regex": pattern.regex } }),
    };
    made["case_sensitive"] = (!stated.ignoring_case).into();
    let mut headers: Vec<Json> = stated.headers.iter().map(|(name, it)| header(name, it)).collect();
    for (name, value) in &stated.without {
        let mut inverted = header(name, value);
        inverted["invert_match"] = true.into();
        if matches!(value, Value::Is(_)) {
            inverted["treat_missing_header_as_empty"] = true.into();
        }
        headers.push(inverted);
    }
    for (name, stated) in
        [(":method", &stated.method), (":authority", &stated.authority), (":scheme", &stated.scheme)]
    {
        if let Some(stated) = stated {
            headers.push(json!({ "name": name, "string_match": text(stated) }));
        }
    }
    made["headers"] = headers.into();
    let parameter = |(name, value): &(&str, Value)| match value {
        Value::Present => json!({ "name": name, "present_match": true }),
        Value::Is(stated) => json!({ "name": name, "string_match": text(stated) }),
    };
    made["query_parameters"] = stated.parameters.iter().map(parameter).collect::<Vec<_>>().into();
    made
}

fn header(name: &str, value: &Value) -> Json {
    match value {
        Value::Present => json!({ "name": name, "present_match": true }),
        Value::Is(stated) => json!({ "name": name, "string_match": text(stated) }),
    }
}

fn text(stated: &Text) -> Json {
    match stated {
        Text::Exact(text) => json!({ "exact": text }),
        Text::Prefix(text) => json!({ "prefix": text }),
        Text::Regex(pattern) => json!({ "safe_regex": { "regex": pattern.regex } }),
    }
}

fn redirect(stated: &Redirect, port: u16) -> Json {
    let mut made = json!({});
    if let Some(authority) = &stated.authority {
        made["host_redirect"] = authority.as_str().into();
    }
    if let Some(path) = &stated.path {
        made["path_redirect"] = path.as_str().into();
    }
    if let Some(prefix) = &stated.prefix {
        made["prefix_rewrite"] = prefix.as_str().into();
    }
    if let Some(scheme) = stated.scheme {
        made["scheme_redirect"] = scheme.into();
    }
    let port = match stated.port {
        Some(RedirectPort::Number(number)) => Some(number),
        Some(RedirectPort::OfRequest) => Some(port),
        Some(RedirectPort::OfScheme) | None => None,
    };
    // istiod leaves out what the scheme implies, by the scheme that is stated.
    let implied = if stated.scheme == Some("https") { 443 } else { 80 };
    if let Some(port) = port.filter(|it| *it != implied) {
        made["port_redirect"] = port.into();
    }
    made["response_code"] = match stated.status {
        Some(302) => "FOUND",
        Some(303) => "SEE_OTHER",
        Some(307) => "TEMPORARY_REDIRECT",
        Some(308) => "PERMANENT_REDIRECT",
        _ => "MOVED_PERMANENTLY",
    }
    .into();
    made
}

/// The retry policy; none where istiod writes none.
fn retries(stated: Option<&Retries>) -> Option<Json> {
    let mut made = json!({
        "num_retries": 2,
        "retry_on": RETRY_ON,
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": typed("retry.host.previous_hosts.v3.PreviousHostsPredicate", json!({})),
        }],
    });
    let Some(stated) = stated else { return Some(made) };
    made["num_retries"] = stated.attempts.filter(|it| *it > 0)?.into();
    if let Some(on) = &stated.on {
        let (codes, mut words): (Vec<&str>, Vec<&str>) =
            on.split(',').map(str::trim).partition(|it| it.parse::<u32>().is_ok());
        if !codes.is_empty() && !words.contains(&"retriable-status-codes") {
            words.push("retriable-status-codes");
        }
        made["retry_on"] = words.join(",").into();
        let codes: Vec<u32> = codes.iter().filter_map(|it| it.parse().ok()).collect();
        made["retriable_status_codes"] = codes.into();
    }
    if let Some(per_try) = stated.per_try {
        made["per_try_timeout"] = seconds(per_try);
    }
    made["retry_back_off"] = json!({ "base_interval": "0.001s" });
    Some(made)
}

fn fault(stated: &Fault) -> Json {
    let percentage = json!({ "numerator": stated.percent * 10_000, "denominator": "MILLION" });
    let mut made = json!({});
    if let Some(delay) = stated.delay {
        made["delay"] = json!({ "fixed_delay": seconds(delay), "percentage": percentage });
    }
    match stated.abort {
        Some(Abort::Http(status)) => {
            made["abort"] = json!({ "http_status": status, "percentage": percentage });
        }
        Some(Abort::Grpc(_, number)) => {
            made["abort"] = json!({ "grpc_status": number, "percentage": percentage });
        }
        None => {}
    }
    typed("filters.http.fault.v3.HTTPFault", made)
}

fn cors(stated: &Cors) -> Json {
    let mut made = json!({
        "allow_origin_string_match": stated.origins.iter().map(text).collect::<Vec<_>>(),
        "allow_methods": stated.methods.join(","),
        "allow_headers": stated.headers.join(","),
        "expose_headers": stated.expose.join(","),
        "forward_not_matching_preflights": !stated.ignoring_unmatched,
        "filter_enabled": { "default_value": { "numerator": 100, "denominator": "HUNDRED" } },
    });
    if let Some(max_age) = stated.max_age {
        made["max_age"] = max_age.to_string().into();
    }
    if let Some(credentials) = stated.credentials {
        made["allow_credentials"] = credentials.into();
    }
    typed("filters.http.cors.v3.CorsPolicy", made)
}

fn hash_policy(hash: &Hash) -> Json {
    match &hash.key {
        HashKey::Header(name) => json!({ "header": { "header_name": name } }),
        HashKey::Cookie(name, None) => json!({ "cookie": { "name": name } }),
        HashKey::Cookie(name, Some(ttl)) => {
            json!({ "cookie": { "name": name, "ttl": format!("{ttl}s"), "path": "/p" } })
        }
        HashKey::Parameter(name) => json!({ "query_parameter": { "name": name } }),
        HashKey::Source => json!({ "connection_properties": { "source_ip": true } }),
    }
}

fn seconds(milliseconds: u32) -> Json {
    format!("{}.{:03}s", milliseconds / 1000, milliseconds % 1000).into()
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
