//! `ztunnel explain`: what would become of a connection, by which object of which file.
//!
//! Asks the very functions that decide for live connections, of the mesh that the manifests make; so it knows policies,
//! routes and waypoints, and nothing of what runs. What a waypoint makes of a request is for `waypoint explain` to say.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Parser;
use common::authz::{self, Connection};
use common::balance::{self, Caller, Wanted};
use common::config::{Key, Kind, ObjectName};
use common::explain::{By, Explanation, Verdict};
use common::manifests::Manifests;
use common::refusal::Refusal;
use common::snapshot::model::{MtlsMode, Policy, Service, TunnelProtocol, Workload};
use common::snapshot::{MeshSettings, Snapshot};
use common::spiffe::Identity;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::inbound::admit::{Admission, judge_for};
use crate::outbound::route::{NextHop, route_from};

/// Exit code for arguments that cannot be understood (`EX_USAGE`).
const USAGE: u8 = 64;
/// Exit code for manifests that cannot be read, or do not have what is asked about (`EX_DATAERR`).
const DATA: u8 = 65;
/// Most endpoints of a service that are looked at.
const MAX_ENDPOINTS: usize = 20;

/// Says what would become of a connection, and which object of which file decides it.
#[derive(Debug, Parser)]
#[command(name = "ztunnel explain", version)]
struct Arguments {
    /// Files and directories of manifests; - is standard input
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    manifests: Vec<PathBuf>,
    /// Look into directories below, too
    #[arg(long, short = 'R')]
    recursive: bool,
    /// The pod that connects: its name, its namespace before it where that is not `default`, or its address
    #[arg(long, value_name = "[NAMESPACE/]POD")]
    from: String,
    /// Where it connects to: a name as the pod would write it, or an address
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// Write JSON
    #[arg(long)]
    json: bool,
    /// Trust domain of the mesh
    #[arg(long, default_value = common::spiffe::DEFAULT_TRUST_DOMAIN)]
    trust_domain: String,
    /// Namespace whose policies are for the whole mesh
    #[arg(long, default_value = "istio-system")]
    root_namespace: String,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
}

/// Runs the command; the arguments begin with its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing is left to tell whoever closed the output.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match answer(&arguments) {
        Ok(text) => {
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ztunnel explain: {error:#}");
            ExitCode::from(DATA)
        }
    }
}

fn answer(arguments: &Arguments) -> anyhow::Result<String> {
    let settings = MeshSettings {
        trust_domain: arguments.trust_domain.as_str().into(),
        root_namespace: arguments.root_namespace.as_str().into(),
        cluster_domain: arguments.cluster_domain.as_str().into(),
        ..MeshSettings::default()
    };
    let manifests = Manifests::read(&arguments.manifests, arguments.recursive, settings)?;
    let rejected = manifests.rejected.len();
    let (mut told, verdict) = explain(&manifests, &arguments.from, &arguments.to)?;
    if rejected > 0 {
        let documents = if rejected == 1 { "1 document".to_owned() } else { format!("{rejected} documents") };
        told.say("beware", format!("{documents} rejected; `waypoint analyze` says which and why"), None);
    }
    Ok(if arguments.json { format!("{:#}\n", told.json(&verdict)) } else { told.lines(&verdict) })
}

/// Tells what becomes of a connection.
///
/// # Errors
/// There is no such pod, or no such destination.
pub fn explain(manifests: &Manifests, from: &str, to: &str) -> anyhow::Result<(Explanation, Verdict)> {
    let caller = pod(&manifests.mesh, from)?;
    let (service, original) = called(manifests, caller, to)?;
    let mut teller = Teller { manifests, mesh: &manifests.mesh, caller, told: Explanation::default() };
    teller.caller();
    if let Some(service) = service {
        let by = teller.by(key_of(service));
        let external = if service.external.is_some() { "a host of a ServiceEntry" } else { "a service" };
        teller.told.say("called", format!("{original}, {external} {}", service.hostname), by);
    } else {
        teller.told.say("called", original.to_string(), None);
    }
    let verdict = teller.connect(original);
    Ok((teller.told, verdict))
}

fn pod<'m>(mesh: &'m Snapshot, named: &str) -> anyhow::Result<&'m Arc<Workload>> {
    if let Ok(address) = named.parse::<IpAddr>() {
        return mesh.workload_at(address).with_context(|| format!("no pod has the address {address}"));
    }
    let (namespace, name) = named.split_once('/').unwrap_or(("default", named));
    let mut all = mesh.workloads();
    let found = all.find(|it| **it.namespace() == *namespace && *it.name == *name);
    found.with_context(|| format!("no pod {namespace}/{name} is stated"))
}

/// The address that a pod's call goes to, and the service that has it.
fn called<'m>(
    manifests: &'m Manifests,
    caller: &Workload,
    to: &str,
) -> anyhow::Result<(Option<&'m Arc<Service>>, SocketAddr)> {
    let mesh = &manifests.mesh;
    if let Ok(address) = to.parse::<SocketAddr>() {
        return Ok((mesh.service_at(address.ip()), address));
    }
    let (host, port) = to.rsplit_once(':').with_context(|| format!("{to:?} is no HOST:PORT"))?;
    let port: u16 = port.parse().with_context(|| format!("{port:?} is no port"))?;
    let domain = &manifests.settings.cluster_domain;
    let namespace = caller.namespace();
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
    let Some(service) = names.iter().find_map(|name| mesh.service_named(name, namespace, domain)) else {
        bail!("no service {host} is stated; an address can be asked about, too");
    };
    let is_of_family = |ip: &&IpAddr| caller.addresses.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
    let vip = service.vips.iter().find(is_of_family).or(service.vips.first()).copied();
    // A headless service's name stands for the addresses of its pods.
    let headless = || mesh.endpoints(service).iter().next().map(|endpoint| endpoint.address);
    let address = vip.or_else(headless);
    let address = address.with_context(|| format!("{} has no address", service.hostname))?;
    Ok((Some(service), SocketAddr::new(address, port)))
}

fn key_of(service: &Service) -> Key {
    let (kind, name) = match &service.external {
        Some(external) => (Kind::ServiceEntry, external.entry.clone()),
        None => (Kind::Service, service.name.clone()),
    };
    Key { kind, object: ObjectName { namespace: service.namespace.clone(), name } }
}

struct Teller<'m> {
    manifests: &'m Manifests,
    mesh: &'m Snapshot,
    caller: &'m Arc<Workload>,
    told: Explanation,
}

impl Teller<'_> {
    fn by(&self, key: Key) -> Option<By> {
        let origin = self.manifests.origin(&key).cloned();
        Some(By { key, origin })
    }

    fn by_named(&self, kind: Kind, name: &str) -> Option<By> {
        let (namespace, name) = name.split_once('/')?;
        self.by(Key { kind, object: ObjectName::new(namespace, name) })
    }

    fn by_pod(&self, workload: &Workload) -> Option<By> {
        let object = ObjectName { namespace: workload.namespace().clone(), name: workload.name.clone() };
        let kinds = [Kind::Pod, Kind::WorkloadEntry].map(|kind| Key { kind, object: object.clone() });
        kinds.into_iter().find(|key| self.manifests.origin(key).is_some()).and_then(|key| self.by(key))
    }

    fn caller(&mut self) {
        let Workload { name, identity, .. } = &**self.caller;
        let in_mesh = match (&self.caller.enrolment, self.caller.is_waypoint()) {
            (Some(_), _) => "in the mesh",
            (None, true) => "a waypoint",
            (None, false) => "not in the mesh: it proves nothing of itself",
        };
        let by = self.by_pod(self.caller);
        self.told.say("caller", format!("pod {name}, {identity}, {in_mesh}"), by);
    }

    fn connect(&mut self, original: SocketAddr) -> Verdict {
        // Which of several endpoints is chance; the others are told as well.
        let mut rng = SmallRng::seed_from_u64(0);
        let hop = match route_from(self.mesh, self.caller, original, |_| 0, &mut rng) {
            Ok(hop) => hop,
            Err(refusal) => return self.refused("route", &refusal),
        };
        let proves = self.caller.enrolment.is_some() || self.caller.is_waypoint();
        let identity = proves.then(|| self.caller.identity.clone());
        match hop {
            NextHop::Waypoint { waypoint, bound, .. } if proves => {
                let key = Key { kind: Kind::Gateway, object: bound.gateway.clone() };
                let by = self.by(key);
                let says = format!(
                    "through a tunnel to the waypoint {}, pod {}, which takes it from there",
                    bound.gateway, waypoint.name
                );
                self.told.say("route", says, by);
                Verdict::Depends("what the waypoint makes of it is told by `waypoint explain`".to_owned())
            }
            NextHop::Local { target, destination, .. } => {
                self.told.say("route", "to itself, without a network", None);
                self.admission(&destination, target, identity.as_ref())
            }
            // Whoever is not in the mesh knows of no waypoint either.
            NextHop::Waypoint { service, authority: target, .. }
            | NextHop::Tunnel { service, authority: target, .. }
            | NextHop::Plain { service, target, destination: Some(_) } => {
                self.all_of((service.as_ref(), original.port()), target, identity.as_ref())
            }
            NextHop::Plain { target, .. } => {
                self.told.say(
                    "route",
                    format!("as plain TCP to {target}, which is no pod of the mesh"),
                    None,
                );
                Verdict::Admitted
            }
        }
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
        let Workload { node, locality, cluster, .. } = &**self.caller;
        let caller = Caller { node, locality, cluster };
        let wanted = Wanted { port, original: chosen.ip() };
        let endpoints = self.mesh.endpoints(service).clone();
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
        match verdicts.split_first() {
            None => self.one(chosen, identity),
            Some((first, others)) if others.iter().any(|it| it != first) => {
                Verdict::Depends("some endpoints admit it, others do not".to_owned())
            }
            Some((Verdict::Admitted, _)) if more > 0 => {
                Verdict::Depends("every endpoint that was looked at admits it".to_owned())
            }
            Some((first, _)) => first.clone(),
        }
    }

    fn one(&mut self, target: SocketAddr, identity: Option<&Identity>) -> Verdict {
        let Some(workload) = self.mesh.workload_at(target.ip()).cloned() else { return Verdict::Admitted };
        self.to(&workload, target, identity)
    }

    /// A pod, by whatever way leads there from the caller: who is in the mesh calls who is in it through a tunnel.
    fn to(&mut self, workload: &Workload, target: SocketAddr, identity: Option<&Identity>) -> Verdict {
        let tunnels = workload.protocol == TunnelProtocol::Hbone && !workload.is_waypoint();
        let identity = identity.filter(|_| tunnels);
        let way = if identity.is_some() { "through a tunnel by mutual TLS" } else { "as plain TCP" };
        let by = self.by_pod(workload);
        self.told.say("endpoint", format!("{target}, pod {}, {way}", workload.name), by);
        self.admission(workload, target, identity)
    }

    /// What the node of the destination decides.
    fn admission(&mut self, workload: &Workload, target: SocketAddr, identity: Option<&Identity>) -> Verdict {
        if workload.enrolment.is_none() {
            self.told.say("policy", "the pod is not in the mesh: nobody asks", None);
            return Verdict::Admitted;
        }
        let own = self.caller.addresses.iter().find(|ip| ip.is_ipv4() == target.is_ipv4());
        let client =
            SocketAddr::new(own.or(self.caller.addresses.first()).copied().unwrap_or(target.ip()), 0);
        if let Err(gateway) = self.mesh.came_through(workload, target.port(), identity) {
            let by = self.by(Key { kind: Kind::Gateway, object: gateway.clone() });
            self.told.say("policy", "only the waypoint may connect here", by);
        }
        self.policies(
            workload,
            Connection { source_identity: identity, source: client, destination: target },
        );
        let admission = Admission { target, client, identity: identity.cloned(), by_way_of: None };
        match judge_for(self.mesh, workload, &admission) {
            Ok(()) => Verdict::Admitted,
            Err(refusal) => Verdict::Refused(refusal.to_string()),
        }
    }

    fn policies(&mut self, workload: &Workload, connection: Connection<'_>) {
        let policy = self.mesh.policy_for(workload).clone();
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
        let by = self.by_named(Kind::PeerAuthentication, decided_by);
        self.told.say("policy", mode, by);
        let enforced: [(&str, &[Arc<Policy>]); 2] = [("DENY", &policy.deny), ("ALLOW", &policy.allow)];
        for (action, policies) in enforced {
            for policy in policies {
                let matches = if authz::matches(policy, &connection) { "matches" } else { "does not match" };
                let dry = if policy.dry_run { ", which is not enforced (dry run)" } else { "" };
                let by = self.by_named(Kind::AuthorizationPolicy, &policy.key);
                self.told.say("policy", format!("{action} {}{dry}: {matches}", policy.key), by);
            }
        }
        if policy.deny.is_empty() && policy.allow.is_empty() {
            self.told.say("policy", "no AuthorizationPolicy applies", None);
        }
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
