//! Writes a table as Istio's manifests: what Ebb reads.
//!
//! JSON, which is YAML too.

use serde_json::{Map, Value as Json, json};

use super::{
    CLOSED_PORT, SUBSETS,
    tables::{
        Abort, Action, Changes, Cors, Destination, Fault, Hash, HashKey, HashTable, Match, Operations,
        Redirect, RedirectPort, Retries, Rewrite, Rule, Table, Text, Value,
    },
};

/// Service, DestinationRule and VirtualService of a table.
#[must_use]
pub fn manifests(table: &Table) -> Vec<Json> {
    let name = table.name();
    let port = |name: &str, port: u16, target: u16| json!({ "name": format!("http-{name}"), "port": port, "targetPort": target });
    let subset = |it: &&str| json!({ "name": it, "labels": { "version": it } });
    let mut rule = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "host": name, "subsets": SUBSETS.iter().map(subset).collect::<Vec<_>>() },
    });
    if let Some(hash) = &table.hash {
        rule["spec"]["trafficPolicy"] = json!({ "loadBalancer": { "consistentHash": self::hash(hash) } });
    }
    let mut made = vec![
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name, "namespace": "shop", "labels": { "istio.io/use-waypoint": "wp" } },
            "spec": {
                "clusterIP": address(table.number),
                "clusterIPs": [address(table.number)],
                "ipFamilies": ["IPv4"],
                "selector": { "part-of": "backend" },
                "ports": [port("one", 80, 8080), port("two", 81, 8081), port("closed", CLOSED_PORT, 8082)],
            },
        }),
        rule,
    ];
    if !table.rules.is_empty() {
        let routes: Vec<Json> = table.rules.iter().map(|it| http(it, &name)).collect();
        made.push(json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "hosts": [name], "http": routes },
        }));
    }
    made
}

/// The address of the service of a table.
#[must_use]
pub fn address(number: usize) -> String {
    format!("10.96.{}.{}", 1 + number / 250, 1 + number % 250)
}

fn hash(hash: &Hash) -> Json {
    let mut made = match &hash.key {
        HashKey::Header(name) => json!({ "httpHeaderName": name }),
        HashKey::Cookie(name, None) => json!({ "httpCookie": { "name": name } }),
        HashKey::Cookie(name, Some(ttl)) => {
            json!({ "httpCookie": { "name": name, "ttl": format!("{ttl}s"), "path": "/p" } })
        }
        HashKey::Parameter(name) => json!({ "httpQueryParameterName": name }),
        HashKey::Source => json!({ "useSourceIp": true }),
    };
    match hash.upon {
        HashTable::Ring(size) => made["ringHash"] = json!({ "minimumRingSize": size }),
        HashTable::Maglev(size) => made["maglev"] = json!({ "tableSize": size }),
    }
    made
}

/// An entry of `spec.http`.
fn http(rule: &Rule, host: &str) -> Json {
    let mut made = Map::new();
    let mut put = |name: &str, value: Option<Json>| {
        if let Some(value) = value {
            made.insert(name.into(), value);
        }
    };
    let matches = rule.matches.iter().map(matched).collect::<Vec<_>>();
    put("match", Some(matches.into()).filter(|_| !rule.matches.is_empty()));
    match &rule.action {
        Action::Forward(all) => {
            put("route", Some(all.iter().map(|it| destination(it, host)).collect::<Vec<_>>().into()))
        }
        Action::Redirect(stated) => put("redirect", Some(redirect(stated))),
        Action::Respond(status, None) => put("directResponse", Some(json!({ "status": status }))),
        Action::Respond(status, Some(body)) => {
            put("directResponse", Some(json!({ "status": status, "body": { "string": body } })))
        }
    }
    put("headers", changes(&rule.headers));
    put("rewrite", rule.rewrite.as_ref().map(rewrite));
    put("timeout", rule.timeout.map(milliseconds));
    put("retries", rule.retries.as_ref().map(retries));
    put("fault", rule.fault.as_ref().map(fault));
    put("corsPolicy", rule.cors.as_ref().map(cors));
    made.into()
}

fn milliseconds(count: u32) -> Json {
    format!("{count}ms").into()
}

fn matched(stated: &Match) -> Json {
    let mut made = json!({});
    let named = |all: &[(&str, Value)]| -> Json {
        all.iter().map(|(name, it)| ((*name).to_owned(), value(it))).collect::<Map<_, _>>().into()
    };
    for (name, stated) in [
        ("uri", &stated.path),
        ("method", &stated.method),
        ("scheme", &stated.scheme),
        ("authority", &stated.authority),
    ] {
        if let Some(stated) = stated {
            made[name] = text(stated);
        }
    }
    for (name, stated) in [
        ("headers", &stated.headers),
        ("withoutHeaders", &stated.without),
        ("queryParams", &stated.parameters),
    ] {
        if !stated.is_empty() {
            made[name] = named(stated);
        }
    }
    if stated.ignoring_case {
        made["ignoreUriCase"] = true.into();
    }
    if let Some(port) = stated.port {
        made["port"] = port.into();
    }
    if let Some(app) = stated.source_app {
        made["sourceLabels"] = json!({ "app": app });
    }
    if let Some(gateway) = stated.gateway {
        made["gateways"] = json!([gateway]);
    }
    made
}

fn text(stated: &Text) -> Json {
    match stated {
        Text::Exact(text) => json!({ "exact": text }),
        Text::Prefix(text) => json!({ "prefix": text }),
        Text::Regex(pattern) => json!({ "regex": pattern.regex }),
    }
}

fn value(stated: &Value) -> Json {
    match stated {
        Value::Present => json!({}),
        Value::Is(stated) => text(stated),
    }
}

fn destination(stated: &Destination, host: &str) -> Json {
    let mut made = json!({ "destination": { "host": host }, "weight": stated.weight });
    if let Some(subset) = stated.subset {
        made["destination"]["subset"] = subset.into();
    }
    if let Some(port) = stated.port {
        made["destination"]["port"] = json!({ "number": port });
    }
    if let Some(changes) = changes(&stated.headers) {
        made["headers"] = changes;
    }
    made
}

fn changes(stated: &Changes) -> Option<Json> {
    let both = [("request", &stated.request), ("response", &stated.response)];
    let made: Map<_, _> =
        both.iter().filter_map(|(name, it)| Some(((*name).to_owned(), operations(it)?))).collect();
    (!made.is_empty()).then(|| made.into())
}

fn operations(stated: &Operations) -> Option<Json> {
    let mut made = Map::new();
    for (name, all) in [("set", &stated.set), ("add", &stated.add)] {
        if !all.is_empty() {
            let all: Map<_, _> =
                all.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
            made.insert(name.into(), all.into());
        }
    }
    if !stated.remove.is_empty() {
        made.insert("remove".into(), json!(stated.remove));
    }
    (!made.is_empty()).then(|| made.into())
}

fn redirect(stated: &Redirect) -> Json {
    let mut made = json!({});
    if let Some(path) = &stated.path {
        made["uri"] = path.as_str().into();
    }
    if let Some(prefix) = &stated.prefix {
        made["prefixRewrite"] = prefix.as_str().into();
    }
    if let Some(authority) = &stated.authority {
        made["authority"] = authority.as_str().into();
    }
    if let Some(scheme) = stated.scheme {
        made["scheme"] = scheme.into();
    }
    if let Some(status) = stated.status {
        made["redirectCode"] = status.into();
    }
    match stated.port {
        Some(RedirectPort::Number(port)) => made["port"] = port.into(),
        Some(RedirectPort::OfScheme) => made["derivePort"] = "FROM_PROTOCOL_DEFAULT".into(),
        Some(RedirectPort::OfRequest) => made["derivePort"] = "FROM_REQUEST_PORT".into(),
        None => {}
    }
    made
}

fn rewrite(stated: &Rewrite) -> Json {
    let mut made = json!({});
    if let Some(path) = &stated.path {
        made["uri"] = path.as_str().into();
    }
    if let Some((regex, by)) = stated.regex {
        made["uriRegexRewrite"] = json!({ "match": regex, "rewrite": by });
    }
    if let Some(authority) = &stated.authority {
        made["authority"] = authority.as_str().into();
    }
    made
}

fn retries(stated: &Retries) -> Json {
    let mut made = json!({ "backoff": "1ms" });
    if let Some(attempts) = stated.attempts {
        made["attempts"] = attempts.into();
    }
    if let Some(on) = &stated.on {
        made["retryOn"] = on.as_str().into();
    }
    if let Some(per_try) = stated.per_try {
        made["perTryTimeout"] = milliseconds(per_try);
    }
    made
}

fn fault(stated: &Fault) -> Json {
    let mut made = json!({});
    let percentage = json!({ "value": stated.percent });
    if let Some(delay) = stated.delay {
        made["delay"] = json!({ "fixedDelay": milliseconds(delay), "percentage": percentage });
    }
    match stated.abort {
        Some(Abort::Http(status)) => {
            made["abort"] = json!({ "httpStatus": status, "percentage": percentage })
        }
        Some(Abort::Grpc(name, _)) => made["abort"] = json!({ "grpcStatus": name, "percentage": percentage }),
        None => {}
    }
    made
}

fn cors(stated: &Cors) -> Json {
    let mut made = json!({ "allowOrigins": stated.origins.iter().map(text).collect::<Vec<_>>() });
    for (name, all) in [
        ("allowMethods", &stated.methods),
        ("allowHeaders", &stated.headers),
        ("exposeHeaders", &stated.expose),
    ] {
        if !all.is_empty() {
            made[name] = json!(all);
        }
    }
    if let Some(seconds) = stated.max_age {
        made["maxAge"] = format!("{seconds}s").into();
    }
    if let Some(credentials) = stated.credentials {
        made["allowCredentials"] = credentials.into();
    }
    if stated.ignoring_unmatched {
        made["unmatchedPreflights"] = "IGNORE".into();
    }
    made
}
