//! What may not be sent to a collector in the clear.
//!
//! A `ztunnel` speaks no TLS to those outside the mesh. Where somebody states it for a service, or states headers to be
//! sent, which are keys more often than not, spans are rather lost than shown to everyone on the way. Pure. The surprising
//! thing: only rules of the service's own namespace and of the root count, lest anybody silence a collector.

use std::sync::Arc;

use common::config::backend_tls::TlsTargetKind;
use common::config::destination::DestinationRule;
use common::config::destination::tls::{ClientTls, TlsMode};
use common::snapshot::model::Service;
use common::snapshot::{Snapshot, Unread};
use common::spans::reach::Wanted;

/// Why nothing may be sent to `service` in the clear, if so.
pub(super) fn demanded(
    mesh: &Snapshot,
    service: &Service,
    wanted: &Wanted<'_>,
    domain: &str,
) -> Option<&'static str> {
    let port = service.ports.iter().find(|it| it.port == wanted.service.port);
    let is_tls = |protocol: &str| ["tls", "https"].iter().any(|it| protocol.eq_ignore_ascii_case(it));
    let names_certificates = service.external.as_ref().is_some_and(|it| !it.subject_alt_names.is_empty());
    if wanted.has_headers {
        Some("the provider states headers")
    } else if names_certificates || port.is_some_and(|it| is_tls(&it.app_protocol)) {
        Some("the service is stated to speak TLS")
    } else if by_policy(mesh, service, port.map_or("", |it| &it.name)) {
        Some("a BackendTLSPolicy states TLS")
    } else if by_rule(mesh, service, wanted.service.port, domain) {
        Some("a DestinationRule states TLS")
    } else {
        None
    }
}

/// Whether a BackendTLSPolicy is about a port of this name, or may be and cannot be read.
fn by_policy(mesh: &Snapshot, service: &Service, port: &str) -> bool {
    let (kind, name) = match &service.external {
        Some(external) => (TlsTargetKind::Entry, &external.entry),
        None => (TlsTargetKind::Service, &service.name),
    };
    let namespace = &service.namespace;
    if Unread::about(mesh.unread_backend_tls(), namespace, name).is_some() {
        return true;
    }
    let own = mesh.backend_tls().filter(|it| it.object.namespace == *namespace);
    own.flat_map(|it| it.targets.iter()).any(|it| {
        it.kind == kind && it.name == *name && it.section.as_deref().is_none_or(|section| section == port)
    })
}

/// Whether the DestinationRule for a service states TLS: of the first namespace that has one, the closest host.
fn by_rule(mesh: &Snapshot, service: &Service, port: u16, domain: &str) -> bool {
    let speaks = |tls: &Option<ClientTls>| tls.as_ref().is_some_and(|it| it.mode != TlsMode::Disable);
    for namespace in [&service.namespace, mesh.root_namespace()] {
        let of = mesh.destination_rules().filter(|it| it.object.namespace == *namespace);
        let fitting: Vec<_> = of.filter_map(|it| Some((fit(it, &service.hostname, domain)?, it))).collect();
        let Some(closest) = fitting.iter().map(|(fit, _)| *fit).max() else { continue };
        return fitting.iter().filter(|(fit, _)| *fit == closest).any(|(_, rule)| {
            let of_port = rule.policy.by_port.iter().find(|(of, _)| *of == port);
            of_port.map_or_else(|| speaks(&rule.policy.ports.tls), |(_, it)| speaks(&it.tls))
        });
    }
    false
}

/// How closely a rule's host is the one of a service: a name before a wildcard, a long one before a short one.
fn fit(rule: &DestinationRule, hostname: &Arc<str>, domain: &str) -> Option<(bool, usize)> {
    let host = &rule.host;
    if let Some(suffix) = host.strip_prefix('*') {
        return (hostname.len() > suffix.len() && hostname.ends_with(suffix)).then_some((false, host.len()));
    }
    let is_short = !host.contains('.');
    let is_named = match is_short {
        true => **hostname == *format!("{host}.{}.svc.{domain}", rule.object.namespace),
        false => host == hostname,
    };
    is_named.then_some((true, 0))
}
