//! What kind of document this is, before it is read in full; and what it may have been about, when it cannot be.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::whole::{self, Unreadable};
use super::{Page, json};
use crate::config::decode::check;
use crate::config::decode::text::Text;
use crate::config::gateway::{EBB_GROUP, GATEWAY_GROUP};
use crate::config::may_mean::{MAX_MENTIONED, MayMean};
use crate::config::waypoint::USE_WAYPOINT;
use crate::config::{Kind, Subject};

/// Istio's group of Telemetry.
const TELEMETRY: &str = "telemetry.istio.io";
/// Istio's group of routing kinds.
const NETWORKING: &str = "networking.istio.io";
/// Its kinds that are no business of ours; Gateway is another.
const OF_NETWORKING: [&str; 4] = ["WorkloadGroup", "Sidecar", "EnvoyFilter", "ProxyConfig"];

/// The first two fields of every document.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) api_version: String,
    pub(super) kind: String,
}

pub(super) enum Reading {
    /// A `v1` List of other documents.
    List,
    /// One document.
    Head(Head),
    /// Not even that much can be read.
    Unclear(Unreadable),
}

impl Kind {
    /// The kind of this name, whatever its API group.
    pub(super) fn of(name: &str) -> Option<Self> {
        [
            Self::Namespace,
            Self::Node,
            Self::Pod,
            Self::Service,
            Self::EndpointSlice,
            Self::ServiceAccount,
            Self::AuthorizationPolicy,
            Self::PeerAuthentication,
            Self::RequestAuthentication,
            Self::Gateway,
            Self::VirtualService,
            Self::DestinationRule,
            Self::ServiceEntry,
            Self::WorkloadEntry,
            Self::HttpRoute,
            Self::GrpcRoute,
            Self::TlsRoute,
            Self::TcpRoute,
            Self::ReferenceGrant,
            Self::FaultFilter,
            Self::RateLimit,
            Self::BackendTls,
            Self::MeshConfig,
            Self::Telemetry,
        ]
        .into_iter()
        .find(|kind| kind.name() == name)
    }
}

impl Head {
    /// The kind to read it as; `None` when it is no business of ours.
    ///
    /// # Errors
    /// In words, when it seems meant for us and is not of a version we know.
    pub(super) fn kind(&self) -> Result<Option<Kind>, String> {
        let kind = Kind::of(&self.kind);
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        let known = match kind {
            Some(Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication) => {
                return self.of_istio(kind, "security.istio.io", &["v1", "v1beta1"], "v1");
            }
            Some(Kind::VirtualService | Kind::DestinationRule | Kind::ServiceEntry | Kind::WorkloadEntry) => {
                let versions = ["v1", "v1beta1", "v1alpha3"];
                return self.of_istio(kind, NETWORKING, &versions, "v1, v1beta1 or v1alpha3");
            }
            Some(Kind::Telemetry) => return self.of_istio(kind, TELEMETRY, &["v1", "v1alpha1"], "v1"),
            Some(
                Kind::HttpRoute
                | Kind::GrpcRoute
                | Kind::TlsRoute
                | Kind::TcpRoute
                | Kind::ReferenceGrant
                | Kind::BackendTls,
            ) => {
                let known = matches!(version, "v1" | "v1beta1" | "v1alpha3" | "v1alpha2");
                if group == GATEWAY_GROUP && known {
                    return Ok(kind);
                }
                // As above; some other APIs have an HTTPRoute of their own.
                return if !group.is_empty() && !group.contains("gateway.networking") {
                    Ok(None)
                } else {
                    Err(format!("{:?}: expected {GATEWAY_GROUP}/v1", self.api_version))
                };
            }
            Some(Kind::FaultFilter | Kind::RateLimit) => {
                return match (group, version) {
                    (EBB_GROUP, "v1alpha1") => Ok(kind),
                    (group, _) if !group.is_empty() && !group.contains("ebb") => Ok(None),
                    _ => Err(format!("{:?}: expected {EBB_GROUP}/v1alpha1", self.api_version)),
                };
            }
            // Most ConfigMaps are no business of ours, so that none is refused for how it begins.
            Some(Kind::MeshConfig) => return Ok(kind.filter(|_| self.api_version == "v1")),
            None if group == EBB_GROUP => return Err(format!("{:?} is no kind of {EBB_GROUP}", self.kind)),
            Some(Kind::EndpointSlice) => group == "discovery.k8s.io" && version == "v1",
            // Istio has a Gateway of its own, which is no business of ours.
            Some(Kind::Gateway) => group == GATEWAY_GROUP && matches!(version, "v1" | "v1beta1" | "v1alpha2"),
            Some(_) => self.api_version == "v1",
            None if group == TELEMETRY => return Err(format!("{:?} is no kind of {TELEMETRY}", self.kind)),
            None if group == "security.istio.io" => {
                return Err(format!("{:?} is no kind of security.istio.io", self.kind));
            }
            None if group == NETWORKING && !OF_NETWORKING.contains(&&*self.kind) => {
                return Err(format!("{:?} is no kind of {NETWORKING}", self.kind));
            }
            None => false,
        };
        if kind.is_some() && self.api_version.is_empty() {
            return Err("not stated".to_owned());
        }
        Ok(kind.filter(|_| known))
    }

    /// A kind of Istio's that has to be of this group and of one of these versions.
    fn of_istio(
        &self,
        kind: Option<Kind>,
        own: &str,
        versions: &[&str],
        expected: &str,
    ) -> Result<Option<Kind>, String> {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        if group == own && versions.contains(&version) {
            return Ok(kind);
        }
        // Other meshes have an AuthorizationPolicy too; a misspelt Istio group must not pass for one.
        match !group.is_empty() && !group.contains("istio") {
            true => Ok(None),
            false => Err(format!("{:?}: expected {own}/{expected}", self.api_version)),
        }
    }
}

/// Passes over blank lines, comments, directives and what is left of the line of a document mark.
pub(super) fn from_first_content(page: Page<'_>) -> Option<Page<'_>> {
    let Page { mut text, mut line } = page;
    loop {
        let first = text.split_inclusive('\n').next()?;
        let content = first.trim();
        if !(content.is_empty() || content.starts_with('#') || first.starts_with('%')) {
            return Some(Page { text, line });
        }
        text = &text[first.len()..];
        line = line.saturating_add(1);
    }
}

/// Finds kind and version: by looking, when each stands plainly at the start of a line, else by parsing.
pub(super) fn read(page: Page<'_>) -> Reading {
    let head = match glance(page.text) {
        Some(head) => head,
        None => match parse(page.text) {
            Ok(parsed) => Head {
                api_version: parsed.api_version.map(|it| it.to_string()).unwrap_or_default(),
                kind: parsed.kind.map(|it| it.to_string()).unwrap_or_default(),
            },
            Err(error) => return Reading::Unclear(error),
        },
    };
    if head.kind == "List" && head.api_version == "v1" { Reading::List } else { Reading::Head(head) }
}

/// Top-level keys of a block mapping stand at the start of their line, and no other text of it can.
fn glance(text: &str) -> Option<Head> {
    let mut head = Head::default();
    for line in text.lines() {
        let (place, value) = if let Some(value) = line.strip_prefix("kind:") {
            (&mut head.kind, value)
        } else if let Some(value) = line.strip_prefix("apiVersion:") {
            (&mut head.api_version, value)
        } else {
            continue;
        };
        let value = value.strip_prefix(' ')?.trim();
        let plain =
            !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"./-".contains(&b));
        if !plain || !place.is_empty() {
            return None;
        }
        value.clone_into(place);
    }
    (!head.kind.is_empty() && !head.api_version.is_empty()).then_some(head)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Parsed<'a> {
    api_version: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    metadata: Option<ParsedMetadata<'a>>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct ParsedMetadata<'a> {
    name: Option<Text<'a>>,
    namespace: Option<Text<'a>>,
}

fn parse(text: &str) -> Result<Parsed<'_>, Unreadable> {
    whole::read(text, None)
}

/// The name that a document of any kind states, as far as it can be read.
pub(super) fn name(text: &str) -> Option<String> {
    match parse(text) {
        Ok(parsed) => parsed.metadata?.name.map(|it| it.to_string()),
        Err(_) => guess_subject(text).name.map(|it| it.to_string()),
    }
}

/// What a document of known kind that was turned away is about.
pub(super) fn subject(kind: Kind, text: &str) -> Subject {
    let Ok(parsed) = parse(text) else {
        return Subject { kind: Some(kind), ..guess_subject(text) };
    };
    let metadata = parsed.metadata;
    let (name, namespace) = metadata.map_or((None, None), |it| (it.name, it.namespace));
    let cluster_wide = matches!(kind, Kind::Namespace | Kind::Node);
    let namespace = match namespace.as_deref() {
        _ if cluster_wide => Some(""),
        None => Some("default"),
        stated => stated.filter(|it| check::is_dns_label(it)),
    };
    Subject {
        kind: Some(kind),
        namespace: namespace.map(Into::into),
        name: name.filter(|it| check::is_dns_name(it)).map(|it| (*it).into()),
    }
}

/// What a broken document seems to be about, from its lines: `kind` and the first `name` and `namespace` below
/// `metadata`. A namespace that does not plainly stand there stays unknown, which is the whole mesh.
pub(super) fn guess_subject(text: &str) -> Subject {
    if text.trim_start().starts_with('{') {
        return json::subject(text);
    }
    let mut subject = Subject::default();
    let mut in_metadata = None;
    for line in text.lines() {
        let content = line.trim_start_matches(' ');
        let indent = line.len() - content.len();
        if indent == 0 && !content.is_empty() {
            in_metadata = content.trim_end().eq("metadata:").then_some(None);
            if let Some(kind) = content.strip_prefix("kind:") {
                subject.kind = subject.kind.or_else(|| Kind::of(kind.trim()));
            }
            continue;
        }
        let Some(level) = &mut in_metadata else { continue };
        if *level.get_or_insert(indent) != indent {
            continue;
        }
        let Some((key, value)) = content.split_once(": ") else { continue };
        let value = value.trim().trim_matches(['"', '\'']);
        match key {
            "name" if check::is_dns_name(value) => subject.name = Some(value.into()),
            "namespace" if check::is_dns_label(value) => subject.namespace = Some(value.into()),
            _ => {}
        }
    }
    if subject.kind.is_some_and(|it| matches!(it, Kind::Namespace | Kind::Node)) {
        subject.namespace = Some("".into());
    }
    subject
}

/// Whether a document that could not be read may be a policy, or bind something to a waypoint, which policy stands in.
pub(super) fn guards(kind: Option<Kind>, bytes: &[u8]) -> bool {
    match kind {
        Some(kind) if kind.guards_access() => true,
        // A guess from its lines: what is behind it may be anything.
        Some(Kind::MeshConfig | Kind::CaBundle) => guards(None, bytes),
        Some(_) => mentions(bytes, &[USE_WAYPOINT]),
        None => mentions(bytes, &[USE_WAYPOINT]) || mentions_security(bytes),
    }
}

/// Which services a document that could not be read may ask TLS for.
pub(super) fn may_secure(kind: Option<Kind>, bytes: &[u8]) -> MayMean {
    let may_be = match kind {
        Some(Kind::BackendTls) => true,
        // As above.
        None | Some(Kind::MeshConfig | Kind::CaBundle) => mentions(bytes, &[Kind::BackendTls.name()]),
        Some(_) => false,
    };
    if may_be { mentioned(bytes) } else { MayMean::Nothing }
}

/// About requests for which services a document that could not be read may have somebody asked.
pub(super) fn may_ask(kind: Option<Kind>, bytes: &[u8]) -> MayMean {
    // A GRPCRoute that has somebody asked is turned away, because nobody would be.
    let may_be = match kind {
        None | Some(Kind::HttpRoute | Kind::GrpcRoute | Kind::MeshConfig | Kind::CaBundle) => {
            mentions(bytes, &["ExternalAuth", "externalAuth"])
        }
        Some(_) => false,
    };
    if may_be { mentioned(bytes) } else { MayMean::Nothing }
}

/// The same subject, with less of it where the text may hold several documents that nothing keeps apart: another kind's
/// promises are not those of the one that stands first, nor are its names.
pub(super) fn unless_several(subject: Subject, text: &str) -> Subject {
    let begun = text.lines().filter(|it| it.starts_with("metadata:")).count();
    let kinds = text.lines().filter(|it| it.starts_with("kind:")).count();
    if begun < 2 && kinds < 2 {
        return subject;
    }
    let namespaces = text.lines().filter_map(|it| it.trim().strip_prefix("namespace:")).map(str::trim);
    let namespaces: Vec<&str> = namespaces.collect();
    let is_one = namespaces.len() == begun.max(kinds) && namespaces.windows(2).all(|it| it[0] == it[1]);
    Subject { kind: None, name: None, namespace: subject.namespace.filter(|_| is_one) }
}

/// Every name that stands in a text. What may be written in more ways than one, or is too long, may name anything.
fn mentioned(bytes: &[u8]) -> MayMean {
    let Ok(text) = std::str::from_utf8(bytes) else { return MayMean::Anything };
    if text.contains('\\') {
        return MayMean::Anything;
    }
    let mut names = BTreeSet::new();
    for word in text.split(|it: char| !(it.is_ascii_alphanumeric() || it == '-' || it == '.')) {
        if check::is_dns_name(word) {
            names.insert(word);
        }
        if names.len() > MAX_MENTIONED {
            return MayMean::Anything;
        }
    }
    MayMean::Named(names.into_iter().map(Into::into).collect())
}

/// Whether there is any sign of a policy in bytes of whatever encoding.
pub(super) fn mentions_security(bytes: &[u8]) -> bool {
    let kinds = ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"];
    mentions(bytes, &["security.istio.io"]) || mentions(bytes, &kinds)
}

/// The bytes with what JSON and YAML write as an escape of one ASCII character written as that character.
pub(super) fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, behind @ ..] = rest {
        let (byte, length) = match (first, behind) {
            (b'\\', [b'x', high, low, ..]) => (hex(*high, *low), 4),
            (b'\\', [b'u', b'0', b'0', high, low, ..]) => (hex(*high, *low), 6),
            (b'\\', [b'/', ..]) => (Some(b'/'), 2),
            _ => (None, 1),
        };
        plain.push(byte.unwrap_or(*first));
        rest = &rest[byte.map_or(1, |_| length)..];
    }
    plain
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |it: u8| char::from(it).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn mentions(bytes: &[u8], signs: &[&str]) -> bool {
    // Without its zeros, UTF-16 and UTF-32 of these words reads as the words.
    let dense: Vec<u8> = bytes.iter().copied().filter(|b| *b != 0).collect();
    let dense = if dense.contains(&b'\\') { unescaped(&dense) } else { dense };
    signs.iter().any(|sign| dense.windows(sign.len()).any(|window| window == sign.as_bytes()))
}
