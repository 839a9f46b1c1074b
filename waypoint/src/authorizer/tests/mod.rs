//! Requests and answers in, questions and verdicts out.

mod grpc;
mod http;

use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use common::config::Resource;
use common::config::decode::yaml;
use common::config::mesh::ProviderKind;
use common::config::names::Names;

use super::{Asked, Change, How, Seen};

/// A provider, by what it is.
fn provider(stated: &str) -> ProviderKind {
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    \
         extensionProviders:\n    - {{name: a, {stated}}}\n"
    );
    let decoded = yaml::decode(&Arc::from("m.yaml"), text.as_bytes(), &mut Names::default());
    assert!(decoded.rejected.is_empty(), "{:#?}\n{text}", decoded.rejected);
    match &decoded.stated[0].resource {
        Resource::MeshConfig(it) => it.config.provider("a").unwrap().kind.clone(),
        other => panic!("{other:?}"),
    }
}

fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

/// Names and values, sorted.
fn pairs(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let mut pairs: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    pairs.sort_unstable();
    pairs
}

/// `PUT /orders?a=1` to `web`, with these headers.
fn put<'a>(headers: &'a HeaderMap, body: Option<&'a Seen>) -> Asked<'a> {
    let (target, authority) = ("/orders?a=1", "web:80");
    Asked { method: &Method::PUT, target, authority, headers, version: Version::HTTP_11, body }
}

#[test]
fn a_header_is_changed_as_is_said() {
    for (how, of_none, of_some) in [
        (How::Set, vec!["new"], vec!["new"]),
        (How::Add, vec!["new"], vec!["old", "new"]),
        (How::IfAbsent, vec!["new"], vec!["old"]),
        (How::IfPresent, vec![], vec!["new"]),
    ] {
        let change =
            Change { name: HeaderName::from_static("x"), value: HeaderValue::from_static("new"), how };
        let (mut none, mut some) = (HeaderMap::new(), headers(&[("x", "old")]));
        change.apply(&mut none);
        change.apply(&mut some);
        let values = |it: &HeaderMap| {
            it.get_all("x").iter().map(|it| it.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            (values(&none), values(&some)),
            (
                of_none.iter().map(ToString::to_string).collect(),
                of_some.iter().map(ToString::to_string).collect()
            ),
            "{how:?}"
        );
    }
}
