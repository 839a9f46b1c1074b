//! The routes that requests are measured with: one table, told in the words of every system.
//!
//! Neutral rules first, of each kind that people write (exact paths, prefixes, regexes, headers, methods); then how Ebb and
//! Envoy are told of them. The request that is measured falls under the last one, so that every system has to look at all.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Rules of the table, unless there are to be more.
pub(crate) const ROUTES: u32 = 10;

/// What the measured request carries beside Host, as an application's own client would send it.
pub(crate) const REQUEST_HEADERS: &[&str] =
    &["user-agent: shop/2.1 (linux; x86_64)", "accept: application/json", "x-tenant: silver"];

/// Entries of one VirtualService; one may hold 256 regexes.
const RULES_PER_RESOURCE: usize = 250;

/// How a text has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Text {
    Exact(String),
    Prefix(String),
    /// Of the whole text.
    Regex(String),
}

/// What a request has to look like for a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    name: String,
    path: Option<Text>,
    header: Option<(&'static str, Text)>,
    method: Option<&'static str>,
}

/// A table of `count` rules. The last takes what is measured, the others nothing of it.
pub(super) fn table(count: u32) -> Vec<Rule> {
    let last =
        Rule { name: "measured".into(), path: Some(Text::Prefix("/bytes/".into())), ..Rule::default() };
    (1..count).map(other).chain([last]).collect()
}

/// A rule that takes no request that is measured.
fn other(number: u32) -> Rule {
    let rule = Rule { name: format!("other-{number}"), ..Rule::default() };
    let path = |path| Rule { path: Some(path), ..rule.clone() };
    match number % 9 {
        1 => Rule { header: Some(("x-tenant", Text::Exact(format!("gold-{number}")))), ..rule },
        2 => path(Text::Prefix(format!("/api/v{number}/"))),
        3 => path(Text::Exact(format!("/login/{number}"))),
        4 => path(Text::Regex(format!("/orders/{number}/[0-9]+/items"))),
        5 => Rule { method: Some("POST"), ..path(Text::Prefix(format!("/upload/{number}/"))) },
        6 => Rule { header: Some(("user-agent", Text::Prefix(format!("Mobile/{number}")))), ..rule },
        7 => path(Text::Exact(format!("/health/{number}"))),
        8 => {
            Rule { header: Some(("x-tenant", Text::Regex(format!("(bronze|tin)-{number}-[a-z]+")))), ..rule }
        }
        _ => path(Text::Prefix(format!("/static/{number}/"))),
    }
}

/// The table as VirtualServices for `host` in `namespace`, in order of their names.
pub(super) fn virtual_services(rules: &[Rule], namespace: &str, host: &str) -> String {
    let mut text = String::new();
    for (number, chunk) in rules.chunks(RULES_PER_RESOURCE).enumerate() {
        let entries: String = chunk.iter().map(|rule| rule.entry(host)).collect();
        text += &virtual_service(&format!("{host}-{number:03}"), namespace, host, &entries);
    }
    text
}

/// One VirtualService with the entries of its `http` given.
pub(super) fn virtual_service(name: &str, namespace: &str, host: &str, entries: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  hosts: [{host}]\n  http:\n{entries}"
    )
}

/// The table as routes of an Envoy virtual host, each to `cluster`, with Istio's defaults: no timeout, and two retries of
/// what the server has not begun with.
pub(super) fn envoy_routes(rules: &[Rule], cluster: &str) -> Vec<Value> {
    rules.iter().map(|rule| rule.envoy_route(cluster)).collect()
}

impl Rule {
    fn entry(&self, host: &str) -> String {
        let mut matched = Vec::new();
        matched.extend(self.path.as_ref().map(|path| format!("uri: {}", path.istio())));
        matched.extend(self.method.map(|method| format!("method: {{exact: {method}}}")));
        let header = self.header.as_ref();
        matched.extend(header.map(|(name, text)| format!("headers: {{{name}: {}}}", text.istio())));
        let mut text = String::new();
        // A String takes everything that is written to it.
        let _ = write!(
            text,
            "  - name: {}\n    match: [{{{}}}]\n    route: [{{destination: {{host: {host}}}}}]\n",
            self.name,
            matched.join(", ")
        );
        text
    }

    fn envoy_route(&self, cluster: &str) -> Value {
        let mut matched = match &self.path {
            None => json!({ "prefix": "/" }),
            Some(Text::Exact(path)) => json!({ "path": path }),
            Some(Text::Prefix(prefix)) => json!({ "prefix": prefix }),
            Some(Text::Regex(regex)) => json!({ "safe_regex": { "regex": regex } }),
        };
        let method = self.method.map(|method| (":method", Text::Exact(method.into())));
        let headers: Vec<Value> = method.iter().chain(&self.header).map(header_matcher).collect();
        if !headers.is_empty() {
            matched["headers"] = headers.into();
        }
        json!({ "name": self.name, "match": matched, "route": {
            "cluster": cluster,
            "timeout": "0s",
            "retry_policy": {
                "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                "retriable_status_codes": [503],
                "num_retries": 2,
            },
        } })
    }
}

fn header_matcher((name, text): &(&'static str, Text)) -> Value {
    let matcher = match text {
        Text::Exact(value) => json!({ "exact": value }),
        Text::Prefix(value) => json!({ "prefix": value }),
        Text::Regex(regex) => json!({ "safe_regex": { "regex": regex } }),
    };
    json!({ "name": name, "string_match": matcher })
}

impl Text {
    /// As Istio's StringMatch.
    fn istio(&self) -> String {
        match self {
            Self::Exact(value) => format!("{{exact: '{value}'}}"),
            Self::Prefix(value) => format!("{{prefix: '{value}'}}"),
            Self::Regex(regex) => format!("{{regex: '{regex}'}}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_rules_are_of_every_kind_and_the_measured_one_is_last() {
        let rules = table(ROUTES);
        assert_eq!(rules.len(), 10);
        assert_eq!(rules[9].path, Some(Text::Prefix("/bytes/".into())));
        let yaml = virtual_services(&rules, "bench", "server");
        for kind in ["exact:", "prefix:", "regex:", "headers:", "method:"] {
            assert!(yaml.contains(kind), "{kind} in {yaml}");
        }
        assert!(yaml.ends_with("  - name: measured\n    match: [{uri: {prefix: '/bytes/'}}]\n    route: [{destination: {host: server}}]\n"));
    }

    #[test]
    fn no_other_rule_takes_the_measured_request() {
        for rule in &table(1000)[..999] {
            let path = match &rule.path {
                Some(Text::Exact(path) | Text::Prefix(path) | Text::Regex(path)) => path.as_str(),
                None => "",
            };
            assert!(!path.starts_with("/b"), "{rule:?}");
            assert!(rule.path.is_some() || rule.header.is_some(), "{rule:?} takes everything");
        }
    }

    #[test]
    fn a_long_table_is_cut_into_resources_in_order_of_their_names() {
        let yaml = virtual_services(&table(1000), "bench", "server");
        let names: Vec<&str> = yaml.lines().filter(|line| line.starts_with("metadata:")).collect();
        assert_eq!(names.len(), 4);
        assert!(names.is_sorted(), "{names:?}");
    }

    #[test]
    fn envoy_is_told_the_same() {
        let routes = envoy_routes(&table(ROUTES), "server");
        assert_eq!(routes.len(), 10);
        assert_eq!(routes[9]["match"], json!({ "prefix": "/bytes/" }));
        assert_eq!(routes[4]["match"]["headers"][0]["name"], ":method");
        assert_eq!(routes[0]["match"]["prefix"], "/");
        assert_eq!(routes[0]["match"]["headers"][0]["string_match"]["exact"], "gold-1");
    }
}
