//! Gateways: read as far as their class, and whole where they are waypoints.
//!
//! A Gateway of another class is somebody else's business, whatever it states. One that means to be a waypoint and could
//! not work as one is turned away, so that what is bound to it is refused and not reached by another way.

use std::sync::Arc;

use serde::Deserialize;

use super::{List, Manifest, Metadata, NameRule, labels};
use crate::config::Resource;
use crate::config::core::Labels;
use crate::config::decode::Fault;
use crate::config::decode::text::{Number, Pairs, Text};
use crate::config::names::Names;
use crate::config::waypoint::{Gateway, HBONE_PORT, Users, Waypoint, WaypointFor};

/// The port of a waypoint's one listener (Istio's convention).
const PORT: u64 = HBONE_PORT as u64;
/// Its protocol.
const PROTOCOL: &str = "HBONE";

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(crate) struct GatewayManifest<'a> {
    #[serde(default)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Option<GatewaySpec<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct GatewaySpec<'a> {
    gateway_class_name: Option<Text<'a>>,
    listeners: List<Listener<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Listener<'a> {
    port: Option<Number>,
    protocol: Option<Text<'a>>,
    allowed_routes: Option<AllowedRoutes<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct AllowedRoutes<'a> {
    namespaces: Option<Namespaces<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Namespaces<'a> {
    from: Option<Text<'a>>,
    selector: Option<Selector<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Selector<'a> {
    match_labels: Option<Pairs<'a>>,
    match_expressions: List<serde::de::IgnoredAny>,
}

impl Manifest for GatewayManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let object = self.metadata.named(NameRule::Name, names)?.object;
        let spec = self.spec.unwrap_or_default();
        let class = spec.gateway_class_name.as_deref().unwrap_or_default();
        if class.is_empty() {
            return Err(Fault::new("spec.gatewayClassName", "not stated"));
        }
        let waypoint = if Waypoint::is_class(class) {
            let stands_for = WaypointFor::of(&self.metadata.labels(names)?);
            Some(Waypoint { class: names.share(class), stands_for, users: spec.listener()?.users(names)? })
        } else {
            None
        };
        Ok(Resource::Gateway(Arc::new(Gateway { object, waypoint })))
    }
}

impl<'a> GatewaySpec<'a> {
    /// The listener of a waypoint.
    fn listener(&self) -> Result<&Listener<'a>, Fault> {
        let listeners = self.listeners.as_deref().unwrap_or_default();
        let [listener] = listeners else {
            let reason = format!(
                "{} listeners; a waypoint has one, of port {PORT} and protocol {PROTOCOL}",
                listeners.len()
            );
            return Err(Fault::new("spec.listeners", reason));
        };
        match listener.port.as_ref().map(|it| it.0) {
            Some(PORT) => {}
            Some(other) => {
                let reason = format!("{other}: a waypoint listens on {PORT}");
                return Err(Fault::new("spec.listeners[0].port", reason));
            }
            None => return Err(Fault::new("spec.listeners[0].port", "not stated")),
        }
        match listener.protocol.as_deref() {
            Some(PROTOCOL) => Ok(listener),
            other => {
                let reason = format!("{:?}: a waypoint speaks {PROTOCOL}", other.unwrap_or_default());
                Err(Fault::new("spec.listeners[0].protocol", reason))
            }
        }
    }
}

impl Listener<'_> {
    fn users(&self, names: &mut Names) -> Result<Users, Fault> {
        const FIELD: &str = "spec.listeners[0].allowedRoutes.namespaces";
        let Some(namespaces) = self.allowed_routes.as_ref().and_then(|it| it.namespaces.as_ref()) else {
            return Ok(Users::Same);
        };
        match namespaces.from.as_deref() {
            None | Some("" | "Same") => Ok(Users::Same),
            Some("All") => Ok(Users::All),
            Some("Selector") => namespaces.selector(FIELD, names).map(Users::Selector),
            Some(other) => {
                Err(Fault::new(format!("{FIELD}.from"), format!("{other:?} is none of Same, All, Selector")))
            }
        }
    }
}

impl Namespaces<'_> {
    fn selector(&self, field: &str, names: &mut Names) -> Result<Labels, Fault> {
        let field = format!("{field}.selector");
        let stated = self.selector.as_ref().ok_or_else(|| Fault::new(field.clone(), "not stated"))?;
        if stated.match_expressions.as_ref().is_some_and(|it| !it.is_empty()) {
            return Err(Fault::new(format!("{field}.matchExpressions"), "not supported; state matchLabels"));
        }
        // An empty selector is everybody's in Kubernetes, and is what it says here too.
        let pairs = stated.match_labels.as_ref();
        pairs.map_or_else(|| Ok(Labels::default()), |it| labels(it, &format!("{field}.matchLabels"), names))
    }
}
