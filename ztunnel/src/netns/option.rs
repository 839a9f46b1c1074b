//! The socket options that neither std nor nix nor socket2 offers as a safe function.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::libc;

/// Lets an IPv6 socket be bound to, and accept for, addresses that are not the host's. The IPv4 traffic of a
/// dual-stack socket is included.
///
/// # Errors
/// Without CAP_NET_ADMIN or CAP_NET_RAW in the namespace.
pub(super) fn set_transparent_v6(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT)
}

/// Puts off the choice of a port from bind to connect, where the same port can serve many destinations.
///
/// # Errors
/// When the kernel does not know the option.
pub(super) fn set_bind_address_no_port(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT)
}

fn set(socket: &impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the call, and the value is an int of the length given.
    let result = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const on).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
