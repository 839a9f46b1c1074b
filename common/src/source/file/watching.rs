//! What the kernel is asked to tell of the directory, and what each thing it tells means for us.
//!
//! Knows no clock and no files but by name. Neither opening nor reading is asked for: what reads ten thousand files at
//! the start would be told of each, by itself.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;

use crate::config::decode::yaml;

/// Bytes of events that are read at once. What the kernel has no room for in its own queue it says it has dropped, and
/// then every file is looked at.
pub const EVENT_BUFFER_BYTES: usize = 16 << 10;

/// What comes and goes in a directory, and whether it is still the one of its name.
const MOVES: WatchMask = WatchMask::CREATE
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVED_FROM)
    .union(WatchMask::MOVED_TO)
    .union(WatchMask::ATTRIB)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF);

/// What is written to its files.
const WRITES: WatchMask = WatchMask::MODIFY.union(WatchMask::CLOSE_WRITE);

/// The watch itself is gone, or events were lost, perhaps of that.
const LOST: EventMask = EventMask::Q_OVERFLOW
    .union(EventMask::IGNORED)
    .union(EventMask::UNMOUNT)
    .union(EventMask::DELETE_SELF)
    .union(EventMask::MOVE_SELF);

/// Something of this name is here now, or is not any more.
const MOVED: EventMask =
    EventMask::CREATE.union(EventMask::DELETE).union(EventMask::MOVED_FROM).union(EventMask::MOVED_TO);

/// What became of a watched directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Something happened to a file of this name. `writing` is whether it is still open for writing, when that is known.
    Touched { name: String, writing: Option<bool> },
    /// Something happened that a name does not say.
    Anything,
    /// The directory itself was moved, made or removed, or events were lost, perhaps of that: what watches it may have
    /// gone with it, even when it is back before anybody looks.
    Moved,
}

/// A directory under watch.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Inotify,
    directory: WatchDescriptor,
    /// What holds the directory's name, and that name.
    parent: Option<(WatchDescriptor, OsString)>,
    buffer: Box<[u8]>,
}

impl Watch {
    /// Watches the directory that a path leads to now.
    ///
    /// # Errors
    /// When there is none, or the user has as many watches as the kernel allows.
    pub(super) fn start(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut watches = inotify.watches();
        let directory = watches.add(path, MOVES | WRITES).map_err(explain)?;
        // Tells when the directory is a link that is pointed elsewhere. A look now and then does too. The mask is added
        // because a link may lead to the very directory it is in.
        let parent = path.parent().zip(path.file_name()).and_then(|(parent, name)| {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let watched = watches.add(parent, MOVES | WatchMask::MASK_ADD).ok()?;
            Some((watched, name.to_owned()))
        });
        Ok(Self { inotify, directory, parent, buffer: vec![0; EVENT_BUFFER_BYTES].into() })
    }

    /// Takes what has been told, of which some may be left for the next time; none of it when it is all of no concern.
    pub(super) fn take(&mut self) -> Vec<Event> {
        let events = match self.inotify.read_events(&mut self.buffer) {
            Ok(events) => events,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Vec::new();
            }
            Err(_) => return vec![Event::Moved],
        };
        let mut taken = Vec::new();
        for event in events {
            if event.mask.intersects(LOST) {
                taken.push(Event::Moved);
                continue;
            }
            if event.wd == self.directory {
                taken.extend(in_directory(event.mask, event.name));
            }
            if let Some((parent, own)) = &self.parent
                && event.wd == *parent
                && event.name == Some(own)
            {
                taken.push(if event.mask.intersects(MOVED) { Event::Moved } else { Event::Anything });
            }
        }
        taken
    }
}

/// The kernel's word for too many watches is that of a full disk.
fn explain(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::StorageFull => {
            io::Error::other("no more inotify watches for this user (fs.inotify.max_user_watches)")
        }
        _ => error,
    }
}

fn in_directory(mask: EventMask, name: Option<&OsStr>) -> Option<Event> {
    let Some(name) = name else { return Some(Event::Anything) };
    let name = name.to_str()?;
    // A mounted ConfigMap replaces this link, and with it all files at once.
    if name == "..data" {
        return Some(Event::Anything);
    }
    let writing = if mask.contains(EventMask::MODIFY) {
        Some(true)
    } else {
        let closed = EventMask::CLOSE_WRITE | EventMask::DELETE | EventMask::MOVED_FROM | EventMask::MOVED_TO;
        mask.intersects(closed).then_some(false)
    };
    yaml::is_manifest(name).then(|| Event::Touched { name: name.to_owned(), writing })
}

/// Why a wait is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// There may be something to take.
    Told,
    /// The time has come.
    Due,
    /// `stop` was written to.
    Stopped,
}

/// Waits for the first of three things.
///
/// # Errors
/// When the kernel has no memory to wait with.
pub(super) fn wait(stop: &EventFd, watch: Option<&Watch>, until: Instant) -> io::Result<Woken> {
    let fds = [Some(stop.as_fd()), watch.map(|it| it.inotify.as_fd())];
    let mut fds: Vec<PollFd<'_>> =
        fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    loop {
        let left = TimeSpec::from_duration(until.saturating_duration_since(Instant::now()));
        match ppoll(&mut fds, Some(left), None) {
            Ok(0) => return Ok(Woken::Due),
            Ok(_) if fds[0].any() == Some(true) => return Ok(Woken::Stopped),
            Ok(_) => return Ok(Woken::Told),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_being_written_until_it_is_closed_or_under_another_name() {
        let touched = |mask| in_directory(mask, Some(OsStr::new("a.yaml")));
        let writing = |writing| Some(Event::Touched { name: "a.yaml".to_owned(), writing });
        assert_eq!(touched(EventMask::CREATE), writing(None));
        assert_eq!(touched(EventMask::ATTRIB), writing(None));
        assert_eq!(touched(EventMask::MODIFY), writing(Some(true)));
        for over in [EventMask::CLOSE_WRITE, EventMask::DELETE, EventMask::MOVED_FROM, EventMask::MOVED_TO] {
            assert_eq!(touched(over), writing(Some(false)), "{over:?}");
        }
        assert_eq!(in_directory(EventMask::MODIFY, Some(OsStr::new("notes.txt"))), None);
        assert_eq!(in_directory(EventMask::MOVED_TO, Some(OsStr::new("..data"))), Some(Event::Anything));
        assert_eq!(in_directory(EventMask::ATTRIB, None), Some(Event::Anything));
    }

    #[test]
    fn reading_is_told_to_nobody_and_what_stands_beside_the_directory_is_no_concern() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("mesh");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("a.yaml"), "a").unwrap();
        let mut watch = Watch::start(&path).unwrap();
        std::fs::read(path.join("a.yaml")).unwrap();
        assert!(std::fs::read_dir(&path).unwrap().count() == 1);
        std::fs::write(home.path().join("a.yaml"), "a").unwrap();
        assert_eq!(watch.take(), []);
        std::fs::remove_file(path.join("a.yaml")).unwrap();
        let removed = Event::Touched { name: "a.yaml".to_owned(), writing: Some(false) };
        assert_eq!(watch.take(), [removed]);
        std::fs::rename(&path, home.path().join("away")).unwrap();
        assert!(watch.take().contains(&Event::Moved));
    }

    #[test]
    fn a_link_that_is_pointed_elsewhere_is_told() {
        let home = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            std::fs::create_dir(home.path().join(name)).unwrap();
        }
        let link = home.path().join("mesh");
        std::os::unix::fs::symlink("one", &link).unwrap();
        let mut watch = Watch::start(&link).unwrap();
        std::os::unix::fs::symlink("two", home.path().join("next")).unwrap();
        assert_eq!(watch.take(), []);
        std::fs::rename(home.path().join("next"), &link).unwrap();
        assert_eq!(watch.take(), [Event::Moved]);
    }
}
