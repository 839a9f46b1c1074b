//! Where a request goes: the routes of what was called, and the destinations they name.

use std::sync::Arc;
use std::time::Instant;

use common::config::ObjectName;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};

use super::head::Head;
use crate::destination::Destination;
use crate::payload::Payload;
use crate::routes::{
    ConnectionRoutes, Forward, HttpRoutes, RequestFacts, Route, Rule, ServiceRoutes, Target,
};
use crate::serve::Conversation;
use crate::stages::transform::{self, Disclosure, NotAPath, Rewritten};
use crate::stages::{mirror, retry};
use crate::upstream::{Cluster, ClusterKey, Destinations, NoUpstream};

/// The routes of what was called, as they are when the request begins.
pub(crate) struct Flow<'a> {
    conversation: &'a Arc<Conversation>,
    table: Option<Arc<ServiceRoutes>>,
    destinations: Destinations,
    none: HttpRoutes,
}

impl<'a> Flow<'a> {
    /// Looks up the routes of what was called.
    pub(crate) fn find(conversation: &'a Arc<Conversation>) -> Self {
        let followed = conversation.worker.shared.followed();
        let table = conversation.destination.service().and_then(|service| {
            let name = ObjectName::new(service.namespace.clone(), service.name.clone());
            followed.tables().of(&name).cloned()
        });
        let destinations = followed.destinations().clone();
        Self { conversation, table, destinations, none: HttpRoutes::default() }
    }

    /// The routes of the port that was called.
    pub(super) fn routes(&self) -> &HttpRoutes {
        let port = self.conversation.destination.port();
        self.table.as_ref().map_or(&self.none, |table| &table.port(port).http)
    }

    /// The routes of connections to the port that was called.
    pub(crate) fn connections(&self) -> Option<&ConnectionRoutes> {
        let port = self.conversation.destination.port();
        self.table.as_ref().map(|table| &table.port(port).connections)
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

/// What a request falls under, and where it goes.
pub(super) struct Path<'r> {
    /// The rule; none when it goes straight to what was called.
    pub(super) rule: Option<&'r Rule>,
    /// The destination of the rule's route.
    pub(super) chosen: Option<Forward<'r>>,
}

impl<'r> Path<'r> {
    /// When it is tried again.
    pub(super) fn retries(&self) -> Option<retry::Policy<'r>> {
        retry::policy(match self.rule {
            Some(rule) => retry::Under::Route(rule.route.retries()),
            None => retry::Under::Nothing,
        })
    }

    /// The request as endpoints get it, but for what differs from try to try.
    ///
    /// # Errors
    /// When a rewrite makes no path.
    pub(super) fn outgoing(&self, head: &Head, facts: &RequestFacts<'_>) -> Result<Outgoing, NotAPath> {
        let target = facts.target();
        let mut headers = head.headers.clone();
        super::head::remove_hop_by_hop(&mut headers);
        headers.remove(HOST);
        let rewritten = match (self.rule, &self.chosen) {
            (Some(rule), Some(chosen)) => {
                let rewritten = transform::rewrite(rule, chosen, facts)?;
                let asked = (&*target, facts.authority);
                transform::request(rule, chosen, &rewritten, asked, Disclosure::default(), &mut headers);
                rewritten
            }
            _ => Rewritten::default(),
        };
        let authority = rewritten.authority.unwrap_or_else(|| facts.authority.into());
        let target = rewritten.target.unwrap_or(target);
        let made = target.clone();
        let target = PathAndQuery::try_from(target).map_err(|_| NotAPath { made })?;
        Ok(Outgoing { method: head.method.clone(), version: head.version, target, authority, headers })
    }
}

/// A request on its way to endpoints.
pub(super) struct Outgoing {
    pub(super) method: Method,
    /// The version that the client speaks.
    pub(super) version: Version,
    pub(super) target: PathAndQuery,
    pub(super) authority: Arc<str>,
    pub(super) headers: HeaderMap,
}

impl Outgoing {
    /// The request in a version of HTTP, with a body.
    pub(super) fn request(&self, version: Version, payload: Payload) -> Request<Payload> {
        let mut headers = self.headers.clone();
        let mut target = http::uri::Parts::default();
        if version == Version::HTTP_2 {
            target.scheme = Some(Scheme::HTTP);
            target.authority = self.authority.parse::<Authority>().ok();
        } else if let Ok(host) = HeaderValue::from_str(&self.authority) {
            headers.insert(HOST, host);
        }
        target.path_and_query = Some(self.target.clone());
        let mut request = Request::new(payload);
        *request.method_mut() = self.method.clone();
        // Each of the parts is one that a URI is made of.
        *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
        *request.headers_mut() = headers;
        *request.version_mut() = version;
        request
    }
}
