//! How a request is changed before it is sent, and its answer before it is returned: path, authority, headers.
//!
//! Headers follow Envoy to the letter, because people have built on it: of one set of changes what is removed goes
//! first, then what is set, then what is added. The changes of an only destination are one set with those of the route,
//! after them; among several destinations those of the chosen one are made first and the route's have the last word.

use std::sync::Arc;

use common::config::routing::headers::{HeaderChanges, HeaderOperations};
use common::config::routing::http::RewritePath;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::redirect::replaced;
use crate::routes::{Forward, RequestFacts, Route, Rule, with_query};

/// The path that the client asked for, where another is sent.
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// The authority that the client asked for, where another is sent.
const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
/// The same in the form that many servers know; appended to.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What is sent in place of what the client asked for; `None` is sent as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Path and query.
    pub target: Option<String>,
    /// The authority.
    pub authority: Option<Arc<str>>,
}

/// A regex made something of a path that is none: 500.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("uriRegexRewrite made {made:?} of the path, which is no path")]
pub struct NotAPath {
    /// What it made.
    pub made: String,
}

/// Which headers tell the service what the client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disclosure {
    /// `x-envoy-original-path` and `x-envoy-original-host`; on unless Envoy's own headers are suppressed.
    pub originals: bool,
    /// `x-forwarded-host`; off unless proxy headers are configured.
    pub forwarded_host: bool,
}

impl Default for Disclosure {
    fn default() -> Self {
        Self { originals: true, forwarded_host: false }
    }
}

/// Path and authority of a request to a destination.
///
/// # Errors
/// When a regex rewrite makes no path.
pub fn rewrite(rule: &Rule, chosen: &Forward<'_>, facts: &RequestFacts<'_>) -> Result<Rewritten, NotAPath> {
    let (stated, of_backend) = (rule.route.rewrite(), chosen.stated.rewrite.as_ref());
    let path = of_backend.and_then(|it| it.path.as_ref()).or_else(|| stated?.path.as_ref());
    let path = match path {
        None => None,
        Some(RewritePath::Whole(by)) => Some(by.to_string()),
        Some(RewritePath::Matched(by)) => Some(replaced(rule.prefix(), by, facts.path)),
        Some(RewritePath::Substitution(substitution)) => {
            let made = substitution.apply(facts.path.as_bytes());
            let is_path =
                made.starts_with(b"/") && made.iter().all(|it| it.is_ascii_graphic() && *it != b'#');
            let made = String::from_utf8_lossy(&made).into_owned();
            Some(if is_path { made } else { return Err(NotAPath { made }) })
        }
    };
    let of_route = stated.and_then(|it| it.authority.as_ref()).or(rule.route.headers().authority.as_ref());
    let of_chosen = chosen.stated.headers.authority.as_ref();
    // As with headers among several destinations, the route has the last word; Istio sees to it for an only one.
    let authority = of_backend.and_then(|it| it.authority.as_ref()).or(of_route).or(of_chosen);
    Ok(Rewritten { target: path.map(|it| with_query(&it, facts.query)), authority: authority.cloned() })
}

/// Changes the headers of a request. `target` and `authority` are what the client asked for.
pub fn request(
    rule: &Rule,
    chosen: &Forward<'_>,
    rewritten: &Rewritten,
    (target, authority): (&str, &str),
    disclosure: Disclosure,
    headers: &mut HeaderMap,
) {
    apply_both(&rule.route, chosen, |it| &it.request, headers);
    if rewritten.target.is_some()
        && disclosure.originals
        && let Ok(value) = HeaderValue::from_str(target)
    {
        headers.insert(ORIGINAL_PATH, value);
    }
    if rewritten.authority.is_some()
        && let Ok(value) = HeaderValue::from_str(authority)
    {
        if disclosure.forwarded_host {
            headers.append(FORWARDED_HOST, value.clone());
        }
        if disclosure.originals {
            headers.insert(ORIGINAL_HOST, value);
        }
    }
}

/// Changes the headers of an answer: of the chosen destination, or made here in its place. Without a destination, as of a
/// redirect, the route's own changes are all there are.
pub fn response(route: &Route, chosen: Option<&Forward<'_>>, headers: &mut HeaderMap) {
    match chosen {
        Some(chosen) => apply_both(route, chosen, |it| &it.response, headers),
        None => apply(&route.headers().response, headers),
    }
}

/// Makes one set of changes.
pub fn apply(changes: &HeaderOperations, headers: &mut HeaderMap) {
    apply_in_order(&[changes], headers);
}

fn is_only(route: &Route) -> bool {
    route.forwards().nth(1).is_none()
}

fn apply_both(
    route: &Route,
    chosen: &Forward<'_>,
    which: impl Fn(&HeaderChanges) -> &HeaderOperations,
    headers: &mut HeaderMap,
) {
    let (of_route, of_chosen) = (which(route.headers()), which(&chosen.stated.headers));
    if is_only(route) {
        apply_in_order(&[of_route, of_chosen], headers);
    } else {
        apply(of_chosen, headers);
        apply(of_route, headers);
    }
}

/// Several changes as one set: all that is removed, all that is set, all that is added.
fn apply_in_order(all: &[&HeaderOperations], headers: &mut HeaderMap) {
    for name in all.iter().flat_map(|it| &*it.remove) {
        headers.remove(name);
    }
    for (name, value) in all.iter().flat_map(|it| &*it.set) {
        headers.insert(name, value.clone());
    }
    for (name, value) in all.iter().flat_map(|it| &*it.add) {
        headers.append(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::tests::rule;

    const TO: &str = "route: [{destination: {host: reviews}}]\n";

    /// The target sent for `/old/x?y=1`, or what was made instead of a path.
    fn target(matching: &str, rewriting: &str) -> Result<Option<String>, String> {
        let rule = rule(&format!("{TO}{matching}\nrewrite: {{{rewriting}}}"));
        let headers = HeaderMap::new();
        let facts = RequestFacts {
            method: "GET",
            scheme: "http",
            authority: "a",
            path: "/old/x",
            query: Some("y=1"),
            headers: &headers,
            port: 80,
            source: None,
            claims: None,
        };
        let chosen = rule.route.forwards().next().unwrap();
        rewrite(&rule, &chosen, &facts).map(|it| it.target).map_err(|it| it.made)
    }

    #[test]
    fn a_rewrite_replaces_what_was_matched() {
        let prefix = "match: [{uri: {prefix: /old}}]";
        for (matching, rewriting, expected) in [
            (prefix, "uri: /new", Ok(Some("/new/x?y=1"))),
            (prefix, "uri: /", Ok(Some("//x?y=1"))),
            ("match: [{uri: {prefix: /old/}}]", "uri: /", Ok(Some("/x?y=1"))),
            ("match: [{uri: {prefix: /OLD}, ignoreUriCase: true}]", "uri: /new", Ok(Some("/new/x?y=1"))),
            ("match: [{uri: {exact: /old/x}}]", "uri: /new", Ok(Some("/new?y=1"))),
            ("match: [{uri: {regex: '/old/.*'}}]", "uri: /new", Ok(Some("/new?y=1"))),
            ("", "uri: /new/", Ok(Some("/new/old/x?y=1"))),
            (prefix, "authority: b", Ok(None)),
            (prefix, r"uriRegexRewrite: {match: '^/old/(.*)$', rewrite: '/\1/new'}", Ok(Some("/x/new?y=1"))),
            (prefix, "uri: /lost, uriRegexRewrite: {match: old, rewrite: new}", Ok(Some("/new/x?y=1"))),
            (prefix, "uriRegexRewrite: {match: '^/', rewrite: ''}", Err("old/x")),
            (prefix, "uriRegexRewrite: {match: x, rewrite: 'a b'}", Err("/old/a b")),
        ] {
            let expected = expected.map(|it| it.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(target(matching, rewriting), expected, "{matching} {rewriting}");
        }
    }

    /// The authority sent to the first destination, and the headers of its request and response afterwards.
    fn changed(stated: &str) -> (Option<String>, String, String) {
        let rule = rule(stated);
        let chosen = rule.route.forwards().next().unwrap();
        let lines = |headers: &HeaderMap| {
            let mut lines: Vec<_> =
                headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
            lines.sort();
            lines.join(" ")
        };
        let sent =
            || HeaderMap::from_iter([(HeaderName::from_static("x-a"), HeaderValue::from_static("client"))]);
        let before = sent();
        let facts = RequestFacts {
            method: "GET",
            scheme: "http",
            authority: "asked",
            path: "/",
            query: None,
            headers: &before,
            port: 80,
            source: None,
            claims: None,
        };
        let rewritten = rewrite(&rule, &chosen, &facts).unwrap();
        let (mut requested, mut responded) = (sent(), sent());
        let silent = Disclosure { originals: false, forwarded_host: false };
        request(&rule, &chosen, &rewritten, ("/", "asked"), silent, &mut requested);
        response(&rule.route, Some(&chosen), &mut responded);
        (rewritten.authority.map(|it| it.to_string()), lines(&requested), lines(&responded))
    }

    fn routed(route_headers: &str, destination_headers: &str, others: &str) -> String {
        format!(
            "headers: {{{route_headers}}}\nroute: [{{destination: {{host: one}}, weight: 1, headers: {{{destination_headers}}}}}{others}]"
        )
    }

    const ANOTHER: &str = ", {destination: {host: two}, weight: 1}";
    const A_WEIGHTLESS: &str = ", {destination: {host: two}, weight: 0}";

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let stated = routed("request: {add: {x-a: '3', x-b: '4'}, set: {x-a: '2'}, remove: [x-a]}", "", "");
        assert_eq!(changed(&stated).1, "x-a=2 x-a=3 x-b=4");
        let stated = routed("response: {add: {x-a: '3'}}", "", "");
        assert_eq!(changed(&stated).2, "x-a=3 x-a=client");
        let stated = routed("request: {remove: [x-a]}, response: {remove: [x-b]}", "", "");
        assert_eq!((changed(&stated).1, changed(&stated).2), ("".into(), "x-a=client".into()));
    }

    #[test]
    fn an_only_destination_has_the_last_word_on_headers_and_the_route_among_several() {
        for (others, expected) in
            [("", "x-a=destination"), (A_WEIGHTLESS, "x-a=destination"), (ANOTHER, "x-a=route")]
        {
            let both = routed("request: {set: {x-a: route}}", "request: {set: {x-a: destination}}", others);
            assert_eq!(changed(&both).1, expected, "{others}");
            let both = routed("response: {set: {x-a: route}}", "response: {set: {x-a: destination}}", others);
            assert_eq!(changed(&both).2, expected, "{others}");
        }
        let removing = routed("request: {add: {x-b: route}}", "request: {remove: [x-b]}", "");
        assert_eq!(changed(&removing).1, "x-a=client x-b=route", "one set: what is removed goes first");
    }

    #[test]
    fn an_answer_of_no_destination_is_changed_as_the_route_says() {
        let rule = rule("redirect: {uri: /b}\nheaders: {response: {set: {x-a: '1'}, remove: [x-b]}}");
        let mut headers = HeaderMap::new();
        headers.insert("x-b", HeaderValue::from_static("2"));
        response(&rule.route, None, &mut headers);
        assert_eq!(headers, HeaderMap::from_iter([("x-a".parse().unwrap(), HeaderValue::from_static("1"))]));
    }

    #[test]
    fn authorities_have_an_order() {
        let set = |value: &str| format!("request: {{set: {{Host: {value}}}}}");
        for others in ["", ANOTHER] {
            let both = routed(&set("route"), &set("destination"), others);
            assert_eq!(changed(&both).0.as_deref(), Some("route"));
            assert_eq!(changed(&routed(&set("route"), "", others)).0.as_deref(), Some("route"));
            assert_eq!(changed(&routed("", &set("destination"), others)).0.as_deref(), Some("destination"));
        }
        let rewrite = format!("{}\nrewrite: {{authority: rewrite}}", routed(&set("route"), "", ""));
        assert_eq!(changed(&rewrite).0.as_deref(), Some("rewrite"));
        assert_eq!(changed(&routed("", "", "")).0, None);
    }

    #[test]
    fn the_service_is_told_what_was_asked_for_where_it_differs() {
        let rule = rule(&format!("{TO}rewrite: {{uri: /new, authority: b}}"));
        let chosen = rule.route.forwards().next().unwrap();
        let told = |rewritten: &Rewritten, disclosure| {
            let mut headers = HeaderMap::new();
            headers.insert(FORWARDED_HOST, HeaderValue::from_static("earlier"));
            request(&rule, &chosen, rewritten, ("/old?x", "a:80"), disclosure, &mut headers);
            let mut lines: Vec<_> =
                headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
            lines.sort();
            lines
        };
        let both = Rewritten { target: Some("/new".into()), authority: Some("b".into()) };
        assert_eq!(
            told(&both, Disclosure { originals: true, forwarded_host: true }),
            [
                "x-envoy-original-host=a:80",
                "x-envoy-original-path=/old?x",
                "x-forwarded-host=a:80",
                "x-forwarded-host=earlier"
            ]
        );
        assert_eq!(
            told(&both, Disclosure { originals: false, forwarded_host: false }),
            ["x-forwarded-host=earlier"]
        );
        assert_eq!(told(&Rewritten::default(), Disclosure::default()), ["x-forwarded-host=earlier"]);
    }
}
