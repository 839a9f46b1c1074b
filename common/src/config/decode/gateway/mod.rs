//! The shape of the Gateway API's routes, of ReferenceGrant, and of what Ebb adds. Unknown fields and
//! unknown words are refused throughout, as in Istio's kinds.
//!
//! Rules become the same values that a VirtualService is read into. The surprising thing: what the Gateway API says must
//! not be passed over and we do not implement, such as a filter of an unknown kind, is no reason to refuse a route: its
//! requests are answered with 500, because without the route they would be sent on as if nothing had been asked for.

mod backend;
mod cors;
mod external;
mod filter;
mod grant;
mod grpc;
mod http;
mod layer4;
mod limit;
mod parent;
#[cfg(test)]
mod refusals;
mod request;
mod rewrite;
mod secured;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

pub(crate) use self::grant::{FaultFilterManifest, ReferenceGrantManifest};
pub(crate) use self::limit::RateLimitManifest;
use self::parent::ParentManifest;
pub(crate) use self::secured::{BackendTlsManifest, CaManifest};
use super::istio::{List, Reader, Texts};
use super::manifest::{Manifest, Metadata, NameRule};
use super::{Fault, check};
use crate::config::gateway::{GatewayRoute, Hostname, ParentKind, Rank, RouteKind};
use crate::config::names::Names;
use crate::config::note::Caveat;
use crate::config::routing::strings::Pattern;
use crate::config::routing::{HttpAction, HttpRoute, StringMatch, TcpRoute, TlsRoute};
use crate::config::{ObjectName, Resource};

/// `gateway.networking.k8s.io` HTTPRoute.
pub(crate) type HttpRouteManifest<'a> = RouteManifest<'a, http::RuleManifest<'a>>;
/// `gateway.networking.k8s.io` GRPCRoute.
pub(crate) type GrpcRouteManifest<'a> = RouteManifest<'a, grpc::RuleManifest<'a>>;
/// `gateway.networking.k8s.io` TLSRoute.
pub(crate) type TlsRouteManifest<'a> = RouteManifest<'a, layer4::TlsRuleManifest<'a>>;
/// `gateway.networking.k8s.io` TCPRoute.
pub(crate) type TcpRouteManifest<'a> = RouteManifest<'a, layer4::TcpRuleManifest<'a>>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a, R: Deserialize<'de>"))]
pub(crate) struct RouteManifest<'a, R> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
    #[serde(default)]
    metadata: Metadata<'a>,
    spec: Option<Spec<'a, R>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a, R: Deserialize<'de>"))]
struct Spec<'a, R> {
    parent_refs: List<ParentManifest<'a>>,
    hostnames: Texts<'a>,
    rules: List<R>,
}

/// A rule of one kind of route.
pub(crate) trait Rules: Sized {
    /// The kind.
    const KIND: RouteKind;
    /// What all rules of a route say.
    fn read(reader: &mut Reader<'_>, of: &Stated<'_>, stated: List<Self>) -> Result<Read, Fault>;
}

/// Whose rules are read.
pub(crate) struct Stated<'r> {
    object: &'r ObjectName,
    hostnames: &'r [Arc<str>],
}

/// What rules say.
#[derive(Default)]
pub(crate) struct Read {
    http: Vec<HttpRoute>,
    ranks: Vec<Box<[Rank]>>,
    tls: Vec<TlsRoute>,
    tcp: Vec<TcpRoute>,
}

impl<R: Rules> Manifest for RouteManifest<'_, R> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::Name, names)?;
        let spec = self.spec.ok_or_else(|| Fault::new("spec", "not stated"))?;
        let mut reader = Reader::new(named.object.namespace.clone(), names);
        let parents = parent::read(&mut reader, &named.object.namespace, spec.parent_refs)?;
        let hostnames = hostnames(&mut reader, R::KIND, spec.hostnames)?;
        let of = Stated { object: &named.object, hostnames: &hostnames };
        let read = R::read(&mut reader, &of, spec.rules)?;
        let of_requests = R::KIND.routes_requests();
        if of_requests && !hostnames.is_empty() && !parents.iter().any(|it| it.kind == ParentKind::Gateway) {
            reader.note("spec.hostnames", Caveat::HostnamesIgnored);
        }
        for (i, route) in read.http.iter().enumerate() {
            if matches!(&route.action, HttpAction::Forward(to) if to.is_empty()) {
                reader.note(format!("spec.rules[{i}]"), Caveat::NoBackends);
            }
        }
        let hostnames = hostnames.into_iter().filter(|_| of_requests).map(hostname).collect();
        Ok(Resource::Route(Arc::new(GatewayRoute {
            kind: R::KIND,
            object: named.object,
            created: named.created,
            parents,
            hostnames,
            http: read.http.into(),
            ranks: read.ranks.into(),
            tls: read.tls.into(),
            tcp: read.tcp.into(),
            notes: reader.notes(),
        })))
    }
}

/// `spec.hostnames`: names, or `*.x`.
fn hostnames(reader: &mut Reader<'_>, kind: RouteKind, stated: Texts<'_>) -> Result<Vec<Arc<str>>, Fault> {
    if kind == RouteKind::Tcp && stated.is_some() {
        return Err(Fault::new("spec.hostnames", "a TCPRoute has none"));
    }
    let found = super::policy::list(stated, "spec.hostnames", |text, field| {
        let name = text.strip_prefix("*.").unwrap_or(&text);
        if !check::is_dns_name(name) || name.parse::<std::net::IpAddr>().is_ok() {
            return Err(Fault::new(field, format!("{:?} is no name in lower case, nor *.name", &*text)));
        }
        reader.pattern(field)?;
        Ok(reader.share(&text))
    })?;
    Ok(found.into_vec())
}

/// A hostname as a condition: clients may write the port, and any case.
fn hostname(name: Arc<str>) -> Hostname {
    let pattern = match name.strip_prefix("*.") {
        Some(end) => format!(r"(?i).+\.{}(:[0-9]+)?", regex::escape(end)),
        None => format!(r"(?i){}(:[0-9]+)?", regex::escape(&name)),
    };
    // A name of at most 253 letters, digits, hyphens and dots, each dot escaped, is well within every limit of a regex.
    let pattern = Pattern::whole(pattern.into()).expect("a name is within the limits of a regex");
    Hostname { name, authority: StringMatch::Regex(pattern) }
}
