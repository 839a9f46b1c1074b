//! `backendRefs`: where requests and connections go, and their shares.
//!
//! A backend of weight 0 is left out: unlike in a VirtualService, where an only destination gets everything, it gets
//! nothing even when it is alone.

use std::sync::Arc;

use serde::Deserialize;

use super::filter::{self, FilterManifest, Filters};
use super::parent;
use crate::config::decode::istio::scalar::{Whole, whole};
use crate::config::decode::istio::{List, Reader, port};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::decode::{Fault, check};
use crate::config::gateway::Backend;
use crate::config::note::Caveat;
use crate::config::routing::Destination;
use crate::config::routing::http::HttpDestination;
use crate::config::routing::layer4::ConnectionDestination;

/// Largest weight (Gateway API).
const MAX_WEIGHT: u32 = 1_000_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct BackendManifest<'a> {
    group: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    namespace: Option<Text<'a>>,
    name: Option<Text<'a>>,
    port: Option<Whole>,
    weight: Option<Whole>,
    filters: List<FilterManifest<'a>>,
}

/// `backendRefs` of a rule of requests. `None` in place of one that a filter breaks.
pub(super) fn of_requests(
    reader: &mut Reader<'_>,
    namespace: &Arc<str>,
    stated: List<BackendManifest<'_>>,
    is_grpc: bool,
    field: &str,
) -> Result<Box<[HttpDestination]>, Fault> {
    let found = list(stated, field, |mut it, field| {
        let weight = weight(it.weight, field)?;
        let filters = filter::of_backend(reader, namespace, it.filters.take(), is_grpc, field)?;
        let mut destination = destination(reader, namespace, &it, field)?;
        if filters.is_broken {
            destination.backend = Some(Backend::Unknown("a filter that is not implemented".into()));
        }
        let Filters { headers, rewrite, mirrors, .. } = filters;
        Ok(HttpDestination { destination, weight, headers, rewrite, mirrors: mirrors.into() })
    })?;
    Ok(found.into_iter().filter(|it| it.weight > 0).collect())
}

/// `backendRefs` of a rule of connections.
pub(super) fn of_connections(
    reader: &mut Reader<'_>,
    namespace: &Arc<str>,
    stated: List<BackendManifest<'_>>,
    field: &str,
) -> Result<Box<[ConnectionDestination]>, Fault> {
    let found = list(stated, field, |it, field| {
        if it.filters.is_some() {
            return Err(Fault::new(format!("{field}.filters"), "only backends of requests have filters"));
        }
        let weight = weight(it.weight, field)?;
        Ok(ConnectionDestination { destination: destination(reader, namespace, &it, field)?, weight })
    })?;
    Ok(found.into_iter().filter(|it| it.weight > 0).collect())
}

/// The one backend of a mirror.
pub(super) fn of_mirror(
    reader: &mut Reader<'_>,
    namespace: &Arc<str>,
    stated: &BackendManifest<'_>,
    field: &str,
) -> Result<Destination, Fault> {
    for (name, stated) in [("weight", stated.weight.is_some()), ("filters", stated.filters.is_some())] {
        if stated {
            return Err(Fault::new(format!("{field}.{name}"), "a mirror's backend has none"));
        }
    }
    destination(reader, namespace, stated, field)
}

fn weight(stated: Option<Whole>, field: &str) -> Result<u32, Fault> {
    whole(stated, 0..=MAX_WEIGHT, &format!("{field}.weight")).map(|it| it.unwrap_or(1))
}

fn destination(
    reader: &mut Reader<'_>,
    namespace: &Arc<str>,
    stated: &BackendManifest<'_>,
    field: &str,
) -> Result<Destination, Fault> {
    let (group, kind) = (stated.group.as_deref().unwrap_or(""), stated.kind.as_deref().unwrap_or("Service"));
    let port = port(stated.port, &format!("{field}.port"))?;
    let backend = match (group, kind) {
        ("" | "core", "Service") => {
            if port.is_none() {
                return Err(Fault::new(format!("{field}.port"), "not stated; a Service needs one"));
            }
            let object =
                parent::object(reader, namespace, stated.namespace.as_ref(), stated.name.as_ref(), field)?;
            Backend::Service(object)
        }
        ("networking.istio.io", "Hostname") => {
            let name = stated.name.as_deref().unwrap_or_default();
            if !check::is_dns_name(name) {
                return Err(Fault::new(format!("{field}.name"), format!("{name:?} is no host name")));
            }
            Backend::Hostname(reader.share(name))
        }
        _ => {
            reader.note(field, Caveat::BackendUnknown);
            let name = stated.name.as_deref().unwrap_or_default();
            Backend::Unknown(format!("{group}/{kind} {name}").into())
        }
    };
    Ok(Destination { host: reader.share(""), backend: Some(backend), subset: None, port })
}
