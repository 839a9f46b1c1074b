//! Connections carried by a tunnel whose both proxies are here: a client's and an application's sockets on loopback, and
//! between the proxies TLS in memory.
//!
//! Without routes, policies, metrics and logs, which are counted by themselves. What is written at once is what is waited
//! for, so that every run reads and writes in the same pieces.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Result, ensure};
use common::certs::CertStore;
use common::hbone::pool::Pool;
use common::hbone::request::{Authority, Connect};
use common::hbone::server::Incoming;
use common::hbone::{Budget, limits, relay};
use common::net::kill::Killed;
use common::net::socket;
use common::spiffe::Identity;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::counted::{Units, counted_work};
use crate::tls::{Near, authority, certificate, ends, key};

const REQUEST_BYTES: usize = 120;
const ANSWER_BYTES: usize = 250;
const MEGABYTE: usize = 1024 * 1024;
/// What a sender of bulk writes before it waits for the other end to have it: less than any socket buffer or window holds.
const LOT_BYTES: usize = 64 * 1024;

/// What a client asks of the application, by the first byte it sends.
const ANSWER_EACH: u8 = b'r';
const TAKE_ALL: u8 = b'u';
const SEND_ALL: u8 = b'd';

/// A connection, a request on it, the answer, and its end.
pub(crate) fn connection(units: Units) -> Result<()> {
    let world = World::new()?;
    let one = async |connections: usize| {
        for _ in 0..connections {
            let mut socket = world.client().await?;
            requests(&mut socket, 1).await?;
            socket.shutdown().await?;
            ensure!(socket.read(&mut [0]).await? == 0, "the connection ends");
        }
        Ok(())
    };
    world.runtime.block_on(one(units.warm_up))?;
    counted_work(|| world.runtime.block_on(one(units.counted)))
}

/// A small request and its answer on a connection that is open.
pub(crate) fn request(units: Units) -> Result<()> {
    let world = World::new()?;
    let mut socket = world.runtime.block_on(world.client())?;
    world.runtime.block_on(requests(&mut socket, units.warm_up))?;
    counted_work(|| world.runtime.block_on(requests(&mut socket, units.counted)))
}

/// A megabyte from the client to the application.
pub(crate) fn megabyte_up(units: Units) -> Result<()> {
    bulk(units, TAKE_ALL)
}

/// A megabyte from the application to the client.
pub(crate) fn megabyte_down(units: Units) -> Result<()> {
    bulk(units, SEND_ALL)
}

fn bulk(units: Units, way: u8) -> Result<()> {
    let world = World::new()?;
    let mut socket = world.runtime.block_on(world.client())?;
    let mut buffer = vec![way; LOT_BYTES];
    let mut megabytes = async |megabytes: usize| {
        for _ in 0..megabytes * MEGABYTE / LOT_BYTES {
            if way == TAKE_ALL {
                socket.write_all(&buffer).await?;
                socket.read_exact(&mut [0]).await?;
            } else {
                socket.write_all(&[way]).await?;
                socket.read_exact(&mut buffer).await?;
            }
        }
        Ok(())
    };
    world.runtime.block_on(megabytes(units.warm_up))?;
    counted_work(|| world.runtime.block_on(megabytes(units.counted)))
}

async fn requests(socket: &mut TcpStream, requests: usize) -> Result<()> {
    let (request, mut answer) = ([ANSWER_EACH; REQUEST_BYTES], [0; ANSWER_BYTES]);
    for _ in 0..requests {
        socket.write_all(&request).await?;
        socket.read_exact(&mut answer).await?;
    }
    Ok(())
}

/// Both proxies, the application, and the runtime that all of them share.
struct World {
    runtime: Runtime,
    entry: SocketAddr,
    _certificates: tempfile::TempDir,
}

impl World {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let certificates = tempfile::tempdir()?;
        let entry = runtime.block_on(proxies(certificates.path()))?;
        Ok(Self { runtime, entry, _certificates: certificates })
    }

    async fn client(&self) -> Result<TcpStream> {
        let socket = TcpStream::connect(self.entry).await?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

/// Begins everything; the address that clients connect to.
async fn proxies(folder: &std::path::Path) -> Result<SocketAddr> {
    let certs = authority(folder)?;
    let (caller, called) =
        (Identity::new("cluster.local", "shop", "caller"), Identity::new("cluster.local", "shop", "web"));
    let (near, far) = ends(&certificate(&certs, &caller).await?, &certificate(&certs, &called).await?);
    far.serve(|_, incoming| drop(tokio::spawn(inbound(incoming))));
    let application = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let connect = Connect::to(Authority::address(application.local_addr()?)?);
    tokio::spawn(serve(application));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let entry = listener.local_addr()?;
    let pool = Pool::new(limits::IDLE_RELEASE, Budget::new(limits::HELD_BYTES_PER_WORKER));
    let key = key("caller", &caller, &called, SocketAddr::from(([10, 0, 0, 1], 15008)));
    let outbound = Arc::new(Outbound { pool, key, near, connect, _certs: certs });
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let outbound = outbound.clone();
            tokio::spawn(async move { outbound.carry(socket).await });
        }
    });
    Ok(entry)
}

/// The proxy on the client's side.
struct Outbound {
    pool: Pool,
    key: Arc<common::hbone::pool::Key>,
    near: Near,
    connect: Connect,
    _certs: CertStore,
}

impl Outbound {
    async fn carry(&self, socket: TcpStream) {
        if socket::tune(&socket).is_err() {
            return;
        }
        match self.pool.open(&self.key, &self.connect, || self.near.dial()).await {
            Ok(stream) => drop(relay::relay(socket, stream, &(), &Killed::never()).await),
            Err(refusal) => eprintln!("{refusal}"),
        }
    }
}

/// The proxy on the application's side.
async fn inbound(incoming: Incoming) {
    let Authority::Address(to) = incoming.request.authority else { return };
    let Ok(socket) = TcpStream::connect(to).await else { return };
    if let (Ok(()), Ok(stream)) = (socket::tune(&socket), incoming.accept(None)) {
        relay::relay(socket, stream, &(), &Killed::never()).await;
    }
}

/// The application.
async fn serve(listener: TcpListener) {
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(async move {
            // It ends when the client goes away, which is what ends most of them.
            let _ = converse(socket).await;
        });
    }
}

async fn converse(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = vec![b'x'; LOT_BYTES];
    let mut kind = [0];
    while socket.read_exact(&mut kind).await.is_ok() {
        match kind[0] {
            ANSWER_EACH => {
                socket.read_exact(&mut buffer[..REQUEST_BYTES - 1]).await?;
                socket.write_all(&buffer[..ANSWER_BYTES]).await?;
            }
            TAKE_ALL => {
                socket.read_exact(&mut buffer[..LOT_BYTES - 1]).await?;
                socket.write_all(b"t").await?;
            }
            _ => socket.write_all(&buffer).await?,
        }
    }
    Ok(())
}
