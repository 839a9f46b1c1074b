//! Network namespaces of pods: entering them, and everything ztunnel makes inside them.
//!
//! Knows nothing of policy or protocols. The surprising part is [`Netns::enter`]: it switches the calling thread,
//! so its closure must not block, and if the thread cannot be brought back the process ends, because whatever
//! that thread did next would be done in the name of another pod.

pub mod connect;
pub mod listen;
mod option;
pub mod sockets;
pub mod steer;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, OnceCell},
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process,
    rc::Rc,
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::{
        stat::fstat,
        statfs::{FsType, fstatfs},
    },
};

/// NSFS_MAGIC (linux/magic.h): what a file that stands for a namespace lies on.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// What tells one namespace from another for as long as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device of the namespace's file.
    pub device: u64,
    /// Inode of the namespace's file. Used again by the kernel once the namespace is gone.
    pub inode: u64,
}

/// A pod's network namespace, kept alive while this is.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    identity: Identity,
}

thread_local! {
    /// The namespace this thread belongs to, opened when it first leaves it.
    static HOME: OnceCell<Rc<OwnedFd>> = const { OnceCell::new() };
    /// Whether this thread is away from home.
    static AWAY: Cell<bool> = const { Cell::new(false) };
}

impl Netns {
    /// Opens the namespace behind a path such as `/proc/<pid>/ns/net` or `/var/run/netns/<name>`.
    ///
    /// # Errors
    /// When the path cannot be opened or is no namespace.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let file = File::open(path)?;
        Self::from_fd(file.into())
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    /// Takes a descriptor that stands for a namespace.
    ///
    /// # Errors
    /// When it does not.
    pub fn from_fd(file: OwnedFd) -> io::Result<Self> {
        if fstatfs(&file)?.filesystem_type() != NSFS_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a namespace"));
        }
        let stat = fstat(&file)?;
        Ok(Self { identity: Identity { device: stat.st_dev, inode: stat.st_ino }, file })
    }

    /// What tells this namespace from others.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Another descriptor of the same namespace.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.file.try_clone()
    }

    /// Runs `work` inside, on a thread made for it. For work that blocks or takes long.
    ///
    /// # Errors
    /// When the thread cannot be started or enter, or the work panicked.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let helper = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
                setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                AWAY.set(true);
                Ok(work())
            })?;
            helper.join().unwrap_or_else(|_| Err(io::Error::other("the work in the namespace panicked")))
        })
    }

    /// Runs `work` inside, on the calling thread, which is home again when this returns or unwinds. For a few
    /// system calls that do not block: the thread serves nobody else meanwhile.
    ///
    /// Ends the process when the thread cannot go home.
    ///
    /// # Errors
    /// When the thread cannot enter, or is in a namespace already.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        if AWAY.get() {
            return Err(io::Error::other("this thread is in another namespace already"));
        }
        let home = home()?;
        let _journey = Journey::start(&self.file, home)?;
        Ok(work())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The thread's own namespace. Shared, so that no thread-local is borrowed while away.
fn home() -> io::Result<Rc<OwnedFd>> {
    HOME.with(|home| match home.get() {
        Some(home) => Ok(home.clone()),
        None => {
            let opened: OwnedFd = File::open("/proc/thread-self/ns/net")?.into();
            Ok(home.get_or_init(|| Rc::new(opened)).clone())
        }
    })
}

/// A stay in another namespace; ending it, in whatever way, leads home.
struct Journey {
    home: Rc<OwnedFd>,
}

impl Journey {
    fn start(to: &OwnedFd, home: Rc<OwnedFd>) -> io::Result<Self> {
        setns(to, CloneFlags::CLONE_NEWNET)?;
        AWAY.set(true);
        Ok(Self { home })
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        if let Err(error) = setns(&*self.home, CloneFlags::CLONE_NEWNET) {
            // Every socket this thread opened from now on would be in the wrong pod, under its identity.
            tracing::error!(%error, "a thread cannot leave a pod's network namespace; ending the process");
            process::abort();
        }
        AWAY.set(false);
    }
}
