//! What two matches come to when one VirtualService delegates to another: what both take.
//!
//! As Istio merges them: each match of the delegated route has to be within one of the delegating route's, judged field
//! by field without looking into regexes, or the route is left out. Where Istio lets the delegated field take the place
//! of the other, here both hold; for what is within the other that is the same.

use common::config::Labels;
use common::config::routing::StringMatch;
use common::config::routing::request::{HeaderKey, HttpMatch, ValueMatch};
use common::config::routing::{Gateways, HttpRoute};

use super::route::Condition;

/// The conditions of a delegated route, or none when one of its matches is within none of the root's.
pub(super) fn conditions(root: &HttpRoute, own: &HttpRoute) -> Vec<Condition> {
    match (&*root.matches, &*own.matches) {
        ([], own) => stated(own),
        (root, []) => (0..root.len()).map(Condition::Root).collect(),
        (root, own) => {
            let within = |own: &HttpMatch| -> Vec<HttpMatch> {
                root.iter().filter_map(|root| merge(root, own)).collect()
            };
            let merged: Vec<Vec<HttpMatch>> = own.iter().map(within).collect();
            if merged.iter().any(Vec::is_empty) {
                return Vec::new();
            }
            merged.into_iter().flatten().map(|it| Condition::Made(Box::new(it))).collect()
        }
    }
}

/// The conditions of a route that nobody delegates to.
pub(super) fn stated(own: &[HttpMatch]) -> Vec<Condition> {
    if own.is_empty() { vec![Condition::Everything] } else { (0..own.len()).map(Condition::Own).collect() }
}

/// What both take, when the second is within the first.
fn merge(root: &HttpMatch, own: &HttpMatch) -> Option<HttpMatch> {
    Some(HttpMatch {
        name: match (&*root.name, &*own.name) {
            (_, "") => root.name.clone(),
            ("", _) => own.name.clone(),
            (root, own) => format!("{root}-{own}").into(),
        },
        path: narrower(root.path.as_ref(), own.path.as_ref())?,
        scheme: narrower(root.scheme.as_ref(), own.scheme.as_ref())?,
        method: narrower(root.method.as_ref(), own.method.as_ref())?,
        authority: narrower(root.authority.as_ref(), own.authority.as_ref())?,
        headers: all_of(&root.headers, &own.headers)?,
        without_headers: none_of(&root.without_headers, &own.without_headers),
        query: all_of(&root.query, &own.query)?,
        is_grpc: root.is_grpc || own.is_grpc,
        port: same(root.port, own.port)?,
        source_labels: labels(&root.source_labels, &own.source_labels)?,
        source_namespace: same(root.source_namespace.clone(), own.source_namespace.clone())?,
        gateways: gateways(root.gateways.as_ref(), own.gateways.as_ref()),
        stat_prefix: if own.stat_prefix.is_empty() { &root.stat_prefix } else { &own.stat_prefix }.clone(),
    })
}

/// The own condition, or the root's; nothing when the own one is not within the root's.
fn narrower(root: Option<&StringMatch>, own: Option<&StringMatch>) -> Option<Option<StringMatch>> {
    match (root, own) {
        (Some(root), Some(own)) => is_within(own, root).then(|| Some(own.clone())),
        (root, own) => Some(own.or(root).cloned()),
    }
}

fn is_within(own: &StringMatch, root: &StringMatch) -> bool {
    use StringMatch::{Exact, ExactIgnoringCase, Prefix, PrefixIgnoringCase};
    let starts = |text: &str, prefix: &str| {
        text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    match (root, own) {
        (Exact(root), Exact(own)) => root == own,
        (Prefix(root), Exact(own) | Prefix(own)) => own.starts_with(&**root),
        (ExactIgnoringCase(root), ExactIgnoringCase(own)) => root.eq_ignore_ascii_case(own),
        (PrefixIgnoringCase(root), ExactIgnoringCase(own) | PrefixIgnoringCase(own)) => starts(own, root),
        _ => false,
    }
}

/// Both lists; nothing when they ask one key for values that are not within each other.
fn all_of<K: Clone + PartialEq>(
    root: &[(K, ValueMatch)],
    own: &[(K, ValueMatch)],
) -> Option<Box<[(K, ValueMatch)]>> {
    let conflicts = own.iter().any(|(key, own)| {
        let root = root.iter().find_map(|(known, root)| (known == key).then_some(root));
        match (root, own) {
            (None, _) => false,
            (Some(ValueMatch::Value(root)), ValueMatch::Value(own)) => !is_within(own, root),
            (Some(_), _) => true,
        }
    });
    (!conflicts).then(|| root.iter().chain(own).cloned().collect())
}

/// Both lists: what neither may have.
fn none_of(
    root: &[(HeaderKey, ValueMatch)],
    own: &[(HeaderKey, ValueMatch)],
) -> Box<[(HeaderKey, ValueMatch)]> {
    root.iter().chain(own).cloned().collect()
}

fn same<T: PartialEq>(root: Option<T>, own: Option<T>) -> Option<Option<T>> {
    match (root, own) {
        (Some(root), Some(own)) => (root == own).then_some(Some(own)),
        (root, own) => Some(own.or(root)),
    }
}

fn labels(root: &Labels, own: &Labels) -> Option<Labels> {
    let conflicts = root.iter().any(|(key, value)| own.get(key).is_some_and(|it| it != value));
    (!conflicts).then(|| Labels::new(root.iter().chain(own.iter()).cloned().collect()))
}

/// Only whether it is for the mesh counts here.
fn gateways(root: Option<&Gateways>, own: Option<&Gateways>) -> Option<Gateways> {
    match (root, own) {
        (Some(root), Some(own)) => Some(Gateways { mesh: root.mesh && own.mesh, ..own.clone() }),
        (root, own) => own.or(root).cloned(),
    }
}
