//! `tls` and `tcp` routes.

use std::sync::Arc;

use serde::Deserialize;

use super::action::{check_weights, weight};
use crate::config::decode::istio::scalar::Whole;
use crate::config::decode::istio::{DestinationManifest, List, Reader, Texts, port};
use crate::config::decode::policy::list;
use crate::config::decode::text::{Pairs, Text};
use crate::config::decode::{Fault, check};
use crate::config::note::Caveat;
use crate::config::routing::layer4::{ConnectionDestination, ConnectionMatch, TcpRoute, TlsMatch, TlsRoute};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct TlsManifest<'a> {
    r#match: List<TlsMatchManifest<'a>>,
    route: List<RouteManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct TlsMatchManifest<'a> {
    sni_hosts: Texts<'a>,
    destination_subnets: Texts<'a>,
    port: Option<Whole>,
    source_labels: Option<Pairs<'a>>,
    source_namespace: Option<Text<'a>>,
    gateways: Texts<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct TcpManifest<'a> {
    r#match: List<TcpMatchManifest<'a>>,
    route: List<RouteManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct TcpMatchManifest<'a> {
    destination_subnets: Texts<'a>,
    source_subnet: Option<Text<'a>>,
    port: Option<Whole>,
    source_labels: Option<Pairs<'a>>,
    source_namespace: Option<Text<'a>>,
    gateways: Texts<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct RouteManifest<'a> {
    destination: Option<DestinationManifest<'a>>,
    weight: Option<Whole>,
}

/// One entry of `spec.tls` of a VirtualService of these hosts.
pub(super) fn tls(
    reader: &mut Reader<'_>,
    stated: TlsManifest<'_>,
    hosts: &[Arc<str>],
    field: &str,
) -> Result<TlsRoute, Fault> {
    let at = format!("{field}.match");
    let matches = list(stated.r#match, &at, |it, field| {
        let sni = format!("{field}.sniHosts");
        let sni_hosts = list(it.sni_hosts, &sni, |host, field| sni_host(reader, &host, hosts, field))?;
        if sni_hosts.is_empty() {
            return Err(Fault::new(sni, "not stated"));
        }
        let connection = Connection {
            destination_subnets: it.destination_subnets,
            port: it.port,
            source_labels: it.source_labels,
            source_namespace: it.source_namespace,
            gateways: it.gateways,
        };
        Ok(TlsMatch { sni_hosts, connection: connection.read(reader, field)? })
    })?;
    if matches.is_empty() {
        return Err(Fault::new(at, "not stated; a TLS route needs sniHosts"));
    }
    Ok(TlsRoute { matches, route: route(reader, stated.route, &format!("{field}.route"))? })
}

/// One entry of `spec.tcp`.
pub(super) fn tcp(reader: &mut Reader<'_>, stated: TcpManifest<'_>, field: &str) -> Result<TcpRoute, Fault> {
    let matches = list(stated.r#match, &format!("{field}.match"), |it, field| {
        if it.source_subnet.is_some() {
            reader.note(format!("{field}.sourceSubnet"), Caveat::SourceSubnetIgnored);
        }
        let connection = Connection {
            destination_subnets: it.destination_subnets,
            port: it.port,
            source_labels: it.source_labels,
            source_namespace: it.source_namespace,
            gateways: it.gateways,
        };
        connection.read(reader, field)
    })?;
    Ok(TcpRoute { matches, route: route(reader, stated.route, &format!("{field}.route"))? })
}

/// What both matches have.
struct Connection<'a> {
    destination_subnets: Texts<'a>,
    port: Option<Whole>,
    source_labels: Option<Pairs<'a>>,
    source_namespace: Option<Text<'a>>,
    gateways: Texts<'a>,
}

impl Connection<'_> {
    fn read(self, reader: &mut Reader<'_>, field: &str) -> Result<ConnectionMatch, Fault> {
        let at = |name: &str| format!("{field}.{name}");
        let namespace = self.source_namespace.as_deref().filter(|it| !it.is_empty());
        Ok(ConnectionMatch {
            destination_subnets: list(self.destination_subnets, &at("destinationSubnets"), |it, field| {
                check::network(&it).map_err(|reason| Fault::new(field, reason))
            })?,
            port: port(self.port, &at("port"))?,
            source_labels: reader.labels(self.source_labels.as_ref(), &at("sourceLabels"))?,
            source_namespace: namespace.map(|it| reader.label(it, &at("sourceNamespace"))).transpose()?,
            gateways: reader.gateways(self.gateways, &at("gateways"))?,
        })
    }
}

fn sni_host(reader: &mut Reader<'_>, text: &str, hosts: &[Arc<str>], field: &str) -> Result<Arc<str>, Fault> {
    let name = reader.host(text, field)?;
    if !hosts.iter().any(|host| is_within(text, host)) {
        return Err(Fault::new(field, format!("{text} is not within the hosts of the VirtualService")));
    }
    Ok(name)
}

/// Whether every name that `inner` stands for, `outer` does too.
fn is_within(inner: &str, outer: &str) -> bool {
    match outer.strip_prefix('*') {
        Some(suffix) => inner.strip_prefix('*').unwrap_or(inner).ends_with(suffix),
        None => inner == outer,
    }
}

fn route(
    reader: &mut Reader<'_>,
    stated: List<RouteManifest<'_>>,
    field: &str,
) -> Result<Box<[ConnectionDestination]>, Fault> {
    let found = list(stated, field, |it, field| {
        let destination = reader.destination(it.destination.as_ref(), &format!("{field}.destination"))?;
        Ok(ConnectionDestination { destination, weight: weight(it.weight, field)? })
    })?;
    if found.is_empty() {
        return Err(Fault::new(field, "not stated"));
    }
    check_weights(found.iter().map(|it| it.weight), field)?;
    Ok(found)
}
