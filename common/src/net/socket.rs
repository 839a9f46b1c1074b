//! What Ebb does to a TCP socket besides reading and writing: options, half-close, reset.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Silence after which the kernel starts to probe a peer (Istio ztunnel's default).
pub const TCP_KEEPALIVE_TIME: Duration = Duration::from_secs(180);
/// Time between probes.
pub const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(180);
/// Unanswered probes after which the connection is dead.
pub const TCP_KEEPALIVE_PROBES: u32 = 9;

/// Sets what every proxied connection wants: no Nagle delay, and keepalive probes. Set on a listener, accepted
/// connections inherit it, which saves five system calls each.
///
/// # Errors
/// The socket's error, when it is closed already.
pub fn tune(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_nodelay(true)?;
    keep_alive(socket)
}

/// Sets keepalive probes alone. Not for connections within a pod: one kernel holds both ends of them.
///
/// # Errors
/// The socket's error, when it is closed already.
pub fn keep_alive(socket: &impl AsFd) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE_TIME)
        .with_interval(TCP_KEEPALIVE_INTERVAL)
        .with_retries(TCP_KEEPALIVE_PROBES);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// Sends FIN: the peer reads the end of the stream and may go on writing.
///
/// # Errors
/// `NotConnected` when the peer has reset the connection meanwhile.
pub fn finish_writing(socket: &TcpStream) -> io::Result<()> {
    SockRef::from(socket).shutdown(Shutdown::Write)
}

/// Closes with RST, so that the application sees a failure where a FIN would look like a complete answer.
pub fn reset(socket: TcpStream) {
    // On an error the socket is dead already, and closing it is all that is left.
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    drop(socket);
}
