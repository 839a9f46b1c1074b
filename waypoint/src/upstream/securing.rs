//! Which BackendTLSPolicy decides how the endpoints of a service are spoken to, and the TLS that it comes to.
//!
//! Pure. Of several policies for one port of a service one that names the port decides before one that does not, then the
//! oldest, then the first by name (GEP-713). It takes the place of a DestinationRule's `tls`. The surprising thing: one that
//! cannot be used, or may be in a document that could not be read, decides all the same, and nothing at all is sent.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use common::config::backend_tls::{BackendTlsPolicy, Believed, CA_KEY, CaRef, Pem, TlsTarget, TlsTargetKind};
use common::config::destination::tls::{Authorities, ClientTls, TlsMode};
use common::config::{Key, Kind, ObjectName};
use common::snapshot::model::Service;
use common::snapshot::{Snapshot, Unread};
use imbl::OrdMap;

use crate::routes::{Flaw, Problem};

/// Every BackendTLSPolicy, by what it targets. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Securing(OrdMap<Target, Arc<[Arc<Secured>]>>);

/// A policy, and the TLS that it comes to, which all its destinations share. Made anew where the policy or what it names
/// changes.
#[derive(Debug)]
struct Secured {
    policy: Arc<BackendTlsPolicy>,
    tls: OnceLock<Arc<ClientTls>>,
}

/// Namespace, kind and name.
type Target = (Arc<str>, TlsTargetKind, Arc<str>);

/// What a policy comes to at one port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTls {
    /// The policy; `None` where documents that could not be read may be one.
    pub by: Option<ObjectName>,
    /// The TLS.
    pub tls: Arc<ClientTls>,
}

impl BackendTls {
    /// Why there can be none.
    pub fn refused(&self) -> Option<&Arc<str>> {
        match &self.tls.authorities {
            Some(Authorities::Unusable(why)) => Some(why),
            Some(Authorities::Pem(_)) | None => None,
        }
    }
}

impl Secured {
    fn age(&self) -> (Option<i64>, &Arc<str>) {
        (self.policy.created, &self.policy.object.name)
    }
}

impl Securing {
    /// All of a mesh.
    pub fn of(mesh: &Snapshot) -> Self {
        let mut all = Self::default();
        mesh.backend_tls().for_each(|it| all.insert(it));
        all
    }

    /// Adds a policy, or makes the TLS that it comes to anew, where it is there already.
    pub fn insert(&mut self, policy: &Arc<BackendTlsPolicy>) {
        let secured = Arc::new(Secured { policy: policy.clone(), tls: OnceLock::new() });
        self.change(policy, |all| {
            all.retain(|it| it.policy.object != policy.object);
            all.push(secured.clone());
            // The oldest first; one without a time counts as oldest.
            all.sort_by(|a, b| a.age().cmp(&b.age()));
        });
    }

    /// Removes a policy, as it was when it was added.
    pub fn remove(&mut self, policy: &BackendTlsPolicy) {
        self.change(policy, |all| all.retain(|it| it.policy.object != policy.object));
    }

    /// Takes over authorities that changed.
    pub fn follow_authorities(&mut self, before: &Snapshot, mesh: &Snapshot) -> bool {
        let changed: BTreeSet<&ObjectName> = mesh.ca_bundles_since(before).map(|it| it.object).collect();
        if changed.is_empty() {
            return false;
        }
        let names = |policy: &BackendTlsPolicy, bundle: &ObjectName| match &policy.authorities {
            Believed::Refs(refs) if bundle.namespace == policy.object.namespace => {
                refs.iter().any(|it| matches!(it, CaRef::ConfigMap(name) if *name == bundle.name))
            }
            _ => false,
        };
        for policy in mesh.backend_tls().filter(|policy| changed.iter().any(|it| names(policy, it))) {
            self.insert(policy);
        }
        true
    }

    fn change(&mut self, policy: &BackendTlsPolicy, change: impl Fn(&mut Vec<Arc<Secured>>)) {
        for target in &policy.targets {
            let target = (policy.object.namespace.clone(), target.kind, target.name.clone());
            let mut all = self.0.get(&target).map(|it| it.to_vec()).unwrap_or_default();
            change(&mut all);
            match all.is_empty() {
                true => self.0.remove(&target),
                false => self.0.insert(target, all.into()),
            };
        }
    }

    /// The TLS that a port of a service asks for; `None` where nothing says so.
    pub fn decide(&self, mesh: &Snapshot, service: &Service, port: u16) -> Option<BackendTls> {
        let target = target_of(service);
        if let Some(unread) = unread(mesh, &target) {
            let why = format!("the BackendTLSPolicy {unread} cannot be read and may be about {}", target.2);
            return Some(BackendTls { by: None, tls: Arc::new(unusable(why.into())) });
        }
        let Some(secured) = self.deciding(&target, service, port) else {
            let (policy, section) = self.astray(&target, service)?;
            let why =
                format!("BackendTLSPolicy {}: there is no port {section} of {}", policy.object, target.2);
            return Some(BackendTls { by: Some(policy.object.clone()), tls: Arc::new(unusable(why.into())) });
        };
        let tls = secured.tls.get_or_init(|| Arc::new(compile(&secured.policy, mesh))).clone();
        Some(BackendTls { by: Some(secured.policy.object.clone()), tls })
    }

    /// Whether a policy is about a service.
    pub fn is_about(&self, service: &Service) -> bool {
        self.0.contains_key(&target_of(service))
    }

    /// The first policy for a port that a service does not have, and the name of that port. The port may have been given
    /// another name, so any that no other policy decides may be the one.
    fn astray<'s>(
        &'s self,
        target: &Target,
        service: &Service,
    ) -> Option<(&'s BackendTlsPolicy, &'s Arc<str>)> {
        let is_missing = |section: &Arc<str>| service.ports.iter().all(|it| it.name != *section);
        self.0.get(target)?.iter().map(|it| &it.policy).find_map(|policy| {
            let mut own = policy.targets.iter().filter(|it| (it.kind, &it.name) == (target.1, &target.2));
            let section = own.find_map(|it| it.section.as_ref().filter(|it| is_missing(it)))?;
            Some((&**policy, section))
        })
    }

    fn deciding(&self, target: &Target, service: &Service, port: u16) -> Option<&Arc<Secured>> {
        let all = self.0.get(target)?;
        let name = service.ports.iter().find(|it| it.port == port).map(|it| &it.name);
        let of = |it: &BackendTlsPolicy, wanted: &dyn Fn(&TlsTarget) -> bool| {
            it.targets.iter().any(|it| (it.kind, &it.name) == (target.1, &target.2) && wanted(it))
        };
        let by_port = |it: &TlsTarget| it.section.is_some() && it.section.as_ref() == name;
        all.iter()
            .find(|it| of(&it.policy, &by_port))
            .or_else(|| all.iter().find(|it| of(&it.policy, &|it| it.section.is_none())))
    }

    /// What of the policies that `shown` lets through is without effect, or leaves their targets without an answer.
    /// `ruled` names the DestinationRule that states TLS for a port too.
    pub fn problems(
        &self,
        mesh: &Snapshot,
        shown: impl Fn(&BackendTlsPolicy) -> bool,
        ruled: impl Fn(&Service, u16) -> Option<ObjectName>,
    ) -> BTreeSet<Problem> {
        let mut found = BTreeSet::new();
        for policy in mesh.backend_tls().filter(|it| shown(it)) {
            let of = Key { kind: Kind::BackendTls, object: policy.object.clone() };
            let (authorities, unusable) = authorities(policy, mesh);
            let nothing_sent = matches!(authorities, Some(Authorities::Unusable(_)))
                .then(|| "nothing is sent to its targets: no authority of it can be used".to_owned());
            let targets = policy.targets.iter().flat_map(|it| self.without_effect(mesh, policy, it));
            let targets = targets.map(|(flaw, why)| (flaw, why, "spec.targetRefs"));
            let unusable = unusable.into_iter().chain(nothing_sent);
            let unusable = unusable.map(|why| (Flaw::Missing, why, "spec.validation.caCertificateRefs"));
            for (flaw, why, field) in unusable.chain(targets) {
                found.insert(Problem { of: of.clone(), flaw, why: why.into(), field: field.into() });
            }
            for target in &policy.targets {
                found.extend(self.overridden(mesh, policy, target, &ruled));
            }
        }
        found
    }

    /// Why a policy has no effect for one of its targets.
    fn without_effect(
        &self,
        mesh: &Snapshot,
        policy: &BackendTlsPolicy,
        target: &TlsTarget,
    ) -> Option<(Flaw, String)> {
        let key = (policy.object.namespace.clone(), target.kind, target.name.clone());
        let same = |it: &TlsTarget| it == target;
        let winner = self.0.get(&key)?.iter().map(|it| &it.policy).find(|it| it.targets.iter().any(same))?;
        if winner.object != policy.object {
            let why = format!("of no effect for {}: {} comes before it", named(target), winner.object.name);
            return Some((Flaw::Overridden, why));
        }
        let services = services(mesh, &policy.object.namespace, target);
        let is_there = services.iter().any(|it| ports(it, target).next().is_some());
        (!is_there).then(|| (Flaw::Missing, format!("there is no {}", named(target))))
    }

    /// The DestinationRules whose `tls` a policy takes the place of.
    fn overridden(
        &self,
        mesh: &Snapshot,
        policy: &BackendTlsPolicy,
        target: &TlsTarget,
        ruled: &impl Fn(&Service, u16) -> Option<ObjectName>,
    ) -> Vec<Problem> {
        let mut found = Vec::new();
        for service in services(mesh, &policy.object.namespace, target) {
            for port in ports(service, target) {
                let decides = self.deciding(&target_of(service), service, port);
                let rule = ruled(service, port);
                if let Some(rule) =
                    rule.filter(|_| decides.is_some_and(|it| it.policy.object == policy.object))
                {
                    let why = format!(
                        "tls is of no effect at port {port} of {}: the BackendTLSPolicy {} decides",
                        service.hostname, policy.object
                    );
                    let of = Key { kind: Kind::DestinationRule, object: rule };
                    let field = "spec.trafficPolicy".into();
                    found.push(Problem { of, flaw: Flaw::Overridden, why: why.into(), field });
                }
            }
        }
        found
    }
}

/// What policies call a service.
fn target_of(service: &Service) -> Target {
    let (kind, name) = match &service.external {
        Some(external) => (TlsTargetKind::Entry, &external.entry),
        None => (TlsTargetKind::Service, &service.name),
    };
    (service.namespace.clone(), kind, name.clone())
}

/// The services that a target of a namespace means: of a ServiceEntry one for each of its hosts.
fn services<'m>(mesh: &'m Snapshot, namespace: &Arc<str>, target: &TlsTarget) -> Vec<&'m Arc<Service>> {
    match target.kind {
        TlsTargetKind::Service => {
            mesh.service(namespace, &target.name).filter(|it| it.external.is_none()).into_iter().collect()
        }
        TlsTargetKind::Entry => {
            let entry = ObjectName { namespace: namespace.clone(), name: target.name.clone() };
            mesh.services_of_entry(&entry).collect()
        }
    }
}

/// The ports of a service that a target means.
fn ports<'s>(service: &'s Service, target: &'s TlsTarget) -> impl Iterator<Item = u16> + use<'s> {
    let named = |name: &Arc<str>| target.section.as_ref().is_none_or(|section| name == section);
    service.ports.iter().filter(move |it| named(&it.name)).map(|it| it.port)
}

fn named(target: &TlsTarget) -> String {
    let kind = match target.kind {
        TlsTargetKind::Service => "Service",
        TlsTargetKind::Entry => "ServiceEntry",
    };
    match &target.section {
        None => format!("{kind} {}", target.name),
        Some(section) => format!("port {section} of {kind} {}", target.name),
    }
}

/// The first document that could not be read and may be about a target.
fn unread<'m>(mesh: &'m Snapshot, (namespace, _, name): &Target) -> Option<&'m Arc<str>> {
    Unread::about(mesh.unread_backend_tls(), namespace, name)
}

fn compile(policy: &BackendTlsPolicy, mesh: &Snapshot) -> ClientTls {
    let names = match policy.names.is_empty() {
        true => Box::new([policy.hostname.clone()]),
        false => policy.names.clone(),
    };
    ClientTls {
        mode: TlsMode::Simple,
        authorities: authorities(policy, mesh).0,
        subject_alt_names: names,
        sni: policy.hostname.clone(),
        ..unusable("".into())
    }
}

/// TLS that cannot be.
fn unusable(why: Arc<str>) -> ClientTls {
    ClientTls {
        mode: TlsMode::Simple,
        client_certificate: "".into(),
        private_key: "".into(),
        ca_certificates: "".into(),
        authorities: Some(Authorities::Unusable(why)),
        ca_crl: "".into(),
        credential_name: "".into(),
        subject_alt_names: Box::default(),
        sni: "".into(),
        skip_verification: Some(false),
    }
}

/// Whom a policy believes, `None` for whom the machine does; and what it names that cannot be used. What can be is enough.
fn authorities(policy: &BackendTlsPolicy, mesh: &Snapshot) -> (Option<Authorities>, Vec<String>) {
    let Believed::Refs(refs) = &policy.authorities else { return (None, Vec::new()) };
    let (mut usable, mut unusable) = (Vec::new(), Vec::new());
    for one in refs {
        match one {
            CaRef::Unknown(name) => unusable.push(format!("{name}: only a ConfigMap can hold authorities")),
            CaRef::ConfigMap(name) => {
                let object = ObjectName { namespace: policy.object.namespace.clone(), name: name.clone() };
                match mesh.ca_bundle(&object).map(|it| &it.pem) {
                    None => unusable.push(format!("there is no ConfigMap {object} with {CA_KEY}")),
                    Some(Err(why)) => unusable.push(format!("ConfigMap {object}: {why}")),
                    Some(Ok(pem)) => usable.push(pem),
                }
            }
        }
    }
    let authorities = match &usable[..] {
        [] => Authorities::Unusable(
            format!("BackendTLSPolicy {}: {}", policy.object, unusable.join("; ")).into(),
        ),
        [pem] => Authorities::Pem((*pem).clone()),
        several => {
            let texts: Vec<&str> = several.iter().map(|it| &**it.text()).collect();
            Authorities::Pem(Pem::new(texts.join("\n").into()))
        }
    };
    (Some(authorities), unusable)
}
