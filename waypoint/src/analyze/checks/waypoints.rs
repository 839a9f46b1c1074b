//! Bindings to waypoints: to one that is not there or may not be used, and ways round one that is.

use std::collections::BTreeSet;
use std::sync::Arc;

use common::config::core::{Namespace, Pod};
use common::config::waypoint::{GATEWAY_NAME, UseWaypoint};
use common::config::{Kind, ObjectName, Resource, Stated};
use common::snapshot::model::{Health, Service};

use super::{Report, View};
use crate::analyze::finding::{
    NOT_IN_MESH, OPEN_ROUND, WAYPOINT_MISSING, WAYPOINT_NOT_ALLOWED, WAYPOINT_WITHOUT_PODS,
};

const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// The field that binds.
const BINDING: &str = "metadata.labels.istio.io/use-waypoint";

pub(super) fn check(view: &View<'_>, report: &mut Report<'_>) {
    for stated in &view.manifests.stated {
        match &stated.resource {
            Resource::Namespace(it) => namespace(view, stated, it, report),
            Resource::Service(it) => {
                bound(view, stated, &it.object.namespace, it.use_waypoint.as_ref(), report)
            }
            Resource::ServiceEntry(it) => {
                bound(view, stated, &it.object.namespace, it.use_waypoint.as_ref(), report);
            }
            Resource::Pod(it) => pod(view, stated, it, report),
            Resource::Gateway(it) if it.waypoint.is_some() => gateway(view, stated, &it.object, report),
            _ => {}
        }
    }
    for service in view.mesh.services() {
        ways_round(view, service, report);
    }
}

fn namespace(view: &View<'_>, stated: &Stated, namespace: &Namespace, report: &mut Report<'_>) {
    let asked = UseWaypoint::of(&namespace.labels, &namespace.name);
    bound(view, stated, &namespace.name, asked.as_ref(), report);
    let is_enrolled = namespace.labels.get(DATAPLANE_MODE).is_some_and(|it| **it == *"ambient");
    if matches!(asked, Some(UseWaypoint::Gateway(_))) && !is_enrolled && view.has_pods(&namespace.name) {
        report.say(
            NOT_IN_MESH,
            stated,
            BINDING,
            "bound to a waypoint, and its pods are not in the mesh: they take whatever comes to them by other ways",
        );
    }
}

fn pod(view: &View<'_>, stated: &Stated, pod: &Pod, report: &mut Report<'_>) {
    let asked = UseWaypoint::of(&pod.labels, &pod.object.namespace);
    bound(view, stated, &pod.object.namespace, asked.as_ref(), report);
}

/// A binding that an object states itself.
fn bound(
    view: &View<'_>,
    stated: &Stated,
    namespace: &str,
    asked: Option<&UseWaypoint>,
    report: &mut Report<'_>,
) {
    let Some(UseWaypoint::Gateway(gateway)) = asked else { return };
    match view.gateways.get(gateway) {
        None => report.say(WAYPOINT_MISSING, stated, BINDING, format!("the Gateway {gateway} is not there")),
        Some(None) => report.say(
            WAYPOINT_MISSING,
            stated,
            BINDING,
            format!("the Gateway {gateway} is no waypoint: its class is another"),
        ),
        Some(Some(_)) if !view.mesh.may_use_waypoint(namespace, gateway) => {
            report.say(
                WAYPOINT_NOT_ALLOWED,
                stated,
                BINDING,
                format!("the Gateway {gateway} is not for the namespace {namespace}"),
            );
        }
        Some(Some(_)) => {}
    }
}

/// Where no pods are stated nobody can know.
fn gateway(view: &View<'_>, stated: &Stated, gateway: &ObjectName, report: &mut Report<'_>) {
    let is_ready = |pod: &Arc<common::snapshot::model::Endpoint>| pod.health == Health::Healthy;
    let made = view.made.templates.get(&gateway.namespace).into_iter().flatten();
    let mut made = made.filter(|it| it.get(GATEWAY_NAME) == Some(&gateway.name));
    if view.knows_pods() && made.next().is_none() && !view.mesh.waypoint_pods(gateway).iter().any(is_ready) {
        report.say(WAYPOINT_WITHOUT_PODS, stated, "spec.gatewayClassName", "no pod of it is ready");
    }
}

/// Ports of pods that a bound service leads to and that are reached past its waypoint all the same.
fn ways_round(view: &View<'_>, service: &Service, report: &mut Report<'_>) {
    let Some(gateway) = view.mesh.waypoint_of_service(service) else { return };
    if service.external.is_some() || !view.mesh.may_use_waypoint(&service.namespace, gateway) {
        return;
    }
    let key = common::config::Key {
        kind: Kind::Service,
        object: ObjectName { namespace: service.namespace.clone(), name: service.name.clone() },
    };
    let Some(stated) = view.origins.get(&key) else { return };
    let mut open = BTreeSet::new();
    for endpoint in view.mesh.endpoints(service) {
        let Some(workload) = &endpoint.workload else { continue };
        for (_, target) in endpoint.ports.iter() {
            let is_enrolled = workload.enrolment.is_some();
            if !is_enrolled || view.mesh.waypoints_before(workload, *target).next().is_none() {
                let why =
                    if is_enrolled { "another service leads there without one" } else { "not in the mesh" };
                open.insert((workload.name.clone(), *target, why));
            }
        }
    }
    if let Some((pod, port, why)) = open.first() {
        let more = if open.len() > 1 { format!(", and {} more", open.len() - 1) } else { String::new() };
        report.say(
            OPEN_ROUND,
            stated,
            "spec.selector",
            format!("port {port} of the pod {pod} is reached past the waypoint ({why}){more}"),
        );
    }
}
