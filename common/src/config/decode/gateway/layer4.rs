//! The rules of a TLSRoute and of a TCPRoute: where connections go.

use serde::Deserialize;

use super::backend::{self, BackendManifest};
use super::{Read, Rules, Stated};
use crate::config::decode::Fault;
use crate::config::decode::istio::{List, Reader};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::gateway::RouteKind;
use crate::config::note::Caveat;
use crate::config::routing::layer4::{ConnectionDestination, ConnectionMatch, TcpRoute, TlsMatch, TlsRoute};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct RuleManifest<'a> {
    #[serde(rename = "name")]
    _name: Option<Text<'a>>,
    backend_refs: List<BackendManifest<'a>>,
}

/// A rule of a TLSRoute.
#[derive(Debug, Deserialize)]
#[serde(transparent, bound(deserialize = "'de: 'a"))]
pub(crate) struct TlsRuleManifest<'a>(RuleManifest<'a>);

/// A rule of a TCPRoute.
#[derive(Debug, Deserialize)]
#[serde(transparent, bound(deserialize = "'de: 'a"))]
pub(crate) struct TcpRuleManifest<'a>(RuleManifest<'a>);

impl Rules for TlsRuleManifest<'_> {
    const KIND: RouteKind = RouteKind::Tls;

    fn read(reader: &mut Reader<'_>, of: &Stated<'_>, stated: List<Self>) -> Result<Read, Fault> {
        let any = [reader.share("*")];
        let names = if of.hostnames.is_empty() { &any[..] } else { of.hostnames };
        let matches = names.iter().map(|name| TlsMatch {
            sni_hosts: [name.clone()].into(),
            connection: ConnectionMatch::default(),
        });
        let matches: Box<[TlsMatch]> = matches.collect();
        let route = only(reader, of, stated.map(|it| it.into_iter().map(|it| it.0).collect()))?;
        Ok(Read { tls: vec![TlsRoute { matches, route }], ..Read::default() })
    }
}

impl Rules for TcpRuleManifest<'_> {
    const KIND: RouteKind = RouteKind::Tcp;

    fn read(reader: &mut Reader<'_>, of: &Stated<'_>, stated: List<Self>) -> Result<Read, Fault> {
        let route = only(reader, of, stated.map(|it| it.into_iter().map(|it| it.0).collect()))?;
        Ok(Read { tcp: vec![TcpRoute { matches: Box::default(), route }], ..Read::default() })
    }
}

/// The destinations of the one rule: none but the first is ever reached, because rules of connections have no conditions
/// of their own.
fn only(
    reader: &mut Reader<'_>,
    of: &Stated<'_>,
    stated: List<RuleManifest<'_>>,
) -> Result<Box<[ConnectionDestination]>, Fault> {
    let all = list(stated, "spec.rules", |it, field| {
        let field = format!("{field}.backendRefs");
        backend::of_connections(reader, &of.object.namespace, it.backend_refs, &field)
    })?;
    for i in 1..all.len() {
        reader.note(format!("spec.rules[{i}]"), Caveat::NeverReached);
    }
    let first = all.into_iter().next().ok_or_else(|| Fault::new("spec.rules", "none is stated"))?;
    if first.is_empty() {
        reader.note("spec.rules[0]", Caveat::NoBackends);
    }
    Ok(first)
}
