//! TLS towards a backend, outside the mesh or inside a tunnel to a pod, as a DestinationRule's `tls` or a BackendTLSPolicy
//! asks for: names and authorities, no identities of ours.
//!
//! Surprising: without `insecureSkipVerify` a backend is always verified, chain and name. Nothing stated means the
//! machine's own authorities and the name that was called (Istio since 1.24; before, nothing was verified).

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::handshake::ClientStream;
use super::provider::ALPN_HTTP2;
use crate::config::destination::tls::{Authorities, ClientTls, TlsMode};
use crate::refusal::Refusal;

/// RFC 7301 id of HTTP/1.1.
const ALPN_HTTP1: &[u8] = b"http/1.1";
/// `caCertificates` that asks for the machine's own.
const SYSTEM: &str = "system";
/// Largest file of certificates or a key that is read.
pub const MAX_TLS_FILE_BYTES: u64 = 1024 * 1024;

/// What is spoken inside (ALPN).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inside {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, which the backend has to agree to.
    Http2,
    /// Whatever the client speaks: nothing is offered.
    Bytes,
}

/// Why there is no TLS as asked for. Nothing is sent in plaintext instead.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what it is")]
pub enum InvalidOrigin {
    #[error("tls.{field} {path}: {error}")]
    File { field: &'static str, path: Arc<str>, error: String },
    #[error("tls.{field}: {reason}")]
    Field { field: &'static str, reason: &'static str },
    #[error("{0}")]
    Unusable(Arc<str>),
    #[error("{0}")]
    Refused(#[from] Error),
}

/// TLS to one kind of backend. Reading its files may block.
pub struct Origin {
    config: Arc<ClientConfig>,
    inside: Inside,
    sni: Option<ServerName<'static>>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("inside", &self.inside).field("sni", &self.sni).finish_non_exhaustive()
    }
}

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

impl Origin {
    /// Reads what `stated` names. The backend's certificate must have one of `names`; where none is stated, the name that
    /// was called.
    ///
    /// # Errors
    /// [`InvalidOrigin`]: a file that cannot be read, or something that Ebb does not do.
    pub fn read(stated: &ClientTls, names: &[Arc<str>], inside: Inside) -> Result<Self, InvalidOrigin> {
        let field = |field, reason| Err(InvalidOrigin::Field { field, reason });
        if !stated.credential_name.is_empty() {
            return field("credentialName", "secrets are not read; name files");
        }
        if !stated.ca_crl.is_empty() {
            return field("caCrl", "revocation lists are not read");
        }
        if matches!(stated.mode, TlsMode::Disable | TlsMode::IstioMutual) {
            return field("mode", "ISTIO_MUTUAL is for endpoints in the mesh, which are reached by HBONE");
        }
        let stated_names =
            if stated.subject_alt_names.is_empty() { names } else { &stated.subject_alt_names };
        let verifier = match stated.skip_verification {
            Some(true) => Outsider { roots: None, names: Box::default() },
            _ => Outsider { roots: Some(roots(stated)?), names: stated_names.into() },
        };
        let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match stated.mode {
            TlsMode::Mutual => {
                let chain = certificates("clientCertificate", &stated.client_certificate)?;
                builder.with_client_auth_cert(chain, key(&stated.private_key)?)?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = match inside {
            Inside::Http1 => vec![ALPN_HTTP1.to_vec()],
            Inside::Http2 => vec![ALPN_HTTP2.to_vec()],
            Inside::Bytes => Vec::new(),
        };
        let sni = match &*stated.sni {
            "" => None,
            name => Some(server_name("sni", name)?),
        };
        Ok(Self { config: Arc::new(config), inside, sni })
    }

    /// Performs the handshake within `deadline`; `called` is the name that was called, which is sent unless the
    /// configuration states another.
    ///
    /// # Errors
    /// [`Refusal::TlsFailed`].
    pub async fn connect<IO>(
        &self,
        io: IO,
        called: &str,
        deadline: Duration,
    ) -> Result<ClientStream<IO>, Refusal>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |why: String| Refusal::TlsFailed(format!("TLS to {called}: {why}").into());
        let name = match &self.sni {
            Some(name) => name.clone(),
            None => server_name("sni", called).map_err(|error| failed(error.to_string()))?,
        };
        let handshake = TlsConnector::from(self.config.clone()).connect(name, io);
        let stream = match tokio::time::timeout(deadline, handshake).await {
            Ok(done) => done.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(failed(format!("no end of the handshake within {deadline:?}"))),
        };
        if self.inside == Inside::Http2 && stream.get_ref().1.alpn_protocol() != Some(ALPN_HTTP2) {
            return Err(failed("the backend did not agree on HTTP/2 (ALPN h2)".to_owned()));
        }
        Ok(stream)
    }
}

fn server_name(field: &'static str, name: &str) -> Result<ServerName<'static>, InvalidOrigin> {
    let invalid = |_| InvalidOrigin::Field { field, reason: "not a name that TLS can send" };
    ServerName::try_from(name.to_owned()).map_err(invalid)
}

fn bytes(field: &'static str, path: &Arc<str>) -> Result<Vec<u8>, InvalidOrigin> {
    let fault = |error: String| InvalidOrigin::File { field, path: path.clone(), error };
    let file = Path::new(&**path);
    // What is no file may have no end, or no beginning.
    if !std::fs::metadata(file).map_err(|error| fault(error.to_string()))?.is_file() {
        return Err(fault("not a file".to_owned()));
    }
    let (opened, mut bytes) = (File::open(file).map_err(|error| fault(error.to_string()))?, Vec::new());
    opened.take(MAX_TLS_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| fault(error.to_string()))?;
    if bytes.len() as u64 > MAX_TLS_FILE_BYTES {
        return Err(fault(format!("more than {MAX_TLS_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

fn certificates(field: &'static str, path: &Arc<str>) -> Result<Vec<CertificateDer<'static>>, InvalidOrigin> {
    let fault = |error: String| InvalidOrigin::File { field, path: path.clone(), error };
    chain(&bytes(field, path)?).map_err(fault)
}

/// The certificates of a text, one at least.
fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(none) if none.is_empty() => Err("no certificate in it".to_owned()),
        Ok(chain) => Ok(chain),
        Err(error) => Err(error.to_string()),
    }
}

fn key(path: &Arc<str>) -> Result<PrivateKeyDer<'static>, InvalidOrigin> {
    let fault = |error: String| InvalidOrigin::File { field: "privateKey", path: path.clone(), error };
    PrivateKeyDer::from_pem_slice(&bytes("privateKey", path)?).map_err(|error| fault(error.to_string()))
}

fn roots(stated: &ClientTls) -> Result<RootCertStore, InvalidOrigin> {
    let mut roots = RootCertStore::empty();
    let found = match &stated.authorities {
        Some(Authorities::Unusable(why)) => return Err(InvalidOrigin::Unusable(why.clone())),
        Some(Authorities::Pem(pem)) => {
            chain(pem.text().as_bytes()).map_err(|error| InvalidOrigin::Unusable(error.into()))?
        }
        None if matches!(&*stated.ca_certificates, "" | SYSTEM) => return of_this_machine(),
        None => certificates("caCertificates", &stated.ca_certificates)?,
    };
    for certificate in found {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn of_this_machine() -> Result<RootCertStore, InvalidOrigin> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(InvalidOrigin::Field {
            field: "caCertificates",
            reason: "this machine has no certificate authorities of its own; name a file",
        });
    }
    Ok(roots)
}

/// Judges a backend outside: its chain, and that it has one of the names.
#[derive(Debug)]
struct Outsider {
    /// `None` believes everybody, as `insecureSkipVerify` asks.
    roots: Option<RootCertStore>,
    /// DNS names, addresses and URIs; empty asks for the name that was called.
    names: Box<[Arc<str>]>,
}

impl Outsider {
    fn has_name(&self, leaf: &CertificateDer<'_>, called: &ServerName<'_>) -> Result<bool, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        if self.names.is_empty() {
            return Ok(verify_server_name(&parsed, called).is_ok());
        }
        let certificate = webpki::EndEntityCert::try_from(leaf).map_err(|error| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        })?;
        let has = |name: &Arc<str>| match ServerName::try_from(&**name) {
            Ok(name) => verify_server_name(&parsed, &name).is_ok(),
            Err(_) if name.starts_with("*.") => {
                certificate.valid_dns_names().any(|it| it.eq_ignore_ascii_case(name))
            }
            Err(_) => certificate.valid_uri_names().any(|it| it == &**name),
        };
        Ok(self.names.iter().any(has))
    }
}

impl ServerCertVerifier for Outsider {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        called: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let algorithms = PROVIDER.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        if self.has_name(leaf, called)? {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidForName))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
