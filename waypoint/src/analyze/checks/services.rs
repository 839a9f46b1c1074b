//! Services as others have to find them: what their ports speak, and by which addresses they are called.

use common::config::core::Service;
use common::config::entry::ServiceEntry;
use common::config::{Resource, Stated};

use super::{Report, View};
use crate::analyze::finding::{ADDRESSES_NEEDED, PORT_NAME, SELECTS_NOTHING};
use crate::destination::Protocol;

pub(super) fn check(view: &View<'_>, report: &mut Report<'_>) {
    for stated in &view.manifests.stated {
        match &stated.resource {
            Resource::Service(it) => {
                selector(view, stated, it, report);
                ports(view, stated, it, report);
            }
            Resource::ServiceEntry(it) => addresses(stated, it, report),
            _ => {}
        }
    }
}

/// A service that nobody serves, unless by an EndpointSlice. Nothing is said where its pods may be made by what nobody
/// knows here, such as an operator.
fn selector(view: &View<'_>, stated: &Stated, service: &Service, report: &mut Report<'_>) {
    let (namespace, name) = (&service.object.namespace, &service.object.name);
    let Some(known) = view.mesh.service(namespace, name) else { return };
    if service.selector.is_empty()
        || view.selects(&service.selector, namespace) != Some(false)
        || view.mesh.endpoints(known).iter().next().is_some()
    {
        return;
    }
    report.say(SELECTS_NOTHING, stated, "spec.selector", "its selector picks no pod: calls to it go nowhere");
}

/// Behind a waypoint the protocol decides what is done; elsewhere nobody asks.
fn ports(view: &View<'_>, stated: &Stated, service: &Service, report: &mut Report<'_>) {
    let Some(known) = view.mesh.service(&service.object.namespace, &service.object.name) else { return };
    if view.mesh.waypoint_of_service(known).is_none() {
        return;
    }
    for port in known.ports.iter().filter(|port| Protocol::of(port) == Protocol::Undeclared) {
        let name = if port.name.is_empty() { "without a name" } else { &*port.name };
        report.say(
            PORT_NAME,
            stated,
            view.item(stated, "spec.ports", ("port", &port.port.to_string())),
            format!(
                "port {} ({name}) declares no protocol: the waypoint goes by a connection's first bytes",
                port.port
            ),
        );
    }
}

/// Without an address nobody's call can be told to be for it.
fn addresses(stated: &Stated, entry: &ServiceEntry, report: &mut Report<'_>) {
    if entry.addresses.is_empty() && !entry.hosts.is_empty() {
        report.say(
            ADDRESSES_NEEDED,
            stated,
            "spec.hosts",
            "no address: calls are told by the address they go to, and Ebb answers no DNS; only routes lead to it",
        );
    }
}
