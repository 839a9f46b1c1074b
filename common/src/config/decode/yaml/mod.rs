//! YAML manifests into resources: documents one by one, so that a bad one spoils no other.
//!
//! Bounds are here. A document is read by `block` when it is plain enough, else by serde-saphyr; both fill the same
//! manifests. Documents are cut at `---` before anything is parsed, which is exact: YAML allows those three dashes
//! at the start of a line nowhere else.

mod block;
pub mod document;
mod erased;
mod head;
mod json;
mod list;
#[cfg(test)]
mod tests;
pub mod tree;
mod whole;

use std::sync::Arc;

use serde::Deserialize;

use self::head::{Head, Reading};
use self::whole::Unreadable;
use super::authentication::RequestAuthenticationManifest;
use super::destination::DestinationRuleManifest;
use super::entry::{ServiceEntryManifest, WorkloadEntryManifest};
use super::gateway::{
    BackendTlsManifest, CaManifest, FaultFilterManifest, GrpcRouteManifest, HttpRouteManifest,
    RateLimitManifest, ReferenceGrantManifest, TcpRouteManifest, TlsRouteManifest,
};
use super::manifest::{
    EndpointSliceManifest, GatewayManifest, Manifest, NamespaceManifest, NodeManifest, PodManifest,
    ServiceAccountManifest, ServiceManifest,
};
use super::mesh::{ConfigMapManifest, is_mesh_config};
use super::peer::PeerAuthenticationManifest;
use super::policy::AuthorizationPolicyManifest;
use super::routing::VirtualServiceManifest;
use super::telemetry::TelemetryManifest;
use super::{Decoded, Fault, Foreign, Skipped};
use crate::config::may_mean::MayMean;
use crate::config::mesh::MESH_CONFIG_NAME;
use crate::config::names::Names;
use crate::config::{Kind, Origin, Rejected, Resource, Stated, Subject};

/// How the name of a file ends that holds manifests as JSON, or something else.
const JSON_END: &str = ".json";
/// How the names of files with manifests end. JSON is YAML.
pub const FILE_ENDS: [&str; 3] = [".yaml", ".yml", JSON_END];
/// Largest file read, in bytes: some eighty thousand pods in one. A larger one is turned away unread.
pub const MAX_FILE_BYTES: usize = 64 << 20;
/// Largest document, in bytes (etcd holds 1.5 MiB); a `List` may be as large as its file.
pub const MAX_DOCUMENT_BYTES: usize = 2 << 20;
/// Most documents and list items in one file.
pub const MAX_DOCUMENTS: usize = 200_000;
/// Most rejections kept of one file.
pub const MAX_REJECTED: usize = 1_000;
/// Deepest nesting of mappings and sequences.
pub const MAX_DEPTH: usize = 64;
/// Most nodes that aliases may stand for, in one document.
pub const MAX_ALIASED_NODES: usize = 10_000;
/// How much of an unreadable file is searched for signs that it holds policies, in bytes.
pub const SNIFF_BYTES: usize = 1 << 20;

/// The key of authorities as it may be written.
const CA_KEYS: [&str; 3] = ["ca.crt:", "\"ca.crt\"", "'ca.crt'"];

/// Whether a file of this name in a directory is one of manifests.
pub fn is_manifest(name: &str) -> bool {
    !name.starts_with('.') && FILE_ENDS.iter().any(|end| name.ends_with(end))
}

/// Whether a file is JSON by its name: one whose statements yield to those of others, and which is read only when it is
/// an object with `apiVersion` and `kind`.
pub fn is_json(name: &str) -> bool {
    name.ends_with(JSON_END)
}

/// Why a file, of which this is the beginning at least, states no manifests and is passed over; `None` where it is to be
/// read. Files of YAML always are.
pub fn foreign(name: &str, bytes: &[u8]) -> Option<&'static str> {
    if is_json(name) { json::foreign(bytes) } else { None }
}

/// Reads one file.
pub fn decode(file: &Arc<str>, bytes: &[u8], names: &mut Names) -> Decoded {
    let mut decoder = Decoder { file, names, decoded: Decoded::default(), documents: 0 };
    if let Some(why) = foreign(file, bytes) {
        decoder.decoded.foreign.push(Foreign { file: file.clone(), why });
        return decoder.decoded;
    }
    if bytes.len() > MAX_FILE_BYTES {
        decoder.reject_file(bytes, format!("{} bytes, more than {MAX_FILE_BYTES}", bytes.len()));
    } else if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] = bytes {
        decoder.reject_file(bytes, "UTF-16 or UTF-32; write it as UTF-8".to_owned());
    } else {
        for document in documents(bytes) {
            if !decoder.take(document) {
                break;
            }
        }
    }
    decoder.decoded.stated.shrink_to_fit();
    decoder.decoded
}

/// What is known of a file that was not read at all: nothing, except perhaps that it holds policies or bindings to
/// waypoints.
pub fn unread(file: &Arc<str>, sample: &[u8], reason: impl Into<Arc<str>>) -> Rejected {
    // What is behind the sample may say anything.
    let is_long = sample.len() >= SNIFF_BYTES;
    let unless_long = |it| if is_long { MayMean::Anything } else { it };
    Rejected {
        origin: Origin { file: file.clone(), line: 0 },
        subject: Subject::default(),
        field: "".into(),
        reason: reason.into(),
        guards_access: is_long || head::guards(None, sample),
        may_secure: unless_long(head::may_secure(None, sample)),
        may_ask: unless_long(head::may_ask(None, sample)),
        last_good: false,
    }
}

/// Part of a file between document marks, and the line it starts on, from 1.
#[derive(Clone, Copy)]
struct Document<'a> {
    bytes: &'a [u8],
    line: u32,
}

/// Cuts a stream at lines that begin with `---` or `...`.
fn documents(bytes: &[u8]) -> impl Iterator<Item = Document<'_>> {
    let mut rest = Some(Document { bytes, line: 1 });
    std::iter::from_fn(move || {
        let from = rest.take()?;
        let (mut line, mut at) = (from.line, 0);
        for text in from.bytes.split_inclusive(|b| *b == b'\n') {
            let end = at + text.len();
            line += 1;
            let mark = text.starts_with(b"---") || text.starts_with(b"...");
            if mark && text.get(3).is_none_or(u8::is_ascii_whitespace) {
                // What follows the dashes on their line belongs to the next document.
                rest = Some(Document { bytes: &from.bytes[at + 3..], line: line - 1 });
                return Some(Document { bytes: &from.bytes[..at], line: from.line });
            }
            at = end;
        }
        Some(from)
    })
}

struct Decoder<'d> {
    file: &'d Arc<str>,
    names: &'d mut Names,
    decoded: Decoded,
    documents: usize,
}

/// A document's text and where it stands.
#[derive(Clone, Copy)]
struct Page<'t> {
    text: &'t str,
    /// Line of the file that `text` starts on.
    line: u32,
}

impl Decoder<'_> {
    /// Reads one document; false when no more may be.
    fn take(&mut self, document: Document<'_>) -> bool {
        if document.bytes.iter().all(u8::is_ascii_whitespace) {
            return true;
        }
        self.documents += 1;
        if self.documents > MAX_DOCUMENTS {
            self.reject_bytes(
                document,
                format!("more than {MAX_DOCUMENTS} documents; this and the rest are unread"),
            );
            return false;
        }
        match text(document.bytes) {
            Ok(text) => self.page(Page { text, line: document.line }),
            Err((offset, reason)) => {
                let lines = document.bytes[..offset].iter().filter(|b| **b == b'\n').count();
                let line = document.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
                self.reject_bytes(Document { line, ..document }, reason);
            }
        }
        true
    }

    fn page(&mut self, page: Page<'_>) {
        let page = head::from_first_content(page);
        let Some(page) = page else { return };
        match head::read(page) {
            Reading::List => list::unpack(self, page),
            Reading::Head(head) => self.document(page, &head),
            Reading::Unclear(error) => {
                let subject = head::unless_several(head::guess_subject(page.text), page.text);
                let mut signs = Signs::of(subject.kind, page.text.as_bytes());
                // The kind is a guess. What else the text speaks of it may be as well.
                let any = Signs::of(None, page.text.as_bytes());
                signs.guards_access |= any.guards_access;
                if signs.may_secure == MayMean::Nothing {
                    signs.may_secure = any.may_secure;
                }
                if signs.may_ask == MayMean::Nothing {
                    signs.may_ask = any.may_ask;
                }
                self.reject_error(page, subject, signs, &error);
            }
        }
    }

    /// Reads a document whose kind is known.
    fn document(&mut self, page: Page<'_>, head: &Head) {
        let kind = match head.kind() {
            Ok(Some(kind)) => kind,
            Ok(None) => return self.skip(page, head),
            Err(reason) => {
                let kind = Kind::of(&head.kind);
                let subject = Subject { kind, ..head::guess_subject(page.text) };
                let signs = Signs::of(kind, page.text.as_bytes());
                let guards_access = match kind {
                    // Another group may have a kind of the same name.
                    None => head::mentions_security(head.api_version.as_bytes()),
                    Some(_) => signs.guards_access,
                };
                let fault = Fault::new("apiVersion", reason);
                let line = page.line.saturating_add(line_in(page.text, &fault.field));
                return self.reject(line, subject, Signs { guards_access, ..signs }, fault);
            }
        };
        // Looked for as text first: some ConfigMaps are large, and hardly any is the one.
        let kind = match kind {
            Kind::MeshConfig
                if page.text.contains(MESH_CONFIG_NAME)
                    && is_mesh_config(head::name(page.text).as_deref()) =>
            {
                kind
            }
            Kind::MeshConfig if CA_KEYS.iter().any(|key| page.text.contains(key)) => Kind::CaBundle,
            Kind::MeshConfig => return self.skip(page, head),
            other => other,
        };
        let signs = |page: Page<'_>| Signs::of(Some(kind), page.text.as_bytes());
        if page.text.len() > MAX_DOCUMENT_BYTES {
            let fault = Fault::new("", format!("{} bytes, more than {MAX_DOCUMENT_BYTES}", page.text.len()));
            let subject = Subject { kind: Some(kind), ..head::guess_subject(page.text) };
            return self.reject(page.line, subject, signs(page), fault);
        }
        match read_kind(kind, page.text, self.names) {
            Ok(Ok(resource)) => self.accept(page.line, resource),
            Ok(Err(fault)) => {
                let subject = head::subject(kind, page.text);
                let line = page.line.saturating_add(line_of(&fault, kind, page.text));
                self.reject(line, subject, signs(page), fault);
            }
            Err(error) => {
                let subject = head::subject(kind, page.text);
                self.reject_error(page, subject, signs(page), &error);
            }
        }
    }

    fn accept(&mut self, line: u32, resource: Resource) {
        let origin = Origin { file: self.file.clone(), line };
        self.decoded.stated.push(Stated { origin, resource });
    }

    fn skip(&mut self, page: Page<'_>, head: &Head) {
        let origin = Origin { file: self.file.clone(), line: page.line };
        let kind = self.names.share(&format!("{} {}", head.api_version, head.kind));
        self.decoded.skipped.push(Skipped { origin, kind });
    }

    fn reject(&mut self, line: u32, subject: Subject, signs: Signs, fault: Fault) {
        let full = self.decoded.rejected.len() >= MAX_REJECTED;
        if let Some(last) = self.decoded.rejected.last_mut().filter(|_| full) {
            // One entry stands for all that follow; of what they are about, nothing may be assumed.
            last.reason = format!("this and more, {MAX_REJECTED} shown: {}", fault.reason).into();
            last.guards_access |= signs.guards_access;
            last.may_secure.join(signs.may_secure);
            last.may_ask.join(signs.may_ask);
            last.subject = Subject::default();
            return;
        }
        self.decoded.rejected.push(Rejected {
            origin: Origin { file: self.file.clone(), line },
            subject,
            field: fault.field.into(),
            reason: fault.reason.into(),
            guards_access: signs.guards_access,
            may_secure: signs.may_secure,
            may_ask: signs.may_ask,
            last_good: false,
        });
    }

    fn reject_error(&mut self, page: Page<'_>, subject: Subject, signs: Signs, error: &Unreadable) {
        let fault = error.fault(page.text);
        // The parser counts lines from the start of the document, we from the start of the file.
        self.reject(page.line.saturating_add(error.line), subject, signs, fault);
    }

    fn reject_bytes(&mut self, document: Document<'_>, reason: String) {
        let signs = Signs::of(None, document.bytes);
        self.reject(document.line, Subject::default(), signs, Fault::new("", reason));
    }

    fn reject_file(&mut self, bytes: &[u8], reason: String) {
        let sample = &bytes[..bytes.len().min(SNIFF_BYTES)];
        self.decoded.rejected.push(unread(self.file, sample, reason));
    }
}

/// What a document that cannot be read may have said, which must not be passed over.
struct Signs {
    guards_access: bool,
    may_secure: MayMean,
    may_ask: MayMean,
}

impl Signs {
    fn of(kind: Option<Kind>, bytes: &[u8]) -> Self {
        Self {
            guards_access: head::guards(kind, bytes),
            may_secure: head::may_secure(kind, bytes),
            may_ask: head::may_ask(kind, bytes),
        }
    }
}

/// The text of a document, or where it stops being text and why.
fn text(bytes: &[u8]) -> Result<&str, (usize, String)> {
    if bytes.starts_with(&[0xef, 0xbb, 0xbf]) {
        return Err((0, "starts with a byte order mark; save it as UTF-8 without one".to_owned()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| (error.valid_up_to(), "not UTF-8".to_owned()))?;
    let control = bytes.iter().enumerate().find(|(at, byte)| match byte {
        b'\t' | b'\n' => false,
        b'\r' => bytes.get(at + 1) != Some(&b'\n'),
        0x7f => true,
        byte => **byte < 0x20,
    });
    match control {
        Some((at, byte)) => Err((at, format!("control character 0x{byte:02x}"))),
        None => Ok(text),
    }
}

type Read = Result<Result<Resource, Fault>, Unreadable>;

fn read_kind(kind: Kind, text: &str, names: &mut Names) -> Read {
    match kind {
        Kind::Namespace => read::<NamespaceManifest<'_>>(kind, text, names),
        Kind::Node => read::<NodeManifest<'_>>(kind, text, names),
        Kind::Pod => read::<PodManifest<'_>>(kind, text, names),
        Kind::Service => read::<ServiceManifest<'_>>(kind, text, names),
        Kind::EndpointSlice => read::<EndpointSliceManifest<'_>>(kind, text, names),
        Kind::ServiceAccount => read::<ServiceAccountManifest<'_>>(kind, text, names),
        Kind::AuthorizationPolicy => read::<AuthorizationPolicyManifest<'_>>(kind, text, names),
        Kind::PeerAuthentication => read::<PeerAuthenticationManifest<'_>>(kind, text, names),
        Kind::RequestAuthentication => read::<RequestAuthenticationManifest<'_>>(kind, text, names),
        Kind::Gateway => read::<GatewayManifest<'_>>(kind, text, names),
        Kind::VirtualService => read::<VirtualServiceManifest<'_>>(kind, text, names),
        Kind::DestinationRule => read::<DestinationRuleManifest<'_>>(kind, text, names),
        Kind::ServiceEntry => read::<ServiceEntryManifest<'_>>(kind, text, names),
        Kind::WorkloadEntry => read::<WorkloadEntryManifest<'_>>(kind, text, names),
        Kind::HttpRoute => read::<HttpRouteManifest<'_>>(kind, text, names),
        Kind::GrpcRoute => read::<GrpcRouteManifest<'_>>(kind, text, names),
        Kind::TlsRoute => read::<TlsRouteManifest<'_>>(kind, text, names),
        Kind::TcpRoute => read::<TcpRouteManifest<'_>>(kind, text, names),
        Kind::ReferenceGrant => read::<ReferenceGrantManifest<'_>>(kind, text, names),
        Kind::FaultFilter => read::<FaultFilterManifest<'_>>(kind, text, names),
        Kind::RateLimit => read::<RateLimitManifest<'_>>(kind, text, names),
        Kind::BackendTls => read::<BackendTlsManifest<'_>>(kind, text, names),
        Kind::MeshConfig => read::<ConfigMapManifest<'_>>(kind, text, names),
        Kind::CaBundle => read::<CaManifest<'_>>(kind, text, names),
        Kind::Telemetry => read::<TelemetryManifest<'_>>(kind, text, names),
    }
}

fn read<'t, M: Manifest + Deserialize<'t>>(kind: Kind, text: &'t str, names: &mut Names) -> Read {
    if !kind.is_strict()
        && let Ok(manifest) = block::read::<M>(text)
    {
        return Ok(manifest.read(names));
    }
    let manifest: M = whole::read(text, Some(kind))?;
    Ok(manifest.read(names))
}

/// Reads a document that is a string inside another, as strictly as the kinds that steer traffic.
///
/// # Errors
/// The line of it, from 1, and what is wrong there.
pub(super) fn inside<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, (u32, Fault)> {
    whole::read(text, Some(Kind::MeshConfig))
        .map_err(|error| (error.line.saturating_add(1), error.fault(text)))
}

/// How far behind the beginning of its document a fault stands. What is inside a block of text counts its lines from the
/// beginning of the block, which follows its key.
fn line_of(fault: &Fault, kind: Kind, text: &str) -> u32 {
    match (kind, fault.line) {
        (_, 0) => line_in(text, &fault.field),
        (Kind::MeshConfig, line) => {
            let is_block = text.lines().any(|line| line.trim_start().starts_with("mesh: |"));
            line_in(text, "data.mesh").saturating_add(if is_block { line } else { 0 })
        }
        (_, line) => line.saturating_sub(1),
    }
}

/// How far behind the beginning of a document a field stands, or what is nearest to it.
fn line_in(text: &str, field: &str) -> u32 {
    let tree = if field.is_empty() { None } else { tree::read(text) };
    tree.map_or(0, |it| it.line_of(field).saturating_sub(1))
}
