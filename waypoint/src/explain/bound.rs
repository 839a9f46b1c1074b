//! Whether a waypoint is bound to what was called, and by which label of which object.

use std::sync::Arc;

use common::config::waypoint::UseWaypoint;
use common::config::{Key, Kind, ObjectName, Rejected, Resource};
use common::explain::connection::Teller;
use common::manifests::Manifests;
use common::snapshot::model::Service;
use serde_json::json;

/// What an object says of its waypoint.
struct Said {
    key: Key,
    asked: Option<UseWaypoint>,
}

/// Tells of a service's binding. Of a pod that is called by its own address the route says all there is.
pub(super) fn tell(manifests: &Manifests, service: Option<&Arc<Service>>, teller: &mut Teller<'_>) {
    let Some(service) = service else { return };
    let (own, namespace) = (said_by(manifests, service), said_by_namespace(manifests, service));
    let says = [own, namespace].into_iter().flatten().find(|it| it.asked.is_some());
    let sight = manifests.sight();
    let (text, gateway, key) = match says {
        None => {
            let text = match unreadable(manifests, service) {
                Some(rejected) => format!(
                    "not known: the Namespace {} cannot be read ({})",
                    service.namespace, rejected.origin
                ),
                None => "no waypoint: neither its labels nor its namespace's have istio.io/use-waypoint"
                    .to_owned(),
            };
            (text, None, None)
        }
        Some(Said { key, asked: Some(UseWaypoint::Gateway(gateway)) }) => {
            let bound = manifests.mesh.waypoint_of_service(service).is_some();
            let text = match bound {
                true => format!("bound to the Gateway {gateway}"),
                false => {
                    format!("no waypoint: the Gateway {gateway} is not for services (istio.io/waypoint-for)")
                }
            };
            (text, Some(gateway).filter(|_| bound), Some(key))
        }
        Some(Said { key, .. }) => ("no waypoint: istio.io/use-waypoint is none".to_owned(), None, Some(key)),
    };
    let facts = json!({ "gateway": gateway.map(|it| it.to_string()) });
    teller.told.tell("waypoint", text, key.map(|it| sight.by(it)), facts);
}

/// The statement of the service's Namespace that was turned away, which nothing took the place of.
fn unreadable<'m>(manifests: &'m Manifests, service: &Service) -> Option<&'m Rejected> {
    let is_it = |it: &&Rejected| {
        it.subject.kind == Some(Kind::Namespace) && it.subject.name.as_ref() == Some(&service.namespace)
    };
    let rejected = manifests.rejected.iter().find(is_it);
    rejected.filter(|_| said_by_namespace(manifests, service).is_none())
}

fn said_by(manifests: &Manifests, service: &Service) -> Option<Said> {
    let key = manifests.sight().by_service(service).key;
    let found = manifests.stated.iter().find(|it| it.resource.key() == key)?;
    let asked = match &found.resource {
        Resource::Service(it) => it.use_waypoint.clone(),
        Resource::ServiceEntry(it) => it.use_waypoint.clone(),
        _ => None,
    };
    Some(Said { key, asked })
}

fn said_by_namespace(manifests: &Manifests, service: &Service) -> Option<Said> {
    let found = manifests.stated.iter().find_map(|it| match &it.resource {
        Resource::Namespace(it) if it.name == service.namespace => Some(it),
        _ => None,
    })?;
    let key = Key { kind: Kind::Namespace, object: ObjectName::new("", found.name.clone()) };
    Some(Said { key, asked: UseWaypoint::of(&found.labels, &found.name) })
}
