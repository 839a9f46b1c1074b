//! How many requests are let through, as RateLimits state it: which are attached to what, and what their buckets say.
//!
//! Buckets are those of this replica alone: of several each admits as much as is stated. They outlast a change of anything
//! but the limit itself. Where nothing is attached nothing is looked at. Connections that are not HTTP are not limited.

pub mod bucket;
pub mod keyed;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use common::config::ObjectName;
use common::config::rate_limit::{Limit, LimitKey, LimitTarget, LimitedKind, RateLimit};
use common::snapshot::Snapshot;
use common::snapshot::model::Service;
use common::spiffe::Identity;
use imbl::OrdMap;

use self::bucket::{Nanos, Rate, Said, Shared};
use self::keyed::{Key, Keyed};
use crate::pod_call::{self, PodCall};
use crate::routes::{RequestFacts, holds};

/// Before any other moment that is asked about.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
/// Secrets by which keys are hashed, so that nobody can choose one that is another's.
static SECRETS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::new(), RandomState::new()]);

/// The limits of one waypoint. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Limits {
    gateway: ObjectName,
    all: OrdMap<ObjectName, Arc<Attached>>,
    own: Box<[Arc<Attached>]>,
    services: OrdMap<ObjectName, Box<[Bound]>>,
    entries: OrdMap<ObjectName, Box<[Bound]>>,
    routes: OrdMap<ObjectName, Box<[Bound]>>,
}

/// A RateLimit, bound to a part of what it is attached to, or to all of it.
#[derive(Debug, Clone)]
struct Bound {
    section: Option<Arc<str>>,
    attached: Arc<Attached>,
}

/// A RateLimit with its buckets.
#[derive(Debug)]
pub struct Attached {
    stated: Arc<RateLimit>,
    limits: Box<[Arc<Kept>]>,
}

#[derive(Debug)]
struct Kept {
    stated: Limit,
    rate: Rate,
    buckets: Buckets,
}

#[derive(Debug)]
enum Buckets {
    One(Shared),
    ByKey(Keyed),
}

/// What a request is, besides what rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The verified identity; `None` where nothing is proved, and all of those are one.
    pub identity: Option<&'a Identity>,
    /// The caller's own address.
    pub address: IpAddr,
}

/// What was called.
#[derive(Debug, Clone)]
pub struct CalledFor<'a> {
    /// The service, and the port; of a pod that was called by its own address, every service that may have been meant.
    pub services: Vec<(&'a Arc<Service>, u16)>,
    /// The HTTPRoute that the request falls under, and its rule.
    pub route: Option<(&'a ObjectName, &'a str)>,
}

/// What limits say to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on; its answer tells what is left where somebody is to know.
    Admitted(Option<Told>),
    /// It does not.
    Refused {
        /// The limit: `namespace/name` and the limit's own name or number.
        limit: String,
        /// Until there may be another.
        wait: Duration,
        /// What its answer tells.
        told: Option<Told>,
    },
}

/// What an answer tells of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Requests that are admitted at once after a pause.
    pub limit: u32,
    /// Requests that would be admitted now.
    pub remaining: u32,
    /// Until as many are as after a pause.
    pub reset: Duration,
}

/// Nanoseconds since the first of these questions.
pub fn now() -> Nanos {
    u64::try_from(EPOCH.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Limits {
    /// None, of the waypoint that stands for `gateway`.
    pub fn none(gateway: ObjectName) -> Self {
        Self {
            gateway,
            all: OrdMap::new(),
            own: Box::default(),
            services: OrdMap::new(),
            entries: OrdMap::new(),
            routes: OrdMap::new(),
        }
    }

    /// Takes over what differs between two snapshots, of which `old` is the one these are of; true when anything did.
    pub fn update(&mut self, old: &Snapshot, new: &Snapshot) -> bool {
        let mut have_changed = false;
        for change in new.rate_limits_since(old) {
            have_changed = true;
            match change.now {
                Some(now) => {
                    let before = self.all.get(change.object);
                    let attached = Arc::new(Attached::new(now, before.map(AsRef::as_ref)));
                    self.all.insert(change.object.clone(), attached);
                }
                None => drop(self.all.remove(change.object)),
            }
        }
        if have_changed {
            self.bind();
        }
        have_changed
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The waypoint's own Gateway.
    pub(crate) fn gateway(&self) -> &ObjectName {
        &self.gateway
    }

    /// The services with limits that a pod may have been called for.
    pub(crate) fn meant_by<'m>(&self, pod: PodCall<'m>) -> Vec<(&'m Arc<Service>, u16)> {
        let of_namespace = |all| pod_call::of_namespace(all, pod.namespace());
        pod.among(of_namespace(&self.services), of_namespace(&self.entries)).collect()
    }

    fn bind(&mut self) {
        let of_gateway = |it: &&Arc<Attached>| {
            it.stated.object.namespace == self.gateway.namespace
                && it.targets(LimitedKind::Gateway).any(|target| target.name == self.gateway.name)
        };
        self.own = self.all.values().filter(of_gateway).cloned().collect();
        let by_name = |kind| {
            let mut found: OrdMap<ObjectName, Box<[Bound]>> = OrdMap::new();
            for attached in self.all.values() {
                for target in attached.targets(kind) {
                    let namespace = attached.stated.object.namespace.clone();
                    let object = ObjectName { namespace, name: target.name.clone() };
                    let bound = Bound { section: target.section.clone(), attached: attached.clone() };
                    let before = found.remove(&object).unwrap_or_default().into_vec();
                    found.insert(object, before.into_iter().chain([bound]).collect());
                }
            }
            found
        };
        (self.services, self.entries, self.routes) =
            (by_name(LimitedKind::Service), by_name(LimitedKind::Entry), by_name(LimitedKind::Route));
    }

    /// What they say to a request, now. What one of them has given for a request that another refuses it takes back.
    pub fn ask(
        &self,
        called: &CalledFor<'_>,
        facts: &RequestFacts<'_>,
        caller: &Caller<'_>,
        now: Nanos,
    ) -> Outcome {
        let mut asking = Asking { facts, caller, now, taken: Vec::new(), told: None };
        let refused = self.attached(called).find_map(|attached| asking.ask(attached));
        match refused {
            None => Outcome::Admitted(asking.told),
            Some(refused) => {
                asking.taken.iter().for_each(|(kept, key)| kept.put_back(*key));
                refused
            }
        }
    }

    /// Those that a request falls under, each with its number in what states it.
    pub(crate) fn of<'l>(
        &'l self,
        called: &CalledFor<'_>,
        facts: &RequestFacts<'_>,
    ) -> impl Iterator<Item = (&'l RateLimit, usize, &'l Limit)> {
        self.attached(called).flat_map(|attached| {
            let all = attached.limits.iter().enumerate().filter(|(_, it)| it.matches(facts));
            all.map(|(at, it)| (&*attached.stated, at, &it.stated))
        })
    }

    /// Everything attached to what was called, each once.
    fn attached<'l>(&'l self, called: &CalledFor<'_>) -> impl Iterator<Item = &'l Attached> {
        let of_services = called.services.iter().map(|(service, port)| {
            let (all, name) = match &service.external {
                Some(external) => (&self.entries, &external.entry),
                None => (&self.services, &service.name),
            };
            let object = ObjectName { namespace: service.namespace.clone(), name: name.clone() };
            let name = service.ports.iter().find(|it| it.port == *port).map(|it| it.name.clone());
            (all.get(&object), name.unwrap_or_default())
        });
        let of_route = called.route.map(|(object, rule)| (self.routes.get(object), Arc::<str>::from(rule)));
        let bound = of_services.chain(of_route).flat_map(|(bound, section)| {
            let fits = move |it: &&Bound| it.section.as_ref().is_none_or(|stated| *stated == section);
            bound.into_iter().flatten().filter(fits).map(|it| &*it.attached)
        });
        let mut seen: Vec<*const Attached> = Vec::new();
        self.own.iter().map(|it| &**it).chain(bound).filter(move |it| {
            let is_new = !seen.contains(&std::ptr::from_ref(*it));
            seen.push(std::ptr::from_ref(*it));
            is_new
        })
    }
}

impl Attached {
    /// With the buckets of an earlier version, as far as its limits are the same.
    fn new(stated: &Arc<RateLimit>, before: Option<&Self>) -> Self {
        let kept = |(at, limit): (usize, &Limit)| {
            // Of several that are alike each keeps its own.
            let nth = stated.limits[..at].iter().filter(|it| *it == limit).count();
            let earlier = before.and_then(|it| it.limits.iter().filter(|it| it.stated == *limit).nth(nth));
            earlier.cloned().unwrap_or_else(|| Arc::new(Kept::new(limit)))
        };
        Self { stated: stated.clone(), limits: stated.limits.iter().enumerate().map(kept).collect() }
    }

    fn targets(&self, kind: LimitedKind) -> impl Iterator<Item = &LimitTarget> {
        self.stated.targets.iter().filter(move |it| it.kind == kind)
    }
}

impl Kept {
    fn new(stated: &Limit) -> Self {
        let buckets = match stated.by.is_empty() {
            true => Buckets::One(Shared::default()),
            false => Buckets::ByKey(Keyed::default()),
        };
        Self { stated: stated.clone(), rate: Rate::of(stated), buckets }
    }

    fn matches(&self, facts: &RequestFacts<'_>) -> bool {
        self.stated.matches.is_empty() || self.stated.matches.iter().any(|it| holds(it, facts))
    }

    fn take(&self, key: Key, now: Nanos) -> Said {
        match &self.buckets {
            Buckets::One(bucket) => bucket.take(&self.rate, now),
            Buckets::ByKey(keyed) => keyed.take(key, &self.rate, now),
        }
    }

    fn put_back(&self, key: Key) {
        match &self.buckets {
            Buckets::One(bucket) => bucket.put_back(&self.rate),
            Buckets::ByKey(keyed) => keyed.put_back(key, &self.rate),
        }
    }

    /// Everything that requests of this limit are told apart by.
    fn key(&self, facts: &RequestFacts<'_>, caller: &Caller<'_>) -> Key {
        if self.stated.by.is_empty() {
            return 0;
        }
        let half = |secret: &RandomState| {
            let mut hasher = secret.build_hasher();
            for by in &self.stated.by {
                match by {
                    LimitKey::Principal => caller.identity.hash(&mut hasher),
                    LimitKey::Namespace => caller.identity.map(|it| &it.namespace).hash(&mut hasher),
                    LimitKey::Address => caller.address.hash(&mut hasher),
                    LimitKey::Header(name) => {
                        facts.headers.get(name).map(|it| it.as_bytes()).hash(&mut hasher)
                    }
                }
            }
            u128::from(hasher.finish())
        };
        let [high, low] = &*SECRETS;
        half(high) << 64 | half(low)
    }
}

/// One request on its way through limits.
struct Asking<'a, 'l> {
    facts: &'a RequestFacts<'a>,
    caller: &'a Caller<'a>,
    now: Nanos,
    /// Who gave a token for it.
    taken: Vec<(&'l Kept, Key)>,
    told: Option<Told>,
}

impl<'l> Asking<'_, 'l> {
    /// Asks the limits of one RateLimit, until one refuses.
    fn ask(&mut self, attached: &'l Attached) -> Option<Outcome> {
        let matching = attached.limits.iter().enumerate().filter(|(_, it)| it.matches(self.facts));
        for (at, kept) in matching {
            let key = kept.key(self.facts, self.caller);
            let limit = kept.rate.burst();
            match kept.take(key, self.now) {
                Said::Admitted { remaining, full_in } => {
                    self.taken.push((kept, key));
                    let least = self.told.is_none_or(|it| remaining < it.remaining);
                    if attached.stated.tells && !attached.stated.dry_run && least {
                        self.told = Some(Told { limit, remaining, reset: full_in });
                    }
                }
                Said::Refused { wait, full_in } => {
                    let name = name(attached, at, kept);
                    if attached.stated.dry_run {
                        tracing::info!(limit = %name, "dry-run: would be limited");
                        continue;
                    }
                    let told = Told { limit, remaining: 0, reset: full_in };
                    return Some(Outcome::Refused {
                        limit: name,
                        wait,
                        told: attached.stated.tells.then_some(told),
                    });
                }
            }
        }
        None
    }
}

/// The RateLimit, and the limit by its own name or its number.
fn name(attached: &Attached, at: usize, kept: &Kept) -> String {
    let object = &attached.stated.object;
    match kept.stated.name.is_empty() {
        true => format!("{object}[{at}]"),
        false => format!("{object}[{}]", kept.stated.name),
    }
}
