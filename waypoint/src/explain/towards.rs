//! One destination: the DestinationRule that governs it, the limits towards it, its endpoints, and whether the node of each
//! lets the waypoint in.

use std::net::SocketAddr;
use std::sync::Arc;

use common::config::destination::balance::Algorithm;
use common::config::destination::tls::TlsMode;
use common::config::{Key, Kind};
use common::explain::connection::{MAX_ENDPOINTS, Sight, Teller, together};
use common::explain::{Explanation, Verdict};
use common::snapshot::model::{Endpoint, Health, Locality, TunnelProtocol, Workload};
use serde_json::json;

use super::words;
use crate::exchange::called::Called;
use crate::routes::Target;
use crate::upstream::{Cluster, EffectivePolicy, Prospect, algorithm};

/// A destination, as a waypoint sees it.
pub(super) struct Towards<'a> {
    pub(super) sight: Sight<'a>,
    pub(super) called: &'a Called<'a>,
    /// What a route names; `None` is what was called.
    pub(super) target: Option<&'a Target>,
    /// The pod that connects.
    pub(super) waypoint: &'a Arc<Workload>,
    /// What the client called.
    pub(super) original: SocketAddr,
}

impl Towards<'_> {
    /// Tells of it.
    pub(super) fn tell(&self, teller: &mut Teller<'_>) -> Verdict {
        let Ok(cluster) = self.called.cluster(self.target) else {
            teller.told.say("destination", "there is no such service, port or subset", None);
            return Verdict::Refused("503: no such service, port or subset".to_owned());
        };
        let policy = cluster.policy();
        self.governed(&cluster, &policy, teller);
        if let Some(refused) = self.secured(&policy, teller) {
            return refused;
        }
        self.limits(&policy, teller);
        let service = cluster.service();
        let goes_where_called = service.external.as_ref().is_some_and(|it| it.goes_where_called);
        if goes_where_called && service.vips.contains(&self.original.ip()) {
            let says = format!("{}, where the caller meant to go", self.original);
            teller.told.tell("endpoint", says, None, json!({ "address": self.original }));
            return match self.sight.mesh.workload_at(self.original.ip()) {
                Some(workload) => self.admission(workload, self.original).1,
                None => Verdict::Admitted,
            };
        }
        let verdict = self.endpoints(&cluster, &policy, teller);
        self.unready(&cluster, teller);
        verdict
    }

    fn governed(&self, cluster: &Cluster, policy: &EffectivePolicy, teller: &mut Teller<'_>) {
        let by = policy.rules.first().cloned();
        let by = by.map(|object| self.sight.by(Key { kind: Kind::DestinationRule, object }));
        let more = policy.rules.len().saturating_sub(1);
        let more = if more == 0 { String::new() } else { format!(", and {more} more rules for the host") };
        let way = algorithm(&policy.algorithm);
        let version = format!("{:?}", policy.version);
        let tls = self.tls(policy);
        let says =
            format!("{way}, {tls}, connected to within {}{more}", words::duration(policy.connect_timeout));
        let facts = json!({
            "cluster": cluster.name(),
            "rules": policy.rules.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "loadBalancer": way,
            "tls": tls,
            "httpVersion": version,
        });
        teller.told.tell("destination", says, by, facts);
        if let Some(tunnel) = &policy.tunnel {
            teller.told.say(
                "destination",
                format!("connections of bytes through a forward proxy: {tunnel:?}"),
                None,
            );
        }
    }

    fn tls(&self, policy: &EffectivePolicy) -> &'static str {
        match policy.tls.as_ref().map(|it| it.mode) {
            None | Some(TlsMode::Disable | TlsMode::IstioMutual) => "no TLS of its own",
            Some(TlsMode::Simple) => "TLS of its own (SIMPLE)",
            Some(TlsMode::Mutual) => "TLS of its own (MUTUAL)",
        }
    }

    /// The BackendTLSPolicy that decides; a refusal where it cannot be used.
    fn secured(&self, policy: &EffectivePolicy, teller: &mut Teller<'_>) -> Option<Verdict> {
        let secured = policy.backend_tls.as_ref()?;
        let key = |object| Key { kind: Kind::BackendTls, object };
        let by = secured.by.clone().map(|object| self.sight.by_field(key(object), "spec.validation"));
        if let Some(why) = secured.refused() {
            teller.told.say("tls", format!("nothing is sent, in plaintext neither: {why}"), by);
            return Some(Verdict::Refused(format!("503: {why}")));
        }
        let (sni, names) = (&secured.tls.sni, secured.tls.subject_alt_names.join(", "));
        let whom = match secured.tls.authorities {
            Some(_) => "the authorities that the policy names",
            None => "the authorities of the waypoint's machine",
        };
        let says = format!("TLS to the endpoint, SNI {sni}, with a certificate for {names} by {whom}");
        teller.told.tell("tls", says, by, json!({ "sni": sni, "names": secured.tls.subject_alt_names }));
        None
    }

    /// Circuit breaking and outlier detection: what is stated of it.
    fn limits(&self, policy: &EffectivePolicy, teller: &mut Teller<'_>) {
        let limits = &policy.limits;
        let all = [
            ("connections", limits.connections),
            ("waiting requests", limits.pending),
            ("requests", limits.requests),
            ("retries", limits.retries),
        ];
        let stated = all.iter().filter(|(_, most)| *most != u32::MAX);
        let mut says: Vec<String> = stated.map(|(what, most)| format!("{most} {what}")).collect();
        if let Some(budget) = limits.retry_budget {
            says.push(format!(
                "retries {} % of requests and {} at least",
                budget.percent, budget.min_concurrency
            ));
        }
        let number = |most: u32| (most != u32::MAX).then_some(most);
        let facts = json!({
            "connections": number(limits.connections),
            "pending": number(limits.pending),
            "requests": number(limits.requests),
            "retries": number(limits.retries),
        });
        let says =
            if says.is_empty() { "none stated".to_owned() } else { format!("at most {}", says.join(", ")) };
        teller.told.tell("limits", says, None, facts);
        if let Some(outlier) = &policy.outlier {
            let says = format!(
                "ejected for {} after {} errors 5xx, at most {} % of the endpoints",
                words::duration(outlier.base_ejection),
                outlier.consecutive_5xx,
                outlier.max_ejection_percent
            );
            teller.told.say("outliers", says, None);
        }
    }

    fn endpoints(
        &self,
        cluster: &Arc<Cluster>,
        policy: &EffectivePolicy,
        teller: &mut Teller<'_>,
    ) -> Verdict {
        let prospects = cluster.prospects();
        if prospects.is_empty() {
            teller.told.say("endpoint", "none that is ready", None);
            return Verdict::Refused("503: no healthy upstream".to_owned());
        }
        let (mut verdicts, mut last) = (Vec::new(), None);
        for prospect in prospects.iter().take(MAX_ENDPOINTS) {
            self.endpoint(prospect, policy, teller);
            let (told, verdict) = match &prospect.workload {
                Some(workload) => self.admission(workload, prospect.address),
                None => (Explanation::default(), Verdict::Admitted),
            };
            // Pods of one service mostly have the same policies: once is enough.
            if last.as_ref() != Some(&told) {
                teller.told.append(&told, "at the node");
            }
            last = Some(told);
            verdicts.push(verdict);
        }
        let more = prospects.len().saturating_sub(MAX_ENDPOINTS);
        if more > 0 {
            teller.told.say("endpoint", format!("and {more} more that are not looked at"), None);
        }
        together(&verdicts, more > 0).unwrap_or(Verdict::Admitted)
    }

    fn endpoint(&self, prospect: &Prospect, policy: &EffectivePolicy, teller: &mut Teller<'_>) {
        let Prospect { address, workload, weight, level, portion, ejected } = prospect;
        let pod =
            workload.as_ref().map_or_else(|| "outside the mesh".to_owned(), |it| format!("pod {}", it.name));
        let place = workload.as_ref().map(|it| locality(&it.locality)).unwrap_or_default();
        let at = if place.is_empty() { String::new() } else { format!(", in {place}") };
        let part = match policy.algorithm {
            Algorithm::Passthrough => "where it was called".to_owned(),
            Algorithm::ConsistentHash(_) => format!("{} of all hashes", words::percent(*portion)),
            _ => words::percent(*portion),
        };
        let nearness = if level.is_some_and(|it| it > 0) { ", not among the nearest" } else { "" };
        let health = if *ejected { ", ejected" } else { "" };
        let way = self.way(workload.as_deref(), policy);
        let says = format!("{address}, {pod}{at}, weight {weight}, {part}{nearness}{health}, {way}");
        let facts = json!({
            "address": address,
            "pod": workload.as_ref().map(|it| &it.name),
            "locality": place,
            "weight": weight,
            "part": portion,
            "healthy": !ejected,
            "plaintext": way == "as plain TCP",
        });
        let by = workload.as_ref().and_then(|it| self.sight.by_workload(it));
        teller.told.tell("endpoint", says, by, facts);
    }

    fn way(&self, workload: Option<&Workload>, policy: &EffectivePolicy) -> &'static str {
        let in_mesh = workload.is_some_and(|it| it.protocol == TunnelProtocol::Hbone);
        let own = matches!(policy.tls.as_ref().map(|it| it.mode), Some(TlsMode::Simple | TlsMode::Mutual));
        match (in_mesh, own) {
            (true, false) => "through a tunnel by mutual TLS",
            (true, true) => "by TLS of its own inside a tunnel",
            (false, true) => "by TLS of its own",
            (false, false) => "as plain TCP",
        }
    }

    /// What the node of an endpoint makes of the waypoint.
    fn admission(&self, workload: &Workload, target: SocketAddr) -> (Explanation, Verdict) {
        let mut there = Teller::new(self.sight, self.waypoint);
        let tunnels = workload.protocol == TunnelProtocol::Hbone;
        let identity = tunnels.then_some(&self.waypoint.identity);
        let verdict = there.admission(workload, target, identity, self.waypoint);
        let verdict = match verdict {
            Verdict::Refused(why) => {
                Verdict::Refused(format!("503: the endpoint's node refuses the waypoint: {why}"))
            }
            verdict => verdict,
        };
        (there.told, verdict)
    }

    /// Endpoints that are not asked because they are not ready.
    fn unready(&self, cluster: &Cluster, teller: &mut Teller<'_>) {
        let service = cluster.service();
        let is_unready = |it: &&Arc<Endpoint>| it.health != Health::Healthy;
        let unready: Vec<String> = self
            .sight
            .mesh
            .endpoints(&service)
            .iter()
            .filter(is_unready)
            .map(|it| it.address.to_string())
            .collect();
        if unready.is_empty() || service.load_balancing.allow_unready {
            return;
        }
        let shown = unready.iter().take(MAX_ENDPOINTS).cloned().collect::<Vec<_>>().join(", ");
        let says = format!("{} not ready, and not asked: {shown}", unready.len());
        teller.told.tell("endpoint", says, None, json!({ "unready": unready.len() }));
    }
}

fn locality(of: &Locality) -> String {
    let parts = [&of.region, &of.zone, &of.subzone];
    parts.iter().filter(|it| !it.is_empty()).map(|it| &***it).collect::<Vec<_>>().join("/")
}
