//! Moves bytes from one socket to another without taking them to user space: splice(2) through a pipe.
//!
//! Knows no relay and not when splicing pays. A worker owns a few pipes and lends each of them for as long as bytes are
//! in it: a direction that waits for something to read has none. The surprising thing: what is in a pipe when its
//! connection ends badly goes with the pipe, which is closed instead of being lent again.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::{pipe2, read};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes one pipe holds at most, where the kernel grants them; Linux gives that much to everybody by default
/// (`fs.pipe-max-size`). Measured best on loopback.
pub const PIPE_BYTES: usize = 1024 * 1024;

/// Pipes one worker has open at a time, lent or spare; two file descriptors each. Directions that find none are copied.
/// Few, because the room of all pipes of a user counts (`fs.pipe-user-pages-soft`, 64 MiB by default): beyond it, those of
/// its other processes, containers of root among them, are made small.
pub const PIPES_PER_WORKER: usize = 8;

/// Pipes one worker keeps that nothing is in.
const SPARE_PIPES: usize = 2;

/// A pipe that the kernel grants fewer bytes is not worth its file descriptors.
const LEAST_PIPE_BYTES: usize = 64 * 1024;

/// After the kernel has given no pipe it is not asked for one for so long: others need what it has left.
const REFUSED_REST: Duration = Duration::from_secs(1);

thread_local! {
    static PIPES: Pipes = Pipes::default();
}

/// The pipes of one worker.
#[derive(Default)]
struct Pipes {
    spare: RefCell<Vec<Ends>>,
    /// When the kernel last gave none.
    refused_at: Cell<Option<Instant>>,
    /// Spare and lent. Shared with those that are lent, because a task may be dropped on another thread.
    open: Arc<AtomicUsize>,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

/// A pipe on loan: goes back when it is dropped empty, and is closed when it is not.
pub(super) struct Pipe {
    /// `None` only once it was dropped.
    ends: Option<Ends>,
    held: usize,
    open: Arc<AtomicUsize>,
}

impl Pipes {
    fn open(&self) -> Option<Ends> {
        if self.open.load(Relaxed) >= PIPES_PER_WORKER {
            return None;
        }
        if self.refused_at.get().is_some_and(|at| at.elapsed() < REFUSED_REST) {
            return None;
        }
        match Ends::open() {
            Ok(ends) => {
                self.open.fetch_add(1, Relaxed);
                Some(ends)
            }
            // Out of file descriptors or memory: what would be spliced is copied.
            Err(_) => {
                self.refused_at.set(Some(Instant::now()));
                None
            }
        }
    }
}

impl Ends {
    fn open() -> nix::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let mut capacity = PIPE_BYTES;
        while capacity >= LEAST_PIPE_BYTES {
            let wanted = i32::try_from(capacity).map_err(|_| Errno::EINVAL)?;
            if let Ok(granted) = fcntl(&write, FcntlArg::F_SETPIPE_SZ(wanted)) {
                let capacity = usize::try_from(granted).map_err(|_| Errno::EINVAL)?;
                return Ok(Self { read, write, capacity });
            }
            capacity /= 2;
        }
        Err(Errno::EPERM)
    }
}

impl Pipe {
    /// An empty pipe of this worker, if there is one to be had.
    pub(super) fn lend() -> Option<Self> {
        PIPES.with(|pipes| {
            // Not within the `or_else`, where the list would still be borrowed.
            let spare = pipes.spare.borrow_mut().pop();
            let ends = spare.or_else(|| pipes.open())?;
            Some(Self { ends: Some(ends), held: 0, open: Arc::clone(&pipes.open) })
        })
    }

    fn ends(&self) -> &Ends {
        self.ends.as_ref().expect("a pipe has its ends until it is dropped")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes what `from` has and the pipe has room for. To be asked of an empty pipe only: of another one the kernel would
    /// not say whether it was the socket or the pipe that was not ready.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<Filled>> {
        let capacity = self.ends().capacity;
        loop {
            ready!(from.poll_read_ready(cx))?;
            let filled = from.try_io(Interest::READABLE, || fill(from, &self.ends().write, capacity));
            match filled {
                Err(error) if may_go_on(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(filled) => {
                    if let Filled::Bytes(bytes) = filled {
                        self.held += bytes;
                    }
                    return Poll::Ready(Ok(filled));
                }
            }
        }
    }

    /// Hands what the pipe holds to `to`, as much of it as that takes.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            let drained = to.try_io(Interest::WRITABLE, || move_bytes(&self.ends().read, to, self.held));
            match drained {
                Err(error) if may_go_on(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
                // The pipe is not empty, so that it cannot have been at its end.
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(drained) => {
                    self.held = self.held.saturating_sub(drained);
                    return Poll::Ready(Ok(drained));
                }
            }
        }
    }

    /// Takes out what it holds, to be copied instead.
    ///
    /// # Errors
    /// The kernel's, in which case bytes are lost and the connection must not go on.
    pub(super) fn into_bytes(mut self) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.held];
        let mut at = 0;
        while at < bytes.len() {
            match read(&self.ends().read, &mut bytes[at..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => at += n,
            }
        }
        self.held = 0;
        Ok(bytes.into())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        let give_back = |pipes: &Pipes| {
            let mut spare = pipes.spare.borrow_mut();
            let is_wanted = Arc::ptr_eq(&pipes.open, &self.open) && spare.len() < SPARE_PIPES;
            is_wanted.then(|| spare.push(ends)).is_some()
        };
        // A thread that is ending lends no more.
        let is_back = self.held == 0 && PIPES.try_with(give_back).unwrap_or(false);
        if !is_back {
            self.open.fetch_sub(1, Relaxed);
        }
    }
}

/// What there was to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// So many bytes, at least one, which are in the pipe.
    Bytes(usize),
    /// Nothing, and there will be nothing.
    Fin,
    /// Something that cannot be spliced, but read.
    NotBySplice,
}

/// Nothing to splice does not mean nothing to read: the kernel stops before a byte that was sent as urgent, which reading
/// passes over, and says either that there is nothing yet or that there is nothing more. So the socket itself is asked.
fn fill(from: &TcpStream, to: &OwnedFd, most: usize) -> io::Result<Filled> {
    if let Some(bytes) = take(from, to, most)? {
        return Ok(Filled::Bytes(bytes));
    }
    if recv(from.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)? == 0 {
        return Ok(Filled::Fin);
    }
    // What came in between is no urgent byte, which would be in the way this time too.
    Ok(take(from, to, most)?.map_or(Filled::NotBySplice, Filled::Bytes))
}

/// Takes what can be spliced now, if there is any.
fn take(from: &TcpStream, to: &OwnedFd, most: usize) -> io::Result<Option<usize>> {
    match move_bytes(from, to, most) {
        Ok(bytes) => Ok((bytes > 0).then_some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn move_bytes(from: &impl std::os::fd::AsFd, to: &impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    Ok(splice(from, None, to, None, most, flags)?)
}

fn may_go_on(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Whether the kernel will not or cannot splice, where it may well copy. Says nothing of the connection.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    const SAYS_SO: [Errno; 5] =
        [Errno::EINVAL, Errno::ENOSYS, Errno::EPERM, Errno::EOPNOTSUPP, Errno::ENOMEM];
    error.raw_os_error().is_some_and(|code| SAYS_SO.contains(&Errno::from_raw(code)))
}

#[cfg(test)]
#[path = "splice_tests.rs"]
pub(super) mod tests;
