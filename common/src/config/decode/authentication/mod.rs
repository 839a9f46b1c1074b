//! The shape of a RequestAuthentication, as strict as that of a policy: a misspelt `audiences` that was passed over would
//! take tokens that were meant for somebody else.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Fault;
use super::istio::scalar::positive;
use super::istio::{List, Reader, Texts};
use super::manifest::{Manifest, Metadata, NameRule};
use super::policy::{Selector, list, selector};
use super::text::Text;
use crate::config::Resource;
use crate::config::authentication::{
    JwtRule, KeySource, MAX_JWKS_BYTES, MAX_JWT_RULES, RequestAuthentication, TokenLocation,
};
use crate::config::names::Names;
use crate::config::note::Caveat;
use crate::config::security::TargetRef;

/// Most entries of one list of a rule.
pub(crate) const MAX_RULE_ENTRIES: usize = 64;
/// Longest name, claim or URI, in bytes.
const MAX_TEXT_BYTES: usize = 2048;
/// Istio's default of `timeout`.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest `timeout`.
const MAX_FETCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Headers that say how a request is to be read or where it goes: no claim may be written into them.
const NOT_OUTPUTS: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What a target may be: group and kind.
const TARGETS: [(&str, &str); 4] = [
    ("", "Service"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("networking.istio.io", "ServiceEntry"),
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct RequestAuthenticationManifest<'a> {
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
    selector: Option<Selector<'a>>,
    target_ref: Option<TargetManifest<'a>>,
    target_refs: List<TargetManifest<'a>>,
    jwt_rules: List<RuleManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct TargetManifest<'a> {
    group: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    name: Option<Text<'a>>,
    namespace: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct RuleManifest<'a> {
    issuer: Option<Text<'a>>,
    audiences: Texts<'a>,
    // Istio's own aliases, from before the API had one way of writing.
    #[serde(alias = "jwks_uri")]
    jwks_uri: Option<Text<'a>>,
    jwks: Option<Text<'a>>,
    from_headers: List<HeaderManifest<'a>>,
    from_params: Texts<'a>,
    from_cookies: Texts<'a>,
    output_payload_to_header: Option<Text<'a>>,
    output_claim_to_headers: List<OutputManifest<'a>>,
    forward_original_token: Option<bool>,
    timeout: Option<Text<'a>>,
    space_delimited_claims: Texts<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct HeaderManifest<'a> {
    name: Option<Text<'a>>,
    prefix: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct OutputManifest<'a> {
    header: Option<Text<'a>>,
    claim: Option<Text<'a>>,
}

impl Manifest for RequestAuthenticationManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::Name, names)?;
        let spec = self.spec.unwrap_or_default();
        let selector = selector(spec.selector, names)?;
        let mut reader = Reader::new(named.object.namespace.clone(), names);
        let own = named.object.namespace.clone();
        let mut targets =
            list(spec.target_refs, "spec.targetRefs", |it, field| target(&mut reader, &it, &own, field))?;
        if let Some(it) = spec.target_ref {
            let one = target(&mut reader, &it, &own, "spec.targetRef")?;
            if !targets.is_empty() {
                return Err(Fault::new("spec.targetRef", "stated together with targetRefs; only one may be"));
            }
            targets = Box::new([one]);
        }
        if !targets.is_empty() && !selector.is_empty() {
            return Err(Fault::new("spec.targetRefs", "stated together with a selector; only one may be"));
        }
        if targets.is_empty() {
            reader.note("spec.targetRefs", Caveat::NeedsTargets);
        }
        let stated = spec.jwt_rules.as_ref().map_or(0, Vec::len);
        if stated > MAX_JWT_RULES {
            return Err(Fault::new("spec.jwtRules", format!("more than {MAX_JWT_RULES} rules")));
        }
        let rules = list(spec.jwt_rules, "spec.jwtRules", |it, field| rule(&mut reader, it, field))?;
        Ok(Resource::RequestAuthentication(Arc::new(RequestAuthentication {
            object: named.object,
            selector,
            targets,
            rules,
            notes: reader.notes(),
        })))
    }
}

fn target(
    reader: &mut Reader<'_>,
    stated: &TargetManifest<'_>,
    own: &str,
    field: &str,
) -> Result<TargetRef, Fault> {
    let group = stated.group.as_deref().filter(|it| *it != "core").unwrap_or_default();
    let kind = filled(stated.kind.as_ref(), &format!("{field}.kind"))?;
    let name = filled(stated.name.as_ref(), &format!("{field}.name"))?;
    if !TARGETS.contains(&(group, kind)) {
        let reason = format!(
            "{group:?} {kind:?} is none of Service, Gateway, GatewayClass and ServiceEntry, each with its group"
        );
        return Err(Fault::new(field, reason));
    }
    if stated.namespace.as_deref().is_some_and(|it| !it.is_empty() && it != own) {
        return Err(Fault::new(
            format!("{field}.namespace"),
            "another namespace; only the own may be stated",
        ));
    }
    Ok(TargetRef { group: reader.share(group), kind: reader.share(kind), name: reader.share(name) })
}

fn rule(reader: &mut Reader<'_>, stated: RuleManifest<'_>, field: &str) -> Result<JwtRule, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let issuer = reader.share(filled(stated.issuer.as_ref(), &at("issuer"))?);
    let keys = keys(reader, &stated, &issuer, field)?;
    let timeout = positive(stated.timeout.as_ref(), &at("timeout"))?.unwrap_or(FETCH_TIMEOUT);
    if timeout > MAX_FETCH_TIMEOUT {
        return Err(Fault::new(at("timeout"), format!("more than {}s", MAX_FETCH_TIMEOUT.as_secs())));
    }
    let payload = stated.output_payload_to_header.as_ref().filter(|it| !it.is_empty());
    let payload_header = payload.map(|it| output(it, &at("outputPayloadToHeader"))).transpose()?;
    let mut taken: Vec<HeaderName> = payload_header.iter().cloned().collect();
    let claims = at("outputClaimToHeaders");
    let claim_headers = short_list(stated.output_claim_to_headers, &claims, |it, field| {
        let at = format!("{field}.header");
        let header = output(filled(it.header.as_ref(), &at)?, &at)?;
        if taken.contains(&header) {
            return Err(Fault::new(at, "a header that is written already"));
        }
        taken.push(header.clone());
        let claim = filled(it.claim.as_ref(), &format!("{field}.claim"))?;
        Ok((header, reader.share(claim)))
    })?;
    Ok(JwtRule {
        issuer,
        audiences: texts(reader, stated.audiences, &at("audiences"))?,
        keys,
        locations: locations(reader, (stated.from_headers, stated.from_params, stated.from_cookies), field)?,
        payload_header,
        claim_headers,
        forward: stated.forward_original_token.unwrap_or_default(),
        timeout,
        space_delimited: texts(reader, stated.space_delimited_claims, &at("spaceDelimitedClaims"))?,
    })
}

/// Where the keys are. Both of `jwks` and `jwksUri` is one too many, as in Istio.
fn keys(
    reader: &mut Reader<'_>,
    stated: &RuleManifest<'_>,
    issuer: &str,
    field: &str,
) -> Result<KeySource, Fault> {
    let inline = stated.jwks.as_ref().filter(|it| !it.is_empty());
    let uri = stated.jwks_uri.as_ref().filter(|it| !it.is_empty());
    match (inline, uri) {
        (Some(_), Some(_)) => {
            Err(Fault::new(format!("{field}.jwks"), "stated together with jwksUri; only one may be"))
        }
        (Some(text), None) => inline_keys(text, &format!("{field}.jwks")),
        (None, Some(uri)) => {
            let field = format!("{field}.jwksUri");
            is_http(uri).map_err(|reason| Fault::new(field, reason))?;
            Ok(KeySource::Uri(reader.share(uri)))
        }
        (None, None) => {
            let document = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            is_http(&document).map_err(|_| {
                let reason =
                    "neither jwks nor jwksUri, and the issuer is no URL at which keys could be found";
                Fault::new(format!("{field}.jwksUri"), reason)
            })?;
            Ok(KeySource::Discovery(reader.share(&document)))
        }
    }
}

/// Whether there are keys at all; whether they are good for anything is for whoever uses them.
fn inline_keys(text: &str, field: &str) -> Result<KeySource, Fault> {
    #[derive(Deserialize)]
    struct Jwks {
        keys: Vec<serde_json::Map<String, serde_json::Value>>,
    }
    if text.len() > MAX_JWKS_BYTES {
        return Err(Fault::new(field, format!("more than {MAX_JWKS_BYTES} bytes")));
    }
    match serde_json::from_str::<Jwks>(text) {
        Ok(jwks) if jwks.keys.is_empty() => Err(Fault::new(field, "a JWKS without keys")),
        Ok(_) => Ok(KeySource::Inline(text.into())),
        Err(error) => Err(Fault::new(field, format!("no JWKS: {error}"))),
    }
}

/// Whether keys could be fetched there.
fn is_http(text: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{text:?}: {why}"));
    if text.len() > MAX_TEXT_BYTES {
        return wrong("too long");
    }
    let Ok(uri) = text.parse::<Uri>() else { return wrong("no URI") };
    let Some(authority) = uri.authority() else { return wrong("no host") };
    match uri.scheme_str() {
        _ if authority.as_str().contains('@') => wrong("a user in a URI"),
        _ if authority.host().is_empty() => wrong("no host"),
        Some("http" | "https") => Ok(()),
        _ => wrong("neither http:// nor https://"),
    }
}

fn locations(
    reader: &mut Reader<'_>,
    (headers, params, cookies): (List<HeaderManifest<'_>>, Texts<'_>, Texts<'_>),
    field: &str,
) -> Result<Box<[TokenLocation]>, Fault> {
    let mut found: Vec<TokenLocation> = short_list(headers, &format!("{field}.fromHeaders"), |it, field| {
        let at = format!("{field}.name");
        let name = header(filled(it.name.as_ref(), &at)?, &at)?;
        let prefix = it.prefix.as_deref().unwrap_or_default();
        if prefix.len() > MAX_TEXT_BYTES || !prefix.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(Fault::new(format!("{field}.prefix"), "not what a header may hold"));
        }
        Ok(TokenLocation::Header { name: reader.share(name.as_str()), prefix: reader.share(prefix) })
    })?
    .into();
    let params = texts(reader, params, &format!("{field}.fromParams"))?;
    found.extend(params.into_iter().map(TokenLocation::Parameter));
    let cookies = texts(reader, cookies, &format!("{field}.fromCookies"))?;
    found.extend(cookies.into_iter().map(TokenLocation::Cookie));
    if found.is_empty() {
        let (name, prefix) = (reader.share("authorization"), reader.share("Bearer "));
        found.push(TokenLocation::Header { name, prefix });
        found.push(TokenLocation::Parameter(reader.share("access_token")));
    }
    Ok(found.into())
}

fn texts(reader: &mut Reader<'_>, stated: Texts<'_>, field: &str) -> Result<Box<[Arc<str>]>, Fault> {
    short_list(stated, field, |it, field| Ok(reader.share(filled(Some(&it), field)?)))
}

fn short_list<T, U>(
    stated: List<T>,
    field: &str,
    read: impl FnMut(T, &str) -> Result<U, Fault>,
) -> Result<Box<[U]>, Fault> {
    if stated.as_ref().is_some_and(|it| it.len() > MAX_RULE_ENTRIES) {
        return Err(Fault::new(field, format!("more than {MAX_RULE_ENTRIES} entries")));
    }
    list(stated, field, read)
}

/// A text that has to be there.
fn filled<'t>(stated: Option<&'t Text<'_>>, field: &str) -> Result<&'t str, Fault> {
    match stated.map(|it| &**it) {
        None | Some("") => Err(Fault::new(field, "not stated")),
        Some(text) if text.len() > MAX_TEXT_BYTES => {
            Err(Fault::new(field, format!("more than {MAX_TEXT_BYTES} bytes")))
        }
        Some(text) => Ok(text),
    }
}

fn header(text: &str, field: &str) -> Result<HeaderName, Fault> {
    let name = text.parse::<HeaderName>();
    name.map_err(|_| Fault::new(field, format!("{text:?} is no name of a header")))
}

/// A header that claims are written into.
fn output(text: &str, field: &str) -> Result<HeaderName, Fault> {
    let name = header(text, field)?;
    if NOT_OUTPUTS.contains(&name.as_str()) {
        return Err(Fault::new(field, format!("{name} says how a request is read; no claim may")));
    }
    Ok(name)
}
