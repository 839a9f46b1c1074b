//! The routes of one service, out of all VirtualServices that apply to it and the routes of the Gateway API that attach.
//!
//! A VirtualService applies when it is in force for the mesh, is stated in the namespace of the service or of the
//! waypoint, is exported to the waypoint's, and one of its hosts names the service. Of those, the hosts that name it
//! most closely decide: the very name before any `*.x`, a longer `*.x` before a shorter. If several VirtualServices
//! name it that closely, their rules follow one another, the oldest's first, and rules that take everything come last:
//! a catch-all of one team does not hide the rules of another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::config::gateway::GatewayRoute;
use common::config::routing::request::HttpMatch;
use common::config::routing::{Gateways, HttpAction, StringMatch, VirtualService};
use common::config::{Key, ObjectName};
use common::snapshot::Snapshot;
use common::snapshot::model::Service;

use super::attached::{self, Attached, Scope, attaching};
use super::canonical::normalised;
use super::connection::{ConnectionRoute, ConnectionRoutes, ConnectionRule, List};
use super::delegate;
use super::hosts::{self, Closeness, full_name};
use super::matching::HttpRoutes;
use super::problems::{self, Problem};
use super::route::{Condition, Place, Route, Rule};
use super::statement::Statement;

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
    /// The routes of the Gateway API that attach to it, or to everything behind this waypoint.
    pub attached: Box<[Arc<GatewayRoute>]>,
    /// What of all these is without effect, or is answered with 500.
    pub problems: Box<[Problem]>,
    everyone: Ports,
    /// For callers of namespaces that have routes of their own for it, by namespace.
    consumers: BTreeMap<Arc<str>, Ports>,
}

/// The routes of one service for some callers.
#[derive(Debug, Clone, Default)]
struct Ports {
    /// For ports of the service that some match or parent names, by port.
    named: Box<[(u16, PortRoutes)]>,
    /// For all others.
    others: PortRoutes,
}

impl ServiceRoutes {
    /// The routes of a port that was called, by somebody of no known namespace.
    pub fn port(&self, called: u16) -> &PortRoutes {
        self.port_for(called, None)
    }

    /// The routes of a port that was called by somebody of a namespace.
    pub fn port_for(&self, called: u16, caller: Option<&str>) -> &PortRoutes {
        let consumers = caller.and_then(|namespace| self.consumers.get(namespace));
        let ports = consumers.unwrap_or(&self.everyone);
        match ports.named.binary_search_by_key(&called, |(port, _)| *port) {
            Ok(at) => &ports.named[at].1,
            Err(_) => &ports.others,
        }
    }

    /// Whether any of them has somebody asked who has to agree (`ExternalAuth`).
    pub(super) fn asks(&self) -> bool {
        let of_ports =
            |it: &Ports| it.others.http.asks() || it.named.iter().any(|(_, port)| port.http.asks());
        of_ports(&self.everyone) || self.consumers.values().any(of_ports)
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

/// Compiles the routes of a service. Asks every VirtualService and route of the mesh; [`Tables`](super::Tables) asks only
/// those that may apply.
pub fn compile(mesh: &Snapshot, view: &View, service: &Service) -> ServiceRoutes {
    let applied = applying(view, service, mesh.virtual_services());
    let attached = attaching(view, mesh, service, mesh.routes());
    compile_from(mesh, view, service, (applied, attached), &mut Compiled::default())
}

/// What was compiled of one snapshot. Services to which the same VirtualServices apply share it, so that a pattern for
/// a thousand services is compiled and kept once; and so do those behind a Gateway that has routes.
#[derive(Default)]
pub(super) struct Compiled {
    together: BTreeMap<Vec<ObjectName>, Together>,
    of_gateway: Option<OfGateway>,
}

/// VirtualServices that apply together.
struct Together {
    parts: Vec<Part>,
    ports: BTreeSet<u16>,
    made: BTreeMap<Option<u16>, PortRoutes>,
}

/// The routes of this waypoint's Gateway, which are the same for all services behind it.
struct OfGateway {
    keys: Vec<Key>,
    made: PortRoutes,
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

/// Everything that says where calls to one service go.
struct Sources<'c> {
    together: &'c mut Together,
    /// Routes that attach to the service itself.
    direct: Vec<(Attached, attached::Compiled)>,
    of_gateway: PortRoutes,
}

impl Sources<'_> {
    /// The routes of one port for callers of a namespace: the closest that say anything.
    fn at(&mut self, port: Option<u16>, consumer: Option<&Arc<str>>) -> PortRoutes {
        let stated = self.together.routes_at(port);
        let scopes = [consumer.map(|it| Scope::Consumer(it.clone())), Some(Scope::Everyone)];
        let mut made = PortRoutes::default();
        for scope in scopes.into_iter().flatten() {
            let here = || {
                let mine = self.direct.iter().filter(|(it, _)| it.scope == scope && it.is_for(port));
                mine.map(|(_, compiled)| compiled)
            };
            if made.http.rules().is_empty() {
                made.http = attached::Compiled::http(here());
            }
            if made.connections.is_empty() {
                made.connections = attached::Compiled::connections(here());
            }
        }
        for fallback in [stated, self.of_gateway.clone()] {
            if made.http.rules().is_empty() {
                made.http = fallback.http;
            }
            if made.connections.is_empty() {
                made.connections = fallback.connections;
            }
        }
        made
    }

    fn ports(&mut self, named: &BTreeSet<u16>, consumer: Option<&Arc<str>>) -> Ports {
        let others = self.at(None, consumer);
        Ports { named: named.iter().map(|port| (*port, self.at(Some(*port), consumer))).collect(), others }
    }
}

/// Compiles the routes of a service out of the VirtualServices that apply to it and the routes that attach.
pub(super) fn compile_from(
    mesh: &Snapshot,
    view: &View,
    service: &Service,
    (applied, attached): (Vec<&Arc<VirtualService>>, Vec<Attached>),
    compiled: &mut Compiled,
) -> ServiceRoutes {
    let domain = &*view.cluster_domain;
    let names = applied.iter().map(|it| it.object.clone()).collect();
    let together = compiled.together.entry(names).or_insert_with(|| Together::new(&applied, mesh, view));
    let routes: Box<[Arc<GatewayRoute>]> = attached.iter().map(|it| it.route.clone()).collect();
    let (of_gateway, direct): (Vec<_>, Vec<_>) =
        attached.into_iter().partition(|it| it.scope == Scope::Gateway);
    let direct: Vec<_> = direct
        .into_iter()
        .map(|it| {
            let compiled = attached::Compiled::new(&it, mesh, domain);
            (it, compiled)
        })
        .collect();
    let asked: BTreeSet<u16> = direct.iter().flat_map(|(it, _)| it.ports.iter().flatten().copied()).collect();
    let named = service.ports.iter().map(|it| it.port);
    let named = named.filter(|it| together.ports.contains(it) || asked.contains(it)).collect();
    let consumers: BTreeSet<Arc<str>> = direct
        .iter()
        .filter_map(|(it, _)| match &it.scope {
            Scope::Consumer(namespace) => Some(namespace.clone()),
            _ => None,
        })
        .collect();
    let problems = problems::of(&applied, &direct, &of_gateway);
    let of_gateway = gateway_routes(&mut compiled.of_gateway, &of_gateway, mesh, domain);
    let mut sources = Sources { together, direct, of_gateway };
    ServiceRoutes {
        service: ObjectName::new(service.namespace.clone(), service.name.clone()),
        everyone: sources.ports(&named, None),
        consumers: consumers.into_iter().map(|it| (it.clone(), sources.ports(&named, Some(&it)))).collect(),
        applied: applied.into_iter().cloned().collect(),
        attached: routes,
        problems,
    }
}

/// The rules of the Gateway's routes, made once for all services.
fn gateway_routes(
    known: &mut Option<OfGateway>,
    attached: &[Attached],
    mesh: &Snapshot,
    cluster_domain: &str,
) -> PortRoutes {
    if attached.is_empty() {
        return PortRoutes::default();
    }
    let keys: Vec<Key> = attached.iter().map(Attached::key).collect();
    if let Some(known) = known.as_ref().filter(|it| it.keys == keys) {
        return known.made.clone();
    }
    let all: Vec<_> = attached.iter().map(|it| attached::Compiled::new(it, mesh, cluster_domain)).collect();
    let made = PortRoutes {
        http: attached::Compiled::http(all.iter()),
        connections: attached::Compiled::connections(all.iter()),
    };
    *known = Some(OfGateway { keys, made: made.clone() });
    made
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
        let statement = Statement::VirtualService(stated.clone());
        let statement = &statement;
        let http = (0..stated.http.len()).flat_map(|at| entries(place(stated, at), mesh, domain)).collect();
        let compiled = |list, count| {
            (0..count)
                .map(move |at| (list, Arc::new(ConnectionRoute::new(statement, (list, at), mesh, domain))))
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

fn place(stated: &Arc<VirtualService>, at: usize) -> Place {
    Place::new(Statement::VirtualService(stated.clone()), at)
}

/// The routes of one entry: itself, or those of the VirtualService that it delegates to and may see. A delegate that is
/// not there leaves its requests to the entries that follow, as in Istio.
fn entries(place: Place, mesh: &Snapshot, domain: &str) -> Vec<(Arc<Route>, Vec<Condition>)> {
    let HttpAction::Delegate(delegate) = &place.route().action else {
        let conditions = delegate::stated(&place.route().matches);
        return vec![prepared(Route::new(place, None, mesh, domain), conditions)];
    };
    let namespace = &place.stated_by().object().namespace;
    let delegate =
        mesh.virtual_service(delegate).filter(|it| it.hosts.is_empty() && it.visibility.reaches(namespace));
    let Some(delegate) = delegate else { return Vec::new() };
    let delegated = (0..delegate.http.len()).map(|at| {
        let own = self::place(delegate, at);
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
pub(super) fn canonical(stated: &HttpMatch) -> Option<HttpMatch> {
    let changed = |text: &Arc<str>| {
        let made = normalised(text).ok().filter(|made| **made != **text)?;
        Some(Arc::from(&*made))
    };
    let path = match stated.path.as_ref()? {
        StringMatch::Exact(text) => StringMatch::Exact(changed(text)?),
        StringMatch::Prefix(text) => StringMatch::Prefix(changed(text)?),
        StringMatch::ExactIgnoringCase(text) => StringMatch::ExactIgnoringCase(changed(text)?),
        StringMatch::PrefixIgnoringCase(text) => StringMatch::PrefixIgnoringCase(changed(text)?),
        StringMatch::Segments(text) => StringMatch::Segments(changed(text)?),
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
        is_grpc,
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
        && !is_grpc
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
