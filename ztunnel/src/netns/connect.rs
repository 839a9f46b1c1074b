//! Connections that ztunnel opens from inside a pod.
//!
//! Knows neither why nor whether: policy has been asked before. The surprising part is the port chosen for a
//! connection in a client's name: now and then it is the very one that client uses towards ztunnel, and the two
//! could not be told apart. The kernel program on `lo` drops such a SYN; [`dial`] notices and tries another.

use std::{
    io,
    net::{SocketAddr, TcpStream as StdTcpStream},
    time::Duration,
};

use ebb_abi::ZTUNNEL_MARK;
use nix::libc;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::{Netns, listen::canonical, option, sockets};

/// Ports tried for one connection in a client's name.
const ATTEMPTS: usize = 4;
/// How long a connection within the pod may take before the port is suspected. Answers there come in
/// microseconds unless the application's backlog is full.
const SUSPICION: Duration = Duration::from_millis(100);

/// Opens a nonblocking socket in the pod, marked as ztunnel's and without Nagle's delay, bound to `from` when
/// given (port 0 leaves the port to the kernel) even if that is another host's address. Not yet connected.
///
/// # Errors
/// When the namespace cannot be entered, the socket cannot be opened, or `from` is of another family than `to`.
pub fn socket(netns: &Netns, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpSocket> {
    let socket = prepared(netns, to, from)?;
    Ok(TcpSocket::from_std_stream(StdTcpStream::from(socket)))
}

/// Connects from inside the pod to `to`, from the address `from` when given, and with a port that does not
/// disturb any connection of the pod.
///
/// Has no deadline of its own: drop the future to give up. Needs a tokio runtime.
///
/// # Errors
/// As for [`socket`], and whatever connecting brings.
pub async fn dial(netns: &Netns, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    for _ in 1..ATTEMPTS {
        let stream = start(netns, to, from)?;
        if tokio::time::timeout(SUSPICION, stream.writable()).await.is_err() {
            if from.is_some() && collides(netns, to, &stream)? {
                continue;
            }
            stream.writable().await?;
        }
        return finish(stream);
    }
    let stream = start(netns, to, from)?;
    stream.writable().await?;
    finish(stream)
}

/// Begins to connect; the first SYN is out when this returns.
fn start(netns: &Netns, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = prepared(netns, to, from)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => TcpStream::from_std(socket.into()),
    }
}

fn finish(stream: TcpStream) -> io::Result<TcpStream> {
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// Whether the pod has a connection with these ends the other way round.
fn collides(netns: &Netns, to: SocketAddr, stream: &TcpStream) -> io::Result<bool> {
    let own = canonical(stream.local_addr()?);
    Ok(sockets::find(netns, canonical(to), own)?.is_some())
}

fn prepared(netns: &Netns, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<Socket> {
    if from.is_some_and(|from| from.is_ipv4() != to.is_ipv4()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "source and destination are of different families",
        ));
    }
    netns.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
        socket.set_mark(ZTUNNEL_MARK)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(from) = from {
            if to.is_ipv4() {
                socket.set_ip_transparent_v4(true)?;
            } else {
                option::set_transparent_v6(&socket)?;
            }
            socket.set_reuse_address(true)?;
            option::set_bind_address_no_port(&socket)?;
            socket.bind(&from.into())?;
        }
        Ok(socket)
    })?
}
