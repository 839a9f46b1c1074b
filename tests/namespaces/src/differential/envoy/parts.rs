//! The parts of a route that stand in Envoy's configuration as istiod writes them, one function each.

use serde_json::{Value as Json, json};

use super::typed;
use crate::differential::tables::{
    Abort, Changes, Cors, Fault, Hash, HashKey, Match, Redirect, RedirectPort, Retries, Text, Value,
};

/// When istiod lets a waypoint retry where a route does not say.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

/// Changes to headers in Envoy's order: of each set what is set comes before what is added, by name.
#[derive(Default)]
pub(super) struct Headers {
    request: Vec<Json>,
    response: Vec<Json>,
    request_removed: Vec<&'static str>,
    response_removed: Vec<&'static str>,
}

impl Headers {
    pub(super) fn extend(&mut self, stated: &Changes) {
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

    pub(super) fn write(self, to: &mut Json) {
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
pub(super) fn authority(stated: &Changes) -> Option<String> {
    let of = |all: &[(&str, String)]| {
        let found = all.iter().find(|(name, _)| matches!(*name, ":authority" | "host"));
        found.map(|(_, value)| value.clone())
    };
    of(&stated.request.set).or(of(&stated.request.add))
}

pub(super) fn matched(stated: &Match) -> Json {
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

pub(super) fn redirect(stated: &Redirect, port: u16) -> Json {
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
pub(super) fn retries(stated: Option<&Retries>) -> Option<Json> {
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

pub(super) fn fault(stated: &Fault) -> Json {
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

pub(super) fn cors(stated: &Cors) -> Json {
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

pub(super) fn hash_policy(hash: &Hash) -> Json {
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

pub(super) fn seconds(milliseconds: u32) -> Json {
    format!("{}.{:03}s", milliseconds / 1000, milliseconds % 1000).into()
}
