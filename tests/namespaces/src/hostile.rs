//! An HBONE client that keeps no rule: a certificate of its choice, and HTTP/2 frames byte by byte.
//!
//! No HTTP library would send most of what it sends. It reads as much of HTTP/2 as it must: of an answer the status,
//! which always comes first (RFC 9113, 8.3), with the dynamic table switched off.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use harness::netns::Namespace;
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use time::OffsetDateTime;

use crate::peer::SOON;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest frame every HTTP/2 peer takes.
pub(crate) const FRAME_MAX: usize = 16_384;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// ACK of SETTINGS and PING.
const ACK: u8 = 1;
/// END_HEADERS.
const END_HEADERS: u8 = 4;

/// The certificate authority of a run in the hands of an attacker: it signs any name.
pub struct Forger {
    issuer: Issuer<'static, KeyPair>,
}

impl Forger {
    /// Takes the root from the directory that the proxies of the run share.
    ///
    /// # Errors
    /// There is none yet.
    pub fn of(run: &Path) -> Result<Self> {
        let read =
            |name| fs::read_to_string(run.join("ca").join(name)).with_context(|| format!("read {name}"));
        let key = KeyPair::from_pem(&read("root-key.pem")?)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&read("root-cert.pem")?, key)? })
    }

    /// A client that proves to be each of `names`, which are the URIs in its certificate.
    ///
    /// # Errors
    /// A name is no URI at all.
    pub fn client(&self, names: &[&str]) -> Result<Arc<ClientConfig>> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let now = OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::minutes(1);
        params.not_after = now + time::Duration::hours(1);
        for name in names {
            params.subject_alt_names.push(SanType::URI((*name).to_owned().try_into()?));
        }
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
            .with_client_auth_cert(vec![certificate.der().clone()], secret)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Believes any certificate: the attacker does not mind whom it talks to.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An HTTP status.
    Status(u16),
    /// RST_STREAM.
    Reset,
    /// The whole connection ended.
    Closed,
}

/// A tunnel connection of a hostile client.
pub struct Tunnel {
    tls: StreamOwned<ClientConnection, TcpStream>,
    stream: u32,
}

impl Tunnel {
    /// Connects from `namespace` to a pod's tunnel port and sends what opens an HTTP/2 connection.
    ///
    /// # Errors
    /// The connection or the handshake failed.
    pub fn open(namespace: &Namespace, to: SocketAddr, client: &Arc<ClientConfig>) -> Result<Self> {
        let socket = namespace.connect(to, SOON)?;
        socket.set_read_timeout(Some(SOON))?;
        socket.set_nodelay(true)?;
        let name = ServerName::IpAddress(to.ip().into());
        let connection = ClientConnection::new(Arc::clone(client), name)?;
        let mut tunnel = Self { tls: StreamOwned::new(connection, socket), stream: 1 };
        tunnel.tls.write_all(PREFACE)?;
        // SETTINGS_HEADER_TABLE_SIZE = 0.
        tunnel.frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0])?;
        // Waits for the server's SETTINGS, so that a refused certificate is seen here.
        let (kind, ..) = tunnel.read_frame().context("the first frame of the server")?;
        ensure!(kind == SETTINGS, "the server began with a frame of type {kind}");
        tunnel.frame(SETTINGS, ACK, 0, &[])?;
        Ok(tunnel)
    }

    /// Opens a stream with CONNECT for `authority`, which may be any bytes.
    ///
    /// # Errors
    /// None that the protocol knows: the end of the connection is an [`Answer`].
    pub fn connect(&mut self, authority: &[u8]) -> Result<Answer> {
        self.ask(&[(":method", b"CONNECT"), (":authority", authority)])
    }

    /// Opens a stream with exactly these fields and waits for what becomes of it. It stays open on our side only when
    /// the answer is 200.
    ///
    /// # Errors
    /// The server says what nobody would understand.
    pub fn ask(&mut self, fields: &[(&str, &[u8])]) -> Result<Answer> {
        let stream = self.stream;
        self.stream += 2;
        let sent = self.send_fields(stream, fields);
        if sent.is_err() {
            return Ok(Answer::Closed);
        }
        let answer = self.answer(stream)?;
        if !matches!(answer, Answer::Status(200) | Answer::Closed) {
            // CANCEL: our half is still open.
            let _ = self.frame(RESET, 0, stream, &8_u32.to_be_bytes());
        }
        Ok(answer)
    }

    /// Sends `bytes` on the stream last opened.
    ///
    /// # Errors
    /// The connection ended.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let stream = self.stream - 2;
        bytes.chunks(FRAME_MAX).try_for_each(|chunk| self.frame(DATA, 0, stream, chunk))
    }

    /// The next bytes that come on any stream.
    ///
    /// # Errors
    /// The connection ended first.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        loop {
            let (kind, flags, _, payload) = self.read_frame()?;
            match kind {
                DATA if !payload.is_empty() => return Ok(payload),
                SETTINGS | PING if flags & ACK == 0 => self.acknowledge(kind, &payload)?,
                RESET | GOAWAY => bail!("the server ended the stream"),
                _ => {}
            }
        }
    }

    fn send_fields(&mut self, stream: u32, fields: &[(&str, &[u8])]) -> Result<()> {
        let mut block = Vec::new();
        for (name, value) in fields {
            // Literal, not indexed, new name (RFC 7541, 6.2.2).
            block.push(0);
            string(&mut block, name.as_bytes());
            string(&mut block, value);
        }
        let count = block.chunks(FRAME_MAX).count();
        for (at, part) in block.chunks(FRAME_MAX).enumerate() {
            let kind = if at == 0 { HEADERS } else { CONTINUATION };
            let flags = if at + 1 == count { END_HEADERS } else { 0 };
            self.frame(kind, flags, stream, part)?;
        }
        Ok(())
    }

    fn answer(&mut self, stream: u32) -> Result<Answer> {
        loop {
            let Ok((kind, flags, of, payload)) = self.read_frame() else { return Ok(Answer::Closed) };
            match kind {
                HEADERS if of == stream => return Ok(Answer::Status(status(&payload)?)),
                RESET if of == stream => return Ok(Answer::Reset),
                GOAWAY => return Ok(Answer::Closed),
                SETTINGS | PING if flags & ACK == 0 => self.acknowledge(kind, &payload)?,
                _ => {}
            }
        }
    }

    fn acknowledge(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        self.frame(kind, ACK, 0, if kind == PING { payload } else { &[] })
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        let length = u32::try_from(payload.len())?.to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.tls.write_all(&frame)?;
        Ok(self.tls.flush()?)
    }

    fn read_frame(&mut self) -> Result<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.tls.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        ensure!(length <= 1 << 24, "a frame of {length} bytes");
        let mut payload = vec![0; length as usize];
        self.tls.read_exact(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Ok((head[3], head[4], stream, payload))
    }
}

/// A string of HPACK without Huffman coding (RFC 7541, 5.2).
pub(crate) fn string(block: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push((length % 128) as u8 | 128);
            length /= 128;
        }
        block.push(length as u8);
    }
    block.extend_from_slice(text);
}

/// The status of a header block, which is its first field.
pub(crate) fn status(block: &[u8]) -> Result<u16> {
    // The server may first acknowledge the table size (RFC 7541, 6.3).
    let block = match block {
        [update, rest @ ..] if update >> 5 == 1 => rest,
        _ => block,
    };
    match block {
        [indexed @ 0x88..=0x8e, ..] => Ok([200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)]),
        // A literal whose name is an entry of the static table for `:status`, in any of the three representations.
        [0x08 | 0x18 | 0x48, length, rest @ ..] => {
            let value = rest.get(..usize::from(length & 0x7f)).context("a cut header block")?;
            let digits = if length & 0x80 == 0 { value.to_vec() } else { huffman_digits(value) };
            Ok(std::str::from_utf8(&digits)?.parse()?)
        }
        _ => bail!("a header block that begins with {:x?}", &block[..block.len().min(8)]),
    }
}

/// Three digits in HPACK's Huffman code: 0 to 2 are five bits, 3 to 9 are six (RFC 7541, appendix B).
fn huffman_digits(bytes: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0, |number, bit| number * 2 + bit);
    let (mut digits, mut at) = (Vec::new(), 0);
    while digits.len() < 3 {
        let Some(five) = bits.get(at..at + 5).map(number) else { break };
        if five < 3 {
            digits.push(b'0' + five);
            at += 5;
        } else {
            let Some(six) = bits.get(at..at + 6).map(number) else { break };
            digits.push(b'0' + six.wrapping_sub(22));
            at += 6;
        }
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_every_way_they_are_written() {
        assert_eq!(status(&[0x88]).unwrap(), 200);
        assert_eq!(status(&[0x20, 0x8c]).unwrap(), 400);
        assert_eq!(status(&[0x08, 3, b'5', b'0', b'3', 0]).unwrap(), 503);
        // 401 is 011010 00000 00001, 503 is 011011 00000 011001, padded with ones.
        assert_eq!(status(&[0x48, 0x82, 0b0110_1000, 0b0000_0001]).unwrap(), 401);
        assert_eq!(status(&[0x48, 0x83, 0b0110_1100, 0b0000_1100, 0b1111_1111]).unwrap(), 503);
        assert!(status(&[0x82]).is_err());
    }
}
