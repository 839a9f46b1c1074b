//! Policies: whom they select, what they are attached to, and what of them only a waypoint could enforce.

use common::config::core::Labels;
use common::config::security::TargetRef;
use common::config::waypoint::is_of_gateway;
use common::config::{Key, Kind, ObjectName, Resource, Stated};

use super::{Report, View};
use crate::analyze::finding::{
    NO_WAYPOINT, READ_OTHERWISE, REFERENCE_MISSING, SELECTOR_ON_WAYPOINT, SELECTS_NOTHING,
};

pub(super) fn check(view: &View<'_>, report: &mut Report<'_>) {
    for stated in &view.manifests.stated {
        match &stated.resource {
            Resource::AuthorizationPolicy(it) => {
                selector(view, stated, &it.object, &it.selector, report);
                targets(view, stated, (&it.object, &it.targets), report);
            }
            Resource::RequestAuthentication(it) => {
                targets(view, stated, (&it.object, &it.targets), report);
            }
            Resource::Telemetry(it) => {
                targets(view, stated, (&it.object, &it.targets), report);
            }
            Resource::PeerAuthentication(it) => selector(view, stated, &it.object, &it.selector, report),
            _ => {}
        }
    }
    for entry in view.mesh.policies() {
        let key = Key { kind: Kind::AuthorizationPolicy, object: entry.object.clone() };
        let Some(stated) = view.origins.get(&key) else { continue };
        for warning in &entry.warnings {
            // Those of a rule begin with it.
            let rule = warning.split(' ').next().filter(|it| it.starts_with("rules["));
            let field = rule.map_or("spec.action".to_owned(), |it| format!("spec.{it}"));
            let says = rule.and_then(|it| warning.strip_prefix(it)).unwrap_or(warning).trim_start();
            report.say(READ_OTHERWISE, stated, field, says);
        }
    }
}

fn targets(
    view: &View<'_>,
    stated: &Stated,
    (object, targets): (&ObjectName, &[TargetRef]),
    report: &mut Report<'_>,
) {
    let is_single = view.is_written(stated, &["spec", "targetRef"]);
    for (at, target) in targets.iter().enumerate() {
        let field = if is_single { "spec.targetRef".to_owned() } else { format!("spec.targetRefs[{at}]") };
        attached(view, stated, &field, (object, target), report);
    }
}

fn selector(view: &View<'_>, stated: &Stated, object: &ObjectName, labels: &Labels, report: &mut Report<'_>) {
    if labels.is_empty() {
        return;
    }
    if view.selects(labels, &object.namespace) == Some(false) {
        report.say(SELECTS_NOTHING, stated, "spec.selector.matchLabels", "its selector picks no pod");
    }
    let pods = view.pods.get(&object.namespace).into_iter().flatten();
    for pod in pods.filter(|pod| is_of_gateway(&pod.labels) && labels.all_in(&pod.labels)).take(1) {
        let name = &pod.object.name;
        let message = format!("its selector picks {name}, a pod of a waypoint");
        report.say(SELECTOR_ON_WAYPOINT, stated, "spec.selector.matchLabels", message);
    }
}

fn attached(
    view: &View<'_>,
    stated: &Stated,
    field: &str,
    (object, target): (&ObjectName, &TargetRef),
    report: &mut Report<'_>,
) {
    let (namespace, name) = (&*object.namespace, &*target.name);
    let service = match &*target.kind {
        "Service" => view.mesh.service(namespace, name),
        "ServiceEntry" if view.is_stated(Kind::ServiceEntry, namespace, name) => {
            if !view.of_entry(namespace, name).any(|it| view.mesh.waypoint_of_service(it).is_some()) {
                let message =
                    format!("the ServiceEntry {name} has no waypoint, so that nobody does as this says");
                report.say(NO_WAYPOINT, stated, field, message);
            }
            return;
        }
        "Gateway" => {
            let gateway = view.gateways.get(&ObjectName::new(namespace, name));
            match gateway {
                None => {
                    report.say(REFERENCE_MISSING, stated, field, format!("no Gateway {name} in {namespace}"))
                }
                Some(None) => {
                    report.say(NO_WAYPOINT, stated, field, format!("the Gateway {name} is no waypoint"))
                }
                Some(Some(_)) => {}
            }
            return;
        }
        "GatewayClass" => return,
        _ => None,
    };
    match service {
        None => {
            report.say(REFERENCE_MISSING, stated, field, format!("no {} {name} in {namespace}", target.kind))
        }
        Some(service) if view.mesh.waypoint_of_service(service).is_none() => {
            report.say(
                NO_WAYPOINT,
                stated,
                field,
                format!("the Service {name} has no waypoint, so that nobody does as this says"),
            );
        }
        Some(_) => {}
    }
}
