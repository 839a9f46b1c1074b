//! The endpoints of a cluster that come into question: those that serve the port, are ready, and have the subset's
//! labels.
//!
//! Pure but for the running state, which it carries over from the members before: for the same pod at the same address
//! only, because what an endpoint did says nothing about its successor.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use common::balance::locality::{Candidate, Place, Preference};
use common::config::Labels;
use common::config::destination::balance::Algorithm;
use common::snapshot::Endpoints;
use common::snapshot::model::{Endpoint, Health, Locality, Scope, Service, Workload};

use super::EndpointState;
use super::policy::{EffectivePolicy, label_of};

/// An endpoint that may be asked.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// Where to connect: the endpoint's own port.
    pub(super) address: SocketAddr,
    /// Who is there, when it is known.
    pub(super) workload: Option<Arc<Workload>>,
    /// Its weight beside others.
    pub(super) weight: NonZeroU32,
    /// Its labels, those of its place among them.
    labels: Labels,
    /// What is known of it.
    pub(super) state: Arc<EndpointState>,
}

impl Member {
    /// As the decisions see it.
    pub(super) fn candidate(&self) -> Candidate<'_> {
        Candidate {
            address: self.address,
            weight: self.weight,
            place: Place { locality: locality_of(self.workload.as_ref()), labels: &self.labels },
            ejected: self.state.is_ejected(),
        }
    }

    /// Whether decisions about it come out the same.
    fn is(&self, other: &Self) -> bool {
        self.address == other.address
            && self.workload == other.workload
            && self.weight == other.weight
            && Arc::ptr_eq(&self.state, &other.state)
    }
}

/// Whether two lists of members lead to the same decisions.
pub(super) fn same(before: &[Member], now: &[Member]) -> bool {
    before.len() == now.len() && before.iter().zip(now).all(|(before, now)| before.is(now))
}

/// The member at an address; they are in the order of their addresses.
pub(super) fn at(members: &[Member], address: SocketAddr) -> Option<usize> {
    members.binary_search_by(|it| it.address.cmp(&address)).ok()
}

fn locality_of(workload: Option<&Arc<Workload>>) -> &Locality {
    static NOWHERE: std::sync::LazyLock<Locality> = std::sync::LazyLock::new(Locality::default);
    workload.map_or(&NOWHERE, |it| &it.locality)
}

/// Where the waypoint is, as its endpoints' places are compared with.
#[derive(Debug, Clone, Default)]
pub(super) struct Here {
    workload: Option<Arc<Workload>>,
    labels: Labels,
}

impl Here {
    /// Of its own pod; unknown while that is.
    pub(super) fn new(workload: Option<Arc<Workload>>) -> Self {
        Self { labels: labels(workload.as_deref()), workload }
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place { locality: locality_of(self.workload.as_ref()), labels: &self.labels }
    }

    /// Whether an endpoint shares a scope with it. Of what is not known nothing is shared but the network.
    fn shares(&self, scope: Scope, workload: Option<&Workload>) -> bool {
        let (Some(here), Some(there)) = (&self.workload, workload) else { return scope == Scope::Network };
        match scope {
            Scope::Network => true,
            Scope::Region => here.locality.region == there.locality.region,
            Scope::Zone => here.locality.zone == there.locality.zone,
            Scope::Subzone => here.locality.subzone == there.locality.subzone,
            Scope::Node => here.node == there.node,
            Scope::Cluster => here.cluster == there.cluster,
        }
    }
}

/// A workload's labels with those that Istio adds for `failoverPriority`: its node and its cluster.
fn labels(workload: Option<&Workload>) -> Labels {
    let Some(workload) = workload else { return Labels::default() };
    let mut pairs: Vec<(Arc<str>, Arc<str>)> = workload.labels.iter().cloned().collect();
    pairs.push((label_of(Scope::Node).into(), workload.node.clone()));
    pairs.push((label_of(Scope::Cluster).into(), workload.cluster.clone()));
    Labels::new(pairs)
}

/// What members are found by.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) service: &'a Service,
    pub(super) port: u16,
    /// The subset's labels; `None` for all endpoints.
    pub(super) labels: Option<&'a Labels>,
    pub(super) policy: &'a EffectivePolicy,
    pub(super) here: &'a Here,
}

impl Wanted<'_> {
    fn takes(&self, endpoint: &Endpoint) -> bool {
        let workload = endpoint.workload.as_deref();
        // An endpoint of which no labels are known is in no subset but the one without labels.
        let labelled = self.labels.is_none_or(|wanted| {
            workload.map_or(wanted.is_empty(), |workload| wanted.all_in(&workload.labels))
        });
        let ready = endpoint.health == Health::Healthy || self.service.load_balancing.allow_unready;
        let near = self.policy.confined_to.iter().all(|scope| self.here.shares(*scope, workload));
        labelled && ready && near
    }

    /// Whether anybody asks for more labels than the workload's own.
    fn asks_labels(&self) -> bool {
        matches!(&self.policy.locality.preference, Preference::Failover(it) if !it.labels.is_empty())
    }

    /// The members, by address.
    pub(super) fn find(&self, endpoints: &Endpoints, before: &[Member], now: Instant) -> Vec<Member> {
        let with_labels = self.asks_labels();
        let mut members: Vec<Member> = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints.iter().filter(|it| self.takes(it)) {
            let Some(port) = endpoint.target_port(self.port) else { continue };
            let address = SocketAddr::new(endpoint.address, port);
            let workload = endpoint.workload.clone();
            let incarnation = workload.as_ref().map_or_else(|| Arc::from(""), |it| it.incarnation.clone());
            let known = at(before, address).map(|at| &before[at].state);
            let state = match known.filter(|it| it.incarnation == incarnation) {
                Some(known) => known.clone(),
                None => Arc::new(EndpointState::new(address, incarnation, now)),
            };
            let labels = if with_labels { labels(workload.as_deref()) } else { Labels::default() };
            members.push(Member { address, workload, weight: endpoint.weight, labels, state });
        }
        // Endpoints come by address, but ports may differ; and two pods may claim one address for a while.
        members.sort_by_key(|it| it.address);
        members.dedup_by_key(|it| it.address);
        self.keep_one_family(&mut members);
        members
    }

    /// A pod with addresses of both families is one member, as it is one host to Istio's Envoys: as two it would have
    /// twice as many failures until it is ejected, and its load would be two loads. It is reached by the family that the
    /// service has; of both, by IPv4. Not where the caller says by its address which one it means.
    fn keep_one_family(&self, members: &mut Vec<Member>) {
        let vips = &self.service.vips;
        let is_v4_wanted = vips.is_empty() || vips.iter().any(IpAddr::is_ipv4);
        let is_wanted = |it: &Member| it.address.is_ipv4() == is_v4_wanted;
        if members.iter().all(is_wanted) || self.policy.algorithm == Algorithm::Passthrough {
            return;
        }
        let uid = |it: &Member| it.workload.as_ref().map(|workload| workload.uid.clone());
        let reached: HashSet<Arc<str>> = members.iter().filter(|it| is_wanted(it)).filter_map(uid).collect();
        members.retain(|it| is_wanted(it) || uid(it).is_none_or(|uid| !reached.contains(&uid)));
    }
}
