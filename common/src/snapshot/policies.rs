//! AuthorizationPolicy into what a ztunnel can enforce, and which policies bind which workload.
//!
//! A ztunnel sees connections, not requests. Where a policy asks for more, the answer is the stricter reading: an ALLOW
//! rule with such a condition is left out, a DENY rule loses the condition and denies more, and a CUSTOM policy, whose
//! authorizer cannot be asked here, denies what it would have asked about. Each is said in a warning.

use std::sync::Arc;

use super::model::{
    Action, EffectivePolicy, Match, MtlsMode, PeerAuthentication, Policy, PolicyScope, ServiceAccountMatch,
    StringMatch,
};
use crate::config::security::{
    Accounts, Addresses, Condition, Operation, PathMatch, PolicyAction, Ports, Rule, Source, StatedMode,
    Strings, TargetRef,
};
use crate::config::{self, AuthorizationPolicy, Labels, ObjectName, Origin};

/// An AuthorizationPolicy as stated, as enforced, and what lies between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyEntry {
    /// Which.
    pub object: ObjectName,
    /// Where it was stated.
    pub origin: Origin,
    /// As stated, for waypoints.
    pub stated: Arc<AuthorizationPolicy>,
    /// What a ztunnel enforces of it; `None` when nothing: it is for waypoints, or its action is AUDIT.
    pub policy: Option<Arc<Policy>>,
    /// What of it a ztunnel reads otherwise than stated, in words.
    pub warnings: Box<[Arc<str>]>,
}

/// Compiles one policy.
pub(crate) fn compile(stated: &Arc<AuthorizationPolicy>, origin: &Origin, root: &str) -> PolicyEntry {
    let mut warnings = Vec::new();
    let object = stated.object.clone();
    if !stated.targets.is_empty() {
        at_waypoints(stated, root, &mut warnings);
    }
    let policy = enforced_action(stated, &mut warnings).map(|action| {
        let rules = stated.rules.iter().enumerate();
        let rules = rules.filter_map(|(i, it)| rule(it, i, action, &mut warnings)).collect();
        Arc::new(Policy {
            name: object.name.clone(),
            namespace: object.namespace.clone(),
            key: object.to_string().into(),
            scope: if !stated.selector.is_empty() {
                PolicyScope::WorkloadSelector
            } else if *object.namespace == *root {
                PolicyScope::Global
            } else {
                PolicyScope::Namespace
            },
            action,
            dry_run: stated.dry_run,
            rules,
        })
    });
    PolicyEntry { object, origin: origin.clone(), stated: stated.clone(), policy, warnings: warnings.into() }
}

/// What waypoints read otherwise than stated, or never will.
fn at_waypoints(stated: &AuthorizationPolicy, root: &str, warnings: &mut Vec<Arc<str>>) {
    if stated.action == PolicyAction::Custom && stated.dry_run {
        warnings.push(
            "a dry run of action CUSTOM is not supported, as in Istio: nobody is asked or denied".into(),
        );
    }
    if stated.action == PolicyAction::Custom && stated.provider.is_none() {
        warnings.push("action CUSTOM without a provider: requests its rules match are denied".into());
    }
    let is_class = |it: &TargetRef| &*it.kind == "GatewayClass";
    if *stated.object.namespace != *root && stated.targets.iter().any(is_class) {
        warnings.push(
            format!("a GatewayClass is a target in {root} alone; the policy has no effect on it here").into(),
        );
    }
    for (at, rule) in stated.rules.iter().enumerate() {
        for condition in &rule.when {
            if let Condition::EnvoyFilter(key) = condition {
                let outcome = match stated.action {
                    PolicyAction::Allow => "the rule allows nothing",
                    _ => "the rule matches without that condition, so more",
                };
                warnings
                    .push(format!("rules[{at}] asks for {key}, which nobody here says: {outcome}").into());
            }
        }
        let texts = rule.to.iter().flat_map(|it| it.paths.any.iter().chain(&it.paths.none));
        let has_star = |it: &PathMatch| match it {
            PathMatch::Text(StringMatch::Exact(it) | StringMatch::Prefix(it) | StringMatch::Suffix(it)) => {
                it.contains('*')
            }
            PathMatch::Text(StringMatch::Presence) | PathMatch::Template(_) => false,
        };
        if texts.into_iter().any(has_star) {
            warnings.push(
                format!(
                    "rules[{at}] has a path with a * inside, which is that character; a segment is {{*}}"
                )
                .into(),
            );
        }
    }
}

fn enforced_action(stated: &AuthorizationPolicy, warnings: &mut Vec<Arc<str>>) -> Option<Action> {
    if !stated.targets.is_empty() {
        return None;
    }
    match stated.action {
        PolicyAction::Allow => Some(Action::Allow),
        PolicyAction::Deny => Some(Action::Deny),
        PolicyAction::Audit => {
            warnings.push("action AUDIT is not supported by ztunnel; the policy has no effect here".into());
            None
        }
        PolicyAction::Custom => {
            warnings.push(
                "action CUSTOM is not supported by ztunnel, which cannot ask the provider; connections its rules match \
                 are denied. Attach it to a waypoint with targetRefs"
                    .into(),
            );
            Some(Action::Deny)
        }
    }
}

/// One rule as clauses, all of which must hold; none at all always holds. `None` leaves the rule out.
fn rule(rule: &Rule, at: usize, action: Action, warnings: &mut Vec<Arc<str>>) -> Option<Vec<Vec<Match>>> {
    let needs_waypoint = rule.from.iter().any(Source::needs_waypoint)
        || rule.to.iter().any(Operation::needs_http)
        || rule.when.iter().any(Condition::needs_waypoint);
    if needs_waypoint {
        let outcome = match action {
            Action::Allow => "the rule is left out and allows nothing",
            Action::Deny => "the rule denies without that condition, so more",
        };
        warnings.push(format!("rules[{at}] has a condition that needs a waypoint: {outcome}").into());
        if action == Action::Allow {
            return None;
        }
    }
    let from = rule.from.iter().map(source).collect();
    let to = rule.to.iter().map(operation).collect();
    let when = rule.when.iter().map(|it| vec![condition(it)]);
    // In a clause one match that asks nothing any more makes the whole clause hold.
    let clauses = [from, to].into_iter().chain(when);
    Some(
        clauses
            .filter(|clause: &Vec<Match>| !clause.is_empty() && !clause.contains(&Match::default()))
            .collect(),
    )
}

fn source(source: &Source) -> Match {
    let mut found = Match::default();
    principals(&mut found, &source.principals);
    namespaces(&mut found, &source.namespaces);
    accounts(&mut found, &source.service_accounts);
    addresses(&mut found.source_ips, &mut found.not_source_ips, &source.ip_blocks);
    found
}

fn operation(operation: &Operation) -> Match {
    let mut found = Match::default();
    ports(&mut found, &operation.ports);
    found
}

fn condition(condition: &Condition) -> Match {
    let mut found = Match::default();
    match condition {
        Condition::SourceIp(it) => addresses(&mut found.source_ips, &mut found.not_source_ips, it),
        Condition::SourceNamespace(it) => namespaces(&mut found, it),
        Condition::SourcePrincipal(it) => principals(&mut found, it),
        Condition::SourceAccount(it) => accounts(&mut found, it),
        Condition::DestinationIp(it) => {
            addresses(&mut found.destination_ips, &mut found.not_destination_ips, it);
        }
        Condition::DestinationPort(it) => ports(&mut found, it),
        Condition::RemoteIp(_)
        | Condition::ServerName(_)
        | Condition::Header { .. }
        | Condition::RequestPrincipal(_)
        | Condition::Audiences(_)
        | Condition::Presenter(_)
        | Condition::Claim { .. }
        | Condition::EnvoyFilter(_) => {}
    }
    found
}

fn principals(found: &mut Match, stated: &Strings) {
    found.principals = stated.any.to_vec();
    found.not_principals = stated.none.to_vec();
}

fn namespaces(found: &mut Match, stated: &Strings) {
    found.namespaces = stated.any.to_vec();
    found.not_namespaces = stated.none.to_vec();
}

fn accounts(found: &mut Match, stated: &Accounts) {
    let account = |it: &ObjectName| ServiceAccountMatch {
        namespace: it.namespace.clone(),
        service_account: it.name.clone(),
    };
    found.service_accounts = stated.any.iter().map(account).collect();
    found.not_service_accounts = stated.none.iter().map(account).collect();
}

fn addresses(any: &mut Vec<ipnet::IpNet>, none: &mut Vec<ipnet::IpNet>, stated: &Addresses) {
    *any = stated.any.to_vec();
    *none = stated.none.to_vec();
}

fn ports(found: &mut Match, stated: &Ports) {
    found.destination_ports = stated.any.to_vec();
    found.not_destination_ports = stated.none.to_vec();
}

/// A policy with the selector that decides whom it binds.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    pub(crate) selector: Labels,
    pub(crate) policy: Arc<Policy>,
}

/// The policies of one namespace; those of the root namespace bind the whole mesh.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// Enforced policies, by name.
    pub(crate) policies: Vec<Bound>,
    /// PeerAuthentications, oldest first.
    pub(crate) peers: Vec<Arc<config::PeerAuthentication>>,
    /// Policies that could not be read.
    pub(crate) unknown: Vec<Arc<str>>,
}

impl Rules {
    pub(crate) fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.peers.is_empty() && self.unknown.is_empty()
    }

    /// Whether labels make a difference.
    pub(crate) fn select(&self) -> bool {
        self.policies.iter().any(|it| !it.selector.is_empty())
            || self.peers.iter().any(|it| !it.selector.is_empty())
    }
}

/// Positions of the selecting policies and PeerAuthentications that pick a workload: workloads with the same
/// selection in one namespace have the same policy.
pub(crate) type Selection = Vec<(bool, bool, usize)>;

/// What picks these labels, of the mesh's rules and the namespace's.
pub(crate) fn selection(mesh: &Rules, namespace: &Rules, labels: &Labels) -> Selection {
    let picks = |selector: &Labels| !selector.is_empty() && selector.all_in(labels);
    let mut found = Selection::new();
    for (own, rules) in [(false, mesh), (true, namespace)] {
        let policies = rules.policies.iter().enumerate().filter(|(_, it)| picks(&it.selector));
        found.extend(policies.map(|(i, _)| (own, false, i)));
        let peers = rules.peers.iter().enumerate().filter(|(_, it)| picks(&it.selector));
        found.extend(peers.map(|(i, _)| (own, true, i)));
    }
    found
}

/// All that binds the workloads of a namespace which have this selection.
pub(crate) fn effective(mesh: &Rules, namespace: &Rules, selection: &Selection) -> EffectivePolicy {
    let mut found = EffectivePolicy {
        unknown: mesh.unknown.iter().chain(&namespace.unknown).cloned().collect(),
        ..EffectivePolicy::default()
    };
    let mut selected_peers = Vec::new();
    for (own, rules) in [(false, mesh), (true, namespace)] {
        for (i, bound) in rules.policies.iter().enumerate() {
            if bound.selector.is_empty() || selection.contains(&(own, false, i)) {
                match bound.policy.action {
                    Action::Deny => found.deny.push(bound.policy.clone()),
                    Action::Allow => found.allow.push(bound.policy.clone()),
                }
            }
        }
        let peers = rules.peers.iter().enumerate();
        selected_peers.extend(peers.filter(|(i, _)| selection.contains(&(own, true, *i))).map(|(_, it)| it));
    }
    let unselecting =
        |rules: &Rules| rules.peers.iter().find(|it| it.selector.is_empty()).map(AsRef::as_ref).cloned();
    let workload = selected_peers.into_iter().min_by(|a, b| age(a).cmp(&age(b)));
    found.peer_authentication =
        inherit(workload.map(AsRef::as_ref), unselecting(namespace).as_ref(), unselecting(mesh).as_ref());
    found
}

/// Oldest first, then by name: the order in which Istio prefers PeerAuthentications.
pub(crate) fn age(peer: &config::PeerAuthentication) -> (Option<i64>, Arc<str>, Arc<str>) {
    (peer.created, peer.object.name.clone(), peer.object.namespace.clone())
}

/// The mode of the narrowest object that states one; ports only from the one that selects the workload.
fn inherit(
    workload: Option<&config::PeerAuthentication>,
    namespace: Option<&config::PeerAuthentication>,
    mesh: Option<&config::PeerAuthentication>,
) -> PeerAuthentication {
    let mode = |stated| match stated {
        StatedMode::Unset => None,
        StatedMode::Permissive => Some(MtlsMode::Permissive),
        StatedMode::Strict => Some(MtlsMode::Strict),
    };
    let key = |it: &config::PeerAuthentication| -> Arc<str> { it.object.to_string().into() };
    let (decided, decided_by) = [workload, namespace, mesh]
        .into_iter()
        .flatten()
        .find_map(|it| Some((mode(it.mode)?, key(it))))
        .unwrap_or_else(|| (MtlsMode::default(), "".into()));
    let stated = workload.map(|it| (key(it), &it.ports)).into_iter();
    let ports = stated.flat_map(|(key, ports)| {
        ports.iter().filter_map(move |(port, stated)| Some((*port, mode(*stated)?, key.clone())))
    });
    PeerAuthentication { mode: decided, decided_by, ports: ports.collect() }
}
