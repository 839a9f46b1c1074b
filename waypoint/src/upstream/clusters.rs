//! Every destination that was asked for, kept in step with the mesh.
//!
//! A destination becomes a cluster when it is first asked for. An update touches the clusters of services that changed,
//! and those whose DestinationRule did, and no others. Reading takes no lock. Knows no routes: those who name a
//! destination ask for it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use common::config::{BackendTlsPolicy, ObjectName};
use common::snapshot::model::{Endpoint, Health, LoadBalancing, Service, ServicePort, Workload};
use common::snapshot::{Endpoints, MeshSettings, Snapshot, name_below};
use imbl::OrdMap;

use super::cluster::Inputs;
use super::members::Here;
use super::rules::{About, Applied, Client, Names, RuleIndex};
use super::securing::Securing;
use super::{Cluster, ClusterKey, EffectivePolicy};
use crate::routes::Problem;

/// Destinations at most. Routes name them, not clients, so this bounds what a mistake in configuration can cost.
pub const MAX_CLUSTERS: usize = 32_768;

/// As who a waypoint looks at the mesh.
#[derive(Debug, Clone)]
pub struct Vantage {
    /// Its own pod, whose place and labels count.
    pod: ObjectName,
    /// The pod's workload uid.
    uid: Arc<str>,
    names: Names,
}

impl Vantage {
    /// Of a waypoint's own pod.
    pub fn new(settings: &MeshSettings, pod: ObjectName) -> Self {
        let uid = format!("{}//Pod/{}/{}", settings.cluster, pod.namespace, pod.name).into();
        let names = Names {
            root_namespace: settings.root_namespace.clone(),
            cluster_domain: settings.cluster_domain.clone(),
        };
        Self { pod, uid, names }
    }
}

/// The clusters. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Clusters(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    vantage: Vantage,
    state: ArcSwap<State>,
    /// For those who change the state.
    writer: Mutex<()>,
    refused: AtomicU64,
}

/// The destinations of one moment, which routes of that moment name. Of one that exists no more the last endpoints
/// stay known to whoever holds this, so that a request that has begun under old routes ends under them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Destinations(Arc<State>);

/// What is known at one moment. Cheap to clone.
#[derive(Debug, Clone)]
struct State {
    mesh: Arc<Snapshot>,
    /// When that mesh was taken over.
    since: Instant,
    /// The waypoint's own pod.
    own: Option<Arc<Workload>>,
    client: Client,
    here: Arc<Here>,
    rules: RuleIndex,
    securing: Securing,
    clusters: OrdMap<ClusterKey, Arc<Cluster>>,
}

impl Clusters {
    /// None, of an empty mesh.
    pub fn new(vantage: Vantage, now: Instant) -> Self {
        let state = State {
            mesh: Arc::default(),
            since: now,
            own: None,
            client: Client { namespace: vantage.pod.namespace.clone(), ..Client::default() },
            here: Arc::default(),
            rules: RuleIndex::new(vantage.names.clone()),
            securing: Securing::default(),
            clusters: OrdMap::new(),
        };
        let (state, writer) = (ArcSwap::from_pointee(state), Mutex::new(()));
        Self(Arc::new(Shared { vantage, state, writer, refused: AtomicU64::new(0) }))
    }

    /// The destinations as they are now.
    pub fn now(&self) -> Destinations {
        Destinations(self.0.state.load_full())
    }

    /// The cluster of a destination as it is now.
    pub fn get(&self, key: &ClusterKey) -> Option<Arc<Cluster>> {
        self.get_of(&self.now(), key)
    }

    /// The cluster of a destination as it was at a moment, built when it is asked for for the first time. `None` when
    /// there was no such service, port or subset, or when there are [`MAX_CLUSTERS`].
    ///
    /// The value stays the cluster of that destination for as long as the destination exists, so it may be kept; then
    /// ask again when [`Cluster::is_gone`].
    pub fn get_of(&self, then: &Destinations, key: &ClusterKey) -> Option<Arc<Cluster>> {
        let state = self.0.state.load();
        let then = &*then.0;
        let is_now = Arc::ptr_eq(&state.mesh, &then.mesh);
        // One that was first asked for since then and is still the same destination will do.
        let since = || state.clusters.get(key).filter(|it| is_now || then.knows(it));
        if let Some(cluster) = then.clusters.get(key).filter(|_| !is_now).or_else(since) {
            return Some(cluster.clone());
        }
        // Destinations that do not exist, or are too many, are asked for again and again: they must not wait for each
        // other.
        if !then.has(key) {
            return None;
        }
        if state.clusters.len() >= MAX_CLUSTERS {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        match is_now {
            true => self.build(then, key),
            false => then.build_of_the_past(key),
        }
    }

    /// The cluster of one pod, which is called by an address of its own. It is the caller's alone: no DestinationRule is
    /// about it, and nothing is remembered of it.
    pub fn of_pod(&self, pod: &Arc<Workload>, address: SocketAddr, now: Instant) -> Option<Arc<Cluster>> {
        let here = self.0.state.load().here.clone();
        let port = ServicePort { port: address.port(), name: "".into(), app_protocol: "".into() };
        let service = Arc::new(Service {
            name: pod.name.clone(),
            namespace: pod.namespace().clone(),
            hostname: address.ip().to_string().into(),
            vips: Box::default(),
            ports: Box::new([port]),
            load_balancing: LoadBalancing::default(),
            waypoint: None,
            external: None,
        });
        let endpoint = Endpoint {
            address: address.ip(),
            workload: Some(pod.clone()),
            health: Health::Healthy,
            ports: [(address.port(), address.port())].into(),
            weight: std::num::NonZeroU32::MIN,
        };
        let endpoints = Endpoints::collect(vec![endpoint]);
        let name = ObjectName::new(service.namespace.clone(), service.name.clone());
        let key = ClusterKey { service: name, port: address.port(), subset: None };
        let inputs = Inputs {
            service: &service,
            endpoints: &endpoints,
            applied: Applied::default(),
            here: &here,
            securing: None,
        };
        Cluster::build(key, inputs, now)
    }

    fn build(&self, then: &State, key: &ClusterKey) -> Option<Arc<Cluster>> {
        let _writer = self.lock();
        let mut state = State::clone(&self.0.state.load());
        if !Arc::ptr_eq(&state.mesh, &then.mesh) {
            return then.build_of_the_past(key);
        }
        if let Some(cluster) = state.clusters.get(key) {
            return Some(cluster.clone());
        }
        if state.clusters.len() >= MAX_CLUSTERS {
            return None;
        }
        let cluster = state.build(key)?;
        state.clusters.insert(key.clone(), cluster.clone());
        self.0.state.store(Arc::new(state));
        Some(cluster)
    }

    /// Takes over another snapshot, later than the last.
    pub fn update(&self, mesh: &Arc<Snapshot>, now: Instant) {
        let _writer = self.lock();
        let mut state = State::clone(&self.0.state.load());
        if Arc::ptr_eq(&state.mesh, mesh) {
            return;
        }
        let before = std::mem::replace(&mut state.mesh, mesh.clone());
        state.since = now;
        let moved = state.follow_own(mesh.workload(&self.0.vantage.uid));
        let mut changed: BTreeSet<ObjectName> = mesh.served_since(&before).cloned().collect();
        let far = state.follow_rules(&before, &self.0.vantage.names.cluster_domain, &mut changed);
        let mut keys: Vec<ClusterKey> = changed.iter().flat_map(|it| state.keys_of(it)).collect();
        if moved {
            keys = state.clusters.keys().cloned().collect();
        } else if far {
            keys.extend(state.keys_under_other_rules());
        }
        let secured = state.follow_securing(&before);
        if secured {
            keys.extend(state.keys_secured_otherwise());
        }
        for key in keys {
            state.refresh(&key, now);
        }
        let state = Arc::new(state);
        self.0.state.store(state.clone());
        let is_about = |it: Option<&Arc<Service>>| it.is_some_and(|it| state.securing.is_about(it));
        let renamed = || mesh.services_since(&before).any(|it| is_about(it.before) || is_about(it.now));
        if secured || renamed() {
            state.tell_problems(&before);
        }
    }

    /// Ends the ejections whose time is over, in every cluster; to be called about once a second. Cheap where there is
    /// none.
    pub fn sweep(&self, now: Instant) {
        self.0.state.load().clusters.values().for_each(|it| it.sweep(now));
    }

    /// Every cluster, by its key.
    pub fn all(&self) -> Vec<Arc<Cluster>> {
        self.0.state.load().clusters.values().cloned().collect()
    }

    /// What is wrong with BackendTLSPolicies, for `/config_dump`.
    pub fn problems(&self) -> Vec<String> {
        self.0.state.load().problems().iter().map(ToString::to_string).collect()
    }

    /// How often a destination was refused because there were too many.
    pub(super) fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether there is such a destination.
    fn has(&self, key: &ClusterKey) -> bool {
        let Some(service) = self.mesh.service(&key.service.namespace, &key.service.name) else {
            return false;
        };
        let subset = |name: &Arc<str>| self.rules.find(service, &self.client).subset(name).is_some();
        service.ports.iter().any(|it| it.port == key.port) && key.subset.as_ref().is_none_or(subset)
    }

    /// A cluster of its own, which nobody else gets to see unless it is kept.
    fn build(&self, key: &ClusterKey) -> Option<Arc<Cluster>> {
        // Its endpoints have been there since the last change, however late somebody asks for them.
        Cluster::build(key.clone(), self.inputs(&key.service)?, self.since)
    }

    /// The same, of a moment that is over: no later one will say that what was stated of its connections is so no more.
    fn build_of_the_past(&self, key: &ClusterKey) -> Option<Arc<Cluster>> {
        self.build(key).map(Cluster::of_the_past)
    }

    /// Whether a cluster is what its key means here.
    fn knows(&self, cluster: &Cluster) -> bool {
        self.inputs(&cluster.key().service).is_some_and(|it| cluster.stands_for(&it.applied))
    }

    fn inputs(&self, service: &ObjectName) -> Option<Inputs<'_>> {
        let service = self.mesh.service(&service.namespace, &service.name)?;
        let applied = self.rules.find(service, &self.client);
        let (endpoints, securing) = (self.mesh.endpoints(service), Some((&self.securing, &*self.mesh)));
        Some(Inputs { service, endpoints, applied, here: &self.here, securing })
    }

    /// Takes over the waypoint's own pod. Whether that changes what is near, or which rules are for it.
    fn follow_own(&mut self, own: Option<&Arc<Workload>>) -> bool {
        let before = std::mem::replace(&mut self.own, own.cloned());
        let counts = |it: &Arc<Workload>| {
            (it.labels.clone(), it.locality.clone(), it.node.clone(), it.cluster.clone())
        };
        if before.as_ref().map(counts) == own.map(counts) {
            return false;
        }
        self.client.labels = own.map(|it| it.labels.clone()).unwrap_or_default();
        self.here = Arc::new(Here::new(self.own.clone()));
        true
    }

    /// Takes over the rules that changed, and names the services they are about. Whether it may be any service.
    fn follow_rules(&mut self, before: &Snapshot, domain: &str, services: &mut BTreeSet<ObjectName>) -> bool {
        let mut any = false;
        let mut about = |about| match about {
            About::Many => any = true,
            About::Host(host) => {
                services.extend(name_below(&host, domain));
                let external = self.mesh.external_named(&host);
                services.extend(external.map(|it| ObjectName::new(it.namespace.clone(), it.name.clone())));
            }
        };
        for change in self.mesh.destination_rules_since(before) {
            change.before.into_iter().for_each(|it| about(self.rules.remove(it)));
            change.now.into_iter().for_each(|it| about(self.rules.insert(it)));
        }
        any
    }

    /// Takes over the BackendTLSPolicies that changed. Whether destinations may have to be spoken to in another way.
    fn follow_securing(&mut self, before: &Snapshot) -> bool {
        let mut changed = !Arc::ptr_eq(self.mesh.unread_backend_tls(), before.unread_backend_tls())
            | self.securing.follow_authorities(before, &self.mesh);
        for change in self.mesh.backend_tls_since(before) {
            change.before.into_iter().for_each(|it| self.securing.remove(it));
            change.now.into_iter().for_each(|it| self.securing.insert(it));
            changed = true;
        }
        changed
    }

    /// The clusters for which BackendTLSPolicies say something else than when they were built.
    fn keys_secured_otherwise(&self) -> Vec<ClusterKey> {
        let stale = |(key, cluster): &(&ClusterKey, &Arc<Cluster>)| {
            let service = self.mesh.service(&key.service.namespace, &key.service.name);
            service.is_some_and(|it| {
                let now = self.securing.decide(&self.mesh, it, key.port);
                now.as_ref() != cluster.compiled().policy.backend_tls.as_deref()
            })
        };
        self.clusters.iter().filter(stale).map(|(key, _)| key.clone()).collect()
    }

    /// What is wrong with BackendTLSPolicies of the waypoint's own namespace, and with those of what it sends to.
    fn problems(&self) -> BTreeSet<Problem> {
        let sends_to: BTreeSet<&Arc<str>> = self.clusters.keys().map(|it| &it.service.namespace).collect();
        let shown = |it: &BackendTlsPolicy| {
            it.object.namespace == self.client.namespace || sends_to.contains(&it.object.namespace)
        };
        let ruled = |service: &Service, port| {
            let applied = self.rules.find(service, &self.client);
            let policy = EffectivePolicy::resolve(&applied, port, None, &service.load_balancing)?;
            policy.tls.and(policy.rules.first().cloned())
        };
        self.securing.problems(&self.mesh, shown, ruled)
    }

    /// Logs the problems that there were not before.
    fn tell_problems(&self, before: &Snapshot) {
        let known = Self { mesh: Arc::new(before.clone()), securing: Securing::of(before), ..self.clone() };
        for problem in self.problems().difference(&known.problems()) {
            tracing::warn!("{problem}");
        }
    }

    /// The clusters of a service.
    fn keys_of(&self, service: &ObjectName) -> Vec<ClusterKey> {
        let first = ClusterKey { service: service.clone(), port: 0, subset: None };
        let all = self.clusters.range(first..).map(|(key, _)| key);
        all.take_while(|key| key.service == *service).cloned().collect()
    }

    /// The clusters to which other rules apply than those they were built with.
    fn keys_under_other_rules(&self) -> Vec<ClusterKey> {
        let stale = |(key, cluster): &(&ClusterKey, &Arc<Cluster>)| {
            let service = self.mesh.service(&key.service.namespace, &key.service.name);
            service.is_none_or(|it| !cluster.compiled().applied.is(&self.rules.find(it, &self.client)))
        };
        self.clusters.iter().filter(stale).map(|(key, _)| key.clone()).collect()
    }

    /// Brings one cluster up to date, or drops it when its destination is gone.
    fn refresh(&mut self, key: &ClusterKey, now: Instant) {
        let Some(cluster) = self.clusters.get(key).cloned() else { return };
        let stays = match self.inputs(&key.service) {
            Some(inputs) => cluster.rebuild(inputs, now),
            None => {
                cluster.close();
                false
            }
        };
        if !stays {
            self.clusters.remove(key);
        }
    }
}
