//! Routes of the Gateway API: what they attach to, where they lead, and what they take the place of.
//!
//! Compiles them as each waypoint would, and says what that finds: the two cannot come to differ.

use std::collections::BTreeSet;

use common::config::gateway::{GatewayRoute, Parent, ParentKind};
use common::config::{ObjectName, Resource, Stated};
use common::snapshot::model::Service;

use super::{Report, View};
use crate::analyze::finding::{NO_WAYPOINT, OVERRIDDEN, PASSES_AUTHORIZER, REFERENCE_MISSING, ROUTE_PROBLEM};
use crate::routes::{self, Flaw};

pub(super) fn check(view: &View<'_>, report: &mut Report<'_>) {
    let stated = view.manifests.stated.iter();
    let routes = stated.filter_map(|stated| match &stated.resource {
        Resource::Route(it) => Some((stated, it)),
        _ => None,
    });
    let mut any = false;
    for (stated, it) in routes {
        any = true;
        for (at, parent) in it.parents.iter().enumerate() {
            attaches(view, stated, it, (parent, at), report);
        }
    }
    if any {
        compiled(view, report);
    }
}

/// Whether there is what a route attaches to, and a waypoint where it takes effect.
fn attaches(
    view: &View<'_>,
    stated: &Stated,
    it: &GatewayRoute,
    (parent, at): (&Parent, usize),
    report: &mut Report<'_>,
) {
    let field = format!("spec.parentRefs[{at}]");
    let ObjectName { namespace, name } = &parent.object;
    let entry = |service: &&std::sync::Arc<Service>| {
        service.namespace == *namespace
            && service.external.as_ref().is_some_and(|external| external.entry == *name)
    };
    let service = match parent.kind {
        ParentKind::Gateway => {
            // Of a Gateway that is no waypoint nothing is known here.
            if !view.gateways.contains_key(&parent.object) {
                report.say(REFERENCE_MISSING, stated, field, format!("no Gateway {}", parent.object));
            } else if view.gateways[&parent.object].is_some()
                && !view.mesh.may_use_waypoint(&it.object.namespace, &parent.object)
            {
                let why = format!("the listener of {} lets no route of here attach", parent.object);
                report.say(REFERENCE_MISSING, stated, field, why);
            }
            return;
        }
        ParentKind::Service => view.mesh.service(namespace, name),
        ParentKind::Entry => view.mesh.services().find(entry),
    };
    match service {
        None => report.say(REFERENCE_MISSING, stated, field, format!("no service {}", parent.object)),
        Some(service) if view.mesh.waypoint_of_service(service).is_none() => report.say(
            NO_WAYPOINT,
            stated,
            field,
            format!("{} has no waypoint, so that the route has no effect", service.hostname),
        ),
        Some(_) => {}
    }
}

/// What each waypoint finds when it compiles its routes.
fn compiled(view: &View<'_>, report: &mut Report<'_>) {
    let waypoints = view.gateways.iter().filter(|(_, it)| it.is_some()).map(|(object, _)| object);
    let mut found = BTreeSet::new();
    for waypoint in waypoints {
        let cluster_domain = view.manifests.settings.cluster_domain.clone();
        let tables =
            routes::Tables::new(routes::View { waypoint: waypoint.clone(), cluster_domain }, view.mesh);
        found.extend(tables.iter().flat_map(|it| it.problems.iter().cloned()));
    }
    for problem in found {
        let Some(stated) = view.origins.get(&problem.of) else { continue };
        let code = match problem.flaw {
            Flaw::Missing => ROUTE_PROBLEM,
            Flaw::Overridden => OVERRIDDEN,
            Flaw::Unasked => PASSES_AUTHORIZER,
        };
        report.say(code, stated, &*problem.field, &*problem.why);
    }
}
