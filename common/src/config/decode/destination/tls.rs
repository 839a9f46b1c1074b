//! `tls` towards an endpoint.

use std::sync::Arc;

use serde::Deserialize;

use crate::config::decode::Fault;
use crate::config::decode::istio::{Reader, Texts};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::destination::tls::{ClientTls, TlsMode};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct TlsManifest<'a> {
    mode: Option<Text<'a>>,
    client_certificate: Option<Text<'a>>,
    private_key: Option<Text<'a>>,
    ca_certificates: Option<Text<'a>>,
    ca_crl: Option<Text<'a>>,
    credential_name: Option<Text<'a>>,
    subject_alt_names: Texts<'a>,
    sni: Option<Text<'a>>,
    insecure_skip_verify: Option<bool>,
}

/// `tls`.
pub(super) fn read(
    reader: &mut Reader<'_>,
    stated: TlsManifest<'_>,
    field: &str,
) -> Result<ClientTls, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let mode = match stated.mode.as_deref() {
        None | Some("DISABLE") => TlsMode::Disable,
        Some("SIMPLE") => TlsMode::Simple,
        Some("MUTUAL") => TlsMode::Mutual,
        Some("ISTIO_MUTUAL") => TlsMode::IstioMutual,
        Some(other) => {
            let reason = format!("{other:?} is none of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL");
            return Err(Fault::new(at("mode"), reason));
        }
    };
    let subject_alt_names = list(stated.subject_alt_names, &at("subjectAltNames"), |it, field| {
        if it.is_empty() {
            return Err(Fault::new(field, "empty"));
        }
        Ok(reader.share(&it))
    })?;
    let mut text = |stated: Option<Text<'_>>| reader.filled(stated.as_ref()).unwrap_or_default();
    let tls = ClientTls {
        mode,
        client_certificate: text(stated.client_certificate),
        private_key: text(stated.private_key),
        ca_certificates: text(stated.ca_certificates),
        authorities: None,
        ca_crl: text(stated.ca_crl),
        credential_name: text(stated.credential_name),
        subject_alt_names,
        sni: text(stated.sni),
        skip_verification: stated.insecure_skip_verify,
    };
    check(&tls, field)?;
    Ok(tls)
}

/// That nothing is stated twice over, or is missing.
fn check(tls: &ClientTls, field: &str) -> Result<(), Fault> {
    let fault = |name: &str, reason: &str| Err(Fault::new(format!("{field}.{name}"), reason));
    let files = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
        ("caCrl", &tls.ca_crl),
    ];
    let stated = |it: &&(&str, &Arc<str>)| !it.1.is_empty();
    let own = matches!(tls.mode, TlsMode::Simple | TlsMode::Mutual);
    if own
        && !tls.credential_name.is_empty()
        && let Some((name, _)) = files.iter().find(stated)
    {
        return fault(name, "stated together with credentialName");
    }
    if tls.mode == TlsMode::IstioMutual
        && let Some((name, _)) = files.iter().find(stated)
    {
        return fault(name, "stated together with mode ISTIO_MUTUAL, which uses the mesh's own");
    }
    if tls.mode == TlsMode::Mutual
        && tls.credential_name.is_empty()
        && let Some((name, _)) = files[..2].iter().find(|it| it.1.is_empty())
    {
        return fault(name, "not stated; mode MUTUAL needs it, or credentialName");
    }
    let verifies = !tls.ca_certificates.is_empty() || !tls.subject_alt_names.is_empty();
    if own && tls.skip_verification == Some(true) && verifies {
        return fault("insecureSkipVerify", "stated together with caCertificates or subjectAltNames");
    }
    Ok(())
}
