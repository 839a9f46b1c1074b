//! The last good text of each file that states policies, kept on disk so that a restart does not forget it.
//!
//! Without it, a policy that cannot be read when the process starts has no good version, and everyone it may concern
//! is denied. Knows neither resources nor the mesh. What is kept is only ever a file that was read without a fault:
//! pods and services are not kept, because without their files nothing is enrolled and nothing can be reached.
//!
//! The file that cannot be used (cut, flipped, somebody else's, of another directory of manifests) is set aside with a
//! reason; a start never fails on it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of all that is kept, names included. A file that would exceed it is not kept.
pub const MAX_LAST_GOOD_BYTES: usize = 16 << 20;

const MAGIC: &[u8] = b"ebb-last-good 2\n";
const CHECKSUM_BYTES: usize = 8;
/// Two lengths before each name and text.
const LENGTHS_BYTES: usize = 8;
/// Bytes of the path of the directory, the kernel's PATH_MAX.
const MAX_DIRECTORY_BYTES: usize = 4096;
const MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// What is kept, and where.
#[derive(Debug, Default)]
pub(super) struct LastGood {
    /// `None` when nothing is to outlive the process.
    path: Option<PathBuf>,
    /// Where the files are from. What another directory stated says nothing about this one.
    directory: PathBuf,
    files: Files,
    changed: bool,
    /// The disk has refused, and it was said.
    complained: bool,
}

/// Names and texts.
type Files = BTreeMap<Arc<str>, Box<[u8]>>;

impl LastGood {
    /// Reads what an earlier process kept at `path` of the manifests in `directory`.
    pub(super) fn open(path: PathBuf, directory: &Path) -> Self {
        // Without the working directory, which cannot fail to be known but once it is deleted, it stands for itself.
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        let files = read(&path, &directory).unwrap_or_else(|error| {
            let path = path.display();
            tracing::warn!(%path, %error, "the policies kept from before cannot be used");
            Files::new()
        });
        Self { path: Some(path), directory, files, changed: false, complained: false }
    }

    /// Each file's name and text.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Arc<str>, &[u8])> {
        self.files.iter().map(|(name, text)| (name, &**text))
    }

    /// Keeps a file that was read without a fault.
    pub(super) fn keep(&mut self, name: &Arc<str>, text: &[u8]) {
        if self.path.is_none() || self.files.get(name).is_some_and(|kept| **kept == *text) {
            return;
        }
        // What it replaces is not good any more, whether or not there is room for it.
        self.forget(name);
        let bytes: usize = self.files.iter().map(|(name, text)| size(name, text)).sum();
        if bytes + size(name, text) > MAX_LAST_GOOD_BYTES {
            tracing::warn!(file = %name, "no room to keep its policies for the next start");
            return;
        }
        self.files.insert(name.clone(), text.into());
        self.changed = true;
    }

    /// Forgets a file that is gone, or that states no policies any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.changed |= self.files.remove(name).is_some();
    }

    /// Writes what has changed since the last time. A disk that refuses is tried again at the next change.
    pub(super) fn save(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| self.changed) else { return };
        self.changed = false;
        match write(path, &encode(&self.directory, &self.files)) {
            Ok(()) => self.complained = false,
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!(path = %path.display(), %error, "policies are not kept for the next start");
            }
            Err(_) => {}
        }
    }
}

fn size(name: &str, text: &[u8]) -> usize {
    LENGTHS_BYTES + name.len() + text.len()
}

fn encode(directory: &Path, files: &Files) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    // Each is within `MAX_LAST_GOOD_BYTES` or `MAX_DIRECTORY_BYTES`.
    let length = |part: &[u8]| u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes();
    let directory = directory.as_os_str().as_bytes();
    bytes.extend(length(directory));
    bytes.extend(directory);
    for (name, text) in files {
        bytes.extend(length(name.as_bytes()));
        bytes.extend(length(text));
        bytes.extend(name.as_bytes());
        bytes.extend(&**text);
    }
    let sum = checksum(&bytes);
    bytes.extend(sum);
    bytes
}

/// The directory that the files are from, and the files.
fn decode(bytes: &[u8]) -> Option<(PathBuf, Files)> {
    let (content, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    if checksum(content) != *sum {
        return None;
    }
    let (length, after) = content.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let (directory, mut rest) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let mut files = Files::new();
    while !rest.is_empty() {
        let (name_length, after) = rest.split_first_chunk::<4>()?;
        let (text_length, after) = after.split_first_chunk::<4>()?;
        let (name, after) = after.split_at_checked(u32::from_be_bytes(*name_length) as usize)?;
        let (text, after) = after.split_at_checked(u32::from_be_bytes(*text_length) as usize)?;
        files.insert(std::str::from_utf8(name).ok()?.into(), text.into());
        rest = after;
    }
    Some((OsStr::from_bytes(directory).into(), files))
}

/// FNV-1a, against accidents; who may write the file may write anything.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step).to_be_bytes()
}

fn read(path: &PathBuf, directory: &Path) -> io::Result<Files> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let follow_nothing = (nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK).bits();
    let file = match OpenOptions::new().read(true).custom_flags(follow_nothing).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Files::new()),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(invalid("not a regular file".to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.uid() != nix::unistd::geteuid().as_raw() || mode & 0o022 != 0 {
        return Err(invalid(format!("others may write it (user {}, mode {mode:04o})", metadata.uid())));
    }
    let head = MAGIC.len() + size_of::<u32>() + MAX_DIRECTORY_BYTES;
    let most = (head + MAX_LAST_GOOD_BYTES + CHECKSUM_BYTES) as u64;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(invalid(format!("larger than {most} bytes")));
    }
    let (theirs, files) =
        decode(&bytes).ok_or_else(|| invalid("damaged, or of an earlier version".to_owned()))?;
    if theirs != directory {
        return Err(invalid(format!("kept of {}, not of {}", theirs.display(), directory.display())));
    }
    Ok(files)
}

/// Writes beside `path` and renames, so that a crash leaves the old version or the new one.
fn write(path: &PathBuf, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
    let mut temporary = path.clone().into_os_string();
    // Of this process alone: an upgrade overlaps with its predecessor.
    temporary.push(format!(".new-{}", std::process::id()));
    // Left by a crashed process of the same number, or put there by somebody else; never written through.
    let _absent = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(last_good: &LastGood) -> Vec<(String, Vec<u8>)> {
        last_good.files().map(|(name, text)| (name.to_string(), text.to_vec())).collect()
    }

    fn open(path: &Path) -> LastGood {
        LastGood::open(path.to_owned(), Path::new("/etc/mesh"))
    }

    fn filled(path: &Path) -> LastGood {
        let mut last_good = open(path);
        last_good.keep(&"a.yaml".into(), b"first");
        last_good.keep(&"b.yaml".into(), b"second");
        last_good.save();
        last_good
    }

    #[test]
    fn what_is_kept_is_there_again_and_nobody_else_may_read_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deeper/state/n1.last-good");
        let mut first = filled(&path);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(kept(&open(&path)), kept(&first));
        first.forget("a.yaml");
        first.keep(&"b.yaml".into(), b"third");
        first.save();
        assert_eq!(kept(&open(&path)), [("b.yaml".to_owned(), b"third".to_vec())]);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "something is left beside it");
    }

    #[test]
    fn a_file_cut_anywhere_or_with_any_bit_flipped_is_not_used_and_is_replaced() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("n1.last-good");
        filled(&path);
        let good = fs::read(&path).unwrap();
        for length in 0..good.len() {
            assert!(decode(&good[..length]).is_none(), "cut to {length}");
        }
        for bit in 0..8 * good.len() {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_none(), "bit {bit}");
        }
        fs::write(&path, &good[1..]).unwrap();
        assert_eq!(kept(&open(&path)), []);
        assert_eq!(kept(&filled(&path)), kept(&open(&path)));
    }

    #[test]
    fn what_another_directory_stated_is_not_recalled() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("n1.last-good");
        filled(&path);
        assert_eq!(kept(&LastGood::open(path.clone(), Path::new("/etc/other"))), []);
        assert_eq!(kept(&open(&path)).len(), 2, "looking from elsewhere takes nothing away");
        let mut other = LastGood::open(path.clone(), Path::new("/etc/other"));
        other.keep(&"c.yaml".into(), b"third");
        other.save();
        assert_eq!(kept(&open(&path)), []);
    }

    #[test]
    fn a_relative_directory_is_the_one_it_leads_to() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("n1.last-good");
        let mut relative = LastGood::open(path.clone(), Path::new("mesh"));
        relative.keep(&"a.yaml".into(), b"first");
        relative.save();
        let absolute = std::env::current_dir().unwrap().join("mesh");
        assert_eq!(kept(&LastGood::open(path, &absolute)), kept(&relative));
    }

    #[test]
    fn a_file_that_others_may_write_is_not_used() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("n1.last-good");
        filled(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        assert_eq!(kept(&open(&path)), []);
    }

    #[test]
    fn a_disk_that_refuses_is_no_reason_to_stop() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("file"), "").unwrap();
        let last_good = filled(&home.path().join("file/n1.last-good"));
        assert_eq!(kept(&last_good).len(), 2);
    }

    #[test]
    fn what_there_is_no_room_for_is_not_kept_and_nor_is_what_it_replaces() {
        let mut last_good = LastGood { path: Some("/".into()), ..LastGood::default() };
        last_good.keep(&"a.yaml".into(), b"old");
        last_good.keep(&"b.yaml".into(), b"small");
        last_good.keep(&"a.yaml".into(), &vec![0; MAX_LAST_GOOD_BYTES]);
        assert_eq!(kept(&last_good), [("b.yaml".to_owned(), b"small".to_vec())]);
    }
}
