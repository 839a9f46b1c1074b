//! Compiled routes of connections, and the one a connection falls under.
//!
//! TLS routes are asked first and only of connections that name a server; of each kind the first that holds decides, as
//! Istio's reference says. A connection under no rule goes to the service itself.

use std::sync::Arc;

use common::config::routing::layer4::{ConnectionDestination, ConnectionMatch, TlsMatch};
use common::config::{Key, ObjectName};
use common::snapshot::Snapshot;
use common::snapshot::model::Workload;

use super::facts::ConnectionFacts;
use super::hosts;
use super::route::Target;
use super::statement::Statement;

/// A list of a VirtualService, and the kind of a route of the Gateway API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    /// `spec.tls`.
    Tls,
    /// `spec.tcp`.
    Tcp,
}

/// A route of connections.
#[derive(Debug)]
pub struct ConnectionRoute {
    stated_by: Statement,
    list: List,
    at: usize,
    destinations: Box<[Target]>,
}

impl ConnectionRoute {
    /// Compiles the entry at a position, which there has to be.
    pub(super) fn new(
        stated_by: &Statement,
        (list, at): (List, usize),
        mesh: &Snapshot,
        cluster_domain: &str,
    ) -> Self {
        let mut route = Self { stated_by: stated_by.clone(), list, at, destinations: Box::default() };
        let find = |it: &ConnectionDestination| stated_by.target(&it.destination, mesh, cluster_domain);
        route.destinations = route.stated().iter().map(find).collect();
        route
    }

    /// The VirtualService that states it, or the route of the Gateway API.
    pub fn stated_by(&self) -> &ObjectName {
        self.stated_by.object()
    }

    /// The object that states it, and the field.
    pub(crate) fn stated_at(&self) -> (Key, String) {
        let field = match (&self.stated_by, self.list) {
            (Statement::Route(_), _) => "rules",
            (_, List::Tls) => "tls",
            (_, List::Tcp) => "tcp",
        };
        (self.stated_by.key(), format!("spec.{field}[{}]", self.at))
    }

    /// The destinations that get anything, with their weights: all that have one, or the only one there is.
    pub fn forwards(&self) -> impl Iterator<Item = (u32, &Target)> + Clone {
        let stated = self.stated();
        let is_only = stated.len() == 1;
        let all = stated.iter().map(|it| it.weight).zip(&*self.destinations);
        all.filter(move |(weight, _)| is_only || *weight > 0)
    }

    /// Every service that it may lead to.
    pub(super) fn leads_to(&self) -> impl Iterator<Item = &Target> {
        self.destinations.iter()
    }

    /// What a connection must be, per entry of `match`; a TCP route without any takes all.
    pub(super) fn matches(&self) -> Vec<Option<usize>> {
        let count = match self.list {
            List::Tls => self.stated_by.tls()[self.at].matches.len(),
            List::Tcp => self.stated_by.tcp()[self.at].matches.len(),
        };
        if count == 0 { vec![None] } else { (0..count).map(Some).collect() }
    }

    fn stated(&self) -> &[ConnectionDestination] {
        match self.list {
            List::Tls => &self.stated_by.tls()[self.at].route,
            List::Tcp => &self.stated_by.tcp()[self.at].route,
        }
    }

    fn tls_match(&self, at: usize) -> Option<&TlsMatch> {
        (self.list == List::Tls).then(|| &self.stated_by.tls()[self.at].matches[at])
    }
}

/// One entry of a route's `match`.
#[derive(Debug, Clone)]
pub struct ConnectionRule {
    /// Where the connections that it takes go.
    pub route: Arc<ConnectionRoute>,
    at: Option<usize>,
}

impl ConnectionRule {
    pub(super) fn new(route: &Arc<ConnectionRoute>, at: Option<usize>) -> Self {
        Self { route: route.clone(), at }
    }

    /// What a connection must be besides its server name; `None` takes every connection.
    pub(super) fn stated(&self) -> Option<&ConnectionMatch> {
        let at = self.at?;
        Some(match self.route.list {
            List::Tls => &self.route.stated_by.tls()[self.route.at].matches[at].connection,
            List::Tcp => &self.route.stated_by.tcp()[self.route.at].matches[at],
        })
    }

    /// The first server name that it asks for, of a TLS rule.
    pub(super) fn server_name(&self) -> Option<&str> {
        let tls = self.route.tls_match(self.at?)?;
        tls.sni_hosts.first().map(|it| &**it)
    }

    /// Whether no rule after it is reached, where its port and gateways have been looked at.
    pub(super) fn takes_everything(&self) -> bool {
        let is_bare = |it: &ConnectionMatch| {
            let ConnectionMatch {
                destination_subnets,
                port: _,
                source_labels,
                source_namespace,
                gateways: _,
            } = it;
            destination_subnets.is_empty() && source_labels.is_empty() && source_namespace.is_none()
        };
        self.route.list == List::Tcp && self.stated().is_none_or(is_bare)
    }

    fn holds(&self, facts: &ConnectionFacts<'_>) -> bool {
        if let Some(tls) = self.at.and_then(|at| self.route.tls_match(at)) {
            let is_named = |name| tls.sni_hosts.iter().any(|it| hosts::closeness(it, name).is_some());
            if !facts.server_name.is_some_and(is_named) {
                return false;
            }
        }
        let Some(stated) = self.stated() else { return true };
        let subnets = &stated.destination_subnets;
        let address = facts.destination.to_canonical();
        (subnets.is_empty() || subnets.iter().any(|it| it.contains(&address)))
            && comes_from(&stated.source_labels, stated.source_namespace.as_deref(), facts.source)
    }
}

/// Whether the caller has these labels and is in this namespace, as far as either is asked for. A caller nobody knows
/// has neither.
pub(super) fn comes_from(
    labels: &common::config::Labels,
    namespace: Option<&str>,
    source: Option<&Workload>,
) -> bool {
    if labels.is_empty() && namespace.is_none() {
        return true;
    }
    source
        .is_some_and(|it| labels.all_in(&it.labels) && namespace.is_none_or(|name| **it.namespace() == *name))
}

/// Routes of connections to one port, TLS before TCP.
#[derive(Debug, Clone, Default)]
pub struct ConnectionRoutes {
    pub(super) rules: Arc<[ConnectionRule]>,
}

impl ConnectionRoutes {
    /// The rule a connection falls under; `None` sends it to the service that was called, at the port that was called.
    pub fn find(&self, facts: &ConnectionFacts<'_>) -> Option<&ConnectionRule> {
        // DNS names have no case, and rules are in lower case.
        let server_name = facts.server_name.map(str::to_ascii_lowercase);
        let facts = ConnectionFacts { server_name: server_name.as_deref(), ..*facts };
        self.rules.iter().find(|it| it.holds(&facts))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}
