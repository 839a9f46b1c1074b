//! The shape of a VirtualService. Unknown fields and unknown words are refused throughout: a misspelt `scheme` that was
//! passed over would send traffic elsewhere than the operator meant.
//!
//! One file per part of the document, each from its manifest to the typed value. What is accepted with a caveat becomes
//! a note on the resource.

pub(super) mod action;
pub(super) mod cors;
pub(super) mod headers;
pub(super) mod layer4;
pub(super) mod request;
pub(super) mod resilience;

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use self::action::{DestinationsManifest, DirectResponseManifest, RedirectManifest, RewriteManifest};
use self::cors::CorsManifest;
use self::headers::HeadersManifest;
use self::layer4::{TcpManifest, TlsManifest};
use self::request::MatchManifest;
use self::resilience::{FaultManifest, MirrorManifest, PercentManifest, RetriesManifest};
use super::istio::scalar::{Whole, duration};
use super::istio::{DestinationManifest, List, Reader, Texts};
use super::manifest::{Manifest, Metadata, NameRule};
use super::policy::list;
use super::text::Text;
use super::{Fault, check};
use crate::config::names::Names;
use crate::config::note::Caveat;
use crate::config::routing::{HttpAction, HttpRoute, VirtualService};
use crate::config::{ObjectName, Resource};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct VirtualServiceManifest<'a> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
    #[serde(default)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Option<Spec<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct Spec<'a> {
    hosts: Texts<'a>,
    gateways: Texts<'a>,
    export_to: Texts<'a>,
    http: List<HttpManifest<'a>>,
    tls: List<TlsManifest<'a>>,
    tcp: List<TcpManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct HttpManifest<'a> {
    name: Option<Text<'a>>,
    r#match: List<MatchManifest<'a>>,
    route: List<DestinationsManifest<'a>>,
    redirect: Option<RedirectManifest<'a>>,
    direct_response: Option<DirectResponseManifest<'a>>,
    delegate: Option<DelegateManifest<'a>>,
    rewrite: Option<RewriteManifest<'a>>,
    timeout: Option<Text<'a>>,
    retries: Option<RetriesManifest<'a>>,
    fault: Option<FaultManifest<'a>>,
    mirror: Option<DestinationManifest<'a>>,
    #[serde(alias = "mirror_percent")]
    mirror_percent: Option<Whole>,
    mirror_percentage: Option<PercentManifest>,
    mirrors: List<MirrorManifest<'a>>,
    cors_policy: Option<CorsManifest<'a>>,
    headers: Option<HeadersManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct DelegateManifest<'a> {
    name: Option<Text<'a>>,
    namespace: Option<Text<'a>>,
}

impl Manifest for VirtualServiceManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::Name, names)?;
        let spec = self.spec.ok_or_else(|| Fault::new("spec", "not stated"))?;
        let mut reader = Reader::new(named.object.namespace.clone(), names);
        let hosts = list(spec.hosts, "spec.hosts", |text, field| reader.host(&text, field))?;
        let gateways = reader.gateways(spec.gateways, "spec.gateways")?;
        let visibility = reader.visibility(spec.export_to, "spec.exportTo")?;
        let http = list(spec.http, "spec.http", |route, field| http(&mut reader, route, field))?;
        let tls = list(spec.tls, "spec.tls", |route, field| layer4::tls(&mut reader, route, &hosts, field))?;
        let tcp = list(spec.tcp, "spec.tcp", |route, field| layer4::tcp(&mut reader, route, field))?;
        if http.is_empty() && tls.is_empty() && tcp.is_empty() {
            return Err(Fault::new("spec", "states none of http, tls and tcp"));
        }
        if hosts.is_empty() {
            if gateways.is_some() {
                return Err(Fault::new("spec.gateways", "without hosts it is delegated to, and has none"));
            }
            delegated(&http, !tls.is_empty() || !tcp.is_empty())?;
        }
        let gateways = gateways.unwrap_or_default();
        check_hosts(&hosts, gateways.mesh)?;
        note_unreached(&mut reader, &http);
        Ok(Resource::VirtualService(Arc::new(VirtualService {
            object: named.object,
            created: named.created,
            hosts,
            gateways,
            visibility,
            http,
            tls,
            tcp,
            notes: reader.notes(),
        })))
    }
}

/// What a VirtualService without hosts may state: others delegate to it, and it to none.
fn delegated(http: &[HttpRoute], has_others: bool) -> Result<(), Fault> {
    if has_others {
        return Err(Fault::new("spec.hosts", "none is stated, and only http routes can be delegated to"));
    }
    for (i, route) in http.iter().enumerate() {
        if matches!(route.action, HttpAction::Delegate(_)) {
            let reason = "delegates, and has no hosts and is delegated to itself; one level is all there is";
            return Err(Fault::new(format!("spec.http[{i}].delegate"), reason));
        }
    }
    Ok(())
}

fn check_hosts(hosts: &[Arc<str>], mesh: bool) -> Result<(), Fault> {
    for (i, host) in hosts.iter().enumerate() {
        let field = || format!("spec.hosts[{i}]");
        if hosts[..i].contains(host) {
            return Err(Fault::new(field(), format!("{host} is stated twice")));
        }
        if **host == *"*" && mesh {
            return Err(Fault::new(
                field(),
                "* takes over every host of the mesh; list the gateways it is for",
            ));
        }
    }
    Ok(())
}

fn note_unreached(reader: &mut Reader<'_>, http: &[HttpRoute]) {
    let delegates = |it: &HttpRoute| matches!(it.action, HttpAction::Delegate(_));
    let Some(last) = http.iter().position(|it| it.takes_everything() && !delegates(it)) else { return };
    for i in last + 1..http.len() {
        reader.note(format!("spec.http[{i}]"), Caveat::NeverReached);
    }
}

/// One entry of `spec.http`.
fn http(reader: &mut Reader<'_>, mut stated: HttpManifest<'_>, field: &str) -> Result<HttpRoute, Fault> {
    check_action(&stated, field)?;
    let at = |name: &str| format!("{field}.{name}");
    let matches = list(stated.r#match.take(), &at("match"), |it, field| request::read(reader, it, field))?;
    let action = action(reader, &mut stated, field)?;
    if let HttpAction::Redirect(redirect) = &action {
        action::check_prefix_rewrite(redirect, &matches, &at("redirect.prefixRewrite"))?;
    }
    let rewrite = stated.rewrite.map(|it| action::rewrite(reader, it, &at("rewrite"))).transpose()?;
    let retries = stated.retries.map(|it| resilience::retries(reader, it, &at("retries"))).transpose()?;
    let fault = stated.fault.map(|it| resilience::fault(reader, it, &at("fault"))).transpose()?;
    let older = resilience::Older {
        mirror: stated.mirror,
        percentage: stated.mirror_percentage,
        percent: stated.mirror_percent,
    };
    Ok(HttpRoute {
        name: reader.filled(stated.name.as_ref()).unwrap_or_default(),
        matches,
        action,
        rewrite,
        timeout: duration(stated.timeout.as_ref(), &at("timeout"))?.filter(|it| !it.is_zero()),
        retries,
        fault: fault.unwrap_or_default(),
        fault_filter: None,
        external_auth: None,
        mirrors: resilience::mirrors(reader, older, stated.mirrors, field)?,
        cors: stated.cors_policy.map(|it| cors::read(reader, it, &at("corsPolicy"))).transpose()?,
        headers: headers::read(reader, stated.headers, &at("headers"))?,
        session: None,
    })
}

/// That exactly one thing becomes of a request, and nothing beside it that could not happen.
fn check_action(stated: &HttpManifest<'_>, field: &str) -> Result<(), Fault> {
    let actions = [
        ("route", stated.route.as_ref().is_some_and(|it| !it.is_empty())),
        ("redirect", stated.redirect.is_some()),
        ("directResponse", stated.direct_response.is_some()),
        ("delegate", stated.delegate.is_some()),
    ];
    let mut found = actions.into_iter().filter(|(_, stated)| *stated).map(|(name, _)| name);
    let Some(action) = found.next() else {
        let reason = "states no route, redirect, directResponse or delegate; \
                      to take requests of several kinds, list them in one match";
        return Err(Fault::new(field, reason));
    };
    if let Some(other) = found.next() {
        return Err(Fault::new(format!("{field}.{other}"), format!("stated together with {action}")));
    }
    let answered = matches!(action, "redirect" | "directResponse");
    for (name, stated) in [("fault", stated.fault.is_some()), ("rewrite", stated.rewrite.is_some())] {
        if answered && stated {
            return Err(Fault::new(format!("{field}.{name}"), format!("stated together with {action}")));
        }
    }
    Ok(())
}

/// The one that [`check_action`] found.
fn action(reader: &mut Reader<'_>, stated: &mut HttpManifest<'_>, field: &str) -> Result<HttpAction, Fault> {
    if let Some(redirect) = stated.redirect.take() {
        let field = format!("{field}.redirect");
        return action::redirect(reader, &redirect, &field).map(HttpAction::Redirect);
    }
    if let Some(response) = stated.direct_response.take() {
        let field = format!("{field}.directResponse");
        return action::direct_response(&response, &field).map(HttpAction::Respond);
    }
    if let Some(delegate) = stated.delegate.take() {
        return self::delegate(reader, &delegate, &format!("{field}.delegate")).map(HttpAction::Delegate);
    }
    action::destinations(reader, stated.route.take(), &format!("{field}.route")).map(HttpAction::Forward)
}

fn delegate(
    reader: &mut Reader<'_>,
    stated: &DelegateManifest<'_>,
    field: &str,
) -> Result<ObjectName, Fault> {
    let at = format!("{field}.name");
    let name = stated.name.as_deref().unwrap_or_default();
    if !check::is_dns_name(name) {
        return Err(Fault::new(at, format!("{name:?} is not the name of a VirtualService")));
    }
    let mut object = reader.object(name, &at)?;
    if let Some(namespace) = stated.namespace.as_deref().filter(|it| !it.is_empty()) {
        object.namespace = reader.label(namespace, &format!("{field}.namespace"))?;
    }
    Ok(object)
}
