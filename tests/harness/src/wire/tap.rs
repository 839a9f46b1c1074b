//! One packet socket and the thread that writes what it sees to a pcap file.
//!
//! The kernel counts what it had to drop (SO_RXQ_OVFL) and says so with the next packet. A barrier packet, sent over the
//! wire and seen by the tap, therefore proves two things: all before it is in the file, and whether anything was lost.

use std::{
    collections::BTreeSet,
    io::IoSliceMut,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    cmsg_space,
    errno::Errno,
    ifaddrs::getifaddrs,
    net::if_::if_nametoindex,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind,
        recvmsg, setsockopt, socket, sockopt,
    },
};

use super::{
    packet::{Packet, Transport},
    pcap::{PACKET_MAX, Writer},
};
use crate::netns::Namespace;

/// What the kernel may hold for the tap while its thread is busy, in bytes.
pub(super) const BUFFER: usize = 64 * 1024 * 1024;

/// Longest capture file, in bytes. A longer capture is an error of the test, which should have looked earlier.
const FILE_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Port of barrier packets: discard.
pub(super) const BARRIER_PORT: u16 = 9;

/// What barrier packets carry before their number.
const BARRIER: &[u8] = b"ebb-barrier-";

/// How long a barrier packet may take to be seen.
const BARRIER_WAIT: Duration = Duration::from_secs(5);

/// `sll_pkttype` of what the namespace itself sends.
const OUTGOING: u8 = 4;

/// What a tap listens to.
#[derive(Debug)]
pub(super) enum Scope {
    /// Both directions of one interface.
    Interface(&'static str),
    /// What comes in by any port of the bridge: each packet once, however many ports it leaves by.
    Bridge(&'static str),
}

/// A running tap.
#[derive(Debug)]
pub(super) struct Tap {
    file: PathBuf,
    shared: Arc<Shared>,
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Length of the part of the file that readers may read.
    readable: u64,
    barriers: BTreeSet<u64>,
    lost: u32,
    failure: Option<String>,
}

impl Tap {
    pub(super) fn start(namespace: &Namespace, scope: Scope, buffer: usize, file: &Path) -> Result<Self> {
        let (socket, wanted) = namespace.within(|| open(&scope, buffer)).context("open a packet socket")?;
        let writer = Writer::create(file)?;
        let (stop, stopped) = UnixStream::pair()?;
        let shared = Arc::new(Shared::default());
        let reader = Reader { socket, wanted, writer, shared: Arc::clone(&shared), stopped };
        let thread = thread::Builder::new().name("tap".into()).spawn(move || reader.run())?;
        Ok(Self { file: file.to_owned(), shared, stop, thread: Some(thread) })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Waits for a barrier packet and returns how much of the file may then be read.
    pub(super) fn wait_for(&self, barrier: u64) -> Result<u64> {
        let waiting = |state: &mut State| state.failure.is_none() && !state.barriers.contains(&barrier);
        let changed = self.shared.changed.wait_timeout_while(self.shared.state(), BARRIER_WAIT, waiting);
        let (state, timeout) = changed.unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = &state.failure {
            bail!("the capture broke off: {failure}");
        }
        ensure!(
            !timeout.timed_out(),
            "a barrier packet was not seen on the wire within {BARRIER_WAIT:?}; is it cut?"
        );
        ensure!(state.lost == 0, "the capture lost {} packets, so it proves nothing", state.lost);
        Ok(state.readable)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // The reader sees the end of the stream and returns.
        let _ = self.stop.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The payload that makes a packet a barrier.
pub(super) fn barrier_payload(number: u64) -> Vec<u8> {
    [BARRIER, number.to_string().as_bytes()].concat()
}

/// Which packets of the socket count.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Interface(usize),
    Incoming { except: usize },
}

fn open(scope: &Scope, buffer: usize) -> Result<(OwnedFd, Wanted)> {
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::EthAll,
    )?;
    setsockopt(&socket, sockopt::RcvBufForce, &buffer)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    let wanted = match scope {
        Scope::Interface(name) => {
            // Spares the copies of other interfaces' packets; those already queued are told apart by their index.
            let link = link_address(name)?;
            bind(socket.as_raw_fd(), &link).context("bind to the interface")?;
            Wanted::Interface(link.ifindex())
        }
        Scope::Bridge(name) => Wanted::Incoming { except: if_nametoindex(*name)? as usize },
    };
    Ok((socket, wanted))
}

fn link_address(name: &str) -> Result<LinkAddr> {
    let mut links =
        getifaddrs()?.filter(|entry| entry.interface_name == name).filter_map(|entry| entry.address);
    links.find_map(|address| address.as_link_addr().copied()).with_context(|| format!("no interface {name}"))
}

struct Reader {
    socket: OwnedFd,
    wanted: Wanted,
    writer: Writer,
    shared: Arc<Shared>,
    stopped: UnixStream,
}

impl Reader {
    fn run(mut self) {
        if let Err(error) = self.read_until_stopped() {
            self.shared.state().failure = Some(format!("{error:#}"));
            self.shared.changed.notify_all();
        }
        // What was caught goes to the file in any case, for whoever looks at it after a failed test.
        let _ = self.writer.flush();
    }

    fn read_until_stopped(&mut self) -> Result<()> {
        let mut buffer = vec![0; PACKET_MAX];
        loop {
            let mut sources = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut sources, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.context("poll")?,
            };
            if sources[1].any().unwrap_or(true) {
                return Ok(());
            }
            while self.read_one(&mut buffer)? {}
        }
    }

    /// Takes one packet; false when there is none.
    fn read_one(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut control = cmsg_space!(u32);
        let received = {
            let mut parts = [IoSliceMut::new(buffer)];
            match recvmsg::<LinkAddr>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::MSG_TRUNC,
            ) {
                Ok(message) => {
                    for part in message.cmsgs().context("drop counter")? {
                        if let ControlMessageOwned::RxqOvfl(lost) = part {
                            self.shared.state().lost = lost;
                        }
                    }
                    message.address.map(|address| (address, message.bytes))
                }
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EINTR) => return Ok(true),
                // The interface is down: there is nothing to see, and it may come back.
                Err(Errno::ENETDOWN) => return Ok(true),
                Err(errno) => bail!("receive: {}", std::io::Error::from(errno)),
            }
        };
        if let Some((address, length)) = received
            && self.wanted.holds(&address)
        {
            self.keep(&buffer[..length.min(PACKET_MAX)], length)?;
        }
        Ok(true)
    }

    fn keep(&mut self, frame: &[u8], length: usize) -> Result<()> {
        ensure!(length <= PACKET_MAX, "a packet of {length} bytes");
        ensure!(self.writer.written() < FILE_MAX, "more than {FILE_MAX} bytes");
        self.writer.add(frame, length)?;
        let Some(number) = barrier_number(frame) else { return Ok(()) };
        let readable = self.writer.flush()?;
        let mut state = self.shared.state();
        state.readable = readable;
        state.barriers.insert(number);
        self.shared.changed.notify_all();
        Ok(())
    }
}

impl Wanted {
    fn holds(self, address: &LinkAddr) -> bool {
        match self {
            Self::Interface(index) => address.ifindex() == index,
            Self::Incoming { except } => address.pkttype() != OUTGOING && address.ifindex() != except,
        }
    }
}

fn barrier_number(frame: &[u8]) -> Option<u64> {
    let packet = Packet::parse(frame)?;
    let to_barrier = packet.transport == Transport::Udp && packet.destination.port() == BARRIER_PORT;
    let number = packet.payload.strip_prefix(BARRIER).filter(|_| to_barrier)?;
    std::str::from_utf8(number).ok()?.parse().ok()
}
