//! What a certificate authority is to Ebb: it signs a request for one identity, and it says which roots to believe.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use tokio::sync::watch;

use super::validate::BadAnswer;
use crate::spiffe::Identity;
use crate::tls::TrustRoots;

/// A request for one certificate. The private key never leaves this process.
#[derive(Debug)]
pub struct SigningRequest {
    /// The workload the certificate is for; it has a live pod on this node.
    pub identity: Identity,
    /// PKCS #10 request, signed by the workload's new key, naming the identity as its only URI name.
    pub csr: CertificateSigningRequestDer<'static>,
    /// How long the certificate should live; the CA may choose less.
    pub lifetime: Duration,
}

/// Why a CA gave no usable certificate. All are tried again; they differ in whom to ask about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// The CA could not be reached or did not answer in time.
    #[error("the certificate authority does not answer: {0}")]
    Unreachable(String),
    /// The CA answered with a refusal.
    #[error("the certificate authority refused: {0}")]
    Refused(String),
    /// The CA answered with something that must not be used.
    #[error("the certificate authority gave a wrong answer: {0}")]
    BadAnswer(#[from] BadAnswer),
    /// This side could not make a key, a request, or a TLS configuration.
    #[error("no request could be made or used: {0}")]
    Local(String),
}

/// The chain a CA issued, leaf first, roots last or absent.
pub type IssueFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<CertificateDer<'static>>, CaError>> + Send + 'a>>;

/// A certificate authority. What it answers is checked by the caller (`validate`), never trusted.
pub trait CaClient: fmt::Debug + Send + Sync {
    /// Asks for one certificate. Cancelled by dropping the future; the caller has a deadline.
    fn issue<'a>(&'a self, request: &'a SigningRequest) -> IssueFuture<'a>;

    /// The roots peers are judged by, now and after each change of them.
    fn roots(&self) -> watch::Receiver<Arc<TrustRoots>>;
}
