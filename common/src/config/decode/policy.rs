//! The shape of an AuthorizationPolicy. Unknown fields and unknown words are refused throughout: a misspelt
//! `notNamespaces` that was passed over would admit whom the operator meant to keep out.
//!
//! What a ztunnel cannot enforce is kept here and dealt with where policies are compiled.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::manifest::{Manifest, Metadata, NameRule, labels};
use super::text::{Pairs, Text};
use super::{Fault, check};
use crate::config::names::Names;
use crate::config::security::{
    Accounts, Addresses, AuthorizationPolicy, Condition, Operation, PolicyAction, Ports, Rule, Source,
    Strings, TargetRef,
};
use crate::config::{Labels, ObjectName, Resource};
use crate::snapshot::model::StringMatch;

/// Most rules in one policy, and most entries in one list of it (Istio's CRD allows 512 and 16 rules' worth).
pub(crate) const MAX_ENTRIES: usize = 4096;

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
    provider: Option<IgnoredAny>,
    rules: List<Option<RuleManifest<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct Selector<'a> {
    match_labels: Option<Pairs<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct TargetManifest<'a> {
    group: Option<Text<'a>>,
    kind: Text<'a>,
    name: Text<'a>,
    #[serde(rename = "namespace")]
    _namespace: Option<IgnoredAny>,
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
        let targets: Box<[TargetRef]> = spec
            .target_refs
            .unwrap_or_default()
            .into_iter()
            .chain(spec.target_ref)
            .map(|it| TargetRef {
                group: names.share(it.group.as_deref().unwrap_or_default()),
                kind: names.share(&it.kind),
                name: names.share(&it.name),
            })
            .collect();
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
        let mut reader = Reader { namespace: named.object.namespace.clone(), names };
        let rules =
            list(spec.rules, "spec.rules", |rule, field| reader.rule(rule.unwrap_or_default(), field))?;
        Ok(Resource::AuthorizationPolicy(Arc::new(AuthorizationPolicy {
            object: named.object,
            created: named.created,
            selector,
            targets,
            action,
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
        let source = Source {
            principals: self.strings(stated.principals, stated.not_principals, &field)?,
            namespaces: self.strings(stated.namespaces, stated.not_namespaces, &field)?,
            service_accounts: self.accounts(stated.service_accounts, stated.not_service_accounts, &field)?,
            ip_blocks: blocks(stated.ip_blocks, stated.not_ip_blocks, &field)?,
            request_principals: self.strings(
                stated.request_principals,
                stated.not_request_principals,
                &field,
            )?,
            remote_ip_blocks: blocks(stated.remote_ip_blocks, stated.not_remote_ip_blocks, &field)?,
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
        let operation = Operation {
            ports: ports(stated.ports, stated.not_ports, &field)?,
            hosts: self.strings(stated.hosts, stated.not_hosts, &field)?,
            methods: self.strings(stated.methods, stated.not_methods, &field)?,
            paths: self.strings(stated.paths, stated.not_paths, &field)?,
        };
        if operation == Operation::default() {
            return Err(Fault::new(field, "asks nothing; an empty operation matches nothing"));
        }
        Ok(operation)
    }

    fn condition(&mut self, stated: WhenManifest<'_>, field: &str) -> Result<Condition, Fault> {
        let (any, none) = (stated.values, stated.not_values);
        let count = |it: &Texts<'_>| it.as_ref().map_or(0, Vec::len);
        if count(&any) + count(&none) == 0 {
            return Err(Fault::new(field, "neither values nor notValues"));
        }
        Ok(match &*stated.key {
            "source.ip" => Condition::SourceIp(blocks(any, none, field)?),
            "source.namespace" => Condition::SourceNamespace(self.strings(any, none, field)?),
            "source.principal" => Condition::SourcePrincipal(self.strings(any, none, field)?),
            "source.serviceAccount" => Condition::SourceAccount(self.accounts(any, none, field)?),
            "destination.ip" => Condition::DestinationIp(blocks(any, none, field)?),
            "destination.port" => Condition::DestinationPort(ports(any, none, field)?),
            "remote.ip"
            | "connection.sni"
            | "request.auth.principal"
            | "request.auth.audiences"
            | "request.auth.presenter" => self.layer7(&stated.key, any, none, field)?,
            key if ["request.headers[", "request.auth.claims[", "experimental.envoy.filters."]
                .iter()
                .any(|known| key.starts_with(known)) =>
            {
                self.layer7(&stated.key, any, none, field)?
            }
            other => return Err(Fault::new(format!("{field}.key"), format!("{other:?} is no condition"))),
        })
    }

    fn layer7(
        &mut self,
        key: &str,
        any: Texts<'_>,
        none: Texts<'_>,
        field: &str,
    ) -> Result<Condition, Fault> {
        let key = self.names.share(key);
        Ok(Condition::Layer7 { key, values: self.strings(any, none, field)? })
    }

    fn strings(&mut self, any: Texts<'_>, none: Texts<'_>, field: &str) -> Result<Strings, Fault> {
        Ok(Strings { any: self.matches(any, field)?, none: self.matches(none, field)? })
    }

    /// Istio's string rule: `*`, `x*`, `*x`, else equality. Nothing else in it is special.
    fn matches(&mut self, stated: Texts<'_>, field: &str) -> Result<Box<[StringMatch]>, Fault> {
        list(stated, field, |text, field| {
            Ok(match &*text {
                "" => return Err(Fault::new(field, "an empty string")),
                "*" => StringMatch::Presence,
                text if text.starts_with('*') => StringMatch::Suffix(self.names.share(&text[1..])),
                text if text.ends_with('*') => StringMatch::Prefix(self.names.share(&text[..text.len() - 1])),
                text => StringMatch::Exact(self.names.share(text)),
            })
        })
    }

    fn accounts(&mut self, any: Texts<'_>, none: Texts<'_>, field: &str) -> Result<Accounts, Fault> {
        let mut read = |stated: Texts<'_>| {
            list(stated, field, |text, field| {
                let namespace = self.namespace.clone();
                let (namespace, name) = match text.split_once('/') {
                    Some((namespace, name)) => (self.names.share(namespace), name),
                    None => (namespace, &*text),
                };
                if !check::is_dns_label(&namespace) || !check::is_dns_name(name) {
                    return Err(Fault::new(field, format!("{:?} is no service account", &*text)));
                }
                Ok(ObjectName { namespace, name: self.names.share(name) })
            })
        };
        Ok(Accounts { any: read(any)?, none: read(none)? })
    }
}

fn blocks(any: Texts<'_>, none: Texts<'_>, field: &str) -> Result<Addresses, Fault> {
    let read = |stated: Texts<'_>| {
        list(stated, field, |text, field| check::network(&text).map_err(|reason| Fault::new(field, reason)))
    };
    Ok(Addresses { any: read(any)?, none: read(none)? })
}

fn ports(any: Texts<'_>, none: Texts<'_>, field: &str) -> Result<Ports, Fault> {
    let read = |stated: Texts<'_>| {
        list(stated, field, |text, field| check::port_text(&text).map_err(|reason| Fault::new(field, reason)))
    };
    Ok(Ports { any: read(any)?, none: read(none)? })
}
