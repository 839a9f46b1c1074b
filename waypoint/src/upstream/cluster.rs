//! A destination: its endpoints, its policy, and what is known of both while the process runs.
//!
//! One value for all workers, and the same one for as long as the destination exists: what it is compiled to is
//! exchanged inside when configuration changes or an endpoint is ejected or returns. Readers never wait. The lock is for
//! those who exchange it, and for failures on their way to the detector. Knows no connections and no clock.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use common::balance::budget::{InUse, Overflow, Resource};
use common::balance::hash_key::HashPolicy;
use common::balance::outlier::{Cause, Detector};
use common::config::destination::balance::Algorithm;
use common::snapshot::model::Service;
use common::snapshot::{Endpoints, Snapshot};
use tokio::sync::Notify;

use super::admission::Usage;
use super::choices::{Choices, hash_policy};
use super::members::{self, Here, Member, Wanted};
use super::rules::Applied;
use super::securing::{BackendTls, Securing};
use super::{ClusterKey, EffectivePolicy, EndpointState, Permit};

mod ejections;

use self::ejections::track;

/// No sweep is due.
const NEVER: u64 = u64::MAX;

/// A destination.
#[derive(Debug)]
pub struct Cluster {
    key: ClusterKey,
    name: Arc<str>,
    /// What times in atomics are counted from.
    epoch: Instant,
    usage: Usage,
    freed: Notify,
    ejections: [AtomicU64; Cluster::CAUSES.len()],
    compiled: ArcSwap<Compiled>,
    /// When the next sweep is due, in nanoseconds since the epoch.
    sweep_due: AtomicU64,
    detector: Mutex<Detector>,
}

/// What a destination amounts to at one moment.
#[derive(Debug)]
pub(super) struct Compiled {
    /// Grows with every exchange.
    pub(super) generation: u64,
    pub(super) service: Arc<Service>,
    pub(super) applied: Applied,
    pub(super) policy: Arc<EffectivePolicy>,
    /// What of a request is hashed, for consistent hashing.
    pub(super) hash: Option<HashPolicy>,
    here: Arc<Here>,
    pub(super) members: Arc<[Member]>,
    pub(super) choices: Choices,
    /// There is no such destination any more.
    pub(super) gone: bool,
}

/// What a cluster is built of.
pub(super) struct Inputs<'a> {
    pub(super) service: &'a Arc<Service>,
    pub(super) endpoints: &'a Endpoints,
    pub(super) applied: Applied,
    pub(super) here: &'a Arc<Here>,
    /// `None` where no BackendTLSPolicy can be about it.
    pub(super) securing: Option<(&'a Securing, &'a Snapshot)>,
}

impl Inputs<'_> {
    fn policy(&self, key: &ClusterKey) -> Option<EffectivePolicy> {
        let subset = key.subset.as_deref();
        EffectivePolicy::resolve(&self.applied, key.port, subset, &self.service.load_balancing)
            .map(|it| it.secured(self.secured(key)))
    }

    fn secured(&self, key: &ClusterKey) -> Option<BackendTls> {
        self.securing.and_then(|(securing, mesh)| securing.decide(mesh, self.service, key.port))
    }

    fn members(
        &self,
        key: &ClusterKey,
        policy: &EffectivePolicy,
        before: &[Member],
        now: Instant,
    ) -> Vec<Member> {
        let subset = key.subset.as_deref().and_then(|it| self.applied.subset(it));
        let labels = subset.map(|it| &it.labels);
        let wanted = Wanted { service: self.service, port: key.port, labels, policy, here: self.here };
        wanted.find(self.endpoints, before, now)
    }
}

impl Cluster {
    /// In the order of the counters.
    pub(super) const CAUSES: [Cause; 3] =
        [Cause::Consecutive5xx, Cause::ConsecutiveGateway, Cause::ConsecutiveLocalOrigin];

    /// A new one, whose endpoints are new at `now`. `None` when there is no such port or subset.
    pub(super) fn build(key: ClusterKey, inputs: Inputs<'_>, now: Instant) -> Option<Arc<Self>> {
        inputs.service.ports.iter().find(|it| it.port == key.port)?;
        let policy = Arc::new(inputs.policy(&key)?);
        let subset = key.subset.as_deref().unwrap_or_default();
        let name = format!("outbound|{}|{subset}|{}", key.port, inputs.service.hostname).into();
        let members: Arc<[Member]> = inputs.members(&key, &policy, &[], now).into();
        let mut detector = Detector::default();
        track(&mut detector, &policy, &[], &members);
        let compiled = Compiled {
            generation: 0,
            service: inputs.service.clone(),
            applied: inputs.applied,
            hash: hash_of(&policy),
            choices: Choices::new(&members, inputs.here, &policy),
            policy,
            here: inputs.here.clone(),
            members,
            gone: false,
        };
        Some(Arc::new(Self {
            key,
            name,
            epoch: now,
            usage: Usage::default(),
            freed: Notify::new(),
            ejections: Default::default(),
            compiled: ArcSwap::from_pointee(compiled),
            sweep_due: AtomicU64::new(NEVER),
            detector: Mutex::new(detector),
        }))
    }

    /// Takes over what changed. `false` when there is no such port or subset any more, or the subset has other labels and
    /// is another one: then it stays as it is, for those who hold it.
    pub(super) fn rebuild(&self, inputs: Inputs<'_>, now: Instant) -> bool {
        let mut detector = self.lock();
        let before = self.compiled.load_full();
        let unchanged = before.applied.is(&inputs.applied)
            && before.service.load_balancing == inputs.service.load_balancing
            && before.policy.backend_tls.as_deref() == inputs.secured(&self.key).as_ref();
        let policy = match unchanged {
            true => Some(before.policy.clone()),
            false => inputs.policy(&self.key).map(|it| Arc::new(it.following(&before.policy))),
        };
        let port = inputs.service.ports.iter().any(|it| it.port == self.key.port);
        let Some(policy) = policy.filter(|_| port && before.is_same_part(&self.key, &inputs.applied)) else {
            self.retire(&before, before.members.clone());
            return false;
        };
        let members: Arc<[Member]> = inputs.members(&self.key, &policy, &before.members, now).into();
        let stays = Arc::ptr_eq(&before.here, inputs.here) && Arc::ptr_eq(&before.service, inputs.service);
        if unchanged && stays && members::same(&before.members, &members) {
            return true;
        }
        track(&mut detector, &policy, &before.members, &members);
        let choices = Choices::new(&members, inputs.here, &policy);
        if before.choices.is_used() {
            choices.build(&members, &policy);
        }
        let pool = policy.pool.clone();
        self.compiled.store(Arc::new(Compiled {
            generation: before.generation + 1,
            service: inputs.service.clone(),
            applied: inputs.applied,
            hash: hash_of(&policy),
            choices,
            policy,
            here: inputs.here.clone(),
            members,
            gone: false,
        }));
        if !Arc::ptr_eq(&before.policy.pool, &pool) {
            before.policy.pool.end();
            // There may be more of them now.
            self.freed.notify_waiters();
        }
        true
    }

    /// Whether its endpoints are those that its key means under these rules.
    pub(super) fn stands_for(&self, applied: &Applied) -> bool {
        self.compiled.load().is_same_part(&self.key, applied)
    }

    /// The service is gone: whoever still holds this is refused.
    pub(super) fn close(&self) {
        let _detector = self.lock();
        self.retire(&self.compiled.load_full(), Arc::default());
    }

    /// For one that is built of what is over, and so is in force for those alone who ask now.
    pub(super) fn of_the_past(self: Arc<Self>) -> Arc<Self> {
        self.policy().pool.end();
        self
    }

    fn retire(&self, before: &Compiled, left: Arc<[Member]>) {
        before.policy.pool.end();
        self.compiled.store(Arc::new(Compiled { gone: true, ..before.with(left) }));
    }

    /// Its name.
    pub fn key(&self) -> &ClusterKey {
        &self.key
    }

    /// Its name in logs, as Istio's proxies have it: `outbound|8080|v1|web.shop.svc.cluster.local`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How it is treated now. Take it once per request.
    pub fn policy(&self) -> Arc<EffectivePolicy> {
        self.compiled.load().policy.clone()
    }

    /// The service it is of.
    pub fn service(&self) -> Arc<Service> {
        self.compiled.load().service.clone()
    }

    /// Whether it has an endpoint at an address.
    pub fn has(&self, address: SocketAddr) -> bool {
        super::members::at(&self.compiled.load().members, address).is_some()
    }

    /// Whether the destination does not exist any more.
    pub fn is_gone(&self) -> bool {
        self.compiled.load().gone
    }

    /// Its endpoints now, ejected ones among them.
    pub fn endpoints(&self) -> Vec<Arc<EndpointState>> {
        self.compiled.load().members.iter().map(|it| it.state.clone()).collect()
    }

    pub(super) fn compiled(&self) -> arc_swap::Guard<Arc<Compiled>> {
        self.compiled.load()
    }

    /// Takes a place for a connection, a waiting request, a request or a retry, until the permit is dropped.
    ///
    /// # Errors
    /// [`Overflow`] when as many as the policy allows are under way in the whole process.
    pub fn admit(self: &Arc<Self>, resource: Resource, now: Instant) -> Result<Permit, Overflow> {
        let compiled = self.compiled.load();
        let window = compiled.policy.budget_interval.map(|interval| (self.since_epoch(now), interval));
        self.usage.take(resource, &compiled.policy.limits, window)?;
        Ok(Permit::new(self.clone(), resource))
    }

    /// Takes a place for a connection or a waiting request that was counted as one without before.
    pub(super) fn admit_again(self: &Arc<Self>, resource: Resource) -> Option<Permit> {
        let taken = self.usage.take_again(resource, &self.compiled.load().policy.limits);
        taken.then(|| Permit::new(self.clone(), resource))
    }

    /// Takes a place beyond what the policy allows, until the permit is dropped.
    pub(super) fn admit_beyond(self: &Arc<Self>, resource: Resource) -> Permit {
        self.usage.take_beyond(resource);
        Permit::new(self.clone(), resource)
    }

    /// What is in use now.
    pub fn in_use(&self) -> InUse {
        self.usage.in_use()
    }

    /// Told when one of its connections has ended, or takes requests again, of those that may be only so many; and when
    /// another thing is stated of them.
    pub(super) fn freed(&self) -> &Notify {
        &self.freed
    }

    pub(super) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// How often there was no place.
    #[cfg(test)]
    pub(crate) fn overflows(&self, resource: Resource) -> u64 {
        self.usage.overflows(resource)
    }

    /// Does something while nobody else can have the lock.
    #[cfg(test)]
    pub(super) fn while_locked<T>(&self, act: impl FnOnce() -> T) -> T {
        let _detector = self.lock();
        act()
    }

    fn since_epoch(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.epoch)
    }

    /// A time as it is kept in an atomic. What is over five centuries away never comes.
    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(self.since_epoch(at).as_nanos()).unwrap_or(NEVER)
    }

    fn lock(&self) -> MutexGuard<'_, Detector> {
        self.detector.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Compiled {
    /// Whether a subset has the same labels under other rules.
    fn is_same_part(&self, key: &ClusterKey, applied: &Applied) -> bool {
        let Some(name) = key.subset.as_deref() else { return true };
        let labels = |applied: &Applied| applied.subset(name).map(|it| it.labels.clone());
        labels(&self.applied) == labels(applied)
    }

    /// The same with these members, judged anew.
    fn with(&self, members: Arc<[Member]>) -> Self {
        Self {
            generation: self.generation + 1,
            service: self.service.clone(),
            applied: self.applied.clone(),
            policy: self.policy.clone(),
            hash: self.hash.clone(),
            here: self.here.clone(),
            choices: Choices::new(&members, &self.here, &self.policy),
            members,
            gone: self.gone,
        }
    }
}

fn hash_of(policy: &EffectivePolicy) -> Option<HashPolicy> {
    match &policy.algorithm {
        Algorithm::ConsistentHash(hash) => Some(hash_policy(hash)),
        _ => None,
    }
}
