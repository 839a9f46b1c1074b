//! The rules of a GRPCRoute. A call is a POST to `/service/method` with gRPC's content type; nothing else falls under them.

use serde::Deserialize;

use super::backend::{self, BackendManifest};
use super::filter::{self, FilterManifest, Filters};
use super::http::name;
use super::request::{self, ValueManifest, regex};
use super::session::{self, SessionManifest};
use super::{Read, Rules, Stated};
use crate::config::decode::Fault;
use crate::config::decode::istio::{List, Reader};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::gateway::{PathRank, Rank, RouteKind};
use crate::config::routing::request::HttpMatch;
use crate::config::routing::{HttpAction, HttpRoute, StringMatch};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct RuleManifest<'a> {
    name: Option<Text<'a>>,
    matches: List<MatchManifest<'a>>,
    filters: List<FilterManifest<'a>>,
    backend_refs: List<BackendManifest<'a>>,
    session_persistence: Option<SessionManifest<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct MatchManifest<'a> {
    method: Option<MethodManifest<'a>>,
    headers: List<ValueManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct MethodManifest<'a> {
    r#type: Option<Text<'a>>,
    service: Option<Text<'a>>,
    method: Option<Text<'a>>,
}

impl Rules for RuleManifest<'_> {
    const KIND: RouteKind = RouteKind::Grpc;

    fn read(reader: &mut Reader<'_>, of: &Stated<'_>, stated: List<Self>) -> Result<Read, Fault> {
        let mut read = Read::default();
        let stated = stated.filter(|it| !it.is_empty()).unwrap_or_else(|| vec![Self::default()]);
        list(Some(stated), "spec.rules", |it, field| {
            let (route, ranks) = rule(reader, of, it, read.http.len(), field)?;
            read.http.push(route);
            read.ranks.push(ranks);
            Ok(())
        })?;
        Ok(read)
    }
}

fn rule(
    reader: &mut Reader<'_>,
    of: &Stated<'_>,
    stated: RuleManifest<'_>,
    number: usize,
    field: &str,
) -> Result<(HttpRoute, Box<[Rank]>), Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let namespace = &of.object.namespace;
    let matches =
        stated.matches.filter(|it| !it.is_empty()).unwrap_or_else(|| vec![MatchManifest::default()]);
    let matches = list(Some(matches), &at("matches"), |it, field| one(reader, it, field))?;
    let (matches, ranks): (Vec<HttpMatch>, Vec<Rank>) = matches.into_iter().unzip();
    let filters = filter::of_rule(reader, namespace, stated.filters, true, &at("filters"))?;
    let to = backend::of_requests(reader, namespace, stated.backend_refs, true, &at("backendRefs"))?;
    let session = session::read(stated.session_persistence, &at("sessionPersistence"))?;
    let name = name(reader, of, stated.name.as_ref(), number);
    let Filters { headers, mirrors, fault, is_broken, .. } = filters;
    let route = HttpRoute {
        name,
        matches: matches.into(),
        action: HttpAction::Forward(if is_broken { Box::default() } else { to }),
        rewrite: None,
        timeout: None,
        retries: None,
        fault: Default::default(),
        fault_filter: fault,
        external_auth: None,
        mirrors: mirrors.into(),
        cors: None,
        headers,
        session,
    };
    Ok((route, ranks.into()))
}

fn one(reader: &mut Reader<'_>, stated: MatchManifest<'_>, field: &str) -> Result<(HttpMatch, Rank), Fault> {
    let headers = request::headers(reader, stated.headers, &format!("{field}.headers"))?;
    let mut rank = Rank { path: PathRank::Exact, headers: headers.len(), ..Rank::default() };
    let path = match &stated.method {
        None => None,
        Some(it) => {
            rank.length = it.service.as_deref().map_or(0, str::len);
            rank.method = it.method.as_deref().map_or(0, str::len);
            Some(path(reader, it, &format!("{field}.method"))?)
        }
    };
    Ok((HttpMatch { path, headers, is_grpc: true, ..HttpMatch::default() }, rank))
}

/// The path of the calls that are asked for.
fn path(reader: &mut Reader<'_>, stated: &MethodManifest<'_>, field: &str) -> Result<StringMatch, Fault> {
    let filled = |it: &Option<Text<'_>>| it.as_deref().filter(|it| !it.is_empty()).map(str::to_owned);
    let (service, method) = (filled(&stated.service), filled(&stated.method));
    let at = |name: &str| format!("{field}.{name}");
    match stated.r#type.as_deref().unwrap_or("Exact") {
        "Exact" => {
            let spelled = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            let is_service = |it: &str| it.bytes().all(|b| spelled(b) || b == b'.');
            if let Some(odd) = service.as_deref().filter(|it| !is_service(it)) {
                return Err(Fault::new(at("service"), format!("{odd:?} is no service of gRPC")));
            }
            if let Some(odd) = method.as_deref().filter(|it| !it.bytes().all(spelled)) {
                return Err(Fault::new(at("method"), format!("{odd:?} is no method of gRPC")));
            }
            match (service, method) {
                (Some(service), Some(method)) => {
                    Ok(StringMatch::Exact(reader.share(&format!("/{service}/{method}"))))
                }
                (Some(service), None) => Ok(StringMatch::Prefix(reader.share(&format!("/{service}/")))),
                (None, Some(method)) => regex(reader, &format!("/[^/]+/{method}"), field),
                (None, None) => Err(Fault::new(field, "states neither service nor method")),
            }
        }
        "RegularExpression" => {
            if service.is_none() && method.is_none() {
                return Err(Fault::new(field, "states neither service nor method"));
            }
            let part = |it: Option<String>| it.map_or_else(|| "[^/]+".to_owned(), |it| format!("(?:{it})"));
            // Each by itself first, so that a bracket of one cannot close the other's.
            for (name, it) in [("service", &service), ("method", &method)] {
                if let Some(it) = it {
                    regex(reader, it, &at(name))?;
                }
            }
            regex(reader, &format!("/{}/{}", part(service), part(method)), field)
        }
        other => {
            let reason = format!("{other:?} is neither Exact nor RegularExpression");
            Err(Fault::new(at("type"), reason))
        }
    }
}
