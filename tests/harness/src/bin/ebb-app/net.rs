//! Listening, connecting, and naming what went wrong.

use std::{
    error::Error,
    future::Future,
    io::{self, ErrorKind},
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use harness::report::{Failure, FailureKind};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// Connections a listener lets wait to be accepted; the kernel caps it at `somaxconn`.
const BACKLOG: i32 = 4096;

/// Connections a server serves at a time; more wait in the backlog.
const CONNECTIONS_MAX: usize = 65_536;

/// Pause after a failed accept, so that running out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Listens on every address of both families.
pub(crate) fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM.nonblocking(), Some(Protocol::TCP))
        .context("make a socket")?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    socket.bind(&address.into()).with_context(|| format!("bind port {port}"))?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into())?)
}

/// Serves connections until the process ends, each by a task of its own.
pub(crate) async fn serve<F, T>(listener: TcpListener, mut handle: F) -> !
where
    F: FnMut(Connection) -> T,
    T: Future<Output = ()> + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            loop {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { std::future::pending().await };
                let Some(connection) = accept(&listener).await else { continue };
                let task = handle(connection);
                tokio::task::spawn_local(async move {
                    task.await;
                    drop(slot);
                });
            }
        })
        .await
}

/// An accepted connection and its two ends, with IPv4 addresses written as such.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

async fn accept(listener: &TcpListener) -> Option<Connection> {
    let accepted = listener.accept().await.and_then(|(stream, peer)| {
        stream.set_nodelay(true)?;
        let local = canonical(stream.local_addr()?);
        Ok(Connection { stream, peer: canonical(peer), local })
    });
    match accepted {
        Ok(connection) => Some(connection),
        Err(error) => {
            eprintln!("accept: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Connects with small writes sent at once.
pub(crate) async fn connect(to: SocketAddr, within: Duration) -> Result<TcpStream, Failure> {
    let stream = timed(within, TcpStream::connect(to)).await?;
    stream.set_nodelay(true).map_err(|error| failed(&error))?;
    Ok(stream)
}

/// Runs one I/O operation under a deadline.
pub(crate) async fn timed<T>(
    within: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, Failure> {
    match timeout(within, work).await {
        Ok(result) => result.map_err(|error| failed(&error)),
        Err(_) => Err(late(within)),
    }
}

/// The deadline passed.
pub(crate) fn late(within: Duration) -> Failure {
    Failure { kind: FailureKind::Timeout, detail: format!("nothing within {within:?}") }
}

/// The peer sent what it should not have.
pub(crate) fn protocol(detail: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::Protocol, detail: detail.into() }
}

/// Classifies an error by the first I/O error among its causes.
pub(crate) fn failed(error: &(dyn Error + 'static)) -> Failure {
    let mut cause = Some(error);
    let mut detail = error.to_string();
    let mut kind = FailureKind::Other;
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            kind = classify(io.kind());
            detail = io.to_string();
            break;
        }
        if current.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message) {
            kind = FailureKind::Closed;
        }
        cause = current.source();
    }
    Failure { kind, detail }
}

fn classify(kind: ErrorKind) -> FailureKind {
    match kind {
        ErrorKind::ConnectionRefused => FailureKind::Refused,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
            FailureKind::Reset
        }
        ErrorKind::UnexpectedEof => FailureKind::Closed,
        ErrorKind::TimedOut => FailureKind::Timeout,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => FailureKind::Unreachable,
        ErrorKind::InvalidData => FailureKind::Protocol,
        _ => FailureKind::Other,
    }
}

/// Closes with RST instead of FIN.
pub(crate) fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}
