//! From two workloads and a service to the labels of Istio's standard metrics.
//!
//! A pure mapping, written straight into whatever takes it: the text of a series, or a comparison with one. Values that
//! are not known are `unknown`, never empty and never left out, because dashboards group by all of these labels.

use std::hash::{BuildHasher, Hash, Hasher};

use crate::snapshot::model::{Service, Workload};
use crate::spiffe::Identity;

/// What a label says when its value is not known.
pub const UNKNOWN: &str = "unknown";

/// Which side of a connection reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The side of the client (outbound).
    Source,
    /// The side of the server (inbound).
    Destination,
    /// A waypoint between the two.
    Waypoint,
}

impl Reporter {
    /// The value of the label `reporter`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Waypoint => "waypoint",
        }
    }
}

/// How a connection was secured (label `connection_security_policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// Mutual TLS proved both identities.
    MutualTls,
    /// Plaintext, seen by the server's side.
    None,
    /// Not known here: the client's side of anything that is not mutual TLS (Istio's convention).
    Unknown,
}

impl Security {
    /// The value of the label `connection_security_policy`.
    pub fn label(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
            Self::Unknown => UNKNOWN,
        }
    }
}

/// What an edge counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// Connections: the label `request_protocol` is `tcp`.
    Connections,
    /// Requests: each series says which protocol its requests had.
    Requests,
}

/// Who talked to whom: what picks the series of a connection or a request.
#[derive(Debug, Clone, Copy)]
pub struct EdgeLabels<'a> {
    /// Which side reports.
    pub reporter: Reporter,
    /// The client, when it is known.
    pub source: Option<&'a Workload>,
    /// The server, when it is known.
    pub destination: Option<&'a Workload>,
    /// The service the client called, when it called one.
    pub service: Option<&'a Service>,
    /// The client's identity, when mutual TLS proved it.
    pub source_identity: Option<&'a Identity>,
    /// The server's identity, when mutual TLS proved it.
    pub destination_identity: Option<&'a Identity>,
    /// How the connection was secured.
    pub security: Security,
}

/// The labels of both ends and of the service, in the order of [`EdgeLabels::values`]; the principals and the
/// fixed labels around them are written apart.
const NAMES: [&str; 17] = [
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_app",
    "destination_version",
    "destination_cluster",
];

/// The labels of where both ends run (Istio's names). They are written when either is known: a mesh whose nodes say
/// nothing of regions and zones has series without them.
const LOCALITY_NAMES: [&str; 4] = ["source_region", "source_zone", "destination_region", "destination_zone"];

/// The other labels of Istio's metrics, of requests or of connections.
const OTHER_NAMES: [&str; 8] = [
    "reporter",
    "connection_security_policy",
    "source_principal",
    "destination_principal",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
];

/// Whether a label is one of those that metrics have when nobody states anything.
pub fn is_own(name: &str) -> bool {
    NAMES.iter().chain(&LOCALITY_NAMES).chain(&OTHER_NAMES).any(|it| *it == name)
}

/// Takes the pieces of a label set one after the other; `false` ends the writing.
trait Pieces {
    fn piece(&mut self, text: &str) -> bool;
}

impl Pieces for String {
    fn piece(&mut self, text: &str) -> bool {
        self.push_str(text);
        true
    }
}

/// Compares the pieces with a text that was written before.
struct Same<'a>(&'a str);

impl Pieces for Same<'_> {
    fn piece(&mut self, text: &str) -> bool {
        match self.0.strip_prefix(text) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }
}

impl EdgeLabels<'_> {
    /// The labels of connections as a scrape shows them, without braces and without `response_flags`, which the series
    /// of one edge differ in.
    pub fn text(&self) -> String {
        self.text_of(Counted::Connections)
    }

    /// The labels of requests: without `request_protocol`, `response_code` and `grpc_response_status` as well.
    pub fn request_text(&self) -> String {
        self.text_of(Counted::Requests)
    }

    /// Whether [`EdgeLabels::text`] would be `text`, without building it.
    pub fn are(&self, text: &str) -> bool {
        self.are_of(Counted::Connections, text)
    }

    /// Whether [`EdgeLabels::request_text`] would be `text`, without building it.
    pub fn are_of_requests(&self, text: &str) -> bool {
        self.are_of(Counted::Requests, text)
    }

    fn text_of(&self, counted: Counted) -> String {
        let mut text = String::with_capacity(1024);
        self.write(counted, &mut text);
        text
    }

    fn are_of(&self, counted: Counted, text: &str) -> bool {
        let mut same = Same(text);
        self.write(counted, &mut same) && same.0.is_empty()
    }

    /// A hash of everything the labels depend on.
    pub fn hash(&self, state: &impl BuildHasher) -> u64 {
        let mut hasher = state.build_hasher();
        (self.reporter, self.security).hash(&mut hasher);
        for value in self.values().into_iter().chain(self.localities()) {
            hasher.write(value.as_bytes());
            hasher.write_u8(0xff); // not a byte of UTF-8: "a","b" and "ab","" differ
        }
        (self.source_identity, self.destination_identity).hash(&mut hasher);
        hasher.finish()
    }

    fn values(&self) -> [&str; NAMES.len()] {
        let [workload, canonical, revision, namespace, app, version, cluster] =
            end(self.source, self.source_identity);
        let [d_workload, d_canonical, d_revision, d_namespace, d_app, d_version, d_cluster] =
            end(self.destination, self.destination_identity);
        let [hostname, service_namespace, service_name] = match self.service {
            Some(service) => [&*service.hostname, &*service.namespace, &*service.name],
            None => [UNKNOWN; 3],
        };
        [
            workload,
            canonical,
            revision,
            namespace,
            app,
            version,
            cluster,
            hostname,
            service_namespace,
            service_name,
            d_workload,
            d_canonical,
            d_revision,
            d_namespace,
            d_app,
            d_version,
            d_cluster,
        ]
        .map(|value| if value.is_empty() { UNKNOWN } else { value })
    }

    /// Region and zone of both ends; all empty when nothing is known of either.
    fn localities(&self) -> [&str; 4] {
        let ([region, zone], [d_region, d_zone]) = (locality(self.source), locality(self.destination));
        let all = [region, zone, d_region, d_zone];
        if all.iter().all(|value| value.is_empty()) {
            return all;
        }
        all.map(|value| if value.is_empty() { UNKNOWN } else { value })
    }

    fn write_localities(&self, out: &mut impl Pieces) -> bool {
        let mut known = LOCALITY_NAMES.iter().zip(self.localities()).filter(|(_, value)| !value.is_empty());
        known.all(|(name, value)| write_label(name, value, out))
    }

    fn write(&self, counted: Counted, out: &mut impl Pieces) -> bool {
        write_fixed(self.reporter, counted, self.security, out)
            && NAMES.iter().zip(self.values()).all(|(name, value)| write_label(name, value, out))
            && self.write_localities(out)
            && write_principal("source_principal", self.source_identity, out)
            && write_principal("destination_principal", self.destination_identity, out)
    }
}

/// The labels of what came when no further series could be kept: `overflow` for both workloads.
pub(super) fn overflow_text(reporter: Reporter, counted: Counted) -> String {
    let mut text = String::with_capacity(1024);
    write_fixed(reporter, counted, Security::Unknown, &mut text);
    for name in NAMES {
        let value = match name {
            "source_workload" | "destination_workload" | "destination_service" => "overflow",
            _ => UNKNOWN,
        };
        write_label(name, value, &mut text);
    }
    write_principal("source_principal", None, &mut text);
    write_principal("destination_principal", None, &mut text);
    text
}

/// Workload, canonical service and revision, namespace, app, version and cluster of one end.
fn end<'a>(workload: Option<&'a Workload>, identity: Option<&'a Identity>) -> [&'a str; 7] {
    let Some(workload) = workload else {
        // A peer that is not in the configuration has at least proved its namespace.
        let namespace = identity.map_or(UNKNOWN, |identity| &identity.namespace);
        return [UNKNOWN, UNKNOWN, UNKNOWN, namespace, UNKNOWN, UNKNOWN, UNKNOWN];
    };
    // Kiali groups by app and version also where the pods carry only the canonical labels.
    let app = if workload.app.is_empty() { &workload.canonical_name } else { &workload.app };
    let version = if workload.version.is_empty() { &workload.canonical_revision } else { &workload.version };
    [
        &workload.workload_name,
        &workload.canonical_name,
        &workload.canonical_revision,
        workload.namespace(),
        app,
        version,
        &workload.cluster,
    ]
}

/// Region and zone of one end.
fn locality(workload: Option<&Workload>) -> [&str; 2] {
    workload.map_or(["", ""], |workload| [&workload.locality.region, &workload.locality.zone])
}

fn write_fixed(reporter: Reporter, counted: Counted, security: Security, out: &mut impl Pieces) -> bool {
    let protocol = match counted {
        Counted::Connections => ",request_protocol=\"tcp\"",
        Counted::Requests => "",
    };
    out.piece("reporter=\"")
        && out.piece(reporter.label())
        && out.piece("\"")
        && out.piece(protocol)
        && out.piece(",connection_security_policy=\"")
        && out.piece(security.label())
        && out.piece("\"")
}

fn write_label(name: &str, value: &str, out: &mut impl Pieces) -> bool {
    out.piece(",") && out.piece(name) && out.piece("=\"") && write_value(value, out) && out.piece("\"")
}

fn write_principal(name: &str, identity: Option<&Identity>, out: &mut impl Pieces) -> bool {
    let Some(identity) = identity else { return write_label(name, UNKNOWN, out) };
    out.piece(",")
        && out.piece(name)
        && out.piece("=\"spiffe://")
        && write_value(&identity.trust_domain, out)
        && out.piece("/ns/")
        && write_value(&identity.namespace, out)
        && out.piece("/sa/")
        && write_value(&identity.service_account, out)
        && out.piece("\"")
}

/// Writes a label value, escaped as the exposition format asks (backslash, quote and line feed).
fn write_value(value: &str, out: &mut impl Pieces) -> bool {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        let escape = match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'"' => "\\\"",
            _ => "\\n",
        };
        if !(out.piece(&rest[..at]) && out.piece(escape)) {
            return false;
        }
        rest = &rest[at + 1..];
    }
    out.piece(rest)
}
