//! `externalAuth` of a rule: who has to agree to its requests (GEP-1494), read into what a provider of MeshConfig is.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use serde::Deserialize;

use super::backend::{self, BackendManifest};
use crate::config::decode::Fault;
use crate::config::decode::istio::scalar::{Whole, whole};
use crate::config::decode::istio::{Reader, Texts};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::mesh::{Authorizer, HttpAuthorizer, ProviderService, ShownBody};
use crate::config::routing::http::{AskedBy, ExternalAuth};
use crate::snapshot::model::StringMatch;

/// How long an authorizer of a route may take: the Gateway API states nothing, and who waits longer has gone.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What a client is answered when the authorizer says nothing (Envoy's default).
const ON_ERROR: u16 = 403;
/// Most `allowedHeaders` (Gateway API).
const MAX_ALLOWED: usize = 64;
/// Largest `forwardBody.maxSize` (Gateway API: 16 bits).
const MAX_BODY: u32 = 65_535;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct ExternalManifest<'a> {
    protocol: Option<Text<'a>>,
    backend_ref: Option<BackendManifest<'a>>,
    grpc: Option<GrpcManifest<'a>>,
    http: Option<HttpManifest<'a>>,
    forward_body: Option<BodyManifest>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct GrpcManifest<'a> {
    allowed_headers: Texts<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct HttpManifest<'a> {
    path: Option<Text<'a>>,
    allowed_headers: Texts<'a>,
    allowed_response_headers: Texts<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BodyManifest {
    max_size: Option<Whole>,
}

/// `externalAuth` of a rule in a namespace.
pub(super) fn read(
    reader: &mut Reader<'_>,
    namespace: &Arc<str>,
    stated: ExternalManifest<'_>,
    field: &str,
) -> Result<ExternalAuth, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let backend = stated.backend_ref.ok_or_else(|| Fault::new(at("backendRef"), "not stated"))?;
    let backend = backend::of_mirror(reader, namespace, &backend, &at("backendRef"))?;
    let size = stated.forward_body.and_then(|it| it.max_size);
    let size = whole(size, 0..=MAX_BODY, &at("forwardBody.maxSize"))?.filter(|it| *it > 0);
    let common = Authorizer {
        // Where it is is said by the backend.
        service: ProviderService { namespace: None, host: reader.share(""), port: backend.port.unwrap_or(0) },
        timeout: TIMEOUT,
        fail_open: false,
        status_on_error: ON_ERROR,
        clear_route_cache: false,
        body: size.map(|max_bytes| ShownBody { max_bytes, allow_partial: true, pack_as_bytes: false }),
    };
    let asked_by = match (stated.protocol.as_deref().unwrap_or_default(), stated.grpc, stated.http) {
        ("HTTP", None, Some(http)) => AskedBy::Http(of_http(http, common, &at("http"))?),
        ("GRPC", Some(grpc), None) => {
            let shown = names(grpc.allowed_headers, &at("grpc.allowedHeaders"))?;
            AskedBy::Grpc { common, shown_headers: Some(shown).filter(|it| !it.is_empty()) }
        }
        ("HTTP", Some(_), _) => return Err(Fault::new(at("grpc"), "stated with protocol HTTP")),
        ("GRPC", _, Some(_)) => return Err(Fault::new(at("http"), "stated with protocol GRPC")),
        ("HTTP", ..) => return Err(Fault::new(at("http"), "not stated, with protocol HTTP")),
        ("GRPC", ..) => return Err(Fault::new(at("grpc"), "not stated, with protocol GRPC")),
        (other, ..) => {
            return Err(Fault::new(at("protocol"), format!("{other:?} is neither HTTP nor GRPC")));
        }
    };
    Ok(ExternalAuth { backend, asked_by })
}

fn of_http(stated: HttpManifest<'_>, common: Authorizer, field: &str) -> Result<HttpAuthorizer, Fault> {
    let path = stated.path.as_deref().unwrap_or_default();
    if !path.is_empty() && (!path.starts_with('/') || !path.bytes().all(|it| it.is_ascii_graphic())) {
        return Err(Fault::new(format!("{field}.path"), format!("{path:?} is no path; it starts with /")));
    }
    let told = names(stated.allowed_response_headers, &format!("{field}.allowedResponseHeaders"))?;
    Ok(HttpAuthorizer {
        common,
        // What follows it begins with a slash of its own.
        path_prefix: path.trim_end_matches('/').into(),
        shown_headers: names(stated.allowed_headers, &format!("{field}.allowedHeaders"))?,
        added_headers: Box::default(),
        // None named is all of them.
        upstream_on_allow: if told.is_empty() { Box::new([StringMatch::Presence]) } else { told },
        downstream_on_deny: None,
        downstream_on_allow: Box::default(),
    })
}

/// Names of headers, in lower case.
fn names(stated: Texts<'_>, field: &str) -> Result<Box<[StringMatch]>, Fault> {
    if stated.as_ref().is_some_and(|it| it.len() > MAX_ALLOWED) {
        return Err(Fault::new(field, format!("more than {MAX_ALLOWED} entries")));
    }
    list(stated, field, |it, field| {
        let name = it.parse::<HeaderName>();
        let name = name.map_err(|_| Fault::new(field, format!("{:?} is no name of a header", &*it)))?;
        Ok(StringMatch::Exact(name.as_str().into()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_refused, http};
    use super::*;
    use crate::config::Resource;
    use crate::config::decode::yaml;
    use crate::config::names::Names;

    const REF: &str = "backendRef: {name: auth, port: 9000}";

    fn filter(stated: &str) -> String {
        http(&format!("filters: [{{type: ExternalAuth, externalAuth: {{{stated}}}}}], TO"))
    }

    fn asked_by(stated: &str) -> AskedBy {
        let text = filter(stated);
        let decoded = yaml::decode(&"a.yaml".into(), text.as_bytes(), &mut Names::default());
        assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
        let Resource::Route(route) = &decoded.stated[0].resource else { panic!() };
        route.http[0].external_auth.as_ref().unwrap().asked_by.clone()
    }

    #[test]
    fn an_authorizer_of_a_route_never_fails_open_and_is_shown_what_is_allowed() {
        let AskedBy::Http(it) = asked_by(&format!(
            "protocol: HTTP, {REF}, http: {{path: /check/, allowedHeaders: [X-A], allowedResponseHeaders: [X-User]}}"
        )) else {
            panic!()
        };
        assert_eq!((&*it.path_prefix, it.common.fail_open, it.common.body), ("/check", false, None));
        assert_eq!(*it.shown_headers, [StringMatch::Exact("x-a".into())]);
        assert_eq!(*it.upstream_on_allow, [StringMatch::Exact("x-user".into())]);
        let AskedBy::Http(it) = asked_by(&format!("protocol: HTTP, {REF}, http: {{}}")) else { panic!() };
        assert_eq!(*it.upstream_on_allow, [StringMatch::Presence]);
        let grpc = |more: &str| asked_by(&format!("protocol: GRPC, {REF}, {more}"));
        let AskedBy::Grpc { common, shown_headers } = grpc("grpc: {}, forwardBody: {maxSize: 10}") else {
            panic!()
        };
        assert_eq!((common.fail_open, shown_headers), (false, None));
        assert_eq!(common.body.map(|it| (it.max_bytes, it.allow_partial)), Some((10, true)));
        let AskedBy::Grpc { common, shown_headers } =
            grpc("grpc: {allowedHeaders: [a, b]}, forwardBody: {maxSize: 0}")
        else {
            panic!()
        };
        assert_eq!((common.body, shown_headers.map(|it| it.len())), (None, Some(2)));
    }

    #[test]
    fn a_route_that_cannot_be_read_may_have_somebody_asked_about_what_it_names() {
        let may = |text: &str| {
            let decoded = yaml::decode(&"a.yaml".into(), text.as_bytes(), &mut Names::default());
            decoded.rejected[0].may_ask.may_mean("auth")
        };
        assert!(may(&filter(&format!("protocol: TCP, {REF}"))));
        assert!(may(&filter(&format!("protocol: TCP, {REF}")).replace("kind: HTTPRoute", "kind: [")));
        assert!(!may(&http("filters: [{type: No, requestMirror: {backendRef: {name: auth}}}], TO")));
    }

    #[test]
    fn what_does_not_fit_its_protocol_is_refused() {
        let field = |name: &str| format!(".filters[0].externalAuth{name}");
        let many = ["a"; MAX_ALLOWED + 1].join(", ");
        let cases = [
            (format!("protocol: TCP, {REF}"), field(".protocol"), "neither HTTP nor GRPC"),
            ("protocol: GRPC, grpc: {}".to_owned(), field(".backendRef"), "not stated"),
            (format!("protocol: GRPC, {REF}"), field(".grpc"), "not stated"),
            (format!("protocol: HTTP, {REF}"), field(".http"), "not stated"),
            (format!("protocol: GRPC, {REF}, grpc: {{}}, http: {{}}"), field(".http"), "with protocol GRPC"),
            (format!("protocol: HTTP, {REF}, grpc: {{}}"), field(".grpc"), "with protocol HTTP"),
            (format!("protocol: HTTP, {REF}, http: {{path: a}}"), field(".http.path"), "no path"),
            (
                format!("protocol: GRPC, {REF}, grpc: {{allowedHeaders: ['a b']}}"),
                field(".grpc.allowedHeaders[0]"),
                "no name",
            ),
            (
                format!("protocol: GRPC, {REF}, grpc: {{allowedHeaders: [{many}]}}"),
                field(".grpc.allowedHeaders"),
                "more than 64",
            ),
            (
                format!("protocol: GRPC, {REF}, grpc: {{}}, forwardBody: {{maxSize: 70000}}"),
                field(".forwardBody.maxSize"),
                "0 to 65535",
            ),
        ];
        let cases: Vec<(&str, &str, &str)> = cases.iter().map(|(a, b, c)| (&**a, &**b, *c)).collect();
        assert_refused(&cases, filter, "spec.rules[0]");
    }
}
