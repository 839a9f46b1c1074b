//! Which files await a look, and which must wait because someone is still writing them.
//!
//! A file that is written in place is, for a while, a shorter file: read then, it would seem to have lost what it
//! states at its end. The kernel says when its writer closes it, and that is when it is read.

use std::collections::BTreeMap;
use std::time::Instant;

use super::WRITE_GRACE;

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
