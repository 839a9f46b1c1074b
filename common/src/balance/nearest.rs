//! Chooses where a ztunnel takes a connection to a service: the nearest, and of those the less loaded.
//!
//! Preference comes before load: only endpoints of the best rank are considered, and of those two are drawn by chance
//! and the less loaded taken. Two draws keep a herd off the least loaded one and cost the same for ten endpoints as
//! for ten thousand. Only endpoints of a ServiceEntry have weights: theirs are all looked at, and both the draw and the
//! load go by weight.

use std::net::IpAddr;
use std::sync::Arc;

use rand::Rng;

use crate::snapshot::Endpoints;
use crate::snapshot::model::{BalanceMode, Endpoint, Health, LoadBalancing, Locality, Scope, Service};

/// How often an endpoint is drawn blindly before all are looked at.
const BLIND_DRAWS: usize = 8;

/// Where the caller is.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Its node.
    pub node: &'a str,
    /// Its region, zone and subzone.
    pub locality: &'a Locality,
    /// Its cluster.
    pub cluster: &'a str,
}

/// What the caller asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The service's port.
    pub port: u16,
    /// The address it called: endpoints of the same family are preferred.
    pub original: IpAddr,
}

/// The choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Its port that stands for the one asked for.
    pub port: u16,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEndpoint {
    /// The service has no such port.
    UnknownPort,
    /// No endpoint that serves the port is ready, or near enough.
    NoneUsable,
}

/// Chooses an endpoint. `load` says how busy one is, in any unit (open connections, say); a function that always
/// returns 0 makes it a choice by chance alone.
///
/// # Errors
/// [`NoEndpoint`] when nothing may be chosen.
pub fn choose(
    service: &Service,
    endpoints: &Endpoints,
    caller: Caller<'_>,
    wanted: Wanted,
    load: impl Fn(&Endpoint) -> u32,
    rng: &mut impl Rng,
) -> Result<Choice, NoEndpoint> {
    if !service.ports.iter().any(|it| it.port == wanted.port) {
        return Err(NoEndpoint::UnknownPort);
    }
    let judge = Judge { balancing: &service.load_balancing, caller, wanted };
    let blind = if service.external.is_none() { draw(endpoints, &judge, rng) } else { None };
    lighter(blind.or_else(|| survey(endpoints, &judge, rng)), wanted, load)
}

/// As [`choose`], where the port is known to be served and only the preferences are stated.
///
/// # Errors
/// [`NoEndpoint::NoneUsable`].
pub fn choose_among(
    balancing: &LoadBalancing,
    endpoints: &Endpoints,
    caller: Caller<'_>,
    wanted: Wanted,
    load: impl Fn(&Endpoint) -> u32,
    rng: &mut impl Rng,
) -> Result<Choice, NoEndpoint> {
    let judge = Judge { balancing, caller, wanted };
    lighter(draw(endpoints, &judge, rng).or_else(|| survey(endpoints, &judge, rng)), wanted, load)
}

/// The one that bears less for its weight; of equally loaded ones the first.
fn lighter(
    drawn: Option<Pair<'_>>,
    wanted: Wanted,
    load: impl Fn(&Endpoint) -> u32,
) -> Result<Choice, NoEndpoint> {
    let (one, other) = drawn.ok_or(NoEndpoint::NoneUsable)?;
    let load = |of: &Endpoint, beside: &Endpoint| u64::from(load(of)) * u64::from(beside.weight.get());
    let lighter = if load(other, one) < load(one, other) { other } else { one };
    let port = lighter.target_port(wanted.port).ok_or(NoEndpoint::NoneUsable)?;
    Ok(Choice { endpoint: lighter.clone(), port })
}

/// Every endpoint that [`choose`] may choose, in their own order.
pub fn candidates<'e>(
    balancing: &LoadBalancing,
    endpoints: &'e Endpoints,
    caller: Caller<'_>,
    wanted: Wanted,
) -> Vec<&'e Arc<Endpoint>> {
    let judge = Judge { balancing, caller, wanted };
    let best = endpoints.into_iter().filter_map(|it| judge.rank(it)).max();
    endpoints.into_iter().filter(|it| best.is_some() && judge.rank(it) == best).collect()
}

type Pair<'e> = (&'e Arc<Endpoint>, &'e Arc<Endpoint>);

/// Two different endpoints of the best possible rank by a few blind draws; mostly succeeds where nothing is preferred
/// and most endpoints are ready, and then nothing needs to be looked through.
fn draw<'e>(endpoints: &'e Endpoints, judge: &Judge<'_>, rng: &mut impl Rng) -> Option<Pair<'e>> {
    let best = judge.best();
    let mut first: Option<(usize, &Arc<Endpoint>)> = None;
    if endpoints.len() <= BLIND_DRAWS {
        return None;
    }
    for _ in 0..BLIND_DRAWS {
        let at = rng.random_range(0..endpoints.len());
        let Some(endpoint) = endpoints.get(at).filter(|it| judge.rank(it) == Some(best)) else { continue };
        match first {
            Some((other, _)) if other == at => {}
            Some((_, other)) => return Some((other, endpoint)),
            None => first = Some((at, endpoint)),
        }
    }
    None
}

/// Looks at every endpoint: two of the best rank, drawn by weight; the same twice when there is but one.
fn survey<'e>(endpoints: &'e Endpoints, judge: &Judge<'_>, rng: &mut impl Rng) -> Option<Pair<'e>> {
    let mut best = None;
    let mut pair: Option<(Ticket<'e>, Ticket<'e>)> = None;
    for endpoint in endpoints {
        let Some(rank) = judge.rank(endpoint) else { continue };
        if best.is_some_and(|best| rank < best) {
            continue;
        }
        if best != Some(rank) {
            (best, pair) = (Some(rank), None);
        }
        // Efraimidis and Spirakis: the highest of u^(1/weight) are a draw by weight without putting back; by its
        // logarithm, which keeps its order.
        let luck = rng.random::<f64>().ln() / f64::from(endpoint.weight.get());
        let ticket = (luck, endpoint);
        pair = Some(match pair {
            None => (ticket, (f64::NEG_INFINITY, endpoint)),
            Some((first, _)) if luck > first.0 => (ticket, first),
            Some((first, second)) if luck > second.0 => (first, ticket),
            Some(both) => both,
        });
    }
    pair.map(|((_, one), (_, other))| (one, other))
}

/// An endpoint and its luck in a draw.
type Ticket<'e> = (f64, &'e Arc<Endpoint>);

/// Leading scopes shared, then whether the address family is the one called.
type Rank = (usize, bool);

struct Judge<'a> {
    balancing: &'a LoadBalancing,
    caller: Caller<'a>,
    wanted: Wanted,
}

impl Judge<'_> {
    /// The rank no endpoint can exceed.
    fn best(&self) -> Rank {
        let scopes = match self.balancing.mode {
            BalanceMode::Standard => 0,
            BalanceMode::Strict | BalanceMode::Failover => self.balancing.routing_preferences.len(),
        };
        (scopes, true)
    }

    /// How good an endpoint is; `None` when it may not be chosen at all.
    fn rank(&self, endpoint: &Endpoint) -> Option<Rank> {
        let ready = endpoint.health == Health::Healthy || self.balancing.allow_unready;
        if !ready || endpoint.target_port(self.wanted.port).is_none() {
            return None;
        }
        let family = endpoint.address.is_ipv4() == self.wanted.original.to_canonical().is_ipv4();
        let scopes = &self.balancing.routing_preferences;
        let shared = || scopes.iter().take_while(|scope| self.shares(**scope, endpoint)).count();
        match self.balancing.mode {
            BalanceMode::Standard => Some((0, family)),
            BalanceMode::Failover => Some((shared(), family)),
            BalanceMode::Strict => (shared() == scopes.len()).then_some((scopes.len(), family)),
        }
    }

    /// Whether an endpoint is in the caller's scope. Of an endpoint that is no pod of ours nothing is known, and an
    /// unknown region or zone is shared with nobody but another unknown one.
    fn shares(&self, scope: Scope, endpoint: &Endpoint) -> bool {
        let Some(workload) = &endpoint.workload else { return scope == Scope::Network };
        let (theirs, ours) = (&workload.locality, self.caller.locality);
        match scope {
            Scope::Network => true,
            Scope::Region => theirs.region == ours.region,
            Scope::Zone => theirs.zone == ours.zone,
            Scope::Subzone => theirs.subzone == ours.subzone,
            Scope::Node => *workload.node == *self.caller.node,
            Scope::Cluster => *workload.cluster == *self.caller.cluster,
        }
    }
}
