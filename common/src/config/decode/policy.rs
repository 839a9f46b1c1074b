//! The shape of an AuthorizationPolicy. Unknown fields and unknown words are refused throughout: a misspelt
//! `notNamespaces` that was passed over would admit whom the operator meant to keep out.
//!
//! What a ztunnel cannot enforce is kept here and dealt with where policies are compiled.

use std::sync::Arc;

use http::HeaderName;
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::manifest::{Manifest, Metadata, NameRule, labels};
use super::text::{Pairs, Text};
use super::{Fault, check};
use crate::config::names::Names;
use crate::config::path_template::PathTemplate;
use crate::config::security::{
    Accounts, Asked, AuthorizationPolicy, Condition, HeaderField, Operation, PathMatch, PolicyAction,
    RequestPrincipal, RequestPrincipals, Rule, Source, Strings, TargetRef,
};
use crate::config::{Labels, ObjectName, Resource};
use crate::snapshot::model::StringMatch;

/// Most rules in one policy, and most entries in one list of it (Istio's CRD allows 512 and 16 rules' worth).
pub(crate) const MAX_ENTRIES: usize = 4096;

/// Objects inside objects in which a claim may be.
const MAX_CLAIM_DEPTH: usize = 16;

type List<T> = Option<Vec<T>>;
type Texts<'a> = List<Text<'a>>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct AuthorizationPolicyManifest<'a> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
    #[serde(default)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Option<PolicySpec<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct PolicySpec<'a> {
    selector: Option<Selector<'a>>,
    target_ref: Option<TargetManifest<'a>>,
    target_refs: List<TargetManifest<'a>>,
    action: Option<Text<'a>>,
    provider: Option<ProviderManifest<'a>>,
    rules: List<Option<RuleManifest<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct Selector<'a> {
    match_labels: Option<Pairs<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct TargetManifest<'a> {
    group: Option<Text<'a>>,
    kind: Text<'a>,
    name: Text<'a>,
    namespace: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct ProviderManifest<'a> {
    name: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct RuleManifest<'a> {
    from: List<FromManifest<'a>>,
    to: List<ToManifest<'a>>,
    when: List<WhenManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct FromManifest<'a> {
    source: Option<SourceManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct ToManifest<'a> {
    operation: Option<OperationManifest<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct SourceManifest<'a> {
    principals: Texts<'a>,
    not_principals: Texts<'a>,
    request_principals: Texts<'a>,
    not_request_principals: Texts<'a>,
    namespaces: Texts<'a>,
    not_namespaces: Texts<'a>,
    service_accounts: Texts<'a>,
    not_service_accounts: Texts<'a>,
    ip_blocks: Texts<'a>,
    not_ip_blocks: Texts<'a>,
    remote_ip_blocks: Texts<'a>,
    not_remote_ip_blocks: Texts<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct OperationManifest<'a> {
    hosts: Texts<'a>,
    not_hosts: Texts<'a>,
    ports: Texts<'a>,
    not_ports: Texts<'a>,
    methods: Texts<'a>,
    not_methods: Texts<'a>,
    paths: Texts<'a>,
    not_paths: Texts<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct WhenManifest<'a> {
    key: Text<'a>,
    values: Texts<'a>,
    not_values: Texts<'a>,
}

/// Where in the document we are, and what is shared: handed down while a policy is read.
struct Reader<'n> {
    namespace: Arc<str>,
    names: &'n mut Names,
}

impl Manifest for AuthorizationPolicyManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::Name, names)?;
        let spec = self.spec.unwrap_or_default();
        let selector = selector(spec.selector, names)?;
        let own = named.object.namespace.clone();
        let mut target = |it: TargetManifest<'_>, field: &str| target(&it, &own, field, names);
        let mut targets = list(spec.target_refs, "spec.targetRefs", &mut target)?.into_vec();
        if let Some(single) = spec.target_ref {
            targets.push(target(single, "spec.targetRef")?);
        }
        if !targets.is_empty() && !selector.is_empty() {
            return Err(Fault::new("spec.targetRefs", "stated together with a selector; only one may be"));
        }
        let action = match spec.action.as_deref() {
            None | Some("ALLOW") => PolicyAction::Allow,
            Some("DENY") => PolicyAction::Deny,
            Some("AUDIT") => PolicyAction::Audit,
            Some("CUSTOM") => PolicyAction::Custom,
            Some(other) => return Err(Fault::new("spec.action", format!("{other:?} is no action"))),
        };
        if spec.provider.is_some() && action != PolicyAction::Custom {
            return Err(Fault::new("spec.provider", "only action CUSTOM has a provider"));
        }
        let provider = spec.provider.and_then(|it| it.name).map(|it| names.share(&it));
        let mut reader = Reader { namespace: named.object.namespace.clone(), names };
        let rules =
            list(spec.rules, "spec.rules", |rule, field| reader.rule(rule.unwrap_or_default(), field))?;
        Ok(Resource::AuthorizationPolicy(Arc::new(AuthorizationPolicy {
            object: named.object,
            created: named.created,
            selector,
            targets: targets.into(),
            action,
            provider,
            dry_run: named.annotations.dry_run.as_deref() == Some("true"),
            rules,
        })))
    }
}

pub(crate) fn selector(stated: Option<Selector<'_>>, names: &mut Names) -> Result<Labels, Fault> {
    match stated.and_then(|it| it.match_labels) {
        Some(pairs) => labels(&pairs, "spec.selector.matchLabels", names),
        None => Ok(Labels::default()),
    }
}

/// What a policy can be attached to: group, kind.
const TARGETS: [(&str, &str); 5] = [
    ("", "Service"),
    ("core", "Service"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("networking.istio.io", "ServiceEntry"),
];

/// Anything else a policy names would leave it without effect, which is not what was meant by it.
pub(crate) fn target(
    stated: &TargetManifest<'_>,
    own: &str,
    field: &str,
    names: &mut Names,
) -> Result<TargetRef, Fault> {
    let group = stated.group.as_deref().unwrap_or_default();
    if !TARGETS.contains(&(group, &*stated.kind)) {
        let why = format!("{:?} of group {group:?} is nothing a policy is attached to", &*stated.kind);
        return Err(Fault::new(format!("{field}.kind"), why));
    }
    if stated.namespace.as_deref().is_some_and(|it| !it.is_empty() && *it != *own) {
        return Err(Fault::new(format!("{field}.namespace"), "another namespace; a policy binds its own"));
    }
    if stated.name.is_empty() {
        return Err(Fault::new(format!("{field}.name"), "not stated"));
    }
    Ok(TargetRef {
        group: names.share(if group == "core" { "" } else { group }),
        kind: names.share(&stated.kind),
        name: names.share(&stated.name),
    })
}

/// Reads each entry of a list with its path; a stated list may be empty.
pub(crate) fn list<T, U>(
    stated: List<T>,
    field: &str,
    mut read: impl FnMut(T, &str) -> Result<U, Fault>,
) -> Result<Box<[U]>, Fault> {
    let stated = stated.unwrap_or_default();
    if stated.len() > MAX_ENTRIES {
        return Err(Fault::new(field, format!("more than {MAX_ENTRIES} entries")));
    }
    stated.into_iter().enumerate().map(|(i, item)| read(item, &format!("{field}[{i}]"))).collect()
}

/// Refuses `from: []`: it reads as "from nobody" and would mean "from anybody".
fn not_empty<T>(stated: &List<T>, field: &str) -> Result<(), Fault> {
    match stated {
        Some(entries) if entries.is_empty() => {
            Err(Fault::new(field, "an empty list; leave it out or fill it"))
        }
        _ => Ok(()),
    }
}

impl Reader<'_> {
    fn rule(&mut self, rule: RuleManifest<'_>, field: &str) -> Result<Rule, Fault> {
        let (from, to, when) = (format!("{field}.from"), format!("{field}.to"), format!("{field}.when"));
        not_empty(&rule.from, &from)?;
        not_empty(&rule.to, &to)?;
        not_empty(&rule.when, &when)?;
        Ok(Rule {
            from: list(rule.from, &from, |it, field| self.source(it.source.unwrap_or_default(), field))?,
            to: list(rule.to, &to, |it, field| self.operation(it.operation.unwrap_or_default(), field))?,
            when: list(rule.when, &when, |it, field| self.condition(it, field))?,
        })
    }

    fn source(&mut self, stated: SourceManifest<'_>, field: &str) -> Result<Source, Fault> {
        let field = format!("{field}.source");
        let at = |any, none| Lists { field: &field, any, none };
        let source = Source {
            principals: self
                .names_in(at("principals", "notPrincipals").of(stated.principals, stated.not_principals))?,
            namespaces: self
                .names_in(at("namespaces", "notNamespaces").of(stated.namespaces, stated.not_namespaces))?,
            service_accounts: self.accounts(
                at("serviceAccounts", "notServiceAccounts")
                    .of(stated.service_accounts, stated.not_service_accounts),
            )?,
            ip_blocks: at("ipBlocks", "notIpBlocks")
                .of(stated.ip_blocks, stated.not_ip_blocks)
                .read(network)?,
            request_principals: self.request_principals(
                at("requestPrincipals", "notRequestPrincipals")
                    .of(stated.request_principals, stated.not_request_principals),
            )?,
            remote_ip_blocks: at("remoteIpBlocks", "notRemoteIpBlocks")
                .of(stated.remote_ip_blocks, stated.not_remote_ip_blocks)
                .read(network)?,
        };
        if source == Source::default() {
            return Err(Fault::new(field, "asks nothing; an empty source matches nobody"));
        }
        let by_account = !source.service_accounts.is_empty();
        if by_account && !(source.principals.is_empty() && source.namespaces.is_empty()) {
            return Err(Fault::new(field, "serviceAccounts together with principals or namespaces"));
        }
        Ok(source)
    }

    fn operation(&mut self, stated: OperationManifest<'_>, field: &str) -> Result<Operation, Fault> {
        let field = format!("{field}.operation");
        let at = |any, none| Lists { field: &field, any, none };
        let operation = Operation {
            ports: at("ports", "notPorts").of(stated.ports, stated.not_ports).read(port)?,
            hosts: self.names_in(at("hosts", "notHosts").of(stated.hosts, stated.not_hosts))?,
            methods: self.strings(at("methods", "notMethods").of(stated.methods, stated.not_methods))?,
            paths: at("paths", "notPaths")
                .of(stated.paths, stated.not_paths)
                .read(|it| path(it, self.names))?,
        };
        if operation == Operation::default() {
            return Err(Fault::new(field, "asks nothing; an empty operation matches nothing"));
        }
        Ok(operation)
    }

    fn condition(&mut self, stated: WhenManifest<'_>, field: &str) -> Result<Condition, Fault> {
        let count = |it: &Texts<'_>| it.as_ref().map_or(0, Vec::len);
        if count(&stated.values) + count(&stated.not_values) == 0 {
            return Err(Fault::new(field, "neither values nor notValues"));
        }
        let lists = Lists { field, any: "values", none: "notValues" }.of(stated.values, stated.not_values);
        let refuse = |why: String| Fault::new(format!("{field}.key"), why);
        Ok(match &*stated.key {
            "source.ip" => Condition::SourceIp(lists.read(network)?),
            "source.namespace" => Condition::SourceNamespace(self.names_in(lists)?),
            "source.principal" => Condition::SourcePrincipal(self.names_in(lists)?),
            "source.serviceAccount" => Condition::SourceAccount(self.accounts(lists)?),
            "destination.ip" => Condition::DestinationIp(lists.read(network)?),
            "destination.port" => Condition::DestinationPort(lists.read(port)?),
            "remote.ip" => Condition::RemoteIp(lists.read(network)?),
            "connection.sni" => Condition::ServerName(self.strings(lists)?),
            "request.auth.principal" => Condition::RequestPrincipal(self.request_principals(lists)?),
            "request.auth.audiences" => Condition::Audiences(self.strings(lists)?),
            "request.auth.presenter" => Condition::Presenter(self.strings(lists)?),
            key => {
                let bracketed = |prefix| key.strip_prefix(prefix).filter(|it: &&str| it.starts_with('['));
                if let Some(rest) = bracketed("request.headers") {
                    let field = header(rest).map_err(refuse)?;
                    return Ok(Condition::Header { field, values: self.strings(lists)? });
                }
                if let Some(rest) = bracketed("request.auth.claims") {
                    let path = self.claim(rest).map_err(refuse)?;
                    return Ok(Condition::Claim { path, values: self.strings(lists)? });
                }
                if key.starts_with("experimental.envoy.filters.") {
                    self.strings(lists)?;
                    return Ok(Condition::EnvoyFilter(self.names.share(key)));
                }
                return Err(refuse(format!("{key:?} is no condition")));
            }
        })
    }

    /// `[a][b]`.
    fn claim(&mut self, brackets: &str) -> Result<Box<[Arc<str>]>, String> {
        let refuse = || format!("{brackets:?} names no claim; expected [name] or [name][inner]");
        let inner = brackets.strip_prefix('[').and_then(|it| it.strip_suffix(']')).ok_or_else(refuse)?;
        let mut path = Vec::new();
        for name in inner.split("][") {
            if name.is_empty() || name.contains(['[', ']']) {
                return Err(refuse());
            }
            path.push(self.names.share(name));
        }
        if path.len() > MAX_CLAIM_DEPTH {
            return Err(format!("claims more than {MAX_CLAIM_DEPTH} deep"));
        }
        Ok(path.into())
    }

    fn strings(&mut self, lists: Stated<'_, '_>) -> Result<Strings, Fault> {
        lists.read(|text| string(text, self.names))
    }

    /// Strings that never have a `*` in them: one in the middle was meant for something that it is not.
    fn names_in(&mut self, lists: Stated<'_, '_>) -> Result<Strings, Fault> {
        lists.read(|text| {
            let read = string(text, self.names)?;
            let (StringMatch::Exact(inner) | StringMatch::Prefix(inner) | StringMatch::Suffix(inner)) = &read
            else {
                return Ok(read);
            };
            if inner.contains('*') {
                return Err(format!("{text:?}: a * may stand at the beginning or at the end, once"));
            }
            Ok(read)
        })
    }

    /// `<issuer>/<subject>`, of which one may have a `*`, and either may be one.
    fn request_principals(&mut self, lists: Stated<'_, '_>) -> Result<RequestPrincipals, Fault> {
        lists.read(|text| {
            let exact = |text: &str, names: &mut Names| StringMatch::Exact(names.share(text));
            let (issuer, subject) = match text.rsplit_once('/') {
                None if text == "*" => (StringMatch::Presence, StringMatch::Presence),
                // Without a slash the other half may be any.
                None if text.starts_with('*') => (StringMatch::Presence, string(text, self.names)?),
                None if text.ends_with('*') => (string(text, self.names)?, StringMatch::Presence),
                None => return Err(format!("{text:?} is no <issuer>/<subject>")),
                Some((issuer, subject)) if issuer.is_empty() || subject.is_empty() => {
                    return Err(format!("{text:?} is no <issuer>/<subject>"));
                }
                Some((issuer, subject)) if issuer.starts_with('*') => {
                    let subject =
                        if subject == "*" { StringMatch::Presence } else { exact(subject, self.names) };
                    (string(issuer, self.names)?, subject)
                }
                Some((issuer, subject)) if subject.ends_with('*') => {
                    let subject = match subject.strip_suffix('*') {
                        Some(start) if !start.is_empty() => StringMatch::Prefix(self.names.share(start)),
                        _ => StringMatch::Presence,
                    };
                    (exact(issuer, self.names), subject)
                }
                Some((issuer, subject)) => (exact(issuer, self.names), exact(subject, self.names)),
            };
            Ok(RequestPrincipal { issuer, subject })
        })
    }

    fn accounts(&mut self, lists: Stated<'_, '_>) -> Result<Accounts, Fault> {
        lists.read(|text| {
            let namespace = self.namespace.clone();
            let (namespace, name) = match text.split_once('/') {
                Some((namespace, name)) => (self.names.share(namespace), name),
                None => (namespace, text),
            };
            if !check::is_dns_label(&namespace) || !check::is_dns_name(name) {
                return Err(format!("{text:?} is no service account"));
            }
            Ok(ObjectName { namespace, name: self.names.share(name) })
        })
    }
}

/// Where the two lists of one fact stand.
struct Lists<'f> {
    field: &'f str,
    any: &'static str,
    none: &'static str,
}

/// The two lists of one fact as they stand there.
struct Stated<'f, 'a> {
    at: Lists<'f>,
    any: Texts<'a>,
    none: Texts<'a>,
}

impl<'f> Lists<'f> {
    fn of<'a>(self, any: Texts<'a>, none: Texts<'a>) -> Stated<'f, 'a> {
        Stated { at: self, any, none }
    }
}

impl Stated<'_, '_> {
    /// Reads each entry; one that cannot be read is named by list and place.
    fn read<T>(self, mut read: impl FnMut(&str) -> Result<T, String>) -> Result<Asked<T>, Fault> {
        let Lists { field, any, none } = self.at;
        let mut all = |stated, name| {
            list(stated, &format!("{field}.{name}"), |text: Text<'_>, field: &str| {
                read(&text).map_err(|why| Fault::new(field, why))
            })
        };
        Ok(Asked { any: all(self.any, any)?, none: all(self.none, none)? })
    }
}

/// Istio's string rule: `*`, `x*`, `*x`, else equality. Nothing else in it is special.
fn string(text: &str, names: &mut Names) -> Result<StringMatch, String> {
    Ok(match text {
        "" => return Err("an empty string".to_owned()),
        "*" => StringMatch::Presence,
        text if text.starts_with('*') => StringMatch::Suffix(names.share(&text[1..])),
        text if text.ends_with('*') => StringMatch::Prefix(names.share(&text[..text.len() - 1])),
        text => StringMatch::Exact(names.share(text)),
    })
}

fn path(text: &str, names: &mut Names) -> Result<PathMatch, String> {
    if PathTemplate::is_one(text) {
        return PathTemplate::parse(text).map(PathMatch::Template);
    }
    Ok(PathMatch::Text(string(text, names)?))
}

/// `[name]`. Names that a request has once and for all are not headers here.
fn header(brackets: &str) -> Result<HeaderField, String> {
    let name = brackets.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or_default();
    match name.to_ascii_lowercase().as_str() {
        ":authority" | "host" => Ok(HeaderField::Authority),
        ":method" => Ok(HeaderField::Method),
        name => match HeaderName::try_from(name) {
            Ok(name) => Ok(HeaderField::Header(name)),
            Err(_) => Err(format!("{brackets:?} names no header; expected [name]")),
        },
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    check::network(text)
}

fn port(text: &str) -> Result<u16, String> {
    check::port_text(text)
}
