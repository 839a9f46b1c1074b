//! Routes of the Gateway API that attach to a service, and the order in which their rules are asked.
//!
//! By the service itself, or by its ServiceEntry (GAMMA, GEP-1426): a route of the service's own namespace is for all
//! callers, one of another namespace for the callers of that namespace, who then see no other. Or by the waypoint's
//! Gateway, and then to everything behind it. The closest decides, for each port by itself and for requests and
//! connections apart: routes for the caller's namespace, routes for all, VirtualServices, routes of the Gateway.
//!
//! Among routes that attach alike, the order is the Gateway API's: the most particular match first, whichever route states
//! it; then the oldest route, the first by name, the first rule.

use std::cmp::Reverse;
use std::sync::Arc;

use common::config::gateway::{GatewayRoute, Hostname, Parent, ParentKind, Rank, RouteKind};
use common::config::routing::request::HttpMatch;
use common::config::{Key, ObjectName};
use common::snapshot::Snapshot;
use common::snapshot::model::Service;

use super::connection::{ConnectionRoute, ConnectionRoutes, ConnectionRule, List};
use super::hosts::{self, Closeness};
use super::matching::HttpRoutes;
use super::route::{Condition, Place, Route, Rule};
use super::statement::Statement;
use super::table::{View, canonical};

/// The name of a waypoint's one listener (Istio's convention).
const LISTENER: &str = "mesh";

/// Whose requests a route is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those of callers of its namespace, which is not the service's.
    Consumer(Arc<str>),
    /// Everybody's.
    Everyone,
    /// Everybody's to anything behind the Gateway.
    Gateway,
}

/// A route that attaches to a service.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) route: Arc<GatewayRoute>,
    pub(super) scope: Scope,
    /// The ports of the service it attaches to; `None` is all.
    pub(super) ports: Option<Vec<u16>>,
}

/// Where a rule stands among others, the least first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    host: Reverse<Option<Closeness>>,
    kind: RouteKind,
    rank: Reverse<Rank>,
    created: Option<i64>,
    object: ObjectName,
    rule: usize,
    entry: usize,
}

/// The routes that attach to a service, out of those among which all of them are.
pub(super) fn attaching<'m>(
    view: &View,
    mesh: &Snapshot,
    service: &Service,
    candidates: impl Iterator<Item = &'m Arc<GatewayRoute>>,
) -> Vec<Attached> {
    let mut found = Vec::new();
    for route in candidates {
        let namespace = &route.object.namespace;
        let direct = route.parents.iter().filter(|it| names(it, service));
        let ports: Vec<Option<Vec<u16>>> = direct.filter_map(|it| ports(it, service)).collect();
        if !ports.is_empty() {
            let scope = match *namespace == service.namespace {
                true => Scope::Everyone,
                false => Scope::Consumer(namespace.clone()),
            };
            // One that attaches to all ports says more than others that name some.
            let ports = ports.into_iter().collect::<Option<Vec<Vec<u16>>>>().map(|it| it.concat());
            found.push(Attached { route: route.clone(), scope, ports });
        }
        let of_gateway = |it: &Parent| is_gateway(it, view);
        if route.parents.iter().any(of_gateway) && mesh.may_use_waypoint(namespace, &view.waypoint) {
            found.push(Attached { route: route.clone(), scope: Scope::Gateway, ports: None });
        }
    }
    found
}

/// Whether a parent is this waypoint's Gateway.
pub(super) fn is_gateway(parent: &Parent, view: &View) -> bool {
    parent.kind == ParentKind::Gateway
        && parent.object == view.waypoint
        && parent.section.as_deref().is_none_or(|it| it == LISTENER)
        && parent.port.is_none_or(|it| it == common::config::waypoint::HBONE_PORT)
}

fn names(parent: &Parent, service: &Service) -> bool {
    let of_entry = service.external.as_ref().map(|it| &it.entry);
    let name = match parent.kind {
        ParentKind::Service if of_entry.is_none() => &service.name,
        ParentKind::Entry => match of_entry {
            Some(entry) => entry,
            None => return false,
        },
        ParentKind::Service | ParentKind::Gateway => return false,
    };
    parent.object.namespace == service.namespace && parent.object.name == *name
}

/// The ports of a service that a parent names: all, some, or nothing where it has none of them.
fn ports(parent: &Parent, service: &Service) -> Option<Option<Vec<u16>>> {
    if parent.port.is_none() && parent.section.is_none() {
        return Some(None);
    }
    let named = service.ports.iter().filter(|it| {
        parent.port.is_none_or(|port| port == it.port)
            && parent.section.as_ref().is_none_or(|section| *section == it.name)
    });
    let named: Vec<u16> = named.map(|it| it.port).collect();
    (!named.is_empty()).then_some(Some(named))
}

impl Attached {
    /// Which route.
    pub(super) fn key(&self) -> Key {
        Key { kind: self.route.kind.kind(), object: self.route.object.clone() }
    }

    /// Whether it attaches to a port, `None` being all that nobody names.
    pub(super) fn is_for(&self, port: Option<u16>) -> bool {
        self.ports.as_ref().is_none_or(|ports| port.is_some_and(|port| ports.contains(&port)))
    }

    /// Whether there is a port to which both of these attach.
    pub(super) fn meets(&self, other: &Self) -> bool {
        match (&self.ports, &other.ports) {
            (Some(own), Some(theirs)) => own.iter().any(|it| theirs.contains(it)),
            _ => true,
        }
    }
}

/// The rules of a route, compiled for every port.
pub(super) struct Compiled {
    http: Vec<(Order, Rule)>,
    connections: Vec<(Order, ConnectionRule)>,
}

impl Compiled {
    pub(super) fn new(of: &Attached, mesh: &Snapshot, cluster_domain: &str) -> Self {
        let stated_by = Statement::Route(of.route.clone());
        let mut compiled = Self { http: Vec::new(), connections: Vec::new() };
        let hostnames = match of.scope {
            Scope::Gateway => &*of.route.hostnames,
            _ => &[],
        };
        for (at, ranks) in of.route.ranks.iter().enumerate() {
            let place = Place::new(stated_by.clone(), at);
            let route = Arc::new(Route::new(place, None, mesh, cluster_domain));
            for (entry, rank) in ranks.iter().enumerate() {
                compiled.add(&of.route, &route, (at, entry), *rank, hostnames);
            }
        }
        for (list, count) in [(List::Tls, of.route.tls.len()), (List::Tcp, of.route.tcp.len())] {
            for at in 0..count {
                let route = Arc::new(ConnectionRoute::new(&stated_by, (list, at), mesh, cluster_domain));
                for (entry, matched) in route.matches().into_iter().enumerate() {
                    let rule = ConnectionRule::new(&route, matched);
                    let host = rule.server_name().map(hosts::closeness_of);
                    let order = order(&of.route, (at, entry), Rank::default(), host);
                    compiled.connections.push((order, rule));
                }
            }
        }
        compiled
    }

    /// A match, once for each hostname where there are some.
    fn add(
        &mut self,
        stated: &GatewayRoute,
        route: &Arc<Route>,
        at: (usize, usize),
        rank: Rank,
        hostnames: &[Hostname],
    ) {
        let own = Rule::new(route, Condition::Own(at.1));
        let prepared = own.stated().and_then(canonical);
        if hostnames.is_empty() {
            let rule = prepared.map(|it| Rule::new(route, Condition::Made(Box::new(it)))).unwrap_or(own);
            self.http.push((order(stated, at, rank, None), rule));
            return;
        }
        let Some(base) = prepared.or_else(|| own.stated().cloned()) else { return };
        for hostname in hostnames {
            let made = HttpMatch { authority: Some(hostname.authority.clone()), ..base.clone() };
            let host = Some(hosts::closeness_of(&hostname.name));
            let rule = Rule::new(route, Condition::Made(Box::new(made)));
            self.http.push((order(stated, at, rank, host), rule));
        }
    }

    /// Its rules and those of others for requests, in their order.
    pub(super) fn http<'c>(of: impl Iterator<Item = &'c Self>) -> HttpRoutes {
        let mut all: Vec<&(Order, Rule)> = of.flat_map(|it| &it.http).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        HttpRoutes::new(all.into_iter().map(|(_, rule)| rule.clone()).collect())
    }

    /// Its rules and those of others for connections, in their order.
    pub(super) fn connections<'c>(of: impl Iterator<Item = &'c Self>) -> ConnectionRoutes {
        let mut all: Vec<&(Order, ConnectionRule)> = of.flat_map(|it| &it.connections).collect();
        // TLS goes before TCP, whatever names are asked for.
        all.sort_by(|a, b| (a.0.kind, &a.0).cmp(&(b.0.kind, &b.0)));
        ConnectionRoutes { rules: all.into_iter().map(|(_, rule)| rule.clone()).collect() }
    }

    /// Every rule for requests.
    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.http.iter().map(|(_, rule)| rule)
    }

    /// Every rule for connections.
    pub(super) fn connection_rules(&self) -> impl Iterator<Item = &ConnectionRule> {
        self.connections.iter().map(|(_, rule)| rule)
    }
}

fn order(stated: &GatewayRoute, (rule, entry): (usize, usize), rank: Rank, host: Option<Closeness>) -> Order {
    Order {
        host: Reverse(host),
        kind: stated.kind,
        rank: Reverse(rank),
        created: stated.created,
        object: stated.object.clone(),
        rule,
        entry,
    }
}
