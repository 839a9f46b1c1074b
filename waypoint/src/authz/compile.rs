//! From a policy as stated to one that can be asked: names of its rules, hosts and paths in the forms that requests have.

use std::sync::Arc;

use common::config::AuthorizationPolicy;
use common::config::security::{self, HeaderField, PathMatch};
use common::snapshot::model::StringMatch;

use super::Policy;
use super::rule::{Condition, Operation, Path, Principal, Rule, Source};
use super::strings::Host;
use crate::routes::canonical_rule;

/// Compiles a policy.
pub fn policy(stated: &AuthorizationPolicy) -> Policy {
    let object = &stated.object;
    let rule = |(at, stated): (usize, &security::Rule)| Rule {
        name: format!("ns[{}]-policy[{}]-rule[{at}]", object.namespace, object.name).into(),
        needs_http: stated.from.iter().any(security::Source::needs_http)
            || stated.to.iter().any(security::Operation::needs_http)
            || stated.when.iter().any(security::Condition::needs_http),
        from: stated.from.iter().map(source).collect(),
        to: stated.to.iter().map(operation).collect(),
        when: stated.when.iter().map(condition).collect(),
    };
    Policy {
        key: object.to_string().into(),
        action: stated.action,
        dry_run: stated.dry_run,
        provider: stated.provider.clone(),
        rules: stated.rules.iter().enumerate().map(rule).collect(),
    }
}

fn source(stated: &security::Source) -> Source {
    Source {
        principals: stated.principals.map(Principal::new),
        namespaces: stated.namespaces.clone(),
        accounts: stated.service_accounts.clone(),
        addresses: stated.ip_blocks.clone(),
        remote: stated.remote_ip_blocks.clone(),
        tokens: stated.request_principals.clone(),
    }
}

fn operation(stated: &security::Operation) -> Operation {
    Operation {
        ports: stated.ports.clone(),
        hosts: stated.hosts.map(Host::new),
        methods: stated.methods.clone(),
        paths: stated.paths.map(path),
    }
}

fn condition(stated: &security::Condition) -> Condition {
    use security::Condition as Stated;
    match stated {
        Stated::SourceIp(it) => Condition::SourceIp(it.clone()),
        Stated::SourceNamespace(it) => Condition::SourceNamespace(it.clone()),
        Stated::SourcePrincipal(it) => Condition::SourcePrincipal(it.map(Principal::new)),
        Stated::SourceAccount(it) => Condition::SourceAccount(it.clone()),
        Stated::DestinationIp(it) => Condition::DestinationIp(it.clone()),
        Stated::DestinationPort(it) => Condition::DestinationPort(it.clone()),
        Stated::RemoteIp(it) => Condition::RemoteIp(it.clone()),
        Stated::ServerName(it) => Condition::ServerName(it.map(lower)),
        Stated::Header { field, values } => match field {
            HeaderField::Header(name) => Condition::Header(name.clone(), values.clone()),
            HeaderField::Authority => Condition::Authority(values.map(Host::new)),
            HeaderField::Method => Condition::Method(values.clone()),
        },
        Stated::RequestPrincipal(it) => Condition::Token(it.clone()),
        Stated::Audiences(it) => Condition::Audiences(it.clone()),
        Stated::Presenter(it) => Condition::Presenter(it.clone()),
        Stated::Claim { path, values } => Condition::Claim(path.clone(), values.clone()),
        Stated::EnvoyFilter(_) => Condition::Unknown,
    }
}

/// Server names come in lower case (RFC 6066, section 3, compares them without regard to it).
fn lower(stated: &StringMatch) -> StringMatch {
    with_text(stated, |text| text.to_ascii_lowercase().into())
}

fn path(stated: &PathMatch) -> Path {
    match stated {
        PathMatch::Text(text) => Path::Text(with_text(text, canonical_rule)),
        PathMatch::Template(template) => Path::Template(template.map_literals(canonical_rule)),
    }
}

fn with_text(stated: &StringMatch, change: impl Fn(&str) -> Arc<str>) -> StringMatch {
    match stated {
        StringMatch::Presence => StringMatch::Presence,
        StringMatch::Exact(text) => StringMatch::Exact(change(text)),
        StringMatch::Prefix(text) => StringMatch::Prefix(change(text)),
        StringMatch::Suffix(text) => StringMatch::Suffix(change(text)),
    }
}
