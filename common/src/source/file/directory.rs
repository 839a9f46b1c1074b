//! The files of one directory as last read, and what has changed since.
//!
//! Knows no threads and no events: it is told which files to look at. A file is read again when its stamp (time of
//! change, size, inode) differs, and decoded again when its content does.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, ErrorKind, Read};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

use super::last_good::LastGood;
use super::ledger;
use super::listing::Listing;
use crate::config::decode::{Foreign, Skipped, yaml};
use crate::config::may_mean::MayMean;
use crate::config::names::Names;
use crate::config::{Batch, Key, Origin, Rejected, Stated, Subject};

/// Most files read from one directory.
pub const MAX_FILES: usize = 200_000;
/// Most resources that are handed on at once of the first look, which are applied while the next are read.
pub(super) const MAX_PART: usize = 1024;

/// A number for what a file is, or holds, that another has by an accident alone: there are thousands of files, and whole
/// stamps would be most of what is known of one.
type Digest = NonZeroU64;

/// Of the stamp: device, inode, size, time of change. It tells a file from the one that was there before, without reading it.
fn stamp_of(stat: &FileStat) -> Digest {
    let mut hasher = DefaultHasher::new();
    for word in [stat.st_dev, stat.st_ino, size(stat)] {
        hasher.write_u64(word);
    }
    hasher.write_i64(stat.st_mtime);
    hasher.write_i64(stat.st_mtime_nsec);
    digest(&hasher)
}

fn content_of(bytes: &[u8]) -> Digest {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    digest(&hasher)
}

fn digest(hasher: &DefaultHasher) -> Digest {
    Digest::new(hasher.finish()).unwrap_or(Digest::MAX)
}

fn size(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn is_file(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG
}

#[derive(Debug, Default)]
struct Known {
    /// Of its stamp when it was last looked at.
    stamp: Option<Digest>,
    /// Of the content last decoded; `None` when the last reading failed.
    content: Option<Digest>,
    /// It was decoded once.
    was_read: bool,
    keys: Box<[Key]>,
}

/// The directory as it was found at the beginning of a look. All files of the look are of this very directory: one that
/// is renamed away or replaced meanwhile does not make its files look removed.
#[derive(Debug)]
pub(super) struct Opened {
    /// Leads to the open directory, wherever its name has gone.
    path: PathBuf,
    /// Device and inode, so that another directory under the same name is noticed.
    pub(super) identity: (u64, u64),
    handle: File,
}

impl Opened {
    /// The names of its manifests, sorted.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub(super) fn list(&self) -> io::Result<Listing> {
        let mut found = Listing::default();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if name.to_str().is_some_and(yaml::is_manifest) {
                found.add(&name);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Whether there is anything in the files listed, or any that cannot be looked at.
    pub(super) fn has_content(&self, found: &Listing) -> bool {
        let is_empty = |name| self.stat(name).is_ok_and(|it| it.st_size == 0);
        !found.iter().all(is_empty)
    }

    fn stat(&self, name: &str) -> io::Result<FileStat> {
        Ok(fstatat(&self.handle, name, AtFlags::empty())?)
    }

    fn read(&self, name: &str) -> io::Result<File> {
        // Should it be a FIFO by now, nobody waits for who writes to it.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        Ok(openat(&self.handle, name, flags, Mode::empty())?.into())
    }
}

/// A directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    files: BTreeMap<Arc<str>, Known>,
    names: Names,
    buffer: Vec<u8>,
    overflowing: bool,
    last_good: LastGood,
    /// What was kept by an earlier process, until the first look at the directory.
    recalled: Batch,
}

impl Directory {
    pub(super) fn new(path: PathBuf, last_good: LastGood) -> Self {
        let mut directory = Self {
            path,
            files: BTreeMap::new(),
            names: Names::default(),
            buffer: Vec::new(),
            overflowing: false,
            last_good,
            recalled: Batch::default(),
        };
        directory.recall();
        directory
    }

    /// States again what was kept: for the look that follows, it is what each file stated before.
    fn recall(&mut self) {
        for (file, text) in self.last_good.files() {
            let mut decoded = yaml::decode(file, text, &mut self.names);
            if !decoded.rejected.is_empty() {
                // Kept by another version of ourselves, which had fewer doubts. If the file cannot be read either, it may
                // be anything, and that denies.
                continue;
            }
            // Pods and services of long ago are worse than none.
            decoded.stated.retain(|it| it.resource.key().kind.guards_access());
            let keys = ledger::restate(file, &[], decoded, &mut self.recalled);
            self.files.insert(file.clone(), Known { keys, ..Known::default() });
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many files it holds.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Opens the directory that the path leads to now.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn open(&self) -> io::Result<Opened> {
        let handle = File::open(&self.path)?;
        let metadata = handle.metadata()?;
        if !metadata.is_dir() {
            return Err(io::Error::from(ErrorKind::NotADirectory));
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
        Ok(Opened { path, identity: (metadata.dev(), metadata.ino()), handle })
    }

    /// Looks at every file listed, but those `busy`. With `keep_missing` the files that are gone count as there. With
    /// `hand_on` what was found is handed on in parts; the last is returned.
    pub(super) fn scan(
        &mut self,
        opened: &Opened,
        mut found: Listing,
        keep_missing: bool,
        busy: impl Fn(&str) -> bool,
        mut hand_on: Option<&mut dyn FnMut(Batch)>,
    ) -> Batch {
        let mut batch = std::mem::take(&mut self.recalled);
        self.overflow(found.len(), &mut batch);
        found.truncate(MAX_FILES);
        let missing = |name: &&Arc<str>| !found.contains(name);
        let gone: Vec<Arc<str>> = self.files.keys().filter(missing).cloned().collect();
        for name in found.iter().filter(|name| !busy(name)) {
            self.look(opened, name, false, &mut batch);
            if let Some(hand_on) = &mut hand_on
                && batch.upserts.len() > MAX_PART
            {
                // Room for a large file is not kept while what it states is applied.
                self.buffer = Vec::new();
                hand_on_parts(&mut batch, hand_on);
            }
        }
        for name in &gone {
            if !keep_missing && self.is_in_place(opened) {
                self.forget(name, &mut batch);
            }
        }
        self.buffer = Vec::new();
        batch
    }

    /// Looks at one file, and reads it whatever its stamp says.
    pub(super) fn refresh(&mut self, opened: &Opened, name: &str, batch: &mut Batch) {
        self.look(opened, name, true, batch);
    }

    /// Keeps for the next start what has changed. To be called once a batch is on its way, which a slow disk must not
    /// hold up.
    pub(super) fn save(&mut self) {
        self.last_good.save();
    }

    /// Whether the directory that was opened is still the one of that name. One that was replaced may be emptied by whoever
    /// replaced it, which says nothing about the files that are wanted.
    pub(super) fn is_in_place(&self, opened: &Opened) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == opened.identity)
    }

    /// Files beyond the bound are unread, so they may hold anything, policies included.
    fn overflow(&mut self, found: usize, batch: &mut Batch) {
        let file: Arc<str> = "(directory)".into();
        let overflowing = found > MAX_FILES;
        if overflowing || self.overflowing {
            batch.reread.push(file.clone());
        }
        if overflowing {
            batch.rejected.push(Rejected {
                origin: Origin { file, line: 0 },
                subject: Subject::default(),
                field: "".into(),
                reason: format!("{found} files, more than {MAX_FILES}; the last by name are unread").into(),
                guards_access: true,
                may_secure: MayMean::Anything,
                may_ask: MayMean::Anything,
                last_good: false,
            });
        }
        self.overflowing = overflowing;
    }

    fn look(&mut self, opened: &Opened, name: &str, always: bool, batch: &mut Batch) {
        let stat = match opened.stat(name) {
            Ok(stat) => stat,
            // A link whose target is missing is a volume in the middle of an update, not a file removed.
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    && std::fs::symlink_metadata(opened.path.join(name)).is_err() =>
            {
                if self.is_in_place(opened) {
                    self.forget(name, batch);
                }
                return;
            }
            Err(error) => return self.unreadable(name, &[], &error.to_string(), batch),
        };
        let stamp = stamp_of(&stat);
        if !always && self.files.get(name).is_some_and(|it| it.stamp == Some(stamp)) {
            return;
        }
        match self.read(opened, name, &stat) {
            Ok(None) => self.decode(name, stamp, batch),
            Ok(Some(reason)) => {
                let sample = std::mem::take(&mut self.buffer);
                // What is no file at all, such as a directory, holds no manifests whatever it is called.
                let is_foreign = !is_file(&stat) || yaml::foreign(name, &sample).is_some();
                match yaml::is_json(name) && is_foreign {
                    true => self.pass_over_unread(name, &reason, batch),
                    false => self.unreadable(name, &sample, &reason, batch),
                }
                self.stamp(name, stamp);
            }
            Err(error) => self.unreadable(name, &[], &error.to_string(), batch),
        }
    }

    /// Reads a file into the buffer; a reason when it is not one to decode, with a sample in the buffer.
    fn read(&mut self, opened: &Opened, name: &str, stat: &FileStat) -> io::Result<Option<String>> {
        self.buffer.clear();
        if !is_file(stat) {
            return Ok(Some("not a regular file".to_owned()));
        }
        let size = size(stat);
        let large = size > yaml::MAX_FILE_BYTES as u64;
        let most = if large { yaml::SNIFF_BYTES } else { yaml::MAX_FILE_BYTES + 1 };
        read_at_most(opened.read(name)?, size, most, &mut self.buffer)?;
        let reason = || format!("{size} bytes, more than {}", yaml::MAX_FILE_BYTES);
        Ok(large.then(reason))
    }

    fn decode(&mut self, name: &str, stamp: Digest, batch: &mut Batch) {
        let content = content_of(&self.buffer);
        let file = self.name_of(name);
        let known = self.files.entry(file.clone()).or_default();
        known.stamp = Some(stamp);
        if known.content == Some(content) {
            return;
        }
        (known.content, known.was_read) = (Some(content), true);
        if self.buffer.iter().all(u8::is_ascii_whitespace) && !known.keys.is_empty() {
            return ledger::keep(&known.keys, ledger::emptied(&file), batch);
        }
        let decoded = yaml::decode(&file, &self.buffer, &mut self.names);
        if let Some(foreign) = decoded.foreign.first() {
            return pass_over(foreign, &known.keys, &self.buffer, batch);
        }
        report_skipped(&decoded.skipped);
        report_notes(&decoded.stated);
        if decoded.rejected.is_empty() {
            let guards = |it: &Stated| it.resource.key().kind.guards_access();
            match decoded.stated.iter().any(guards) {
                true => self.last_good.keep(&file, &self.buffer),
                false => self.last_good.forget(&file),
            }
        }
        known.keys = ledger::restate(&file, &known.keys, decoded, batch);
    }

    /// Keeps what an unreadable file stated. When it never could be read, it may be anything: if there is no sample
    /// to judge by, it counts as a policy.
    fn unreadable(&mut self, name: &str, sample: &[u8], reason: &str, batch: &mut Batch) {
        let file = self.name_of(name);
        let mut rejected = yaml::unread(&file, sample, reason);
        let known = self.files.entry(file).or_default();
        if sample.is_empty() {
            rejected.guards_access = true;
            // One that this process has read is in force as it was. Of one that an earlier process read, policies are.
            let unseen = if known.was_read { MayMean::Nothing } else { MayMean::Anything };
            (rejected.may_secure, rejected.may_ask) = (unseen.clone(), unseen);
        }
        (known.stamp, known.content) = (None, None);
        ledger::keep(&known.keys, rejected, batch);
    }

    /// A file that cannot be read and would state no manifests.
    fn pass_over_unread(&mut self, name: &str, reason: &str, batch: &mut Batch) {
        if self.files.get(name).is_some_and(|it| !it.keys.is_empty()) {
            return self.unreadable(name, &[], reason, batch);
        }
        let file = self.name_of(name);
        tracing::info!(%file, reason, "states no manifests; not read");
        batch.reread.push(file.clone());
        self.files.entry(file).or_default().content = None;
    }

    /// The name of a file as the one value that all hold who were told of it.
    fn name_of(&self, name: &str) -> Arc<str> {
        self.files.get_key_value(name).map_or_else(|| name.into(), |(file, _)| file.clone())
    }

    fn stamp(&mut self, name: &str, stamp: Digest) {
        if let Some(known) = self.files.get_mut(name) {
            known.stamp = Some(stamp);
        }
    }

    fn forget(&mut self, name: &str, batch: &mut Batch) {
        self.last_good.forget(name);
        if let Some((file, known)) = self.files.remove_entry(name) {
            ledger::forget(&file, &known.keys, batch);
        }
    }
}

/// Hands on all but the last part. What is withdrawn waits for that one: what is stated of it, as it was kept from the last
/// run, may be in any part, and of one part the withdrawals count last.
fn hand_on_parts(batch: &mut Batch, hand_on: &mut dyn FnMut(Batch)) {
    let removals = std::mem::take(&mut batch.removals);
    let mut stated = std::mem::take(&mut batch.upserts).into_iter();
    while stated.len() > MAX_PART {
        let upserts = stated.by_ref().take(MAX_PART).collect();
        hand_on(Batch { upserts, more: true, ..std::mem::take(batch) });
    }
    batch.upserts = stated.collect();
    batch.removals = removals;
}

/// Reads a file that is `expected` to be of a size: with one system call, where it is.
fn read_at_most(mut file: impl Read, expected: u64, most: usize, into: &mut Vec<u8>) -> io::Result<()> {
    let expected = usize::try_from(expected).unwrap_or(most);
    into.resize(expected.saturating_add(1).min(most), 0);
    let mut filled = 0;
    loop {
        match file.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        // All that was expected, with room for more that did not come.
        if filled == expected && filled < into.len() || filled == most {
            break;
        }
        if filled == into.len() {
            into.resize(filled.saturating_mul(2).min(most), 0);
        }
    }
    into.truncate(filled);
    Ok(())
}

/// Passes over a file that states no manifests. What it stated before stays: it was most likely broken by hand.
fn pass_over(foreign: &Foreign, stated: &[Key], bytes: &[u8], batch: &mut Batch) {
    let Foreign { file, why } = foreign;
    if stated.is_empty() {
        tracing::info!(%file, why, "states no manifests; not read");
        return batch.reread.push(file.clone());
    }
    let sample = &bytes[..bytes.len().min(yaml::SNIFF_BYTES)];
    ledger::keep(stated, yaml::unread(file, sample, *why), batch);
}

/// Most skipped documents of one file that are logged.
const MAX_SKIPPED_LOGGED: usize = 8;

/// Most caveats of one file that are logged.
const MAX_NOTES_LOGGED: usize = 64;

fn report_notes(stated: &[Stated]) {
    let notes = || stated.iter().flat_map(|it| it.resource.notes().iter().map(move |note| (it, note)));
    for (it, note) in notes().take(MAX_NOTES_LOGGED) {
        let (object, caveat) = (it.resource.key(), note.caveat.label());
        tracing::warn!(origin = %it.origin, %object, caveat, "{note}");
    }
    let more = notes().count().saturating_sub(MAX_NOTES_LOGGED);
    if more > 0 {
        tracing::warn!(more, "further caveats not shown");
    }
}

fn report_skipped(skipped: &[Skipped]) {
    for it in skipped.iter().take(MAX_SKIPPED_LOGGED) {
        tracing::info!(origin = %it.origin, kind = %it.kind, "not a kind this proxy acts on; skipped");
    }
    if let Some(more) = skipped.len().checked_sub(MAX_SKIPPED_LOGGED).filter(|more| *more > 0) {
        tracing::info!(more, "further documents skipped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time, as some file systems do.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let most = into.len().min(self.1);
            self.0.read(&mut into[..most])
        }
    }

    #[test]
    fn a_file_is_read_whole_whatever_its_size_was_said_to_be() {
        let text: Vec<u8> = (0..1000_u32).flat_map(u32::to_le_bytes).collect();
        for size in [0, 1, 999, 1000, 4096] {
            for (expected, most, drip) in
                [(0, 9000, 9000), (size, 9000, 7), (size / 2, 9000, 9000), (size * 2, 500, 64)]
            {
                let text = &text[..size.min(text.len())];
                let mut read = vec![7; 3];
                read_at_most(Drip(text, drip), expected as u64, most, &mut read).unwrap();
                assert_eq!(
                    read,
                    text[..text.len().min(most)],
                    "{size} bytes, {expected} expected, at most {most}"
                );
            }
        }
    }
}
