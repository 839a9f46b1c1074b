//! VirtualServices and DestinationRules: where they lead, whom they are for, and what their numbers come to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::config::destination::{DestinationRule, PortPolicy};
use common::config::routing::http::{HttpDestination, HttpRoute};
use common::config::routing::{Destination, HttpAction, VirtualService, Visibility};
use common::config::{Resource, Stated};

use super::{Report, View};
use crate::analyze::finding::{
    GATEWAY_ROUTES, NO_SUCH_HOST, NO_WAYPOINT, NOT_VERIFIED, NOT_VERIFIED_PORT, REFERENCE_MISSING,
    SEVERAL_FOR_HOST, SUBSET_EMPTY, TIMEOUT_FIRST, WEIGHTS,
};

/// Most VirtualServices that one finding names.
const MAX_NAMED: usize = 3;
/// `attempts` where none are stated.
const DEFAULT_ATTEMPTS: u32 = 2;

pub(super) fn check(view: &View<'_>, report: &mut Report<'_>) {
    for (stated, it) in view.virtual_services() {
        virtual_service(view, stated, it, report);
    }
    several_for_one_host(view, report);
    for stated in &view.manifests.stated {
        if let Resource::DestinationRule(it) = &stated.resource {
            destination_rule(view, stated, it, report);
        }
    }
}

fn virtual_service(view: &View<'_>, stated: &Stated, it: &VirtualService, report: &mut Report<'_>) {
    if !it.gateways.mesh && !it.hosts.is_empty() {
        report.say(
            GATEWAY_ROUTES,
            stated,
            "spec.gateways",
            "in force at gateways only, not for calls inside the mesh",
        );
    } else {
        for (at, host) in it.hosts.iter().enumerate() {
            let field = format!("spec.hosts[{at}]");
            applies_to(view, stated, &field, (host, &it.object.namespace), report);
        }
    }
    for (at, route) in it.http.iter().enumerate() {
        let field = format!("spec.http[{at}]");
        match &route.action {
            HttpAction::Forward(to) => {
                for (index, to) in to.iter().enumerate() {
                    let field = format!("{field}.route[{index}]");
                    leads_to(view, stated, (&to.destination, &it.object.namespace), &field, report);
                }
                weights(stated, to, &field, report);
                tries(stated, route, &field, report);
            }
            HttpAction::Delegate(to) if view.mesh.virtual_service(to).is_none() => {
                report.say(
                    REFERENCE_MISSING,
                    stated,
                    format!("{field}.delegate.name"),
                    format!("no VirtualService {to}"),
                );
            }
            HttpAction::Delegate(_) | HttpAction::Redirect(_) | HttpAction::Respond(_) => {}
        }
        for (index, mirror) in route.mirrors.iter().enumerate() {
            let field = format!("{field}.mirrors[{index}]");
            leads_to(view, stated, (&mirror.destination, &it.object.namespace), &field, report);
        }
    }
    let tls = it.tls.iter().enumerate().map(|(at, route)| (format!("spec.tls[{at}]"), &route.route));
    let tcp = it.tcp.iter().enumerate().map(|(at, route)| (format!("spec.tcp[{at}]"), &route.route));
    for (field, to) in tls.chain(tcp) {
        for (index, to) in to.iter().enumerate() {
            let field = format!("{field}.route[{index}]");
            leads_to(view, stated, (&to.destination, &it.object.namespace), &field, report);
        }
    }
}

/// Whether there is a service that a host means, and a waypoint where this takes effect.
fn applies_to(
    view: &View<'_>,
    stated: &Stated,
    field: &str,
    (host, namespace): (&str, &str),
    report: &mut Report<'_>,
) {
    let full = view.full(host, namespace);
    if !view.is_host(&full) {
        report.say(NO_SUCH_HOST, stated, field, format!("no service of the mesh is {full}"));
        return;
    }
    if let Some(service) = view.service(&full, namespace)
        && view.mesh.waypoint_of_service(service).is_none()
    {
        report.say(NO_WAYPOINT, stated, field, format!("{full} has no waypoint, so that this has no effect"));
    }
}

fn leads_to(
    view: &View<'_>,
    stated: &Stated,
    (to, namespace): (&Destination, &str),
    field: &str,
    report: &mut Report<'_>,
) {
    let full = view.full(&to.host, namespace);
    let Some(service) = view.service(&full, namespace) else {
        report.say(
            REFERENCE_MISSING,
            stated,
            format!("{field}.destination.host"),
            format!("no service {full}"),
        );
        return;
    };
    if let Some(port) = to.port.filter(|port| !service.ports.iter().any(|it| it.port == *port)) {
        let message = format!("{full} has no port {port}");
        report.say(REFERENCE_MISSING, stated, format!("{field}.destination.port.number"), message);
    }
    let Some(subset) = &to.subset else { return };
    let mut subsets = view.rules_for(&full).flat_map(|rule| &rule.subsets);
    if !subsets.any(|it| it.name == *subset) {
        report.say(
            REFERENCE_MISSING,
            stated,
            format!("{field}.destination.subset"),
            format!("no DestinationRule gives {full} a subset {subset}"),
        );
    }
}

/// Tries that the timeout of the whole request leaves no time for.
fn tries(stated: &Stated, route: &HttpRoute, field: &str, report: &mut Report<'_>) {
    let (Some(timeout), Some(retries)) = (route.timeout, &route.retries) else { return };
    let (Some(each), attempts) = (retries.per_try_timeout, retries.attempts.unwrap_or(DEFAULT_ATTEMPTS))
    else {
        return;
    };
    let all = each.saturating_mul(attempts.saturating_add(1));
    if attempts > 0 && all > timeout {
        let message = format!(
            "ends the request after {timeout:?}, and its {} tries of {each:?} take {all:?}",
            attempts + 1
        );
        report.say(TIMEOUT_FIRST, stated, format!("{field}.timeout"), message);
    }
}

/// Weights that do not say what they look like.
fn weights(stated: &Stated, to: &[HttpDestination], field: &str, report: &mut Report<'_>) {
    if let [only] = to
        && ![0, 1, 100].contains(&only.weight)
    {
        let weight = only.weight;
        report.say(
            WEIGHTS,
            stated,
            format!("{field}.route[0].weight"),
            format!("the only destination gets everything, not {weight} %"),
        );
    }
    let sum: u64 = to.iter().map(|it| u64::from(it.weight)).sum();
    if to.len() < 2 || sum == 100 || sum == 0 {
        return;
    }
    let share = |it: &HttpDestination| format!("{:.1} %", f64::from(it.weight) * 100.0 / sum as f64);
    let shares: Vec<_> = to.iter().map(share).collect();
    let message = format!("weights add up to {sum}, and mean {}", shares.join(", "));
    report.say(WEIGHTS, stated, format!("{field}.route"), message);
}

/// Of several for one host the oldest comes first, and Istio's waypoint takes it alone.
fn several_for_one_host(view: &View<'_>, report: &mut Report<'_>) {
    let mut by_host: BTreeMap<Arc<str>, Vec<(&Stated, &VirtualService)>> = BTreeMap::new();
    for (stated, it) in view.virtual_services().filter(|(_, it)| it.gateways.mesh) {
        let hosts: BTreeSet<_> = it.hosts.iter().map(|host| view.full(host, &it.object.namespace)).collect();
        for host in hosts {
            by_host.entry(host).or_default().push((stated, it));
        }
    }
    for (host, all) in by_host.iter().filter(|(_, all)| all.len() > 1) {
        for (at, (stated, it)) in all.iter().enumerate() {
            let others: Vec<_> = all
                .iter()
                .enumerate()
                .filter(|(other, (_, other_one))| *other != at && meet(&it.visibility, &other_one.visibility))
                .map(|(_, (_, other))| other.object.to_string())
                .collect();
            if !others.is_empty() {
                let more = others.len().saturating_sub(MAX_NAMED);
                let mut others = others[..others.len() - more].join(", ");
                if more > 0 {
                    others.push_str(&format!(" and {more} more"));
                }
                let is_it = |stated: &Arc<str>| view.full(stated, &it.object.namespace) == *host;
                let index = it.hosts.iter().position(is_it).unwrap_or_default();
                report.say(SEVERAL_FOR_HOST, stated, format!("spec.hosts[{index}]"), format!("{host} has routes by {others} too; they are merged, the oldest first, and Istio takes only one"));
            }
        }
    }
}

/// Whether somebody sees both.
fn meet(one: &Visibility, other: &Visibility) -> bool {
    match (one, other) {
        (Visibility::Namespaces(these), Visibility::Namespaces(those)) => {
            these.iter().any(|it| those.contains(it))
        }
        _ => true,
    }
}

fn destination_rule(view: &View<'_>, stated: &Stated, it: &DestinationRule, report: &mut Report<'_>) {
    let namespace = &it.object.namespace;
    applies_to(view, stated, "spec.host", (&it.host, namespace), report);
    let unverified =
        |policy: &PortPolicy| policy.tls.as_ref().is_some_and(|tls| tls.skip_verification == Some(true));
    let subsets = it.subsets.iter().enumerate();
    let subsets = subsets.map(|(at, it)| (format!("spec.subsets[{at}].trafficPolicy"), &it.policy));
    for (field, policy) in std::iter::once(("spec.trafficPolicy".to_owned(), &it.policy)).chain(subsets) {
        if unverified(&policy.ports) {
            report.say(
                NOT_VERIFIED,
                stated,
                format!("{field}.tls.insecureSkipVerify"),
                "the server's certificate is not verified: anybody can pretend to be it",
            );
        }
        for (port, _) in policy.by_port.iter().filter(|(_, policy)| unverified(policy)) {
            report.say(
                NOT_VERIFIED_PORT,
                stated,
                format!("{field}.portLevelSettings"),
                format!("the server's certificate is not verified at port {port}"),
            );
        }
    }
    let full = view.full(&it.host, namespace);
    let Some(service) = view.service(&full, namespace).filter(|it| it.external.is_none()) else { return };
    let endpoints = view.mesh.endpoints(service);
    for (at, subset) in it.subsets.iter().enumerate().filter(|_| !endpoints.is_empty()) {
        let mut workloads = endpoints.iter().filter_map(|endpoint| endpoint.workload.as_ref());
        if !workloads.any(|workload| subset.labels.all_in(&workload.labels)) {
            let message = format!("no pod of {full} is of the subset {}", subset.name);
            report.say(SUBSET_EMPTY, stated, format!("spec.subsets[{at}].labels"), message);
        }
    }
}
