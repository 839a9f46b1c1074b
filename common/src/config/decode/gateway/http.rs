//! The rules of an HTTPRoute.

use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;

use super::backend::{self, BackendManifest};
use super::filter::{self, FilterManifest, Filters};
use super::request::{self, MatchManifest};
use super::session::{self, SessionManifest};
use super::{Read, Rules, Stated};
use crate::config::decode::Fault;
use crate::config::decode::istio::scalar::{MAX_WHOLE, Whole, duration, positive, whole};
use crate::config::decode::istio::{List, Reader};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::gateway::{Rank, RouteKind};
use crate::config::routing::http::{HttpDestination, RedirectPath, Rewrite, RewritePath};
use crate::config::routing::request::HttpMatch;
use crate::config::routing::resilience::{Retries, RetryCondition, RetryOn};
use crate::config::routing::{HttpAction, HttpRoute, StringMatch};

/// When a rule that states `retry` tries again besides the codes it states: on every kind of broken connection, as the
/// Gateway API asks for.
const BROKEN: [RetryCondition; 6] = [
    RetryCondition::ConnectFailure,
    RetryCondition::RefusedStream,
    RetryCondition::Reset,
    RetryCondition::GrpcUnavailable,
    RetryCondition::GrpcCancelled,
    RetryCondition::RetriableStatusCodes,
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct RuleManifest<'a> {
    name: Option<Text<'a>>,
    matches: List<MatchManifest<'a>>,
    filters: List<FilterManifest<'a>>,
    backend_refs: List<BackendManifest<'a>>,
    timeouts: Option<TimeoutsManifest<'a>>,
    retry: Option<RetryManifest<'a>>,
    session_persistence: Option<SessionManifest<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct TimeoutsManifest<'a> {
    request: Option<Text<'a>>,
    backend_request: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct RetryManifest<'a> {
    codes: List<Whole>,
    attempts: Option<Whole>,
    backoff: Option<Text<'a>>,
}

impl Rules for RuleManifest<'_> {
    const KIND: RouteKind = RouteKind::Http;

    fn read(reader: &mut Reader<'_>, of: &Stated<'_>, stated: List<Self>) -> Result<Read, Fault> {
        let mut read = Read::default();
        // What the API server fills in where none is stated.
        let stated = stated.filter(|it| !it.is_empty()).unwrap_or_else(|| vec![Self::everything()]);
        list(Some(stated), "spec.rules", |it, field| {
            let (route, ranks) = rule(reader, of, it, read.http.len(), field)?;
            read.http.push(route);
            read.ranks.push(ranks);
            Ok(())
        })?;
        Ok(read)
    }
}

impl RuleManifest<'_> {
    fn everything() -> Self {
        Self {
            name: None,
            matches: None,
            filters: None,
            backend_refs: None,
            timeouts: None,
            retry: None,
            session_persistence: None,
        }
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
    let (matches, ranks) = request::matches(reader, stated.matches, &at("matches"))?;
    let filters = filter::of_rule(reader, namespace, stated.filters, false, &at("filters"))?;
    let redirect = filters.redirect.as_ref().and_then(|it| it.path.as_ref());
    let replaces = matches!(redirect, Some(RedirectPath::Prefix(_))) || rewrites_prefix(&filters.rewrite);
    check_prefix(replaces, &matches, &at("filters"))?;
    let to = backend::of_requests(reader, namespace, stated.backend_refs, false, &at("backendRefs"))?;
    for (at, backend) in to.iter().enumerate() {
        let field = format!("{field}.backendRefs[{at}].filters");
        check_prefix(rewrites_prefix(&backend.rewrite), &matches, &field)?;
    }
    let action = action(&filters, to, &at("backendRefs"))?;
    let timeouts = stated.timeouts.unwrap_or_default();
    let (request, backend) = (at("timeouts.request"), at("timeouts.backendRequest"));
    let total = duration(timeouts.request.as_ref(), &request)?.filter(|it| !it.is_zero());
    let per_try = duration(timeouts.backend_request.as_ref(), &backend)?.filter(|it| !it.is_zero());
    if let (Some(total), Some(per_try)) = (total, per_try)
        && per_try > total
    {
        return Err(Fault::new(backend, "longer than timeouts.request, of which it is a part"));
    }
    let mut retries = stated.retry.map(|it| retries(it, &at("retry"))).transpose()?;
    if let Some(per_try) = per_try {
        retries.get_or_insert_with(unstated).per_try_timeout = Some(per_try);
    }
    let session = session::read(stated.session_persistence, &at("sessionPersistence"))?;
    let name = name(reader, of, stated.name.as_ref(), number);
    let Filters { headers, rewrite, mirrors, cors, fault, external_auth, .. } = filters;
    let route = HttpRoute {
        name,
        matches,
        action,
        rewrite,
        timeout: total,
        retries,
        fault: Default::default(),
        fault_filter: fault,
        external_auth,
        mirrors: mirrors.into(),
        cors,
        headers,
        session,
    };
    Ok((route, ranks))
}

/// What logs call a rule: its name, or the route and the rule's number.
pub(super) fn name(
    reader: &mut Reader<'_>,
    of: &Stated<'_>,
    stated: Option<&Text<'_>>,
    number: usize,
) -> Arc<str> {
    match stated.filter(|it| !it.is_empty()) {
        Some(name) => reader.share(name),
        None => reader.share(&format!("{}.{}.{number}", of.object.namespace, of.object.name)),
    }
}

/// What becomes of a request.
fn action(filters: &Filters, to: Box<[HttpDestination]>, field: &str) -> Result<HttpAction, Fault> {
    match &filters.redirect {
        _ if filters.is_broken => Ok(HttpAction::Forward(Box::default())),
        Some(_) if !to.is_empty() => Err(Fault::new(field, "stated together with a RequestRedirect")),
        Some(redirect) => Ok(HttpAction::Redirect(redirect.clone())),
        None => Ok(HttpAction::Forward(to)),
    }
}

fn rewrites_prefix(stated: &Option<Rewrite>) -> bool {
    matches!(stated.as_ref().and_then(|it| it.path.as_ref()), Some(RewritePath::Matched(_)))
}

/// That a prefix to replace is one that is matched.
fn check_prefix(replaces: bool, matches: &[HttpMatch], field: &str) -> Result<(), Fault> {
    let by_prefix = |it: &HttpMatch| matches!(it.path, Some(StringMatch::Segments(_)));
    if replaces && !matches.iter().all(by_prefix) {
        return Err(Fault::new(field, "ReplacePrefixMatch needs a PathPrefix in every entry of matches"));
    }
    Ok(())
}

/// What nobody stated of retries: the defaults of the mesh.
fn unstated() -> Retries {
    Retries {
        attempts: None,
        per_try_timeout: None,
        retry_on: None,
        backoff: None,
        avoid_previous_hosts: None,
        remote_localities: None,
    }
}

fn retries(stated: RetryManifest<'_>, field: &str) -> Result<Retries, Fault> {
    let codes = list(stated.codes, &format!("{field}.codes"), |code, field| {
        let code = whole(Some(code), 400..=599, field)?.and_then(|it| u16::try_from(it).ok());
        let status = code.and_then(|it| StatusCode::from_u16(it).ok());
        status.ok_or_else(|| Fault::new(field, "no status of an error"))
    })?;
    let attempts = whole(stated.attempts, 0..=MAX_WHOLE, &format!("{field}.attempts"))?;
    Ok(Retries {
        attempts,
        retry_on: Some(RetryOn { conditions: BROKEN.into(), statuses: codes }),
        backoff: positive(stated.backoff.as_ref(), &format!("{field}.backoff"))?,
        ..unstated()
    })
}
