//! ReferenceGrant, and our HTTPFaultFilter.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::config::Resource;
use crate::config::decode::Fault;
use crate::config::decode::istio::{List, Reader};
use crate::config::decode::manifest::{Manifest, Metadata, NameRule};
use crate::config::decode::policy::list;
use crate::config::decode::routing::resilience::{self, FaultManifest};
use crate::config::decode::text::Text;
use crate::config::gateway::{FaultFilter, Granted, GrantedTo, ReferenceGrant};
use crate::config::names::Names;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct ReferenceGrantManifest<'a> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(default)]
    metadata: Metadata<'a>,
    spec: Option<GrantSpec<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct GrantSpec<'a> {
    from: List<FromManifest<'a>>,
    to: List<ToManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct FromManifest<'a> {
    group: Text<'a>,
    kind: Text<'a>,
    namespace: Text<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct ToManifest<'a> {
    group: Option<Text<'a>>,
    kind: Text<'a>,
    name: Option<Text<'a>>,
}

impl Manifest for ReferenceGrantManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let object = self.metadata.named(NameRule::Name, names)?.object;
        let spec = self.spec.ok_or_else(|| Fault::new("spec", "not stated"))?;
        let mut reader = Reader::new(object.namespace.clone(), names);
        let from = list(spec.from, "spec.from", |it, field| {
            Ok(Granted {
                group: reader.share(&it.group),
                kind: reader.share(&it.kind),
                namespace: reader.label(&it.namespace, &format!("{field}.namespace"))?,
            })
        })?;
        let to = list(spec.to, "spec.to", |it, _| {
            Ok(GrantedTo {
                group: reader.filled(it.group.as_ref()).unwrap_or_default(),
                kind: reader.share(&it.kind),
                name: reader.filled(it.name.as_ref()),
            })
        })?;
        for (field, is_empty) in [("spec.from", from.is_empty()), ("spec.to", to.is_empty())] {
            if is_empty {
                return Err(Fault::new(field, "not stated"));
            }
        }
        Ok(Resource::ReferenceGrant(Arc::new(ReferenceGrant { object, from, to })))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct FaultFilterManifest<'a> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(default)]
    metadata: Metadata<'a>,
    spec: Option<FaultManifest<'a>>,
}

impl Manifest for FaultFilterManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let object = self.metadata.named(NameRule::Name, names)?.object;
        let spec = self.spec.ok_or_else(|| Fault::new("spec", "not stated"))?;
        let mut reader = Reader::new(object.namespace.clone(), names);
        let fault = resilience::fault(&mut reader, spec, "spec")?;
        // What a VirtualService may state with a caveat has no place in a kind that has no past.
        if let Some(note) = reader.notes().first() {
            return Err(Fault::new(&*note.field, note.caveat.meaning()));
        }
        Ok(Resource::FaultFilter(Arc::new(FaultFilter { object, fault })))
    }
}
