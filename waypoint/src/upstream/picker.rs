//! Which endpoint a request goes to.
//!
//! Each worker has its own [`Pickers`]: whose turn it is changes with every request, and workers that shared it would
//! wait for each other. What they do share is how many requests are under way where. A worker's turns begin anew when a
//! cluster is compiled anew, in an order drawn by chance.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Instant;

use common::balance::hash_key::{self, hash_key};
use common::balance::least_request::{LeastRequest, Load};
use common::balance::round_robin::RoundRobin;
use common::balance::warmup::Warmup;
use common::config::destination::balance::Algorithm;
use common::snapshot::model::Workload;
use http::HeaderMap;
use rand::Rng;

use super::cluster::Compiled;
use super::members::{self, Member};
use super::{Attempt, Cluster, EndpointState, NoUpstream};

/// How often another endpoint is drawn when one was tried before (Istio's `retryIgnorePreviousHosts`). The last one
/// drawn is used all the same.
pub const MAX_REDRAWS: usize = 5;
/// Below this many clusters a look for those that are gone is not worth its time.
const SWEEP_FLOOR: usize = 64;
/// How often turns begin anew in the course of a warm-up, so that weights that have come to differ are noticed.
const WARMUP_STEPS: u32 = 10;

/// What is known of a request when an endpoint is picked for it.
#[derive(Debug, Clone, Copy)]
pub struct PickFacts<'a> {
    /// Its headers; empty for TCP.
    pub headers: &'a HeaderMap,
    /// Its query, without the `?`.
    pub query: Option<&'a str>,
    /// The client, as the network or a trusted peer states it.
    pub source: SocketAddr,
    /// What the client called.
    pub original: SocketAddr,
    /// Endpoints that were tried before and are to be avoided. Consistent hashing cannot avoid them.
    pub tried: &'a [SocketAddr],
    /// Endpoints whose whole level of preference is to be avoided (`retryRemoteLocalities`), while there is another.
    pub far_from: &'a [SocketAddr],
    /// The endpoint that the request's session is with, asked before all others while it may be.
    pub session: Option<SocketAddr>,
}

impl PickFacts<'_> {
    /// For a connection of which no more is known.
    pub fn connection(source: SocketAddr, original: SocketAddr) -> Self {
        static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        Self { headers: &NONE, query: None, source, original, tried: &[], far_from: &[], session: None }
    }
}

/// The endpoint picked.
#[derive(Debug)]
pub struct Picked {
    /// Where to connect.
    pub address: SocketAddr,
    /// Who is there, when it is known.
    pub workload: Option<Arc<Workload>>,
    /// `set-cookie` headers for the response: they lead the client's next request to the same endpoint.
    pub set_cookies: Vec<String>,
    /// Counts the request as under way there.
    pub attempt: Attempt,
}

/// Whose turn it is in each cluster, for one worker.
#[derive(Debug)]
pub struct Pickers {
    /// By the cluster's address in memory, which is its own while the `Weak` lives.
    by_cluster: HashMap<usize, (Weak<Cluster>, Turns)>,
    sweep_at: usize,
}

impl Default for Pickers {
    fn default() -> Self {
        Self { by_cluster: HashMap::new(), sweep_at: SWEEP_FLOOR }
    }
}

impl Pickers {
    /// Picks an endpoint.
    ///
    /// # Errors
    /// [`NoUpstream`] when the destination is gone, or none of its endpoints may be asked.
    pub fn pick(
        &mut self,
        cluster: &Arc<Cluster>,
        facts: &PickFacts<'_>,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Result<Picked, NoUpstream> {
        cluster.sweep(now);
        let compiled = cluster.compiled();
        if compiled.gone && compiled.members.is_empty() {
            return Err(NoUpstream::Unknown);
        }
        if let Some(picked) = where_called(cluster, &compiled, facts, now) {
            return Ok(picked);
        }
        let Compiled { members, policy, choices, .. } = &**compiled;
        let mut set_cookies = Vec::new();
        let of_session = facts.session.and_then(|it| members::at(members, it)).filter(|at| {
            let member = &members[*at];
            !member.state.is_ejected() && !facts.tried.contains(&member.address)
        });
        let at = match (&policy.algorithm, &compiled.hash) {
            _ if of_session.is_some() => of_session,
            (Algorithm::ConsistentHash(_), Some(hash)) => {
                let key = hash_key(std::slice::from_ref(hash), request(facts));
                set_cookies = key.set_cookies;
                choices.by_hash(key.hash.unwrap_or_else(|| rng.random()), members, policy)
            }
            (Algorithm::Passthrough, _) => passthrough(&compiled, facts, rng),
            (Algorithm::Random | Algorithm::ConsistentHash(_), _) => {
                fresh(members, facts.tried, || choices.by_chance(facts.far_from, members, policy, rng))
            }
            (Algorithm::LeastRequest | Algorithm::RoundRobin, _) => {
                let turns = self.turns(cluster, &compiled, now, rng);
                fresh(members, facts.tried, || turns.next(facts, &compiled, now, rng))
            }
        };
        let member = at.and_then(|at| members.get(at)).ok_or(NoUpstream::NoHealthy)?;
        Ok(Picked {
            address: member.address,
            workload: member.workload.clone(),
            set_cookies,
            attempt: Attempt::new(cluster.clone(), member.state.clone()),
        })
    }

    /// In how many clusters it knows whose turn it is.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_cluster.len()
    }

    fn turns(
        &mut self,
        cluster: &Arc<Cluster>,
        compiled: &Compiled,
        now: Instant,
        rng: &mut impl Rng,
    ) -> &mut Turns {
        let key = Arc::as_ptr(cluster).addr();
        if !self.by_cluster.contains_key(&key) && self.by_cluster.len() >= self.sweep_at {
            self.by_cluster.retain(|_, (cluster, _)| cluster.strong_count() > 0);
            self.sweep_at = (self.by_cluster.len() * 2).max(SWEEP_FLOOR);
        }
        let new = || (Arc::downgrade(cluster), Turns::default());
        let (_, turns) = self.by_cluster.entry(key).or_insert_with(new);
        turns.follow(compiled, now, rng);
        turns
    }
}

fn request<'a>(facts: &PickFacts<'a>) -> hash_key::Request<'a> {
    hash_key::Request {
        headers: facts.headers,
        query: facts.query,
        source: facts.source,
        destination: facts.original,
    }
}

/// Draws until it is one that was not tried, or for the last time.
fn fresh(members: &[Member], tried: &[SocketAddr], mut draw: impl FnMut() -> Option<usize>) -> Option<usize> {
    let mut at = draw()?;
    for _ in 0..MAX_REDRAWS {
        if !tried.contains(&members.get(at)?.address) {
            break;
        }
        at = draw().unwrap_or(at);
    }
    Some(at)
}

/// The endpoint that was called. Where the service was called by its own address, any endpoint, as without a proxy;
/// an address that is neither is refused, since clients name it.
fn passthrough(compiled: &Compiled, facts: &PickFacts<'_>, rng: &mut impl Rng) -> Option<usize> {
    let called = SocketAddr::new(facts.original.ip().to_canonical(), facts.original.port());
    let Compiled { members, policy, choices, .. } = compiled;
    let service = || compiled.service.vips.contains(&called.ip());
    members::at(members, called)
        .or_else(|| service().then(|| choices.by_chance(facts.far_from, members, policy, rng)).flatten())
}

/// Where the caller meant to go, for a service that has no endpoints of its own: an address by which it is called.
fn where_called(
    cluster: &Arc<Cluster>,
    compiled: &Compiled,
    facts: &PickFacts<'_>,
    now: Instant,
) -> Option<Picked> {
    let external = compiled.service.external.as_ref().filter(|it| it.goes_where_called);
    let address = SocketAddr::new(facts.original.ip().to_canonical(), facts.original.port());
    external.filter(|_| compiled.service.vips.contains(&address.ip()))?;
    let state = Arc::new(EndpointState::new(address, "".into(), now));
    let attempt = Attempt::new(cluster.clone(), state);
    Some(Picked { address, workload: None, set_cookies: Vec::new(), attempt })
}

/// Whose turn it is in one cluster.
#[derive(Debug, Default)]
struct Turns {
    /// What it was made for; `None` before the first time.
    generation: Option<u64>,
    /// When weights will have come to differ from those it was made for.
    stale_at: Option<Instant>,
    /// For each level and each group.
    turns: Vec<Vec<Turn>>,
}

#[derive(Debug)]
enum Turn {
    Least(LeastRequest),
    Robin(RoundRobin),
}

impl Turns {
    fn follow(&mut self, compiled: &Compiled, now: Instant, rng: &mut impl Rng) {
        let stale = self.stale_at.is_some_and(|at| now >= at);
        if self.generation == Some(compiled.generation) && !stale {
            return;
        }
        let robin = compiled.policy.algorithm == Algorithm::RoundRobin;
        let warmup = compiled.policy.warmup.as_ref();
        let mut turn = |members: &Vec<usize>| {
            let weights: Vec<f64> =
                members.iter().map(|at| weight(&compiled.members[*at], warmup, now)).collect();
            match robin {
                true => Turn::Robin(RoundRobin::new(&weights, rng)),
                false => Turn::Least(LeastRequest::new(&weights, rng)),
            }
        };
        let levels = compiled.choices.levels();
        let turns = levels.iter().map(|level| level.groups.iter().map(|it| turn(&it.members)).collect());
        *self = Self {
            turns: turns.collect(),
            generation: Some(compiled.generation),
            stale_at: warmup.and_then(|warmup| stale_at(&compiled.members, warmup, now)),
        };
    }

    fn next(
        &mut self,
        facts: &PickFacts<'_>,
        compiled: &Compiled,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Option<usize> {
        let PickFacts { tried, far_from, .. } = *facts;
        let Compiled { members, policy, choices, .. } = compiled;
        let level = choices.level_for(far_from, members, rng)?;
        let group = choices.group(level, members, policy, rng)?;
        let candidates = &choices.levels().get(level)?.groups.get(group)?.members;
        let warmup = policy.warmup.as_ref();
        let weight = |at: usize| weight(&members[candidates[at]], warmup, now);
        let load = |at: usize| {
            let member = &members[candidates[at]];
            let tried = tried.contains(&member.address);
            Load { outstanding: member.state.active(), weight: weight(at), tried }
        };
        let at = match self.turns.get_mut(level)?.get_mut(group)? {
            Turn::Least(least) => least.choose(load, rng),
            Turn::Robin(robin) => robin.choose(weight),
        };
        candidates.get(at?).copied()
    }
}

fn weight(member: &Member, warmup: Option<&Warmup>, now: Instant) -> f64 {
    let age = now.saturating_duration_since(member.state.first_seen);
    f64::from(member.weight.get()) * warmup.map_or(1.0, |it| it.factor(age))
}

/// While somebody warms up: a step of the warm-up from now, or its end.
fn stale_at(members: &[Member], warmup: &Warmup, now: Instant) -> Option<Instant> {
    let warm_at = members.iter().map(|it| it.state.first_seen + warmup.duration).filter(|it| *it > now);
    Some(warm_at.min()?.min(now + warmup.duration / WARMUP_STEPS))
}
