//! Policies: whom they select, what they are attached to, and what of them only a waypoint could enforce.

use common::config::core::Labels;
use common::config::security::TargetRef;
use common::config::waypoint::is_of_gateway;
use common::config::{Kind, ObjectName, Resource, Stated};

use super::{Report, View};
use crate::analyze::finding::{
    NO_WAYPOINT, READ_OTHERWISE, REFERENCE_MISSING, SELECTOR_ON_WAYPOINT, SELECTS_NOTHING,
};

pub(super) fn check(view: &View<'_>, report: &mut Report) {
    for stated in &view.manifests.stated {
        match &stated.resource {
            Resource::AuthorizationPolicy(it) => {
                selector(view, stated, &it.object, &it.selector, report);
                for target in &it.targets {
                    attached(view, stated, &it.object, target, report);
                }
            }
            Resource::RequestAuthentication(it) => {
                for target in &it.targets {
                    attached(view, stated, &it.object, target, report);
                }
            }
            Resource::Telemetry(it) => {
                for target in &it.targets {
                    attached(view, stated, &it.object, target, report);
                }
            }
            Resource::PeerAuthentication(it) => selector(view, stated, &it.object, &it.selector, report),
            _ => {}
        }
    }
    for entry in view.mesh.policies() {
        for warning in &entry.warnings {
            let object = format!("{} {}", Kind::AuthorizationPolicy, entry.object);
            report.tell(READ_OTHERWISE, &entry.origin, object, &**warning);
        }
    }
}

fn selector(view: &View<'_>, stated: &Stated, object: &ObjectName, labels: &Labels, report: &mut Report) {
    if labels.is_empty() {
        return;
    }
    if view.selects(labels, &object.namespace) == Some(false) {
        report.say(SELECTS_NOTHING, stated, "its selector picks no pod");
    }
    let pods = view.pods.get(&object.namespace).into_iter().flatten();
    for pod in pods.filter(|pod| is_of_gateway(&pod.labels) && labels.all_in(&pod.labels)).take(1) {
        let name = &pod.object.name;
        report.say(SELECTOR_ON_WAYPOINT, stated, format!("its selector picks {name}, a pod of a waypoint"));
    }
}

fn attached(view: &View<'_>, stated: &Stated, object: &ObjectName, target: &TargetRef, report: &mut Report) {
    let (namespace, name) = (&*object.namespace, &*target.name);
    let service = match &*target.kind {
        "Service" => view.mesh.service(namespace, name),
        "ServiceEntry" if view.is_stated(Kind::ServiceEntry, namespace, name) => return,
        "Gateway" => {
            let gateway = view.gateways.get(&ObjectName::new(namespace, name));
            match gateway {
                None => report.say(REFERENCE_MISSING, stated, format!("no Gateway {name} in {namespace}")),
                Some(None) => report.say(NO_WAYPOINT, stated, format!("the Gateway {name} is no waypoint")),
                Some(Some(_)) => {}
            }
            return;
        }
        "GatewayClass" => return,
        _ => None,
    };
    match service {
        None => report.say(REFERENCE_MISSING, stated, format!("no {} {name} in {namespace}", target.kind)),
        Some(service) if view.mesh.waypoint_of_service(service).is_none() => {
            report.say(
                NO_WAYPOINT,
                stated,
                format!("the Service {name} has no waypoint, so that nobody does as this says"),
            );
        }
        Some(_) => {}
    }
}
