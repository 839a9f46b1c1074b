//! `parentRefs`: what a route attaches to.

use std::sync::Arc;

use serde::Deserialize;

use crate::config::ObjectName;
use crate::config::decode::Fault;
use crate::config::decode::check;
use crate::config::decode::istio::scalar::Whole;
use crate::config::decode::istio::{List, Reader, port};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::gateway::{GATEWAY_GROUP, Parent, ParentKind};
use crate::config::note::Caveat;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct ParentManifest<'a> {
    group: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    namespace: Option<Text<'a>>,
    name: Option<Text<'a>>,
    section_name: Option<Text<'a>>,
    port: Option<Whole>,
}

/// `spec.parentRefs` of a route in a namespace.
pub(super) fn read(
    reader: &mut Reader<'_>,
    namespace: &Arc<str>,
    stated: List<ParentManifest<'_>>,
) -> Result<Box<[Parent]>, Fault> {
    const FIELD: &str = "spec.parentRefs";
    let found = list(stated, FIELD, |it, field| {
        let group = it.group.as_deref().unwrap_or(GATEWAY_GROUP);
        let kind = match (group, it.kind.as_deref().unwrap_or("Gateway")) {
            ("" | "core", "Service") => ParentKind::Service,
            ("networking.istio.io", "ServiceEntry") => ParentKind::Entry,
            (GATEWAY_GROUP, "Gateway") => ParentKind::Gateway,
            _ => {
                reader.note(field, Caveat::ParentIgnored);
                return Ok(None);
            }
        };
        Ok(Some(Parent {
            kind,
            object: object(reader, namespace, it.namespace.as_ref(), it.name.as_ref(), field)?,
            section: reader.filled(it.section_name.as_ref()),
            port: port(it.port, &format!("{field}.port"))?,
        }))
    })?;
    if found.is_empty() {
        reader.note(FIELD, Caveat::NoParents);
    }
    Ok(found.into_iter().flatten().collect())
}

/// Namespace and name of a reference, whose namespace is the route's unless it is stated.
pub(super) fn object(
    reader: &mut Reader<'_>,
    own: &Arc<str>,
    namespace: Option<&Text<'_>>,
    name: Option<&Text<'_>>,
    field: &str,
) -> Result<ObjectName, Fault> {
    let namespace = match namespace.map(|it| &**it).filter(|it| !it.is_empty()) {
        Some(namespace) => reader.label(namespace, &format!("{field}.namespace"))?,
        None => own.clone(),
    };
    let name = name.map(|it| &**it).unwrap_or_default();
    if !check::is_dns_name(name) {
        return Err(Fault::new(format!("{field}.name"), format!("{name:?} is not a valid name")));
    }
    Ok(ObjectName { namespace, name: reader.share(name) })
}
