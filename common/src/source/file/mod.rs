//! Watches a directory of manifests.
//!
//! Reads `*.yaml`, `*.yml` and `*.json` of the directory itself, through links, so that a mounted ConfigMap works: its update
//! is one rename of `..data`. What has been read stays in force whatever happens to the directory; only a file that
//! is seen to be gone from a directory that is there takes back what it stated. A directory with nothing in it at the
//! start says nothing either, where an earlier process kept policies: a volume not mounted yet looks like that.
//!
//! The kernel's events make changes prompt; a look at every stamp from time to time makes up for any it drops.

mod directory;
mod last_good;
mod ledger;
mod listing;
#[cfg(test)]
mod tests;
mod waiting;
mod watching;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{mpsc, watch};

pub use self::directory::MAX_FILES;
use self::directory::{Directory, Opened};
use self::last_good::LastGood;
pub use self::last_good::MAX_LAST_GOOD_BYTES;
use self::waiting::Waiting;
pub use self::watching::EVENT_BUFFER_BYTES;
use self::watching::{Event, Watch, Woken};
use super::{Status, StatusReader};
use crate::config::Batch;

/// How long a directory must be quiet before its changes are read, so that one edit is one change.
pub const QUIET: Duration = Duration::from_millis(20);
/// The longest that changes are gathered, however busy the directory is.
pub const GATHER: Duration = Duration::from_millis(200);
/// How long a file may be open for writing before it is read all the same.
pub const WRITE_GRACE: Duration = Duration::from_secs(2);
/// How often every file is looked at, events or none.
pub const RESYNC: Duration = Duration::from_secs(30);
/// How often a missing directory is looked for.
pub const RETRY: Duration = Duration::from_millis(500);
/// How long after another directory appears under the name the files it lacks count as not yet written.
pub const SETTLE: Duration = Duration::from_secs(2);

/// A directory of manifests.
#[derive(Debug)]
pub struct FileSource {
    directory: PathBuf,
    last_good: Option<PathBuf>,
}

/// A source at work; dropping it ends its thread.
#[derive(Debug)]
pub struct Running {
    status: StatusReader,
    stop: Arc<EventFd>,
}

impl Running {
    /// How it is doing.
    pub fn status(&self) -> StatusReader {
        self.status.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It cannot fail: nobody else counts this up. A thread that is busy sees it when it waits next.
        let _ = self.stop.write(1);
    }
}

impl FileSource {
    /// A source for the manifests in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), last_good: None }
    }

    /// Keeps the last good version of policies in a file, for the next start; one process at a time may have it.
    #[must_use]
    pub fn remembering(self, file: impl Into<PathBuf>) -> Self {
        Self { last_good: Some(file.into()), ..self }
    }

    /// Starts to read and watch, on a thread of its own.
    ///
    /// # Errors
    /// When there is no such directory and no policies are kept of it, as when its name is misspelt; when no thread can
    /// be started.
    pub fn run(self, batches: mpsc::Sender<Batch>) -> io::Result<Running> {
        let (worker, running) = self.prepare(batches)?;
        std::thread::Builder::new().name("ebb-files".to_owned()).spawn(move || worker.run())?;
        Ok(running)
    }

    fn prepare(self, batches: mpsc::Sender<Batch>) -> io::Result<(Worker, Running)> {
        let last_good = self.last_good.map(|file| LastGood::open(file, &self.directory)).unwrap_or_default();
        let directory = Directory::new(self.directory, last_good);
        if directory.len() == 0 {
            directory.open().map_err(|error| missing(directory.path(), &error))?;
        }
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (status, reader) = watch::channel(Status::default());
        let worker = Worker {
            directory,
            batches,
            status,
            stop: stop.clone(),
            watch: None,
            moved: false,
            identity: None,
            unfilled: false,
            unwatched: false,
            waiting: Waiting::default(),
            settled_at: None,
        };
        Ok((worker, Running { status: reader, stop }))
    }
}

fn missing(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the directory of manifests, {}: {error}", path.display()))
}

/// Device and inode of a directory.
type Identity = (u64, u64);

/// Nobody wants what this thread has to say any more.
struct Unwanted;

struct Worker {
    directory: Directory,
    batches: mpsc::Sender<Batch>,
    status: watch::Sender<Status>,
    stop: Arc<EventFd>,
    watch: Option<Watch>,
    /// What is watched may not be the directory any more, or not all was told of it: the next look is at everything and
    /// begins with a new watch.
    moved: bool,
    waiting: Waiting,
    identity: Option<Identity>,
    /// Another directory has appeared under the name, or the first one where policies are kept of it, and nothing in it
    /// yet.
    unfilled: bool,
    /// The directory left its name before it could be watched: nobody will tell when something comes back.
    unwatched: bool,
    /// Until then, files missing from a directory that has just appeared are not taken for removed.
    settled_at: Option<Instant>,
}

impl Worker {
    fn run(mut self) {
        let mut next_scan = Instant::now();
        loop {
            let now = Instant::now();
            let outcome = if now >= next_scan || self.waiting.everything() {
                self.scan(now)
            } else {
                self.refresh(now)
            };
            match outcome {
                Ok(Some(scanned)) => next_scan = scanned,
                Ok(None) => {}
                Err(Unwanted) => return,
            }
            let until = self.waiting.next_due().map_or(next_scan, |due| due.min(next_scan));
            if self.gather(until).is_err() {
                return;
            }
        }
    }

    /// Waits for events, and then for quiet.
    fn gather(&mut self, until: Instant) -> Result<(), Unwanted> {
        let mut deadline = until;
        let mut first = None;
        loop {
            match watching::wait(&self.stop, self.watch.as_ref(), deadline) {
                Ok(Woken::Told) if !self.listen() => continue,
                Ok(Woken::Told) => {}
                Ok(Woken::Due) => return Ok(()),
                Ok(Woken::Stopped) => return Err(Unwanted),
                Err(error) => {
                    self.complain(&format!("cannot wait for changes: {error}"));
                    std::thread::sleep(RETRY);
                    return Ok(());
                }
            }
            let now = Instant::now();
            deadline = (now + QUIET).min(*first.get_or_insert(now) + GATHER);
        }
    }

    /// Notes what the kernel tells; false when it is of no concern.
    fn listen(&mut self) -> bool {
        let told = self.watch.as_mut().map(Watch::take).unwrap_or_default();
        let concerns = !told.is_empty();
        for event in told {
            match event {
                Event::Touched { name, writing } => self.waiting.touch(name, writing, Instant::now()),
                Event::Anything => self.waiting.expect_everything(),
                Event::Moved => {
                    self.moved = true;
                    self.waiting.expect_everything();
                }
            }
        }
        concerns
    }

    /// Looks at every file; returns when to do so next.
    fn scan(&mut self, now: Instant) -> Result<Option<Instant>, Unwanted> {
        let is_first = self.identity.is_none();
        let (opened, found) = match self.directory.open().and_then(|opened| {
            self.meet(&opened, now);
            let found = opened.list()?;
            Ok((opened, found))
        }) {
            Ok(found) => found,
            Err(error) => {
                self.watch = None;
                self.await_directory(&error);
                return if self.status.is_closed() { Err(Unwanted) } else { Ok(Some(now + RETRY)) };
            }
        };
        self.note_filling(opened.has_content(&found), is_first, now);
        let settling = self.settled_at.filter(|at| now < *at);
        let (waiting, batches) = (&self.waiting, &self.batches);
        let mut hand_on = |part: Batch| {
            report(&part);
            // When nobody takes it, nobody takes the last one either.
            let _ = batches.blocking_send(part);
        };
        // Later ones are compared with what is published, and are small or few.
        let hand_on: Option<&mut dyn FnMut(Batch)> =
            if self.status.borrow().first_read { None } else { Some(&mut hand_on) };
        let keep_missing = settling.is_some() || self.unfilled;
        let batch =
            self.directory.scan(&opened, found, keep_missing, |name| waiting.is_written(name, now), hand_on);
        self.waiting.looked();
        self.settled_at = settling;
        self.send(batch)?;
        let soon = self.unfilled || self.unwatched;
        Ok(Some(settling.unwrap_or(now + if soon { RETRY } else { RESYNC })))
    }

    /// Decides whether files that the directory lacks may count as removed.
    fn note_filling(&mut self, has_content: bool, is_first: bool, now: Instant) {
        if has_content && self.unfilled {
            self.unfilled = false;
            self.settled_at = Some(now + SETTLE);
        }
        let kept = self.directory.len();
        if !has_content && is_first && kept > 0 {
            self.unfilled = true;
            let path = self.directory.path().display();
            tracing::warn!(
                %path, kept,
                "no manifests in the configuration directory; the policies kept from before stay in force until there are"
            );
        }
    }

    /// Watches the directory, if it is not watched; notices when it is another one than before.
    fn meet(&mut self, opened: &Opened, now: Instant) {
        let another = self.identity.replace(opened.identity).is_some_and(|before| before != opened.identity);
        if another && self.directory.len() > 0 {
            // Perhaps a volume not mounted yet: files it lacks are not files removed.
            self.unfilled = true;
            self.settled_at = Some(now + SETTLE);
        }
        if another || self.moved || self.watch.is_none() {
            // Watch before reading: a change in between is then read twice rather than never.
            let started = Watch::start(self.directory.path());
            // What is watched has to be what was opened.
            self.unwatched = !self.directory.is_in_place(opened);
            if let Err(error) = &started {
                self.complain(&format!("cannot watch: {error}; looking every {RESYNC:?} instead"));
            }
            (self.watch, self.moved) = (started.ok(), false);
        }
    }

    /// Looks at the files that events named.
    fn refresh(&mut self, now: Instant) -> Result<Option<Instant>, Unwanted> {
        let due = self.waiting.take_due(now);
        if due.is_empty() {
            return Ok(None);
        }
        let known = self.identity;
        let Some(opened) = self.directory.open().ok().filter(|opened| known == Some(opened.identity)) else {
            // Not the directory we know: none of these files may be taken for removed.
            return self.scan(now);
        };
        let mut batch = Batch::default();
        for name in due {
            self.directory.refresh(&opened, &name, &mut batch);
        }
        self.send(batch)?;
        Ok(None)
    }

    fn send(&mut self, batch: Batch) -> Result<(), Unwanted> {
        let first = !self.status.borrow().first_read;
        report(&batch);
        if first || !batch.is_empty() {
            self.batches.blocking_send(batch).map_err(|_| Unwanted)?;
        }
        self.directory.save();
        let items = self.directory.len();
        let watched = self.watch.is_some();
        self.status.send_modify(|status| {
            *status = Status {
                first_read: true,
                awaiting: None,
                last_error: status.last_error.take().filter(|_| !watched),
                current_at: Some(Instant::now()),
                items,
            };
        });
        if self.status.is_closed() { Err(Unwanted) } else { Ok(()) }
    }

    fn await_directory(&self, error: &io::Error) {
        let path = self.directory.path().display();
        let awaiting: Arc<str> = format!("the configuration directory {path}: {error}").into();
        if self.status.borrow().awaiting.as_ref() != Some(&awaiting) {
            let kept = self.directory.len();
            if self.status.borrow().first_read {
                tracing::warn!(%path, %error, kept, "configuration directory not readable; what was read stays in force");
            } else {
                tracing::warn!(
                    %path, %error, kept,
                    "configuration directory not readable; waiting for it, with the policies kept from before"
                );
            }
            self.status.send_modify(|status| {
                status.last_error = Some(awaiting.clone());
                status.awaiting = Some(awaiting);
            });
        }
    }

    fn complain(&self, error: &str) {
        tracing::warn!(path = %self.directory.path().display(), error, "configuration directory");
        self.status.send_modify(|status| status.last_error = Some(error.into()));
    }
}

/// Most rejections of one batch that are logged; all are in the dump.
const MAX_REJECTIONS_LOGGED: usize = 16;

fn report(batch: &Batch) {
    for rejected in batch.rejected.iter().take(MAX_REJECTIONS_LOGGED) {
        tracing::warn!(guards_access = rejected.guards_access, "{rejected}");
    }
    if let Some(more) = batch.rejected.len().checked_sub(MAX_REJECTIONS_LOGGED).filter(|more| *more > 0) {
        tracing::warn!(more, "further documents rejected");
    }
}
