//! Which files await a look, and which must wait because someone is still writing them.
//!
//! A file that is written in place is, for a while, a shorter file: read then, it would seem to have lost what it
//! states at its end. The kernel says when its writer closes it, and that is when it is read.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use notify::EventKind;
use notify::event::{AccessKind, AccessMode, ModifyKind};

use super::{Event, WRITE_GRACE, name_in};
use crate::config::decode::yaml;

/// Files that were touched.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    everything: bool,
    files: BTreeMap<String, Due>,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    /// Open for writing since its first write; `at` is when it is read all the same.
    writing: bool,
}

impl Waiting {
    pub(super) fn everything(&self) -> bool {
        self.everything
    }

    pub(super) fn expect_everything(&mut self) {
        self.everything = true;
    }

    /// Notes that a look at everything was taken: all is covered but the files still being written.
    pub(super) fn looked(&mut self) {
        self.everything = false;
        self.files.retain(|_, due| due.writing);
    }

    /// Notes a touched file. `writing` is whether it is still open for writing, when the event says.
    pub(super) fn touch(&mut self, name: String, writing: Option<bool>, now: Instant) {
        let due = self.files.entry(name).or_insert(Due { at: now, writing: false });
        match writing {
            // The grace runs from the first write, so that a file written for ever is still read.
            Some(true) if !due.writing => *due = Due { at: now + WRITE_GRACE, writing: true },
            Some(false) => *due = Due { at: now, writing: false },
            _ => {}
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.files.values().map(|due| due.at).min()
    }

    /// The files that may be read now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<String> {
        let due = self.files.iter().filter(|(_, due)| due.at <= now);
        let due: Vec<String> = due.map(|(name, _)| name.clone()).collect();
        for name in &due {
            self.files.remove(name);
        }
        due
    }

    /// Whether a file is being written and still has its grace.
    pub(super) fn is_written(&self, name: &str, now: Instant) -> bool {
        self.files.get(name).is_some_and(|due| due.writing && due.at > now)
    }
}

/// What a notification means for us.
pub(super) fn translate(event: notify::Result<notify::Event>, root: &Path) -> Vec<Event> {
    let Ok(event) = event else { return vec![Event::Moved] };
    if event.need_rescan() {
        return vec![Event::Moved];
    }
    let moved = matches!(
        event.kind,
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_)
    );
    let writing = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(false),
        // Someone reads; mostly ourselves.
        EventKind::Access(_) => return Vec::new(),
        EventKind::Modify(ModifyKind::Data(_)) => Some(true),
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Some(false),
        _ => None,
    };
    let meaning = |path: &std::path::PathBuf| match name_in(path, root) {
        Some(name) if yaml::is_manifest(name) => Some(Event::Touched { name: name.to_owned(), writing }),
        // A mounted ConfigMap replaces this link, and with it all files at once.
        Some("..data") => Some(Event::Anything),
        Some(_) => None,
        // The directory itself, or something beside it, which is no business of ours.
        None if path == root => Some(if moved { Event::Moved } else { Event::Anything }),
        None => None,
    };
    event.paths.iter().filter_map(meaning).collect()
}
