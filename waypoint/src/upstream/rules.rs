//! Which DestinationRule applies to a service, as this waypoint sees it.
//!
//! Istio's order: the waypoint's own namespace, the service's, the mesh's root; in each the exact host before a wildcard
//! and the longer wildcard before the shorter. The first namespace with a host that fits decides, even where it says
//! less than another would. Several rules for one host in one namespace are one rule: subsets of all, and the policy of
//! the oldest that states one. Knows no endpoints and no policy's content.

use std::cmp::Reverse;
use std::sync::Arc;

use common::config::destination::{DestinationRule, Subset, TrafficPolicy};
use common::config::{Labels, ObjectName};
use common::snapshot::model::Service;
use imbl::OrdMap;

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// The waypoint's namespace.
    pub namespace: Arc<str>,
    /// Labels of its pod, for `workloadSelector`.
    pub labels: Labels,
}

/// Names that hosts are completed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The namespace whose rules hold for the whole mesh.
    pub root_namespace: Arc<str>,
    /// The DNS domain below which services are named.
    pub cluster_domain: Arc<str>,
}

/// Every DestinationRule, by the host it is for. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RuleIndex {
    names: Names,
    /// Namespace and full host.
    exact: OrdMap<(Arc<str>, Arc<str>), SameHost>,
    /// Namespace, then the longest first: a length and the host with its `*`.
    wildcards: OrdMap<Wildcard, SameHost>,
}

/// The rules of one namespace for one host, oldest first.
type SameHost = Arc<[Arc<DestinationRule>]>;
type Wildcard = (Arc<str>, Reverse<usize>, Arc<str>);

/// Which services a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// The one of this name.
    Host(Arc<str>),
    /// Any, by a wildcard.
    Many,
}

impl RuleIndex {
    /// Without any rules.
    pub fn new(names: Names) -> Self {
        Self { names, exact: OrdMap::new(), wildcards: OrdMap::new() }
    }

    /// Adds a rule. Says about whom.
    pub fn insert(&mut self, rule: &Arc<DestinationRule>) -> About {
        self.change(rule, |rules| {
            rules.retain(|it| it.object != rule.object);
            rules.push(rule.clone());
            // The oldest first; one without a time counts as oldest.
            rules.sort_by(|a, b| (a.created, &a.object.name).cmp(&(b.created, &b.object.name)));
        })
    }

    /// Removes a rule, as it was when it was added. Says about whom it was.
    pub fn remove(&mut self, rule: &DestinationRule) -> About {
        self.change(rule, |rules| rules.retain(|it| it.object != rule.object))
    }

    fn change(
        &mut self,
        rule: &DestinationRule,
        change: impl FnOnce(&mut Vec<Arc<DestinationRule>>),
    ) -> About {
        fn swap<K: Ord + Clone>(
            map: &mut OrdMap<K, SameHost>,
            key: K,
            change: impl FnOnce(&mut Vec<Arc<DestinationRule>>),
        ) {
            let mut rules = map.get(&key).map(|it| it.to_vec()).unwrap_or_default();
            change(&mut rules);
            match rules.is_empty() {
                true => map.remove(&key),
                false => map.insert(key, rules.into()),
            };
        }
        let namespace = rule.object.namespace.clone();
        if rule.host.starts_with('*') {
            swap(&mut self.wildcards, (namespace, Reverse(rule.host.len()), rule.host.clone()), change);
            return About::Many;
        }
        let host = full(&rule.host, &namespace, &self.names.cluster_domain);
        swap(&mut self.exact, (namespace, host.clone()), change);
        About::Host(host)
    }

    /// The rule that applies to a service.
    pub fn find(&self, service: &Service, client: &Client) -> Applied {
        let root = &self.names.root_namespace;
        let mut namespaces = vec![];
        // A waypoint in the root namespace does not take a rule for the whole mesh before the service's own.
        if client.namespace != *root {
            namespaces.push(&client.namespace);
        }
        namespaces.extend([&service.namespace, root]);
        namespaces.into_iter().find_map(|it| self.of(it, &service.hostname, client)).unwrap_or_default()
    }

    /// The rule of one namespace: that of the most specific host for which there is one that the client sees.
    fn of(&self, namespace: &Arc<str>, host: &Arc<str>, client: &Client) -> Option<Applied> {
        let exact = self.exact.get(&(namespace.clone(), host.clone()));
        let longest: Wildcard = (namespace.clone(), Reverse(usize::MAX), "".into());
        let wildcards = self
            .wildcards
            .range(longest..)
            .take_while(|((it, _, _), _)| it == namespace)
            .filter(|((_, _, pattern), _)| covers(pattern, host))
            .map(|(_, rules)| rules);
        exact.into_iter().chain(wildcards).find_map(|rules| Applied::of(rules, client))
    }
}

/// A host with the names that are left out of a short one (Istio: one without a dot is of the rule's own namespace).
fn full(host: &Arc<str>, namespace: &str, domain: &str) -> Arc<str> {
    if host.contains('.') || host.parse::<std::net::IpAddr>().is_ok() {
        return host.clone();
    }
    format!("{host}.{namespace}.svc.{domain}").into()
}

/// Whether a wildcard is about a host.
fn covers(pattern: &str, host: &str) -> bool {
    let suffix = pattern.strip_prefix('*').unwrap_or(pattern);
    host.len() > suffix.len() && host.ends_with(suffix)
}

/// What applies to a service: the rules of one host and namespace, oldest first; none when there is no rule.
#[derive(Debug, Clone, Default)]
pub struct Applied(Box<[Arc<DestinationRule>]>);

impl Applied {
    /// Those of one host that are for this client: with a selector before those for all.
    fn of(rules: &[Arc<DestinationRule>], client: &Client) -> Option<Self> {
        let own = |it: &DestinationRule| it.object.namespace == client.namespace;
        // In its own namespace a client sees whatever is there, as in Istio.
        let seen = || rules.iter().filter(|it| own(it) || it.visibility.reaches(&client.namespace));
        let selecting =
            seen().find(|it| own(it) && !it.clients.is_empty() && it.clients.all_in(&client.labels));
        let clients = selecting.map_or_else(Labels::default, |it| it.clients.clone());
        let applied: Box<[_]> = seen().filter(|it| it.clients == clients).cloned().collect();
        (!applied.is_empty()).then_some(Self(applied))
    }

    /// The policy of the host: of the oldest rule that has one.
    pub fn policy(&self) -> &TrafficPolicy {
        static NONE: std::sync::LazyLock<TrafficPolicy> = std::sync::LazyLock::new(TrafficPolicy::default);
        self.0.iter().map(|it| &it.policy).find(|it| **it != *NONE).unwrap_or(&NONE)
    }

    /// A subset; of several of one name that of the oldest rule.
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.0.iter().flat_map(|it| &it.subsets).find(|it| *it.name == *name)
    }

    /// The rules' names.
    pub fn names(&self) -> impl Iterator<Item = &ObjectName> {
        self.0.iter().map(|it| &it.object)
    }

    /// Whether these are the very same rules.
    pub fn is(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}
