//! The certificates as `/config_dump` shows them, in the shape `istioctl ztunnel-config certificates` reads.
//!
//! Certificates are public; keys never get here, because nothing here can reach one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::validate::describe;

/// One identity and the state of its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityDump {
    /// The SPIFFE id.
    pub identity: String,
    /// `Initializing`, `Available`, or `Unavailable: <why>`.
    pub state: String,
    /// The chain shown to peers, leaf first.
    pub cert_chain: Vec<CertificateDump>,
    /// The roots peers are judged by.
    pub root_certs: Vec<CertificateDump>,
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateDump {
    /// Base64 of the PEM text.
    pub pem: String,
    /// Decimal.
    pub serial_number: String,
    /// RFC 3339, UTC.
    pub valid_from: String,
    /// RFC 3339, UTC.
    pub expiration_time: String,
}

/// The dump of one certificate; fields that cannot be read are empty.
pub(super) fn dump_certificate(certificate: &CertificateDer<'_>) -> CertificateDump {
    let leaf = crate::tls::parse_certificate(certificate).map(|parsed| describe(&parsed));
    let (serial_number, valid_from, expiration_time) = leaf.map_or_else(Default::default, |leaf| {
        (leaf.serial.clone(), rfc3339(leaf.not_before), rfc3339(leaf.not_after))
    });
    CertificateDump { pem: STANDARD.encode(pem(certificate)), serial_number, valid_from, expiration_time }
}

/// PEM text of a certificate (RFC 7468).
pub(super) fn pem(certificate: &CertificateDer<'_>) -> String {
    let body = STANDARD.encode(certificate);
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 64);
    text.push_str("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|&byte| char::from(byte)));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

fn rfc3339(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}
