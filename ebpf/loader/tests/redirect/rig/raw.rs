//! Frames on the wire, past the kernel's own TCP.

use std::{
    io,
    mem::zeroed,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nix::libc;

use super::Namespace;

const ETH_P_ALL: u16 = 3;

/// A packet socket on one interface.
pub(crate) struct Raw(OwnedFd);

impl Raw {
    pub(crate) fn open(namespace: &Namespace, interface: &str) -> Self {
        let opened = namespace.inside(|| {
            let index = nix::net::if_::if_nametoindex(interface)? as i32;
            let protocol = ETH_P_ALL.to_be();
            // SAFETY: plain system calls; the address is a sockaddr_ll of the length given.
            unsafe {
                let fd =
                    libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, i32::from(protocol));
                if fd < 0 {
                    return Err(io::Error::last_os_error());
                }
                let socket = OwnedFd::from_raw_fd(fd);
                let mut address: libc::sockaddr_ll = zeroed();
                address.sll_family = libc::AF_PACKET as u16;
                address.sll_protocol = protocol;
                address.sll_ifindex = index;
                let length = size_of::<libc::sockaddr_ll>() as u32;
                match libc::bind(fd, (&raw const address).cast(), length) {
                    0 => Ok(Self(socket)),
                    _ => Err(io::Error::last_os_error()),
                }
            }
        });
        opened.expect("packet socket")
    }

    /// Sends a frame; one that the programs drop on its way out is no failure.
    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is valid for the length given.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            let error = io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS), "send: {error}");
        }
    }

    /// Every frame that comes by until `time` has passed.
    pub(crate) fn receive_for(&self, time: Duration) -> Vec<Vec<u8>> {
        let until = Instant::now() + time;
        let mut frames = Vec::new();
        while Instant::now() < until {
            let mut frame = vec![0; 4096];
            // SAFETY: the buffer is valid for the length given.
            let received =
                unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
            match usize::try_from(received) {
                Ok(length) => {
                    frame.truncate(length);
                    frames.push(frame);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        frames
    }
}

/// The hardware address of an interface.
pub(crate) fn mac(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let shown = namespace.run(&format!("ip -o link show {interface}"));
    let text =
        shown.split("link/ether ").nth(1).expect("address").split_whitespace().next().expect("address");
    let mut mac = [0; 6];
    for (byte, part) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(part, 16).expect("hex");
    }
    mac
}
