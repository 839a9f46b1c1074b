//! What was called: its routes, and the destinations they name.

use std::sync::Arc;
use std::time::Instant;

use common::config::ObjectName;
use http::HeaderMap;

use crate::authn;
use crate::authn::tables::Bound;
use crate::destination::Destination;
use crate::limits::Limits;
use crate::routes::{ConnectionRoutes, Forward, HttpRoutes, PortRoutes, Route, ServiceRoutes, Target};
use crate::serve::Conversation;
use crate::stages::mirror;
use crate::upstream::{Cluster, ClusterKey, Destinations, NoUpstream};

/// The routes of what was called, as they are when the request begins.
pub(crate) struct Called<'a> {
    conversation: &'a Arc<Conversation>,
    table: Option<Arc<ServiceRoutes>>,
    destinations: Destinations,
    authentication: Arc<authn::tables::Tables>,
    limits: Option<Arc<Limits>>,
}

impl<'a> Called<'a> {
    /// Looks up the routes of what was called.
    pub(crate) fn find(conversation: &'a Arc<Conversation>) -> Self {
        let followed = conversation.worker.shared.followed();
        let table = conversation.destination.service().and_then(|service| {
            let name = ObjectName::new(service.namespace.clone(), service.name.clone());
            followed.tables().of(&name).cloned()
        });
        let destinations = followed.destinations().clone();
        let authentication = followed.authentication().clone();
        let limits = followed.limits().cloned();
        Self { conversation, table, destinations, authentication, limits }
    }

    /// The limits of this waypoint; none where nothing is limited.
    pub(super) fn limits(&self) -> Option<&Limits> {
        self.limits.as_deref()
    }

    /// The routes of the port that was called; none where it is no service.
    pub(super) fn routes(&self) -> Option<&HttpRoutes> {
        self.of_port().map(|it| &it.http)
    }

    /// Whether rules for requests, or for whose they are, are stated of it.
    pub(crate) fn has_http_rules(&self) -> bool {
        let is_authenticated = match self.authentication() {
            Bound::Rules(rules) => !rules.is_empty(),
            Bound::Unknown => true,
        };
        is_authenticated || self.routes().is_some_and(|routes| !routes.rules().is_empty())
    }

    /// Whose tokens are taken of requests for what was called.
    pub(super) fn authentication(&self) -> Bound<'_> {
        self.authentication.of(&self.conversation.destination)
    }

    /// The routes of connections to the port that was called.
    pub(crate) fn connections(&self) -> Option<&ConnectionRoutes> {
        self.of_port().map(|it| &it.connections)
    }

    /// The routes of the port that was called, as its caller sees them.
    fn of_port(&self) -> Option<&PortRoutes> {
        let caller = self.conversation.caller.as_ref().map(|it| &**it.namespace());
        let port = self.conversation.destination.port();
        self.table.as_ref().map(|table| table.port_for(port, caller))
    }

    /// The destination that a route names, or what was called when there is no route.
    ///
    /// # Errors
    /// [`NoUpstream::Unknown`] when there is no such service, port or subset.
    pub(crate) fn cluster(&self, target: Option<&Target>) -> Result<Arc<Cluster>, NoUpstream> {
        let clusters = &self.conversation.worker.shared.clusters;
        let cluster = match (target, &self.conversation.destination) {
            (Some(target), _) => self.key(target).and_then(|key| clusters.get_of(&self.destinations, &key)),
            (None, Destination::Service { service, port }) => {
                let service = ObjectName::new(service.namespace.clone(), service.name.clone());
                clusters.get_of(&self.destinations, &ClusterKey { service, port: *port, subset: None })
            }
            (None, Destination::Workload { workload, .. }) => {
                let of_pod = || clusters.of_pod(workload, self.conversation.original, Instant::now());
                self.conversation.pod.get_or_init(of_pod).clone()
            }
        };
        cluster.ok_or(NoUpstream::Unknown)
    }

    /// The destination that a request's session is with, whatever the weights say; none where it has no session, or that
    /// is with nobody of the route any more.
    pub(super) fn of_session<'r>(&self, route: &'r Route, headers: &HeaderMap) -> Option<Forward<'r>> {
        let endpoint = route.session()?.endpoint(headers)?;
        route.forwards().find(|it| self.cluster(Some(it.target)).is_ok_and(|it| it.has(endpoint)))
    }

    /// The destinations that get a copy of a request. One that does not exist gets none.
    pub(super) fn mirrors(&self, route: &Route) -> Vec<Arc<Cluster>> {
        let fired = mirror::fires(route, &mut rand::rng());
        fired.into_iter().filter_map(|target| self.cluster(Some(target)).ok()).collect()
    }

    fn key(&self, target: &Target) -> Option<ClusterKey> {
        let port = target.port(self.conversation.destination.port());
        Some(ClusterKey { service: target.service.clone()?, port, subset: target.subset.clone() })
    }
}
