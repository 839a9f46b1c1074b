//! BackendTLSPolicies: whether what they name is there, which of several decides, and whether a waypoint applies them.
//!
//! Asks the code that decides for a waypoint: the two cannot come to differ.

use common::config::backend_tls::{BackendTlsPolicy, TlsTargetKind};
use common::config::{ObjectName, Resource, Stated};
use common::snapshot::model::Service;

use super::{Report, View};
use crate::analyze::finding::{NO_WAYPOINT, OVERRIDDEN, REFERENCE_MISSING};
use crate::routes::Flaw;
use crate::upstream::securing::Securing;

pub(super) fn check(view: &View<'_>, report: &mut Report) {
    for stated in &view.manifests.stated {
        if let Resource::BackendTls(it) = &stated.resource {
            applied(view, stated, it, report);
        }
    }
    let ruled = |service: &Service, port| rule_with_tls(view, service, port);
    for problem in Securing::of(view.mesh).problems(view.mesh, |_| true, ruled) {
        let Some(stated) = view.origins.get(&problem.of) else { continue };
        let code = if problem.flaw == Flaw::Missing { REFERENCE_MISSING } else { OVERRIDDEN };
        report.say(code, stated, &*problem.field, &*problem.why);
    }
}

/// Without a waypoint nobody speaks the TLS.
fn applied(view: &View<'_>, stated: &Stated, policy: &BackendTlsPolicy, report: &mut Report) {
    let services = policy.targets.iter().filter(|it| it.kind == TlsTargetKind::Service);
    for target in services {
        let service = view.mesh.service(&policy.object.namespace, &target.name);
        if service.is_some_and(|it| view.mesh.waypoint_of_service(it).is_none()) {
            let message =
                format!("the Service {} has no waypoint, so that nobody speaks TLS to it", target.name);
            report.say(NO_WAYPOINT, stated, "spec.targetRefs", message);
        }
    }
}

/// The first rule for a service that states TLS for a port.
fn rule_with_tls(view: &View<'_>, service: &Service, port: u16) -> Option<ObjectName> {
    let states = |it: &&std::sync::Arc<common::config::DestinationRule>| {
        let own = it.policy.by_port.iter().find(|(of, _)| *of == port).map(|(_, it)| it);
        own.unwrap_or(&it.policy.ports).tls.is_some()
    };
    view.rules_for(&service.hostname).find(states).map(|it| it.object.clone())
}
