//! RateLimits: whether what they are attached to is there, and has a waypoint that counts.

use common::config::rate_limit::{LimitTarget, LimitedKind};
use common::config::{Kind, ObjectName, Resource, Stated};

use super::{Report, View};
use crate::analyze::finding::{NO_WAYPOINT, REFERENCE_MISSING};

pub(super) fn check(view: &View<'_>, report: &mut Report<'_>) {
    for stated in &view.manifests.stated {
        if let Resource::RateLimit(it) = &stated.resource {
            for (at, target) in it.targets.iter().enumerate() {
                attached(view, stated, &format!("spec.targetRefs[{at}]"), (&it.object, target), report);
            }
        }
    }
}

fn attached(
    view: &View<'_>,
    stated: &Stated,
    field: &str,
    (object, target): (&ObjectName, &LimitTarget),
    report: &mut Report<'_>,
) {
    let (namespace, name) = (&*object.namespace, &*target.name);
    let missing = |report: &mut Report<'_>, kind: &str| {
        report.say(REFERENCE_MISSING, stated, field, format!("no {kind} {name} in {namespace}"));
    };
    match target.kind {
        LimitedKind::Service => match view.mesh.service(namespace, name) {
            None => missing(report, "Service"),
            Some(service) if view.mesh.waypoint_of_service(service).is_none() => {
                let message = format!("the Service {name} has no waypoint, so that nobody counts");
                report.say(NO_WAYPOINT, stated, field, message);
            }
            Some(_) => {}
        },
        LimitedKind::Entry if !view.is_stated(Kind::ServiceEntry, namespace, name) => {
            missing(report, "ServiceEntry");
        }
        LimitedKind::Entry
            if !view.of_entry(namespace, name).any(|it| view.mesh.waypoint_of_service(it).is_some()) =>
        {
            let message = format!("the ServiceEntry {name} has no waypoint, so that nobody counts");
            report.say(NO_WAYPOINT, stated, field, message);
        }
        LimitedKind::Route if !view.is_stated(Kind::HttpRoute, namespace, name) => {
            missing(report, "HTTPRoute")
        }
        LimitedKind::Gateway if !view.gateways.contains_key(&ObjectName::new(namespace, name)) => {
            missing(report, "Gateway");
        }
        LimitedKind::Entry | LimitedKind::Route | LimitedKind::Gateway => {}
    }
}
