//! What was called: its routes, and the destinations they name.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use common::config::ObjectName;
use common::snapshot::model::Workload;
use http::HeaderMap;

use super::unasked::Unasked;
use crate::authn::tables::Bound;
use crate::destination::Destination;
use crate::limits::{CalledFor, Limits};
use crate::pod_call::PodCall;
use crate::routes::{ConnectionRoutes, Forward, HttpRoutes, PortRoutes, Route, Rule, ServiceRoutes, Target};
use crate::serve::Conversation;
use crate::stages::mirror;
use crate::upstream::{Cluster, ClusterKey, Clusters, NoUpstream};
use crate::worker::Followed;

/// The time, as sessions are counted by.
pub(crate) fn since_1970() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// What was called, by whom, and where it leads: all that a conversation says to routes.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    /// The destinations of the process.
    pub(crate) clusters: &'a Clusters,
    /// What was called.
    pub(crate) destination: &'a Destination,
    /// The address that was called.
    pub(crate) original: SocketAddr,
    /// The workload that calls, where one is known.
    pub(crate) caller: Option<&'a Workload>,
    /// The destination that a pod is when it was called itself.
    pub(crate) pod: &'a OnceLock<Option<Arc<Cluster>>>,
}

impl<'a> Scene<'a> {
    /// Of a conversation.
    fn of(conversation: &'a Conversation) -> Self {
        Self {
            clusters: &conversation.worker.shared.clusters,
            destination: &conversation.destination,
            original: conversation.original,
            caller: conversation.caller.as_deref(),
            pod: &conversation.pod,
        }
    }
}

/// The routes of what was called, as they are when the request begins.
pub(crate) struct Called<'a> {
    scene: Scene<'a>,
    table: Option<Arc<ServiceRoutes>>,
    followed: Arc<Followed>,
}

impl<'a> Called<'a> {
    /// Looks up the routes of what was called.
    pub(crate) fn find(conversation: &'a Conversation) -> Self {
        Self::of(conversation.worker.shared.followed(), Scene::of(conversation))
    }

    /// The same as of a moment.
    pub(crate) fn of(followed: Arc<Followed>, scene: Scene<'a>) -> Self {
        let table = scene.destination.service().and_then(|service| {
            let name = ObjectName::new(service.namespace.clone(), service.name.clone());
            followed.tables().of(&name).cloned()
        });
        Self { scene, table, followed }
    }

    /// The limits of this waypoint, where anything is limited, and which of them are meant.
    pub(crate) fn limits<'l>(&'l self, rule: Option<&'l Rule>) -> Option<(&'l Limits, CalledFor<'l>)> {
        let limits = self.followed.limits()?;
        let services = match self.scene.destination {
            Destination::Service { service, port } => vec![(service, *port)],
            Destination::Workload { workload, port } => {
                let Scene { original, .. } = self.scene;
                limits.meant_by(PodCall {
                    mesh: self.followed.mesh(),
                    gateway: limits.gateway(),
                    workload,
                    original,
                    port: *port,
                })
            }
        };
        Some((limits, CalledFor { services, route: rule.and_then(|rule| rule.route.of_http_route()) }))
    }

    /// The routes of the port that was called; none where it is no service.
    pub(crate) fn routes(&self) -> Option<&HttpRoutes> {
        self.of_port().map(|it| &it.http)
    }

    /// Whether rules for requests, or for whose they are, are stated of it.
    pub(crate) fn has_http_rules(&self) -> bool {
        let is_authenticated = match self.authentication() {
            Bound::Rules(rules) => !rules.is_empty(),
            Bound::Unknown => true,
        };
        is_authenticated
            || self.unasked().is_some()
            || self.routes().is_some_and(|routes| !routes.rules().is_empty())
    }

    /// Whose tokens are taken of requests for what was called.
    pub(crate) fn authentication(&self) -> Bound<'_> {
        self.followed.authentication().of(self.followed.mesh(), self.scene.destination, self.scene.original)
    }

    /// Why nobody may be let through: somebody may have to agree who cannot be asked.
    pub(crate) fn unasked(&self) -> Option<Unasked<'_>> {
        let Scene { destination, original, caller, .. } = self.scene;
        Unasked::of(&self.followed, (destination, original), caller)
    }

    /// Whether TLS is not carried either, where the port declares no protocol: who calls a pod itself may speak with it the TLS
    /// that a waypoint speaks for callers of the service.
    pub(crate) fn refuses_tls(&self) -> bool {
        self.scene.destination.service().is_none() && self.unasked().is_some()
    }

    /// The routes of connections to the port that was called.
    pub(crate) fn connections(&self) -> Option<&ConnectionRoutes> {
        self.of_port().map(|it| &it.connections)
    }

    /// The routes of the port that was called, as its caller sees them.
    fn of_port(&self) -> Option<&PortRoutes> {
        let caller = self.scene.caller.map(|it| &**it.namespace());
        let port = self.scene.destination.port();
        self.table.as_ref().map(|table| table.port_for(port, caller))
    }

    /// The destination that a route names, or what was called when there is no route.
    ///
    /// # Errors
    /// [`NoUpstream::Unknown`] when there is no such service, port or subset.
    pub(crate) fn cluster(&self, target: Option<&Target>) -> Result<Arc<Cluster>, NoUpstream> {
        let Scene { clusters, destination, original, pod, .. } = self.scene;
        let cluster = match (target, destination) {
            (Some(target), _) => {
                self.key(target).and_then(|key| clusters.get_of(self.followed.destinations(), &key))
            }
            (None, Destination::Service { service, port }) => {
                let service = ObjectName::new(service.namespace.clone(), service.name.clone());
                clusters
                    .get_of(self.followed.destinations(), &ClusterKey { service, port: *port, subset: None })
            }
            (None, Destination::Workload { workload, .. }) => {
                let of_pod = || clusters.of_pod(workload, original, Instant::now());
                pod.get_or_init(of_pod).clone()
            }
        };
        cluster.ok_or(NoUpstream::Unknown)
    }

    /// The destination that a request's session is with, whatever the weights say; none where it has no session, or that
    /// is with nobody of the route any more.
    pub(crate) fn of_session<'r>(&self, route: &'r Route, headers: &HeaderMap) -> Option<Forward<'r>> {
        let endpoint = route.session()?.kept(headers, since_1970())?.endpoint;
        route.forwards().find(|it| self.cluster(Some(it.target)).is_ok_and(|it| it.has(endpoint)))
    }

    /// The destinations that get a copy of a request. One that does not exist gets none.
    pub(super) fn mirrors(&self, route: &Route, chosen: Option<&Forward<'_>>) -> Vec<Arc<Cluster>> {
        let fired = mirror::fires(route, chosen, &mut rand::rng());
        fired.into_iter().filter_map(|target| self.cluster(Some(target)).ok()).collect()
    }

    fn key(&self, target: &Target) -> Option<ClusterKey> {
        let port = target.port(self.scene.destination.port());
        Some(ClusterKey { service: target.service.clone()?, port, subset: target.subset.clone() })
    }
}
