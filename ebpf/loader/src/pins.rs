//! Where things are pinned: `<bpffs>/<node>/<pod uid>/<map or link>`, and `<bpffs>/<node>/log/` for the log of all.
//!
//! The folder of a pod is its record: a later process finds there all it must adopt or remove.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag, open},
    sys::stat::Mode,
};

use crate::attach::Direction;

const MAX_UID: usize = 64;
/// The folder in which no pod's pins are, but the log that all pods share.
const LOG: &str = "log";

/// The folder of one node's pins.
#[derive(Debug, Clone)]
pub(crate) struct NodePins {
    root: PathBuf,
}

impl NodePins {
    /// Makes the folder if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn create(bpffs: &Path, node: &str) -> io::Result<Self> {
        if !is_pin_name(node) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{node:?} cannot name a folder of pins"),
            ));
        }
        let root = bpffs.join(node);
        fs::create_dir_all(root.join(LOG))?;
        Ok(Self { root })
    }

    /// Where a map that all pods share is pinned.
    pub(crate) fn shared(&self, map: &str) -> PathBuf {
        self.root.join(LOG).join(map)
    }

    /// Keeps other processes from reading the log while the guard lives; none when another reads it.
    ///
    /// # Errors
    /// When the folder cannot be locked.
    pub(crate) fn try_lock_log(&self) -> io::Result<Option<Flock<OwnedFd>>> {
        match Flock::lock(folder(&self.root.join(LOG))?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// The pins of one pod; none when its uid cannot be a file name.
    pub(crate) fn pod(&self, uid: &str) -> Option<PodPins> {
        (is_pin_name(uid) && uid != LOG).then(|| PodPins { dir: self.root.join(uid) })
    }

    /// The uids of all pods that have pins.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn pods(&self) -> io::Result<Vec<String>> {
        let mut uids = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name() != LOG {
                uids.extend(entry.file_name().into_string());
            }
        }
        uids.sort();
        Ok(uids)
    }

    /// Keeps other processes from changing pins while the guard lives: two generations overlap in an
    /// upgrade, and each step of theirs must be whole.
    ///
    /// # Errors
    /// When the folder cannot be locked.
    pub(crate) fn lock(&self) -> io::Result<Flock<OwnedFd>> {
        Flock::lock(folder(&self.root)?, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    }
}

fn folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// The folder of one pod's pins.
#[derive(Debug, Clone)]
pub(crate) struct PodPins {
    dir: PathBuf,
}

impl PodPins {
    /// Makes the folder if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn create(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)
    }

    /// Where a map of this pod is pinned.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where the link of an interface is pinned.
    pub(crate) fn link(&self, interface: u32, direction: Direction) -> PathBuf {
        self.dir.join(format!("link-{interface}-{}", direction.name()))
    }

    /// Where the link of the namespace's listener lookup is pinned.
    pub(crate) fn lookup(&self) -> PathBuf {
        self.dir.join("lookup")
    }

    /// The pinned links of interfaces, those that take traffic away from its natural way first and the one that catches
    /// it on `lo` last: so there is never a redirect with nowhere to go.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn links(&self) -> io::Result<Vec<PinnedLinkPath>> {
        let mut links = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            links.extend(PinnedLinkPath::parse(path));
        }
        links.sort_by_key(|link| (link.interface == 1, link.direction == Direction::Ingress, link.interface));
        Ok(links)
    }

    /// Whether any link is pinned here, so whether packets may be under our programs already.
    pub(crate) fn hold_links(&self) -> bool {
        self.lookup().exists() || self.links().is_ok_and(|links| !links.is_empty())
    }

    /// Removes what is left in the folder and the folder.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            fs::remove_file(entry?.path())?;
        }
        fs::remove_dir(&self.dir)
    }
}

/// A pinned link, and what its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PinnedLinkPath {
    pub(crate) path: PathBuf,
    pub(crate) interface: u32,
    pub(crate) direction: Direction,
}

impl PinnedLinkPath {
    fn parse(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (interface, direction) = name.strip_prefix("link-")?.split_once('-')?;
        let (interface, direction) = (interface.parse().ok()?, Direction::from_name(direction)?);
        Some(Self { interface, direction, path })
    }
}

/// bpffs keeps names with dots to itself.
fn is_pin_name(name: &str) -> bool {
    (1..=MAX_UID).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_cannot_leave_its_folder() {
        for bad in ["", ".", "..", "a/b", "a.b", "a\0b", &"x".repeat(MAX_UID + 1)] {
            assert!(!is_pin_name(bad), "{bad:?}");
        }
        assert!(is_pin_name("0f8fad5b-d9cb-469f-a165-70867728950e"));
    }

    #[test]
    fn link_names_say_interface_and_direction() {
        let pins = PodPins { dir: "/pins/pod".into() };
        let parsed = PinnedLinkPath::parse(pins.link(12, Direction::Egress)).unwrap();
        assert_eq!((parsed.interface, parsed.direction), (12, Direction::Egress));
        assert_eq!(PinnedLinkPath::parse("/pins/pod/CONFIG".into()), None);
    }
}
