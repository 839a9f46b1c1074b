//! BackendTLSPolicy, strict throughout, and what is kept of a ConfigMap with authorities.
//!
//! What the API server's own rules refuse is refused here. Kinds of targets and of references to authorities are free there:
//! what we do not know of them is kept as such, because a policy that is not understood must not leave plaintext behind.

use std::net::IpAddr;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::config::Resource;
use crate::config::backend_tls::{
    BackendTlsPolicy, Believed, CA_KEY, CaBundle, CaRef, MAX_CA_BYTES, MAX_CA_REFS, MAX_OPTIONS,
    MAX_SUBJECT_ALT_NAMES, MAX_TARGETS, Pem, TlsTarget, TlsTargetKind,
};
use crate::config::decode::istio::scalar::Entries;
use crate::config::decode::istio::{List, Reader};
use crate::config::decode::manifest::{Manifest, Metadata, NameRule};
use crate::config::decode::policy::list;
use crate::config::decode::text::{Pairs, Text};
use crate::config::decode::{Fault, check};
use crate::config::names::Names;
use crate::config::note::Caveat;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct BackendTlsManifest<'a> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
    #[serde(default)]
    metadata: Metadata<'a>,
    spec: Option<TlsSpec<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct TlsSpec<'a> {
    target_refs: List<TargetManifest<'a>>,
    validation: Option<ValidationManifest<'a>>,
    options: Option<Pairs<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct TargetManifest<'a> {
    group: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    name: Option<Text<'a>>,
    section_name: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct ValidationManifest<'a> {
    ca_certificate_refs: List<RefManifest<'a>>,
    #[serde(rename = "wellKnownCACertificates")]
    well_known: Option<Text<'a>>,
    hostname: Option<Text<'a>>,
    subject_alt_names: List<NameManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct RefManifest<'a> {
    group: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    name: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct NameManifest<'a> {
    r#type: Option<Text<'a>>,
    hostname: Option<Text<'a>>,
    uri: Option<Text<'a>>,
}

impl Manifest for BackendTlsManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::Name, names)?;
        let spec = self.spec.ok_or_else(|| Fault::new("spec", "not stated"))?;
        let mut reader = Reader::new(named.object.namespace.clone(), names);
        let targets = targets(&mut reader, spec.target_refs)?;
        let validation = spec.validation.ok_or_else(|| Fault::new("spec.validation", "not stated"))?;
        let authorities = believed(&mut reader, validation.ca_certificate_refs, validation.well_known)?;
        let hostname = validation.hostname.as_deref().unwrap_or_default();
        host(hostname, "spec.validation.hostname")?;
        let hostname = reader.share(hostname);
        let names = subject_alt_names(&mut reader, validation.subject_alt_names)?;
        let options = spec.options.map(|it| it.0).unwrap_or_default();
        at_most(options.len(), MAX_OPTIONS, "spec.options")?;
        for (key, _) in &options {
            reader.note(format!("spec.options.{}", &**key), Caveat::NotImplemented);
        }
        Ok(Resource::BackendTls(Arc::new(BackendTlsPolicy {
            object: named.object,
            created: named.created,
            targets,
            hostname,
            authorities,
            names,
            notes: reader.notes(),
        })))
    }
}

fn at_most(stated: usize, most: usize, field: &str) -> Result<(), Fault> {
    match stated > most {
        true => Err(Fault::new(field, format!("more than {most} entries"))),
        false => Ok(()),
    }
}

fn targets(reader: &mut Reader<'_>, stated: List<TargetManifest<'_>>) -> Result<Box<[TlsTarget]>, Fault> {
    const FIELD: &str = "spec.targetRefs";
    let count = stated.as_ref().map_or(0, Vec::len);
    if count == 0 {
        return Err(Fault::new(FIELD, "not stated"));
    }
    at_most(count, MAX_TARGETS, FIELD)?;
    let mut seen: Vec<TlsTarget> = Vec::new();
    list(stated, FIELD, |it, field| {
        let (group, kind) = (it.group.as_deref(), it.kind.as_deref().unwrap_or_default());
        let group = group.ok_or_else(|| Fault::new(format!("{field}.group"), "not stated"))?;
        let name = it.name.as_deref().unwrap_or_default();
        if !check::is_dns_name(name) {
            return Err(Fault::new(format!("{field}.name"), format!("{name:?} is not a valid name")));
        }
        let kind = match (group, kind) {
            ("" | "core", "Service") => TlsTargetKind::Service,
            ("networking.istio.io", "ServiceEntry") => TlsTargetKind::Entry,
            (_, "") => return Err(Fault::new(format!("{field}.kind"), "not stated")),
            // Most likely another spelling of one of those: what is meant must not be sent plaintext.
            ("" | "core" | "networking.istio.io", _) => {
                let reason = format!("{kind:?} is neither Service nor ServiceEntry of its group");
                return Err(Fault::new(format!("{field}.kind"), reason));
            }
            _ => {
                reader.note(field, Caveat::TargetIgnored);
                return Ok(());
            }
        };
        let target =
            TlsTarget { kind, name: reader.share(name), section: reader.filled(it.section_name.as_ref()) };
        let same = seen.iter().filter(|it| (it.kind, &it.name) == (target.kind, &target.name));
        for other in same {
            if other.section.is_none() || target.section.is_none() {
                let reason = format!("not stated, but {name} is named twice");
                return Err(Fault::new(format!("{field}.sectionName"), reason));
            }
            if other.section == target.section {
                return Err(Fault::new(format!("{field}.sectionName"), "stated twice for one target"));
            }
        }
        seen.push(target);
        Ok(())
    })?;
    Ok(seen.into())
}

fn believed(
    reader: &mut Reader<'_>,
    refs: List<RefManifest<'_>>,
    well_known: Option<Text<'_>>,
) -> Result<Believed, Fault> {
    const REFS: &str = "spec.validation.caCertificateRefs";
    const WELL_KNOWN: &str = "spec.validation.wellKnownCACertificates";
    let well_known = well_known.as_deref().filter(|it| !it.is_empty());
    let count = refs.as_ref().map_or(0, Vec::len);
    at_most(count, MAX_CA_REFS, REFS)?;
    match (count, well_known) {
        (0, None) => {
            return Err(Fault::new(
                REFS,
                "not stated, and neither is wellKnownCACertificates; one has to be",
            ));
        }
        (0, Some("System")) => return Ok(Believed::System),
        (0, Some(other)) => return Err(Fault::new(WELL_KNOWN, format!("{other:?} is not System"))),
        (_, Some(_)) => return Err(Fault::new(WELL_KNOWN, "stated together with caCertificateRefs")),
        (_, None) => {}
    }
    let refs = list(refs, REFS, |it, field| {
        let group = it.group.as_deref().ok_or_else(|| Fault::new(format!("{field}.group"), "not stated"))?;
        let kind = it.kind.as_deref().unwrap_or_default();
        if kind.is_empty() {
            return Err(Fault::new(format!("{field}.kind"), "not stated"));
        }
        let name = it.name.as_deref().unwrap_or_default();
        if !check::is_dns_name(name) {
            return Err(Fault::new(format!("{field}.name"), format!("{name:?} is not a valid name")));
        }
        Ok(match (group, kind) {
            ("" | "core", "ConfigMap") => CaRef::ConfigMap(reader.share(name)),
            _ => CaRef::Unknown(format!("{group}/{kind} {name}").into()),
        })
    })?;
    Ok(Believed::Refs(refs))
}

fn subject_alt_names(
    reader: &mut Reader<'_>,
    stated: List<NameManifest<'_>>,
) -> Result<Box<[Arc<str>]>, Fault> {
    const FIELD: &str = "spec.validation.subjectAltNames";
    at_most(stated.as_ref().map_or(0, Vec::len), MAX_SUBJECT_ALT_NAMES, FIELD)?;
    list(stated, FIELD, |it, field| {
        let at = |name: &str| format!("{field}.{name}");
        let kind = it.r#type.as_deref().unwrap_or_default();
        let (hostname, uri) = (it.hostname.as_deref(), it.uri.as_deref());
        let (own, other) = match kind {
            "Hostname" => ((hostname, "hostname"), (uri, "uri")),
            "URI" => ((uri, "uri"), (hostname, "hostname")),
            _ => return Err(Fault::new(at("type"), format!("{kind:?} is neither Hostname nor URI"))),
        };
        if other.0.is_some_and(|it| !it.is_empty()) {
            return Err(Fault::new(at(other.1), format!("stated with type {kind}")));
        }
        let name = own.0.unwrap_or_default();
        match kind {
            "Hostname" => host(name.strip_prefix("*.").unwrap_or(name), &at(own.1))?,
            _ if !is_uri(name) => return Err(Fault::new(at(own.1), format!("{name:?} is no absolute URI"))),
            _ => {}
        }
        Ok(reader.share(name))
    })
}

/// A name that is no address.
fn host(name: &str, field: &str) -> Result<(), Fault> {
    if name.is_empty() {
        return Err(Fault::new(field, "not stated"));
    }
    if !check::is_dns_name(name) || name.parse::<IpAddr>().is_ok() {
        return Err(Fault::new(field, format!("{name:?} is no name in lower case")));
    }
    Ok(())
}

/// A scheme, and something behind `//`.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let mut letters = scheme.bytes();
    letters.next().is_some_and(|it| it.is_ascii_alphabetic())
        && letters.all(|it| it.is_ascii_alphanumeric() || b"+-.".contains(&it))
        && !rest.is_empty()
        && text.bytes().all(|it| it.is_ascii_graphic())
}

/// A `v1` ConfigMap whose text mentions [`CA_KEY`].
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(crate) struct CaManifest<'a> {
    #[serde(default)]
    metadata: Metadata<'a>,
    data: Option<Entries<'a, Text<'a>>>,
}

impl Manifest for CaManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let object = self.metadata.named(NameRule::Name, names)?.object;
        let data = self.data.take().unwrap_or_default().0;
        let stated = data.iter().find(|(key, _)| **key == *CA_KEY).map(|(_, text)| &**text);
        let pem = stated.ok_or_else(|| format!("has no {CA_KEY}"));
        let pem = pem.and_then(|text| certificates(text).map(|()| Pem::new(names.share(text))));
        Ok(Resource::CaBundle(Arc::new(CaBundle { object, pem: pem.map_err(Into::into) })))
    }
}

/// Whether a text is certificates that can be believed in, one at least, and all of them; else why not.
fn certificates(text: &str) -> Result<(), String> {
    if text.len() > MAX_CA_BYTES {
        return Err(format!("{CA_KEY} has {} bytes, more than {MAX_CA_BYTES}", text.len()));
    }
    let mut count = 0;
    for (at, read) in CertificateDer::pem_slice_iter(text.as_bytes()).enumerate() {
        let certificate = read.map_err(|error| format!("{CA_KEY} is no PEM: {error}"))?;
        webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|error| format!("certificate {} of {CA_KEY}: {error}", at + 1))?;
        count += 1;
    }
    match count {
        0 => Err(format!("no certificate in {CA_KEY}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_refused;
    use super::*;
    use crate::config::decode::{Decoded, yaml};
    use crate::config::may_mean::MayMean;

    fn read(text: &str) -> Decoded {
        yaml::decode(&"a.yaml".into(), text.as_bytes(), &mut Names::default())
    }

    fn policy(spec: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{{spec}}}\n"
        )
    }

    const TARGET: &str = "targetRefs: [{group: '', kind: Service, name: web}]";
    const CA: &str = "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]";

    /// A policy of one target with this validation.
    fn validation(stated: &str) -> String {
        policy(&format!("{TARGET}, validation: {{{stated}}}"))
    }

    #[test]
    fn a_backend_tls_policy_is_read_whole() {
        let spec = "targetRefs: [{group: '', kind: Service, name: web, sectionName: https}, {group: networking.istio.io, kind: \
                    ServiceEntry, name: api}, {group: x.io, kind: Other, name: o}], validation: {hostname: web.internal, \
                    caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}, {group: '', kind: Secret, name: s}], \
                    subjectAltNames: [{type: Hostname, hostname: '*.internal'}, {type: URI, uri: 'spiffe://x/y'}]}, options: \
                    {example.com/minimum: '1.3'}";
        for version in ["v1", "v1alpha3"] {
            let decoded = read(&policy(spec).replace("k8s.io/v1", &format!("k8s.io/{version}")));
            assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
            let Resource::BackendTls(it) = &decoded.stated[0].resource else { panic!() };
            let targets: Vec<_> =
                it.targets.iter().map(|it| (it.kind, &*it.name, it.section.as_deref())).collect();
            let expected =
                [(TlsTargetKind::Service, "web", Some("https")), (TlsTargetKind::Entry, "api", None)];
            assert_eq!(targets, expected);
            assert_eq!(&*it.hostname, "web.internal");
            assert_eq!(it.names.iter().map(|it| &**it).collect::<Vec<_>>(), ["*.internal", "spiffe://x/y"]);
            let refs = [CaRef::ConfigMap("ca".into()), CaRef::Unknown("/Secret s".into())];
            assert_eq!(it.authorities, Believed::Refs(refs.into()));
            let notes: Vec<_> = it.notes.iter().map(|it| (&*it.field, it.caveat)).collect();
            let expected = [
                ("spec.targetRefs[2]", Caveat::TargetIgnored),
                ("spec.options.example.com/minimum", Caveat::NotImplemented),
            ];
            assert_eq!(notes, expected);
        }
    }

    #[test]
    fn what_the_api_server_refuses_is_refused_with_its_field() {
        let refs = ["{group: '', kind: ConfigMap, name: ca}"; MAX_CA_REFS + 1].join(", ");
        let many_refs = format!("hostname: a, caCertificateRefs: [{refs}]");
        let name = "{type: Hostname, hostname: a}";
        let names = [name; MAX_SUBJECT_ALT_NAMES + 1].join(", ");
        let many_names = format!("hostname: a, {CA}, subjectAltNames: [{names}]");
        let with = |more: &str| format!("hostname: a, {CA}, {more}");
        let of_name = |name: &str| with(&format!("subjectAltNames: [{name}]"));
        let cases = [
            ("hostname: a".to_owned(), ".caCertificateRefs", "neither is wellKnown"),
            (with("wellKnownCACertificates: System"), ".wellKnownCACertificates", "together"),
            ("hostname: a, wellKnownCACertificates: Mine".into(), ".wellKnownCACertificates", "not System"),
            (many_refs, ".caCertificateRefs", "more than 8"),
            (many_names, ".subjectAltNames", "more than 5"),
            (CA.to_owned(), ".hostname", "not stated"),
            (format!("hostname: '', {CA}"), ".hostname", "not stated"),
            (format!("hostname: '*.a', {CA}"), ".hostname", "no name"),
            (format!("hostname: 10.0.0.1, {CA}"), ".hostname", "no name"),
            (format!("hostname: A.b, {CA}"), ".hostname", "no name"),
            (of_name("{type: DNS, hostname: a}"), ".subjectAltNames[0].type", "neither Hostname nor URI"),
            (of_name("{type: Hostname}"), ".subjectAltNames[0].hostname", "not stated"),
            (of_name("{type: URI, uri: abc}"), ".subjectAltNames[0].uri", "no absolute URI"),
            (of_name("{type: URI, uri: 'a://b', hostname: c}"), ".subjectAltNames[0].hostname", "type URI"),
            (with("sni: b"), "", "unknown field"),
            (
                "hostname: a, caCertificateRefs: [{kind: ConfigMap, name: ca}]".to_owned(),
                ".caCertificateRefs[0].group",
                "not stated",
            ),
        ];
        for (stated, field, reason) in &cases {
            let decoded = read(&validation(stated));
            let [rejected] = &decoded.rejected[..] else { panic!("{stated}: accepted") };
            assert!(
                rejected.field.contains(field) && rejected.reason.contains(reason),
                "{stated}: {rejected}"
            );
            assert!(rejected.origin.line > 0, "{rejected}");
        }
        let good = format!("validation: {{hostname: a, {CA}}}");
        let twice = |first: &str, second: &str| {
            let target = "{group: '', kind: Service, name: web";
            format!("targetRefs: [{target}{first}}}, {target}{second}}}], {good}")
        };
        let (both, one) = (twice(", sectionName: x", ", sectionName: x"), twice("", ", sectionName: x"));
        assert_refused(
            &[
                (&good, "targetRefs", "not stated"),
                (&both, "targetRefs[1].sectionName", "twice"),
                (&one, "targetRefs[1].sectionName", "named twice"),
                (TARGET, "validation", "not stated"),
            ],
            policy,
            "spec.",
        );
    }

    #[test]
    fn of_a_config_map_only_authorities_are_kept_and_of_most_nothing() {
        let map = |data: &str| {
            read(&format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: shop}}\ndata:\n{data}"
            ))
        };
        let skipped = map("  other: text\n");
        assert_eq!((skipped.stated.len(), skipped.skipped.len(), skipped.rejected.len()), (0, 1, 0));
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        let indented = |text: &str| text.lines().map(|it| format!("    {it}\n")).collect::<String>();
        let long = "x".repeat(MAX_CA_BYTES + 1);
        for (text, expected) in [
            (indented(&pem), Ok(pem.as_str())),
            (indented(&(pem.clone() + &pem)), Ok(&*(pem.clone() + &pem))),
            (indented("nothing"), Err("no certificate in ca.crt")),
            (indented(&pem.replace("MII", "AAA")), Err("certificate 1 of ca.crt")),
            (indented(&long), Err("more than")),
        ] {
            let decoded = map(&format!("  big: x\n  ca.crt: |\n{text}"));
            let Resource::CaBundle(it) = &decoded.stated[0].resource else {
                panic!("{:?}", decoded.rejected)
            };
            match (&it.pem, expected) {
                (Ok(read), Ok(expected)) => assert_eq!(&**read.text(), expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (read, expected) => panic!("{read:?} {expected:?}"),
            }
        }
        let other = map("  note: 'see ca.crt: x'\n");
        let Resource::CaBundle(it) = &other.stated[0].resource else { panic!() };
        assert_eq!(it.pem, Err("has no ca.crt".into()));
    }

    #[test]
    fn a_misspelt_kind_of_target_is_turned_away_and_means_what_it_names() {
        for (group, kind) in
            [("''", "service"), ("core", "Services"), ("networking.istio.io", "serviceEntry")]
        {
            let text = validation("hostname: web.x, wellKnownCACertificates: System");
            let text = text.replacen("group: ''", &format!("group: {group}"), 1);
            let text = text.replacen("kind: Service", &format!("kind: {kind}"), 1);
            let decoded = read(&text);
            let [rejected] = &decoded.rejected[..] else { panic!("{text}") };
            assert_eq!(&*rejected.field, "spec.targetRefs[0].kind", "{text}");
            assert!(rejected.may_secure.may_mean("web"), "{text}");
        }
    }

    #[test]
    fn a_document_that_cannot_be_read_may_mean_whatever_it_names() {
        let broken = validation("hostname: ''");
        let may = |text: &str| read(text).rejected[0].may_secure.clone();
        let named = may(&broken);
        assert!(named.may_mean("web") && !named.may_mean("api"), "{named:?}");
        for text in [
            broken.replace("name: web", "name: \"w\\x65b\""),
            broken.clone() + &(0..=300).map(|i| format!("# n{i}\n")).collect::<String>(),
        ] {
            assert_eq!(may(&text), MayMean::Anything, "{text}");
        }
        let syntax = may("kind: BackendTLSPolicy\nmetadata: {name: [\nspec: {targetRefs: [{name: web}]}\n");
        assert!(syntax.may_mean("web") && !syntax.may_mean("api"), "{syntax:?}");
        assert_eq!(may("apiVersion: v1\nkind: Pod\nmetadata: {name: 'X Y'}\n"), MayMean::Nothing);
    }
}
