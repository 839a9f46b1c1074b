//! Tells what becomes of a connection, by asking the functions that decide for live ones.
//!
//! Knows policies, services and waypoints, and nothing of what runs. What a waypoint makes of what it is brought is not
//! told here: there the telling stops, and says so. The surprising thing: which of several endpoints it would be is chance,
//! so each is told of.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::json;

use super::unmet::of_connection;
use super::{By, Explanation, Origins, Verdict};
use crate::authz::{self, Connection};
use crate::balance::{self, Caller, Wanted};
use crate::config::{Key, Kind, ObjectName};
use crate::connection::admit::{Admission, judge_for};
use crate::connection::route::{Bound, NextHop, route_from};
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::model::{Action, MtlsMode, Policy, Service, TunnelProtocol, Workload};
use crate::spiffe::Identity;

/// Most endpoints of a service that are told of.
pub const MAX_ENDPOINTS: usize = 20;

/// What is looked at.
#[derive(Clone, Copy)]
pub struct Sight<'m> {
    /// The mesh.
    pub mesh: &'m Snapshot,
    /// The DNS domain below which services are named.
    pub cluster_domain: &'m str,
    /// Where its objects were stated.
    pub origins: &'m dyn Origins,
}

/// Why there is nothing to tell: what was asked about is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotThere {
    /// No pod with this address.
    #[error("no pod has the address {0}")]
    Address(IpAddr),
    /// No such pod; those that might have been meant.
    #[error("no pod {name} is stated{}", .similar.as_ref().map(|it| format!("; did you mean {it}?")).unwrap_or_default())]
    Pod {
        /// `namespace/name`.
        name: String,
        /// A pod whose name begins alike, or is alike in another namespace.
        similar: Option<String>,
    },
    /// No pod of this service account.
    #[error("no pod of the service account {0} is stated")]
    Account(String),
    /// Not of the form `HOST:PORT`.
    #[error("{0:?} is no HOST:PORT")]
    NoPort(String),
    /// The port is none.
    #[error("{0:?} is no port: write a number from 1 to 65535")]
    Port(String),
    /// No such service.
    #[error("no service {0} is stated; an address can be asked about, too")]
    Service(String),
    /// It has neither an address nor an endpoint.
    #[error("{0} has no address")]
    NoAddress(Arc<str>),
}

impl<'m> Sight<'m> {
    /// The pod that is meant by `NAME`, `NAMESPACE/NAME`, `NAMESPACE/sa/ACCOUNT` (any pod of that service account) or an
    /// address.
    ///
    /// # Errors
    /// [`NotThere`].
    pub fn pod(&self, named: &str) -> Result<&'m Arc<Workload>, NotThere> {
        if let Ok(address) = named.parse::<IpAddr>() {
            return self.mesh.workload_at(address).ok_or(NotThere::Address(address));
        }
        let (namespace, name) = named.split_once('/').unwrap_or(("default", named));
        if let Some(account) = name.strip_prefix("sa/") {
            let is_of = |it: &&Arc<Workload>| {
                **it.namespace() == *namespace && *it.identity.service_account == *account
            };
            let of_account = self.mesh.workloads().filter(is_of).min_by_key(|it| &it.name);
            return of_account.ok_or_else(|| NotThere::Account(format!("{namespace}/{account}")));
        }
        let is_it = |it: &&Arc<Workload>| **it.namespace() == *namespace && *it.name == *name;
        self.mesh.workloads().find(is_it).ok_or_else(|| {
            let is_like = |it: &&Arc<Workload>| {
                it.name.starts_with(name) && **it.namespace() == *namespace || *it.name == *name
            };
            let similar =
                self.mesh.workloads().filter(is_like).map(|it| format!("{}/{}", it.namespace(), it.name));
            NotThere::Pod { name: format!("{namespace}/{name}"), similar: similar.min() }
        })
    }

    /// The address that a pod's call to `HOST:PORT` goes to, and the service that has it.
    ///
    /// # Errors
    /// [`NotThere`].
    pub fn called(
        &self,
        caller: &Workload,
        to: &str,
    ) -> Result<(Option<&'m Arc<Service>>, SocketAddr), NotThere> {
        if let Ok(address) = to.parse::<SocketAddr>() {
            return Ok((self.mesh.service_at(address.ip()), address));
        }
        let (host, port) = to.rsplit_once(':').ok_or_else(|| NotThere::NoPort(to.to_owned()))?;
        let number = port.parse::<u16>().ok().filter(|it| *it > 0);
        let port = number.ok_or_else(|| NotThere::Port(port.to_owned()))?;
        let (domain, namespace) = (self.cluster_domain, caller.namespace());
        // As a resolver goes through the search domains of a pod; a dot at the end says that the name is whole.
        let names = match host.strip_suffix('.') {
            Some(whole) => vec![whole.to_owned()],
            None => vec![
                format!("{host}.{namespace}.svc.{domain}"),
                format!("{host}.svc.{domain}"),
                format!("{host}.{domain}"),
                host.to_owned(),
            ],
        };
        let found = names.iter().find_map(|name| self.mesh.service_named(name, namespace, domain));
        let service = found.ok_or_else(|| NotThere::Service(host.to_owned()))?;
        let is_of_family = |ip: &&IpAddr| caller.addresses.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
        let vip = service.vips.iter().find(is_of_family).or(service.vips.first()).copied();
        // A headless service's name stands for the addresses of its pods.
        let headless = || self.mesh.endpoints(service).iter().next().map(|endpoint| endpoint.address);
        let address = vip.or_else(headless).ok_or_else(|| NotThere::NoAddress(service.hostname.clone()))?;
        Ok((Some(service), SocketAddr::new(address, port)))
    }

    /// An object, and where it was stated.
    pub fn by(&self, key: Key) -> By {
        let origin = self.origins.origin(&key).cloned();
        By { key, origin }
    }

    /// The same with the line of one of its fields, where that can be told.
    pub fn by_field(&self, key: Key, field: &str) -> By {
        let mut by = self.by(key);
        if let Some(origin) = &mut by.origin
            && let Some(line) = self.origins.line_of(origin, &by.key, field)
        {
            origin.line = line;
        }
        by
    }

    /// The same of one that is known as `namespace/name`.
    pub fn by_named(&self, kind: Kind, name: &str) -> Option<By> {
        let (namespace, name) = name.split_once('/')?;
        Some(self.by(Key { kind, object: ObjectName::new(namespace, name) }))
    }

    /// What states a service: a Service, or a ServiceEntry.
    pub fn by_service(&self, service: &Service) -> By {
        let (kind, name) = match &service.external {
            Some(external) => (Kind::ServiceEntry, external.entry.clone()),
            None => (Kind::Service, service.name.clone()),
        };
        self.by(Key { kind, object: ObjectName { namespace: service.namespace.clone(), name } })
    }

    /// What states a workload: a Pod, or a WorkloadEntry.
    pub fn by_workload(&self, workload: &Workload) -> Option<By> {
        let object = ObjectName { namespace: workload.namespace().clone(), name: workload.name.clone() };
        let kinds = [Kind::Pod, Kind::WorkloadEntry].map(|kind| Key { kind, object: object.clone() });
        kinds.into_iter().find(|key| self.origins.origin(key).is_some()).map(|key| self.by(key))
    }
}

/// How far the telling came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reached {
    /// To the end.
    Verdict(Verdict),
    /// To a waypoint, which decides the rest.
    Waypoint {
        /// The pod of it.
        waypoint: Arc<Workload>,
        /// Which waypoint, for whom.
        bound: Bound,
        /// What it is asked for.
        authority: SocketAddr,
    },
}

impl Reached {
    /// What becomes of it, as far as whoever asks about connections alone is told.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Verdict(verdict) => verdict,
            Self::Waypoint { .. } => {
                Verdict::Depends("what the waypoint makes of it is told by `waypoint explain`".to_owned())
            }
        }
    }
}

/// Who tells of one call, and what was told of it.
pub struct Teller<'m> {
    pub(super) sight: Sight<'m>,
    caller: &'m Arc<Workload>,
    /// What was told.
    pub told: Explanation,
}

impl<'m> Teller<'m> {
    /// Of a call by a pod.
    pub fn new(sight: Sight<'m>, caller: &'m Arc<Workload>) -> Self {
        Self { sight, caller, told: Explanation::default() }
    }

    /// What the caller proves of itself: those in the mesh do, and waypoints.
    pub fn identity(&self) -> Option<&'m Identity> {
        let proves = self.caller.enrolment.is_some() || self.caller.is_waypoint();
        proves.then_some(&self.caller.identity)
    }

    /// Tells who calls, and what.
    pub fn ends(&mut self, service: Option<&Service>, original: SocketAddr) {
        let (name, identity) = (&self.caller.name, &self.caller.identity);
        let in_mesh = match (&self.caller.enrolment, self.caller.is_waypoint()) {
            (Some(_), _) => "in the mesh",
            (None, true) => "a waypoint",
            (None, false) => "not in the mesh: it proves nothing of itself",
        };
        let by = self.sight.by_workload(self.caller);
        let facts = json!({
            "pod": name,
            "namespace": self.caller.namespace(),
            "identity": self.identity().map(ToString::to_string),
        });
        self.told.tell("caller", format!("pod {name}, {identity}, {in_mesh}"), by, facts);
        let facts = json!({ "address": original, "host": service.map(|it| &it.hostname) });
        let (says, by) = match service {
            Some(service) => {
                let what = if service.external.is_some() { "a host of a ServiceEntry" } else { "a service" };
                (format!("{original}, {what} {}", service.hostname), Some(self.sight.by_service(service)))
            }
            None => (original.to_string(), None),
        };
        self.told.tell("called", says, by, facts);
    }

    /// Tells where the connection goes, and whether it is let in there.
    pub fn connect(&mut self, original: SocketAddr) -> Reached {
        // Which of several endpoints is chance; the others are told as well.
        let mut rng = SmallRng::seed_from_u64(0);
        let hop = match route_from(self.sight.mesh, self.caller, original, |_| 0, &mut rng) {
            Ok(hop) => hop,
            Err(refusal) => return Reached::Verdict(self.refused("route", &refusal)),
        };
        let identity = self.identity();
        Reached::Verdict(match hop {
            NextHop::Waypoint { waypoint, bound, authority, .. } if identity.is_some() => {
                let key = Key { kind: Kind::Gateway, object: bound.gateway.clone() };
                let says = format!(
                    "through a tunnel to the waypoint {}, pod {}, which takes it from there",
                    bound.gateway, waypoint.name
                );
                let facts = json!({ "waypoint": bound.gateway.to_string(), "pod": waypoint.name });
                self.told.tell("route", says, Some(self.sight.by(key)), facts);
                return Reached::Waypoint { waypoint, bound, authority };
            }
            NextHop::Local { target, destination, .. } => {
                self.told.say("route", "to itself, without a network", None);
                self.admission(&destination, target, identity, self.caller)
            }
            // Whoever is not in the mesh knows of no waypoint either.
            NextHop::Waypoint { service, authority: target, .. }
            | NextHop::Tunnel { service, authority: target, .. }
            | NextHop::Plain { service, target, destination: Some(_) } => {
                self.all_of((service.as_ref(), original.port()), target, identity)
            }
            NextHop::Plain { target, .. } => {
                let says = format!("as plain TCP to {target}, which is no pod of the mesh");
                self.told.tell("route", says, None, json!({ "address": target, "plaintext": true }));
                Verdict::Admitted
            }
        })
    }

    fn refused(&mut self, subject: &'static str, refusal: &Refusal) -> Verdict {
        self.told.say(subject, "refused", None);
        Verdict::Refused(refusal.to_string())
    }

    /// Each endpoint that may be chosen, or the one that was called.
    fn all_of(
        &mut self,
        (service, port): (Option<&Arc<Service>>, u16),
        chosen: SocketAddr,
        identity: Option<&Identity>,
    ) -> Verdict {
        let Some(service) = service else { return self.one(chosen, identity) };
        let caller = Caller {
            node: &self.caller.node,
            locality: &self.caller.locality,
            cluster: &self.caller.cluster,
        };
        let wanted = Wanted { port, original: chosen.ip() };
        let endpoints = self.sight.mesh.endpoints(service).clone();
        let all = balance::candidates(&service.load_balancing, &endpoints, caller, wanted);
        let mut verdicts = Vec::new();
        for endpoint in all.iter().take(MAX_ENDPOINTS) {
            let Some(target) = endpoint.target_port(port) else { continue };
            let target = SocketAddr::new(endpoint.address, target);
            if let Some(workload) = &endpoint.workload {
                verdicts.push(self.to(workload, target, identity));
            } else {
                self.told.say("endpoint", format!("{target}, outside the mesh, as plain TCP"), None);
                verdicts.push(Verdict::Admitted);
            }
        }
        let more = all.len().saturating_sub(MAX_ENDPOINTS);
        if more > 0 {
            self.told.say("endpoint", format!("and {more} more that are not looked at"), None);
        }
        together(&verdicts, more > 0).unwrap_or_else(|| self.one(chosen, identity))
    }

    fn one(&mut self, target: SocketAddr, identity: Option<&Identity>) -> Verdict {
        let Some(workload) = self.sight.mesh.workload_at(target.ip()).cloned() else {
            return Verdict::Admitted;
        };
        self.to(&workload, target, identity)
    }

    /// A pod, by whatever way leads there from the caller: who is in the mesh calls who is in it through a tunnel.
    fn to(&mut self, workload: &Workload, target: SocketAddr, identity: Option<&Identity>) -> Verdict {
        let tunnels = workload.protocol == TunnelProtocol::Hbone && !workload.is_waypoint();
        let identity = identity.filter(|_| tunnels);
        let way = if identity.is_some() { "through a tunnel by mutual TLS" } else { "as plain TCP" };
        let by = self.sight.by_workload(workload);
        let facts = json!({ "address": target, "pod": workload.name, "plaintext": identity.is_none() });
        self.told.tell("endpoint", format!("{target}, pod {}, {way}", workload.name), by, facts);
        self.admission(workload, target, identity, self.caller)
    }

    /// What the node of the destination decides about somebody who connects `from` a pod.
    pub fn admission(
        &mut self,
        workload: &Workload,
        target: SocketAddr,
        identity: Option<&Identity>,
        from: &Workload,
    ) -> Verdict {
        if workload.enrolment.is_none() {
            self.told.say("policy", "the pod is not in the mesh: nobody asks", None);
            return Verdict::Admitted;
        }
        let own = from.addresses.iter().find(|ip| ip.is_ipv4() == target.is_ipv4());
        let client = SocketAddr::new(own.or(from.addresses.first()).copied().unwrap_or(target.ip()), 0);
        if let Err(gateway) = self.sight.mesh.came_through(workload, target.port(), identity) {
            let by = self.sight.by(Key { kind: Kind::Gateway, object: gateway.clone() });
            self.told.say("policy", "only the waypoint may connect here", Some(by));
        }
        self.policies(
            workload,
            Connection { source_identity: identity, source: client, destination: target },
        );
        self.judged(workload, target, identity, client)
    }

    fn judged(
        &self,
        workload: &Workload,
        target: SocketAddr,
        identity: Option<&Identity>,
        client: SocketAddr,
    ) -> Verdict {
        let admission = Admission { target, client, identity: identity.cloned(), by_way_of: None };
        match judge_for(self.sight.mesh, workload, &admission) {
            Ok(()) => Verdict::Admitted,
            Err(refusal) => Verdict::Refused(refusal.to_string()),
        }
    }

    fn lacks(&mut self, policy: &Policy, connection: &Connection<'_>) {
        let mut entries = self.sight.mesh.policies_of(&policy.namespace);
        let Some(entry) = entries.find(|it| it.object.name == policy.name) else { return };
        let (rules, lets_in) = (&entry.stated.rules, policy.action == Action::Allow);
        self.passed_rules(&policy.key, rules.len(), |at| of_connection(&rules[at], lets_in, connection));
    }

    fn policies(&mut self, workload: &Workload, connection: Connection<'_>) {
        let policy = self.sight.mesh.policy_for(workload).clone();
        for unknown in &policy.unknown {
            self.told.say("policy", format!("{unknown} applies and cannot be read"), None);
        }
        let peers = &policy.peer_authentication;
        let port = connection.destination.port();
        let own = peers.ports.iter().find(|(it, ..)| *it == port);
        let (mode, decided_by) =
            own.map_or((peers.mode, &peers.decided_by), |(_, mode, decided_by)| (*mode, decided_by));
        let mode = match mode {
            MtlsMode::Strict => "plaintext is refused",
            MtlsMode::Permissive => "plaintext is taken",
        };
        let by = self.sight.by_named(Kind::PeerAuthentication, decided_by);
        self.told.say("policy", mode, by);
        let enforced: [(&str, &[Arc<Policy>]); 2] = [("DENY", &policy.deny), ("ALLOW", &policy.allow)];
        for (action, policies) in enforced {
            for policy in policies {
                let matches = authz::matches(policy, &connection);
                let word = if matches { "matches" } else { "does not match" };
                let dry = if policy.dry_run { ", which is not enforced (dry run)" } else { "" };
                let by = self.sight.by_named(Kind::AuthorizationPolicy, &policy.key);
                let facts = json!({ "action": action, "matches": matches, "dryRun": policy.dry_run });
                self.told.tell("policy", format!("{action} {}{dry}: {word}", policy.key), by, facts);
                if !matches {
                    self.lacks(policy, &connection);
                }
            }
        }
        if policy.deny.is_empty() && policy.allow.is_empty() {
            self.told.say("policy", "no AuthorizationPolicy applies", None);
        }
    }
}

/// Whether a port is one of a service.
pub fn has_port(service: &Service, port: u16) -> bool {
    service.ports.iter().any(|it| it.port == port)
}

/// What several endpoints come to, one of which is chosen; `None` of none. `more` were not looked at.
pub fn together(verdicts: &[Verdict], more: bool) -> Option<Verdict> {
    let (first, others) = verdicts.split_first()?;
    Some(if others.iter().any(|it| it != first) {
        Verdict::Depends("some endpoints admit it, others do not".to_owned())
    } else if *first == Verdict::Admitted && more {
        Verdict::Depends("every endpoint that was looked at admits it".to_owned())
    } else {
        first.clone()
    })
}
