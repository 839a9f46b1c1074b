//! The routes of one service, out of all VirtualServices that apply to it.
//!
//! A VirtualService applies when it is in force for the mesh, is stated in the namespace of the service or of the
//! waypoint, is exported to the waypoint's, and one of its hosts names the service. Of those, the hosts that name it
//! most closely decide: the very name before any `*.x`, a longer `*.x` before a shorter. If several VirtualServices
//! name it that closely, their rules follow one another, the oldest's first, and rules that take everything come last:
//! a catch-all of one team does not hide the rules of another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::config::ObjectName;
use common::config::routing::request::HttpMatch;
use common::config::routing::{Gateways, HttpAction, StringMatch, VirtualService};
use common::snapshot::Snapshot;
use common::snapshot::model::Service;

use super::canonical::normalised;
use super::connection::{ConnectionRoute, ConnectionRoutes, ConnectionRule, List};
use super::delegate;
use super::hosts::{self, Closeness, full_name};
use super::matching::HttpRoutes;
use super::route::{Condition, Place, Route, Rule};

/// Whose view of the mesh is compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The Gateway that this waypoint is.
    pub waypoint: ObjectName,
    /// The DNS domain below which services are named.
    pub cluster_domain: Arc<str>,
}

/// The routes of one service.
#[derive(Debug, Clone)]
pub struct ServiceRoutes {
    /// The service.
    pub service: ObjectName,
    /// The VirtualServices that apply to it, in the order of their rules; without those that they delegate to.
    pub applied: Box<[Arc<VirtualService>]>,
    /// For ports of the service that some match names, by port.
    named: Box<[(u16, PortRoutes)]>,
    /// For all others.
    others: PortRoutes,
}

impl ServiceRoutes {
    /// The routes of a port that was called.
    pub fn port(&self, called: u16) -> &PortRoutes {
        match self.named.binary_search_by_key(&called, |(port, _)| *port) {
            Ok(at) => &self.named[at].1,
            Err(_) => &self.others,
        }
    }
}

/// The routes of one port.
#[derive(Debug, Clone, Default)]
pub struct PortRoutes {
    /// Of HTTP requests.
    pub http: HttpRoutes,
    /// Of other connections.
    pub connections: ConnectionRoutes,
}

/// Compiles the routes of a service. Asks every VirtualService of the mesh; [`Tables`](super::Tables) asks only those
/// that may apply.
pub fn compile(mesh: &Snapshot, view: &View, service: &Service) -> ServiceRoutes {
    let applied = applying(view, service, mesh.virtual_services());
    compile_from(mesh, view, service, applied, &mut Compiled::default())
}

/// What was compiled of one snapshot. Services to which the same VirtualServices apply share it, so that a pattern for
/// a thousand services is compiled and kept once.
#[derive(Default)]
pub(super) struct Compiled(BTreeMap<Vec<ObjectName>, Together>);

/// VirtualServices that apply together.
struct Together {
    parts: Vec<Part>,
    ports: BTreeSet<u16>,
    made: BTreeMap<Option<u16>, PortRoutes>,
}

impl Together {
    fn new(applied: &[&Arc<VirtualService>], mesh: &Snapshot, view: &View) -> Self {
        let parts: Vec<Part> = applied.iter().map(|it| Part::new(it, mesh, view)).collect();
        let ports = parts.iter().flat_map(Part::ports).collect();
        Self { parts, ports, made: BTreeMap::new() }
    }

    fn routes_at(&mut self, port: Option<u16>) -> PortRoutes {
        let parts = &self.parts;
        let made = self.made.entry(port);
        let make = || PortRoutes { http: http_at(parts, port), connections: connections_at(parts, port) };
        made.or_insert_with(make).clone()
    }
}

/// Compiles the routes of a service out of the VirtualServices that apply to it.
pub(super) fn compile_from(
    mesh: &Snapshot,
    view: &View,
    service: &Service,
    applied: Vec<&Arc<VirtualService>>,
    compiled: &mut Compiled,
) -> ServiceRoutes {
    let names = applied.iter().map(|it| it.object.clone()).collect();
    let together = compiled.0.entry(names).or_insert_with(|| Together::new(&applied, mesh, view));
    let named: BTreeSet<u16> =
        service.ports.iter().map(|it| it.port).filter(|it| together.ports.contains(it)).collect();
    ServiceRoutes {
        service: ObjectName::new(service.namespace.clone(), service.name.clone()),
        named: named.into_iter().map(|port| (port, together.routes_at(Some(port)))).collect(),
        others: together.routes_at(None),
        applied: applied.into_iter().cloned().collect(),
    }
}

/// The VirtualServices that apply to a service, out of those among which all of them are; oldest first.
pub(super) fn applying<'m>(
    view: &View,
    service: &Service,
    candidates: impl Iterator<Item = &'m Arc<VirtualService>>,
) -> Vec<&'m Arc<VirtualService>> {
    let found = candidates.filter_map(|it| Some((closeness(it, view, service)?, it)));
    let found: Vec<(Closeness, &Arc<VirtualService>)> = found.collect();
    let closest = found.iter().map(|(closeness, _)| *closeness).max();
    let closest = found.into_iter().filter(|(closeness, _)| Some(*closeness) == closest);
    let mut applying: Vec<_> = closest.map(|(_, stated)| stated).collect();
    // Names decide between those of one age, as in Istio.
    applying.sort_by_key(|it| (it.created, &it.object.name, &it.object.namespace));
    applying
}

/// How closely a VirtualService names a service, if it applies at all.
fn closeness(stated: &VirtualService, view: &View, service: &Service) -> Option<Closeness> {
    let namespace = &stated.object.namespace;
    let near = *namespace == service.namespace || *namespace == view.waypoint.namespace;
    if !near || !stated.gateways.mesh || !stated.visibility.reaches(&view.waypoint.namespace) {
        return None;
    }
    let close = |host: &Arc<str>| {
        hosts::closeness(&full_name(host, namespace, &view.cluster_domain), &service.hostname)
    };
    stated.hosts.iter().filter_map(close).max()
}

/// What one VirtualService contributes, for all ports.
pub(super) struct Part {
    http: Vec<(Arc<Route>, Vec<Condition>)>,
    connections: Vec<(List, Arc<ConnectionRoute>)>,
}

impl Part {
    pub(super) fn new(stated: &Arc<VirtualService>, mesh: &Snapshot, view: &View) -> Self {
        let domain = &view.cluster_domain;
        let http =
            (0..stated.http.len()).flat_map(|at| entries(Place::new(stated, at), mesh, domain)).collect();
        let compiled = |list, count| {
            (0..count).map(move |at| (list, Arc::new(ConnectionRoute::new(stated, (list, at), mesh, domain))))
        };
        let tls = compiled(List::Tls, stated.tls.len());
        Self { http, connections: tls.chain(compiled(List::Tcp, stated.tcp.len())).collect() }
    }

    /// The ports that its matches name.
    fn ports(&self) -> impl Iterator<Item = u16> {
        let rules = self.http.iter().flat_map(|(route, conditions)| {
            conditions.iter().filter_map(|it| Rule::new(route, it.clone()).stated()?.port)
        });
        let connections = self.connections.iter().flat_map(|(_, route)| {
            let rules = route.matches().into_iter().map(|at| ConnectionRule::new(route, at));
            rules.filter_map(|it| it.stated()?.port)
        });
        rules.chain(connections)
    }

    /// The services that its routes lead to, whether they exist or not, as [`hosts::led_to`] names them.
    pub(super) fn leads_to(&self, cluster_domain: &str) -> BTreeSet<ObjectName> {
        let http = self.http.iter().flat_map(|(route, _)| route.leads_to());
        let connections = self.connections.iter().flat_map(|(_, route)| route.leads_to());
        http.chain(connections).map(|it| hosts::led_to(&it.host, cluster_domain)).collect()
    }
}

/// The routes of one entry: itself, or those of the VirtualService that it delegates to and may see. A delegate that is
/// not there leaves its requests to the entries that follow, as in Istio.
fn entries(place: Place, mesh: &Snapshot, domain: &str) -> Vec<(Arc<Route>, Vec<Condition>)> {
    let HttpAction::Delegate(delegate) = &place.route().action else {
        let conditions = delegate::stated(&place.route().matches);
        return vec![prepared(Route::new(place, None, mesh, domain), conditions)];
    };
    let namespace = &place.stated_by().object.namespace;
    let delegate =
        mesh.virtual_service(delegate).filter(|it| it.hosts.is_empty() && it.visibility.reaches(namespace));
    let Some(delegate) = delegate else { return Vec::new() };
    let delegated = (0..delegate.http.len()).map(|at| {
        let own = Place::new(delegate, at);
        let conditions = delegate::conditions(place.route(), own.route());
        prepared(Route::new(own, Some(place.clone()), mesh, domain), conditions)
    });
    delegated.collect()
}

/// Puts paths that are asked for into the form in which requests have them.
fn prepared(route: Route, conditions: Vec<Condition>) -> (Arc<Route>, Vec<Condition>) {
    let route = Arc::new(route);
    let prepare = |condition: Condition| {
        let rule = Rule::new(&route, condition.clone());
        match rule.stated().and_then(canonical) {
            Some(made) => Condition::Made(Box::new(made)),
            None => condition,
        }
    };
    let conditions = conditions.into_iter().map(prepare).collect();
    (route, conditions)
}

/// A match with its path in canonical form, when it is in another.
fn canonical(stated: &HttpMatch) -> Option<HttpMatch> {
    let changed = |text: &Arc<str>| {
        let made = normalised(text).ok().filter(|made| **made != **text)?;
        Some(Arc::from(&*made))
    };
    let path = match stated.path.as_ref()? {
        StringMatch::Exact(text) => StringMatch::Exact(changed(text)?),
        StringMatch::Prefix(text) => StringMatch::Prefix(changed(text)?),
        StringMatch::ExactIgnoringCase(text) => StringMatch::ExactIgnoringCase(changed(text)?),
        StringMatch::PrefixIgnoringCase(text) => StringMatch::PrefixIgnoringCase(changed(text)?),
        StringMatch::Regex(_) => return None,
    };
    Some(HttpMatch { path: Some(path), ..stated.clone() })
}

/// Whether a match is for a port, `None` being all that none names, and for the mesh.
fn is_for(port: Option<u16>, asked: Option<u16>, gateways: Option<&Gateways>) -> bool {
    (asked.is_none() || asked == port) && gateways.is_none_or(|it| it.mesh)
}

/// The rules for one port.
fn http_at(parts: &[Part], port: Option<u16>) -> HttpRoutes {
    let (mut rules, mut last) = (Vec::new(), Vec::new());
    for part in parts {
        let all = part.http.iter().flat_map(|(route, conditions)| {
            conditions.iter().map(move |condition| Rule::new(route, condition.clone()))
        });
        let here = all.filter(|it| it.stated().is_none_or(|it| is_for(port, it.port, it.gateways.as_ref())));
        for rule in here {
            // What this VirtualService states after a rule that takes everything is never reached, and must not be
            // when the rule is moved to the end.
            if rule.stated().is_none_or(takes_everything) {
                last.push(rule);
                break;
            }
            rules.push(rule);
        }
    }
    rules.append(&mut last);
    HttpRoutes::new(rules)
}

/// Whether every request falls under it, where its port and gateways have been looked at.
fn takes_everything(stated: &HttpMatch) -> bool {
    let HttpMatch {
        name: _,
        path,
        scheme,
        method,
        authority,
        headers,
        without_headers,
        query,
        port: _,
        source_labels,
        source_namespace,
        gateways: _,
        stat_prefix: _,
    } = stated;
    path.as_ref().is_none_or(StringMatch::matches_every_path)
        && scheme.is_none()
        && method.is_none()
        && authority.is_none()
        && headers.is_empty()
        && without_headers.is_empty()
        && query.is_empty()
        && source_labels.is_empty()
        && source_namespace.is_none()
}

/// The same for connections: TLS routes of all first, then TCP routes.
fn connections_at(parts: &[Part], port: Option<u16>) -> ConnectionRoutes {
    let (mut rules, mut last) = (Vec::new(), Vec::new());
    for list in [List::Tls, List::Tcp] {
        for part in parts {
            let routes = part.connections.iter().filter(|(it, _)| *it == list).map(|(_, route)| route);
            let all = routes
                .flat_map(|route| route.matches().into_iter().map(move |at| ConnectionRule::new(route, at)));
            let here =
                all.filter(|it| it.stated().is_none_or(|it| is_for(port, it.port, it.gateways.as_ref())));
            for rule in here {
                if rule.takes_everything() {
                    last.push(rule);
                    break;
                }
                rules.push(rule);
            }
        }
    }
    rules.append(&mut last);
    ConnectionRoutes { rules: rules.into() }
}
