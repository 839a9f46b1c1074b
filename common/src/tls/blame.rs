//! Words for a failed handshake: what happened, whose fault it is, and the likely fix when there is one.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::peer::PeerCertificateError;

/// Which end of the handshake we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The peer dialled us.
    Server,
    /// We dialled the peer.
    Client,
}

impl Side {
    fn peer(self) -> &'static str {
        match self {
            Self::Server => "the caller",
            Self::Client => "the peer",
        }
    }
}

/// One sentence on a handshake that ended with `error`.
pub(super) fn explain(error: &io::Error, side: Side) -> String {
    let peer = side.peer();
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => explain_tls(error, peer),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            format!("{peer} closed the connection during the handshake")
        }
        None => format!("the connection to {peer} broke during the handshake: {error}"),
    }
}

/// One sentence on a handshake that did not end.
pub(super) fn too_slow(deadline: Duration, side: Side) -> String {
    format!("{} did not complete the handshake within {} ms", side.peer(), deadline.as_millis())
}

fn explain_tls(error: &Error, peer: &str) -> String {
    match error {
        Error::NoCertificatesPresented => {
            format!("{peer} is not accepted: {}", PeerCertificateError::Missing)
        }
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            format!("{peer} is not accepted: {}", other.0)
        }
        Error::InvalidCertificate(error) => format!("the certificate of {peer} is not accepted: {error}"),
        Error::AlertReceived(alert) if is_about_our_certificate(*alert) => format!(
            "{peer} refused our certificate (alert {alert:?}); does it know our root, and are both clocks right?"
        ),
        Error::AlertReceived(alert) => format!("{peer} gave up the handshake (alert {alert:?})"),
        Error::NoApplicationProtocol => {
            format!("{peer} does not offer HTTP/2 (ALPN h2); is it an HBONE proxy?")
        }
        Error::PeerIncompatible(what) => {
            format!("{peer} offers no TLS 1.3 with the ciphers and key exchanges Ebb allows ({what:?})")
        }
        Error::PeerMisbehaved(what) => format!("{peer} violates the TLS protocol ({what:?})"),
        Error::InvalidMessage(
            InvalidMessage::HandshakePayloadTooLarge
            | InvalidMessage::CertificatePayloadTooLarge
            | InvalidMessage::MessageTooLarge,
        ) => format!("{peer} sent a handshake message too large to be read; is its certificate chain?"),
        Error::InvalidMessage(what) => format!("{peer} does not speak TLS ({what:?})"),
        Error::FailedToGetCurrentTime => "this node's clock cannot be read".to_owned(),
        other => format!("the handshake with {peer} failed: {other}"),
    }
}

fn is_about_our_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::NoCertificate
    )
}
