//! The least that any mesh does: takes connections and passes their bytes on, as they are or in TLS. What it costs is the
//! limit of the machine, beside which Ebb's own figures are read.
//!
//! One thread, no policy, no logs, no metrics, no buffer of a connection's own. Its TLS is Ebb's (provider, verification,
//! nothing resumed) but for HTTP/2: each connection has a TLS connection to itself.

#![forbid(unsafe_code)]

mod carry;

use std::{convert::Infallible, io, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use common::{
    lifecycle::threads,
    net::{kill::Killed, relay, socket},
    refusal::Refusal,
    spiffe::{DEFAULT_TRUST_DOMAIN, Identity},
    tls::{self, Credentials, TrustRoots},
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
    time_provider::DefaultTimeProvider,
};
use tokio::net::{TcpListener, TcpStream};

use self::carry::{carry, carry_on};

/// Passes connections on.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    program: Program,
}

#[derive(Subcommand)]
enum Program {
    /// Plain TCP on both sides
    Tcp {
        #[command(flatten)]
        ways: Ways,
    },
    /// Plain TCP is taken, TLS goes on
    Encrypt {
        #[command(flatten)]
        own: Own,
        /// The SPIFFE id of whoever decrypts
        #[arg(long)]
        peer: String,
        #[command(flatten)]
        ways: Ways,
    },
    /// TLS is taken, TLS goes on
    Recrypt {
        #[command(flatten)]
        own: Own,
        /// The SPIFFE id of whoever comes next
        #[arg(long)]
        peer: String,
        #[command(flatten)]
        ways: Ways,
    },
    /// TLS is taken, plain TCP goes on
    Decrypt {
        #[command(flatten)]
        own: Own,
        #[command(flatten)]
        ways: Ways,
    },
}

/// What it proves itself with, and whom it believes: PEM files.
#[derive(Args)]
struct Own {
    #[arg(long)]
    chain: PathBuf,
    #[arg(long)]
    key: PathBuf,
    #[arg(long)]
    authority: PathBuf,
}

#[derive(Args)]
struct Ways {
    /// A port to listen on and where its connections go on to, such as `8080=10.0.0.2:28080`
    #[arg(required = true)]
    ways: Vec<Way>,
}

#[derive(Clone, Copy)]
struct Way {
    port: u16,
    to: SocketAddr,
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, to) = text.split_once('=').ok_or("it has no `=`")?;
        let wrong = |part: &str| format!("{part} is no port or no address");
        Ok(Self { port: port.parse().map_err(|_| wrong(port))?, to: to.parse().map_err(|_| wrong(to))? })
    }
}

/// What is done with a connection on its way.
#[derive(Clone)]
enum Kind {
    Tcp,
    Encrypt(tls::Client, Identity),
    Recrypt(Arc<rustls::ServerConfig>, tls::Client, Identity),
    Decrypt(Arc<rustls::ServerConfig>),
}

fn main() -> Result<Infallible> {
    let (kind, Ways { ways }) = match Arguments::parse().program {
        Program::Tcp { ways } => (Kind::Tcp, ways),
        Program::Encrypt { own, peer, ways } => {
            (Kind::Encrypt(own.credentials()?.client()?, identity(&peer)?), ways)
        }
        Program::Recrypt { own, peer, ways } => {
            let own = own.credentials()?;
            (Kind::Recrypt(own.server()?, own.client()?, identity(&peer)?), ways)
        }
        Program::Decrypt { own, ways } => (Kind::Decrypt(own.credentials()?.server()?), ways),
    };
    threads::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for way in ways {
            let listener = TcpListener::bind(("0.0.0.0", way.port)).await.context("listen")?;
            socket::tune(&listener)?;
            tokio::spawn(serve(listener, way.to, kind.clone()));
        }
        std::future::pending().await
    })
}

fn identity(text: &str) -> Result<Identity> {
    Identity::parse(text).with_context(|| format!("{text} is no SPIFFE id"))
}

impl Own {
    fn credentials(&self) -> Result<Credentials> {
        let chain = CertificateDer::pem_file_iter(&self.chain)?.collect::<Result<Vec<_>, _>>()?;
        let key = tls::provider().key_provider.load_private_key(PrivateKeyDer::from_pem_file(&self.key)?)?;
        let roots = CertificateDer::pem_file_iter(&self.authority)?.collect::<Result<Vec<_>, _>>()?;
        Ok(Credentials {
            certified: Arc::new(CertifiedKey::new(chain, key)),
            roots: Arc::new(TrustRoots::new(roots)?),
            trust_domain: DEFAULT_TRUST_DOMAIN.into(),
            clock: Arc::new(DefaultTimeProvider),
        })
    }
}

async fn serve(listener: TcpListener, to: SocketAddr, kind: Kind) {
    loop {
        // What fails is a connection of the load generator's, which tells of it; so it is with how connections end.
        let Ok((near, _)) = listener.accept().await else { continue };
        match &kind {
            Kind::Tcp => tokio::spawn(pass(near, to)),
            Kind::Encrypt(client, peer) => tokio::spawn(encrypt(near, to, client.clone(), peer.clone())),
            Kind::Recrypt(server, client, peer) => {
                tokio::spawn(recrypt(near, to, server.clone(), client.clone(), peer.clone()))
            }
            Kind::Decrypt(server) => tokio::spawn(decrypt(near, to, server.clone())),
        };
    }
}

async fn pass(near: TcpStream, to: SocketAddr) -> io::Result<()> {
    relay::relay(near, dial(to).await?, &(), &Killed::never()).await;
    Ok(())
}

async fn encrypt(near: TcpStream, to: SocketAddr, client: tls::Client, peer: Identity) -> io::Result<()> {
    let far = dial(to).await?;
    // In a box, here and below, so that an idle connection does not keep the room that its handshake took.
    let far = Box::pin(tls::connect(far, &client, &peer, tls::CONNECT_DEADLINE)).await;
    carry(near, far.map_err(refused)?).await
}

async fn recrypt(
    near: TcpStream,
    to: SocketAddr,
    server: Arc<rustls::ServerConfig>,
    client: tls::Client,
    peer: Identity,
) -> io::Result<()> {
    let near = Box::pin(tls::accept(near, server, tls::ACCEPT_DEADLINE)).await.map_err(refused)?;
    let far = dial(to).await?;
    let far = Box::pin(tls::connect(far, &client, &peer, tls::CONNECT_DEADLINE)).await;
    carry_on(near.stream, far.map_err(refused)?).await
}

async fn decrypt(near: TcpStream, to: SocketAddr, server: Arc<rustls::ServerConfig>) -> io::Result<()> {
    let near = Box::pin(tls::accept(near, server, tls::ACCEPT_DEADLINE)).await.map_err(refused)?;
    carry(dial(to).await?, near.stream).await
}

async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let far = TcpStream::connect(to).await?;
    socket::tune(&far)?;
    Ok(far)
}

fn refused(refusal: Refusal) -> io::Error {
    io::Error::other(refusal.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_a_port_and_an_address() {
        let way: Way = "8080=10.0.0.2:28080".parse().unwrap();
        assert_eq!((way.port, way.to), (8080, ([10, 0, 0, 2], 28080).into()));
        for text in ["8080", "8080=10.0.0.2", "x=10.0.0.2:1", "70000=10.0.0.2:1", ""] {
            assert!(text.parse::<Way>().is_err(), "{text}");
        }
    }
}
