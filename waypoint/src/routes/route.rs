//! A compiled HTTP route: where it was stated, where its destinations lead, and which requests fall under it.
//!
//! Holds no copy of what was stated: it shares the VirtualService and knows the place in it. A route that another
//! VirtualService delegates to knows both places, and what it does not state itself is taken from the delegating one.

use std::sync::Arc;
use std::time::Duration;

use common::config::FaultFilter;
use common::config::gateway::RouteKind;
use common::config::routing::cors::CorsPolicy;
use common::config::routing::headers::HeaderChanges;
use common::config::routing::http::{AskedBy, HttpDestination, Rewrite};
use common::config::routing::request::HttpMatch;
use common::config::routing::resilience::{Fault, Mirror, Retries};
use common::config::routing::session::Session;
use common::config::routing::{Destination, HttpAction, HttpRoute, Share};
use common::config::{Key, ObjectName, routing};
use common::snapshot::Snapshot;
use common::snapshot::model::Service;

use super::facts::RequestFacts;
use super::hosts;
use super::matching::{self, Unmet};
use super::statement::{Missing, Statement};

/// A rule for requests in the resource that states it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    stated_by: Statement,
    at: usize,
}

impl Place {
    /// The place of the entry at a position, which there has to be.
    pub(super) fn new(stated_by: Statement, at: usize) -> Self {
        Self { stated_by, at }
    }

    pub(super) fn stated_by(&self) -> &Statement {
        &self.stated_by
    }

    pub(super) fn route(&self) -> &HttpRoute {
        &self.stated_by.http()[self.at]
    }
}

/// Where a destination leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The full name of the host, for logs.
    pub host: Arc<str>,
    /// The service it names; `None` when there is no such service: 503, flag `NC`, unless `missing` says more.
    pub service: Option<ObjectName>,
    /// Why there is none, of a backend of the Gateway API: 500.
    pub missing: Option<Missing>,
    /// The subset of its DestinationRule.
    pub subset: Option<Arc<str>>,
    port: Option<u16>,
}

impl Target {
    /// Finds a destination that was stated in a namespace. Whether the service has the port, and its rule the subset, is
    /// for whoever goes there to see.
    pub(super) fn find(stated: &Destination, namespace: &str, mesh: &Snapshot, cluster_domain: &str) -> Self {
        let host = hosts::full_name(&stated.host, namespace, cluster_domain);
        let service = mesh.service_named(&host, namespace, cluster_domain);
        let only_port = service.and_then(|service| match &*service.ports {
            [only] => Some(only.port),
            _ => None,
        });
        Self {
            host: if *host == *stated.host { stated.host.clone() } else { host.into() },
            service: service.map(|it| ObjectName::new(it.namespace.clone(), it.name.clone())),
            missing: None,
            subset: stated.subset.clone(),
            port: stated.port.or(only_port),
        }
    }

    /// A backend that is there.
    pub(super) fn there(host: Arc<str>, service: &Service, port: Option<u16>) -> Self {
        let object = ObjectName::new(service.namespace.clone(), service.name.clone());
        Self { host, service: Some(object), missing: None, subset: None, port }
    }

    /// A backend that nobody can lead to.
    pub(super) fn missing(host: Arc<str>, missing: Missing) -> Self {
        Self { host, service: None, missing: Some(missing), subset: None, port: None }
    }

    /// The port of the service to go to: the one that is stated, or its only one, or the one that was called.
    pub fn port(&self, called: u16) -> u16 {
        self.port.unwrap_or(called)
    }
}

/// One destination of a route, and what is stated beside it.
#[derive(Debug, Clone, Copy)]
pub struct Forward<'r> {
    /// Where it leads.
    pub target: &'r Target,
    /// `weight`, `headers`, and what else is stated for it alone.
    pub stated: &'r HttpDestination,
    mirrors: &'r [Target],
}

impl<'r> Forward<'r> {
    /// Every mirror of this destination alone, and its share.
    pub fn mirrors(&self) -> impl Iterator<Item = (Share, &'r Target)> + use<'r> {
        self.stated.mirrors.iter().map(|it| it.share).zip(self.mirrors)
    }
}

/// A route of HTTP requests.
#[derive(Debug)]
pub struct Route {
    own: Place,
    root: Option<Place>,
    name: Arc<str>,
    destinations: Box<[Target]>,
    /// Of each of the destinations.
    destination_mirrors: Box<[Box<[Target]>]>,
    mirrors: Box<[Target]>,
    /// Who has to agree to its requests.
    authorizer: Option<Target>,
    /// What its `extensionRef` names, where it has one and that is there.
    fault_filter: Option<Arc<FaultFilter>>,
}

/// Nothing is stated of headers.
static UNCHANGED: std::sync::LazyLock<HeaderChanges> = std::sync::LazyLock::new(HeaderChanges::default);
/// No fault is stated.
static FAULTLESS: Fault = Fault { delay: None, abort: None };

impl Route {
    /// Compiles an entry, and the one that delegates to it if there is one.
    pub(super) fn new(own: Place, root: Option<Place>, mesh: &Snapshot, cluster_domain: &str) -> Self {
        let own_name = &own.route().name;
        let name = match root.as_ref().map(|it| &it.route().name).filter(|it| !it.is_empty()) {
            Some(root) if own_name.is_empty() => root.clone(),
            Some(root) => format!("{root}-{own_name}").into(),
            None => own_name.clone(),
        };
        let filter = own.route().fault_filter.as_ref().and_then(|it| mesh.fault_filter(it)).cloned();
        let (destinations, destination_mirrors, mirrors) = Default::default();
        let mut route = Self {
            own,
            root,
            name,
            destinations,
            destination_mirrors,
            mirrors,
            authorizer: None,
            fault_filter: filter,
        };
        let find = |stated: &Destination, place: &Place| place.stated_by.target(stated, mesh, cluster_domain);
        if let HttpAction::Forward(stated) = route.action() {
            let found = stated.iter().map(|it| find(&it.destination, &route.own)).collect();
            let mirrors = |it: &HttpDestination| {
                it.mirrors.iter().map(|it| find(&it.destination, &route.own)).collect()
            };
            let mirrors = stated.iter().map(mirrors).collect();
            (route.destinations, route.destination_mirrors) = (found, mirrors);
        }
        let authorizer = route.own.route().external_auth.as_ref();
        route.authorizer = authorizer.map(|it| find(&it.backend, &route.own));
        let place = route.mirroring();
        route.mirrors = place.route().mirrors.iter().map(|it| find(&it.destination, place)).collect();
        route
    }

    /// `name`, or the names of both routes with a dash when it is delegated to; may be empty.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The VirtualService whose hosts brought the request here, or the route of the Gateway API.
    pub fn stated_by(&self) -> &ObjectName {
        self.root.as_ref().unwrap_or(&self.own).stated_by.object()
    }

    /// The objects that state it with the field of each: the delegating one first, where there is one.
    pub(crate) fn stated_at(&self) -> impl Iterator<Item = (Key, String)> {
        let all = self.root.iter().chain([&self.own]);
        all.map(|it| (it.stated_by.key(), format!("spec.{}[{}]", it.stated_by.http_field(), it.at)))
    }

    /// The HTTPRoute that states it and the name of the rule; `None` where something else does.
    pub fn of_http_route(&self) -> Option<(&ObjectName, &str)> {
        match &self.own.stated_by {
            Statement::Route(route) if route.kind == RouteKind::Http => {
                Some((&route.object, &self.own.route().name))
            }
            Statement::Route(_) | Statement::VirtualService(_) => None,
        }
    }

    /// The filter that it names and that is not there: its requests must not be sent on.
    pub fn missing_filter(&self) -> Option<&ObjectName> {
        self.own.route().fault_filter.as_ref().filter(|_| self.fault_filter.is_none())
    }

    /// What becomes of a request; never [`HttpAction::Delegate`].
    pub fn action(&self) -> &HttpAction {
        &self.own.route().action
    }

    /// `rewrite`.
    pub fn rewrite(&self) -> Option<&Rewrite> {
        self.inherited(|it| it.rewrite.as_ref())
    }

    /// `timeout` of the whole request.
    pub fn timeout(&self) -> Option<Duration> {
        self.inherited(|it| it.timeout.as_ref()).copied()
    }

    /// `retries`.
    pub fn retries(&self) -> Option<&Retries> {
        self.inherited(|it| it.retries.as_ref())
    }

    /// `corsPolicy`.
    pub fn cors(&self) -> Option<&CorsPolicy> {
        self.inherited(|it| it.cors.as_ref())
    }

    /// `fault`.
    pub fn fault(&self) -> &Fault {
        if let Some(filter) = &self.fault_filter {
            return &filter.fault;
        }
        self.inherited(|it| Some(&it.fault).filter(|fault| **fault != FAULTLESS)).unwrap_or(&FAULTLESS)
    }

    /// `headers` of the route.
    pub fn headers(&self) -> &HeaderChanges {
        self.inherited(|it| Some(&it.headers).filter(|headers| **headers != *UNCHANGED)).unwrap_or(&UNCHANGED)
    }

    /// `sessionPersistence`.
    pub fn session(&self) -> Option<&Session> {
        self.own.route().session.as_ref()
    }

    /// `ExternalAuth`: how somebody is asked, who has to agree, and where that is.
    pub fn external_auth(&self) -> Option<(&AskedBy, &Target)> {
        let stated = self.own.route().external_auth.as_ref()?;
        Some((&stated.asked_by, self.authorizer.as_ref()?))
    }

    /// Every mirror and its share.
    pub fn mirrors(&self) -> impl Iterator<Item = (Share, &Target)> {
        let stated: &[Mirror] = &self.mirroring().route().mirrors;
        stated.iter().map(|it| it.share).zip(&*self.mirrors)
    }

    /// The destinations that get anything: all that have a weight, or the only one there is.
    pub fn forwards(&self) -> impl Iterator<Item = Forward<'_>> + Clone {
        let stated: &[HttpDestination] = match self.action() {
            HttpAction::Forward(stated) => stated,
            _ => &[],
        };
        let is_only = stated.len() == 1;
        let all = stated.iter().zip(&*self.destinations).zip(&*self.destination_mirrors);
        all.filter(move |((stated, _), _)| is_only || stated.weight > 0)
            .map(|((stated, target), mirrors)| Forward { target, stated, mirrors })
    }

    /// Every service that it may lead to, mirrors too.
    pub(super) fn leads_to(&self) -> impl Iterator<Item = &Target> {
        self.destinations
            .iter()
            .chain(&self.mirrors)
            .chain(self.destination_mirrors.iter().flatten())
            .chain(&self.authorizer)
    }

    /// Whose mirrors count: those of the delegating route when the delegated one has none.
    fn mirroring(&self) -> &Place {
        match &self.root {
            Some(root) if self.own.route().mirrors.is_empty() => root,
            _ => &self.own,
        }
    }

    fn inherited<'r, T: ?Sized>(&'r self, stated: impl Fn(&'r HttpRoute) -> Option<&'r T>) -> Option<&'r T> {
        stated(self.own.route()).or_else(|| stated(self.root.as_ref()?.route()))
    }
}

/// Which requests a rule takes.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    /// All of them.
    Everything,
    /// Those of an entry of the route's own `match`.
    Own(usize),
    /// Those of an entry of the delegating route's `match`.
    Root(usize),
    /// Those that both take, or a match whose path had to be put into canonical form.
    Made(Box<HttpMatch>),
}

/// One entry of a route's `match`: what requests are matched with. The first of a table that holds decides.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What becomes of the requests that it takes.
    pub route: Arc<Route>,
    name: Arc<str>,
    condition: Condition,
}

impl Rule {
    pub(super) fn new(route: &Arc<Route>, condition: Condition) -> Self {
        let mut rule = Self { route: route.clone(), name: route.name.clone(), condition };
        if let Some(own) = rule.stated().map(|it| &it.name).filter(|it| !it.is_empty()) {
            rule.name = format!("{}.{own}", route.name).into();
        }
        rule
    }

    /// For logs: the name of the route, and after a dot that of the match if it has one. May be empty.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What a request must be; `None` takes every request.
    pub fn stated(&self) -> Option<&HttpMatch> {
        match &self.condition {
            Condition::Everything => None,
            Condition::Own(at) => Some(&self.route.own.route().matches[*at]),
            Condition::Root(at) => Some(&self.route.root.as_ref()?.route().matches[*at]),
            Condition::Made(made) => Some(made),
        }
    }

    /// Which entry of the route's `match` it is, as a field; empty where it is all of them or a merged one.
    pub(crate) fn entry(&self) -> String {
        match self.condition {
            Condition::Own(at) => format!(".{}[{at}]", self.route.own.stated_by.match_field()),
            Condition::Root(at) => format!(" under match[{at}] of what delegates to it"),
            Condition::Everything | Condition::Made(_) => String::new(),
        }
    }

    /// What it asks for and a request is not; `None` when it takes the request.
    pub(crate) fn unmet(&self, facts: &RequestFacts<'_>) -> Option<Unmet<'_>> {
        self.stated().and_then(|it| matching::unmet(it, facts))
    }

    /// The prefix that a path begins with, where one is asked for: what `prefixRewrite` and `rewrite.uri` replace.
    pub fn prefix(&self) -> PathPart<'_> {
        use routing::StringMatch::{Exact, ExactIgnoringCase, Prefix, PrefixIgnoringCase, Regex, Segments};
        match self.stated().and_then(|it| it.path.as_ref()) {
            // Istio writes the prefix `/` where nothing is stated, and that is what gets replaced.
            None => PathPart::Prefix("/"),
            Some(Prefix(text) | PrefixIgnoringCase(text)) => PathPart::Prefix(text),
            Some(Segments(text)) => PathPart::Segments(text),
            Some(Exact(_) | ExactIgnoringCase(_) | Regex(_)) => PathPart::Whole,
        }
    }
}

/// The part of a path that was matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathPart<'r> {
    /// All of it: an exact path, or a regex.
    Whole,
    /// What it begins with, perhaps in other case.
    Prefix(&'r str),
    /// Its first segments, without a slash at their end.
    Segments(&'r str),
}
