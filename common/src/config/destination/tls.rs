//! TLS towards an endpoint, inside the tunnel where there is one (Istio `ClientTLSSettings`).

use std::sync::Arc;

use crate::config::backend_tls::Pem;

/// `tls`. Empty strings are not stated.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// `mode`.
    pub mode: TlsMode,
    /// `clientCertificate`: a path.
    pub client_certificate: Arc<str>,
    /// `privateKey`: a path.
    pub private_key: Arc<str>,
    /// `caCertificates`: a path, or `system`.
    pub ca_certificates: Arc<str>,
    /// Whom to believe in place of what `ca_certificates` says; what a BackendTLSPolicy comes to.
    pub authorities: Option<Authorities>,
    /// `caCrl`: a path.
    pub ca_crl: Arc<str>,
    /// `credentialName` of a secret.
    pub credential_name: Arc<str>,
    /// `subjectAltNames` of which the endpoint has one; empty takes what the mode does.
    pub subject_alt_names: Box<[Arc<str>]>,
    /// `sni`.
    pub sni: Arc<str>,
    /// `insecureSkipVerify`; `None` is what the mesh says.
    pub skip_verification: Option<bool>,
}

/// Authorities that are not files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authorities {
    /// These certificates.
    Pem(Pem),
    /// None that can be used, for this reason: there is no TLS, and nothing in its stead.
    Unusable(Arc<str>),
}

/// `tls.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// `DISABLE`: no TLS of its own; a tunnel of the mesh stays what it is.
    #[default]
    Disable,
    /// `SIMPLE`: the endpoint is verified.
    Simple,
    /// `MUTUAL`: with a certificate of ours.
    Mutual,
    /// `ISTIO_MUTUAL`: with the mesh's own, which the tunnel does already.
    IstioMutual,
}
