//! RequestAuthentications that nobody builds on: a request without a token passes them.

use common::config::security::{Condition, Rule, TargetRef};
use common::config::{AuthorizationPolicy, ObjectName, RequestAuthentication, Resource};

use super::{Report, View};
use crate::analyze::finding::TOKEN_OPTIONAL;

pub(super) fn check(view: &View<'_>, report: &mut Report<'_>) {
    for stated in &view.manifests.stated {
        let Resource::RequestAuthentication(it) = &stated.resource else { continue };
        // What no waypoint takes is told of elsewhere.
        if it.targets.is_empty() || it.rules.is_empty() {
            continue;
        }
        let mut policies = view.mesh.policies().map(|entry| &*entry.stated);
        if !policies.any(|policy| policy.rules.iter().any(asks_for_token) && may_meet(view, it, policy)) {
            let message = "no AuthorizationPolicy for it asks for a token: requests without one pass";
            report.say(TOKEN_OPTIONAL, stated, "spec.jwtRules", message);
        }
    }
}

fn asks_for_token(rule: &Rule) -> bool {
    rule.from.iter().any(|it| !it.request_principals.is_empty())
        || rule.when.iter().any(|it| {
            matches!(
                it,
                Condition::RequestPrincipal(_)
                    | Condition::Audiences(_)
                    | Condition::Presenter(_)
                    | Condition::Claim { .. }
            )
        })
}

/// Whether some request may fall under both: they have a target in common, or one is for a whole waypoint of the other's.
fn may_meet(view: &View<'_>, tokens: &RequestAuthentication, policy: &AuthorizationPolicy) -> bool {
    let waypoint_of = |object: &ObjectName, target: &TargetRef| match &*target.kind {
        "Service" => view
            .mesh
            .service(&object.namespace, &target.name)
            .and_then(|service| view.mesh.waypoint_of_service(service).cloned()),
        "Gateway" => Some(ObjectName { namespace: object.namespace.clone(), name: target.name.clone() }),
        _ => None,
    };
    let is_wide = |it: &TargetRef| matches!(&*it.kind, "Gateway" | "GatewayClass");
    tokens.targets.iter().any(|own| {
        policy.targets.iter().any(|other| {
            let same = own == other && tokens.object.namespace == policy.object.namespace;
            let through = || {
                let (own, other) = (waypoint_of(&tokens.object, own), waypoint_of(&policy.object, other));
                own.is_none() || other.is_none() || own == other
            };
            same || (is_wide(own) || is_wide(other)) && through()
        })
    })
}
