//! The shape of a PeerAuthentication, as strict as that of an AuthorizationPolicy.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::manifest::{Manifest, Metadata, NameRule};
use super::policy::{Selector, selector};
use super::text::{NumberOrText, Text};
use super::{Fault, check};
use crate::config::Resource;
use crate::config::names::Names;
use crate::config::security::{PeerAuthentication, StatedMode};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct PeerAuthenticationManifest<'a> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
    #[serde(default)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Option<PeerSpec<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct PeerSpec<'a> {
    selector: Option<Selector<'a>>,
    mtls: Option<Mtls<'a>>,
    port_level_mtls: Option<std::collections::BTreeMap<NumberOrText<'a>, Option<Mtls<'a>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct Mtls<'a> {
    mode: Option<Text<'a>>,
}

impl Mtls<'_> {
    fn mode(&self, field: &str) -> Result<StatedMode, Fault> {
        Ok(match self.mode.as_deref() {
            None | Some("UNSET") => StatedMode::Unset,
            Some("PERMISSIVE" | "DISABLE") => StatedMode::Permissive,
            Some("STRICT") => StatedMode::Strict,
            Some(other) => return Err(Fault::new(format!("{field}.mode"), format!("{other:?} is no mode"))),
        })
    }
}

impl Manifest for PeerAuthenticationManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::Name, names)?;
        let spec = self.spec.unwrap_or_default();
        let selector = selector(spec.selector, names)?;
        let mut ports: Vec<(u16, StatedMode)> = Vec::new();
        for (port, mtls) in spec.port_level_mtls.unwrap_or_default() {
            let number = match port {
                NumberOrText::Number(number) => check::port(number),
                NumberOrText::Text(text) => check::port_text(&text),
            }
            .map_err(|reason| Fault::new("spec.portLevelMtls", reason))?;
            let field = format!("spec.portLevelMtls.{number}");
            if ports.iter().any(|(port, _)| *port == number) {
                return Err(Fault::new(field, "stated twice"));
            }
            ports.push((number, mtls.unwrap_or_default().mode(&field)?));
        }
        if !ports.is_empty() && selector.is_empty() {
            return Err(Fault::new("spec.portLevelMtls", "needs a selector: ports differ between workloads"));
        }
        Ok(Resource::PeerAuthentication(Arc::new(PeerAuthentication {
            object: named.object,
            created: named.created,
            selector,
            mode: spec.mtls.unwrap_or_default().mode("spec.mtls")?,
            ports: ports.into(),
        })))
    }
}
