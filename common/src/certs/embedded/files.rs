//! The two files of a root: reads them with suspicion, and makes them once even when several processes try.
//!
//! Surprising: the key is written first and the certificate last, so a certificate that can be seen has its key beside
//! it and readers need no lock. A crash in between leaves a key alone, and the next start makes a certificate for it.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::KeyPair;
use rustls_pki_types::UnixTime;
use zeroize::Zeroizing;

use super::sign::{Authority, new_root, public_key};
use crate::tls::{MAX_ROOTS_PEM_BYTES, TrustRoots, parse_certificate};

/// The root certificates, readable by all.
pub const ROOT_CERTIFICATE_FILE: &str = "root-cert.pem";

/// The key of the signing root, readable by its owner alone.
pub const ROOT_KEY_FILE: &str = "root-key.pem";

const LOCK_FILE: &str = ".root.lock";
const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;
const MAX_KEY_BYTES: u64 = 16 * 1024;
const LOCK_DEADLINE: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Why the files of a root cannot be used: which file, and a sentence on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaFileError {
    /// The file or directory at fault.
    pub path: PathBuf,
    /// What is wrong with it, and what to do when that is known.
    pub why: String,
}

impl CaFileError {
    fn new(path: &Path, why: impl Into<String>) -> Self {
        Self { path: path.to_owned(), why: why.into() }
    }

    fn io(path: &Path, step: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(path, format!("cannot {step}: {error}"))
    }
}

impl fmt::Display for CaFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

impl std::error::Error for CaFileError {}

/// Where a root is.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Paths {
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self { certificate: directory.join(ROOT_CERTIFICATE_FILE), key: directory.join(ROOT_KEY_FILE) }
    }
}

/// Tells one version of the two files from another without reading them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp([(u64, u64, u64, i64, i64); 2]);

impl Stamp {
    pub(super) fn of(paths: &Paths) -> Result<Self, CaFileError> {
        let stamp = |path: &Path| {
            let file = fs::metadata(path).map_err(CaFileError::io(path, "look at it"))?;
            Ok((file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
        };
        Ok(Self([stamp(&paths.certificate)?, stamp(&paths.key)?]))
    }
}

/// Reads a root and its key and makes sure that they can sign certificates that peers accept.
pub(super) fn read_pair(paths: &Paths, now: UnixTime) -> Result<(Authority, TrustRoots), CaFileError> {
    let certificate = |why: String| CaFileError::new(&paths.certificate, why);
    let pem = read_bounded(&paths.certificate, MAX_ROOTS_PEM_BYTES as u64)?;
    let roots = TrustRoots::from_pem(&pem).map_err(|error| certificate(error.to_string()))?;
    let key = read_key(&paths.key)?;
    let wanted = public_key(&key);
    let signing = roots
        .certificates()
        .find(|root| parse_certificate(root).is_some_and(|root| root.public_key().raw == wanted))
        .ok_or_else(|| {
            CaFileError::new(
                &paths.key,
                format!("it is not the key of a certificate in {}", paths.certificate.display()),
            )
        })?;
    let authority = Authority::new(signing, key).map_err(certificate)?;
    authority.check_dates(now).map_err(certificate)?;
    Ok((authority, roots))
}

/// Makes the root of `directory` unless it has one already.
pub(super) fn create_if_absent(
    directory: &Path,
    paths: &Paths,
    trust_domain: &str,
    now: UnixTime,
) -> Result<(), CaFileError> {
    // First without the lock: the directory may be a read-only mount that has both files.
    if exists(&paths.certificate)? {
        return require_key(paths);
    }
    fs::create_dir_all(directory).map_err(CaFileError::io(directory, "create the directory"))?;
    let _lock = lock(&directory.join(LOCK_FILE))?;
    if exists(&paths.certificate)? {
        return require_key(paths);
    }
    let key = if exists(&paths.key)? { Some(read_key(&paths.key)?) } else { None };
    let key_is_new = key.is_none();
    let (certificate, key) =
        new_root(trust_domain, key, now).map_err(|why| CaFileError::new(&paths.certificate, why))?;
    if key_is_new {
        write_atomically(directory, &paths.key, key.as_bytes(), KEY_MODE)?;
    }
    write_atomically(directory, &paths.certificate, certificate.as_bytes(), CERTIFICATE_MODE)
}

fn require_key(paths: &Paths) -> Result<(), CaFileError> {
    if exists(&paths.key)? {
        return Ok(());
    }
    let certificate = paths.certificate.display();
    let why =
        format!("missing beside {certificate}; restore it, or remove that certificate to begin a new root");
    Err(CaFileError::new(&paths.key, why))
}

fn exists(path: &Path) -> Result<bool, CaFileError> {
    path.try_exists().map_err(CaFileError::io(path, "look for it"))
}

/// Reads the key only if nobody but this user can, judged on the open file and not on its name.
fn read_key(path: &Path) -> Result<KeyPair, CaFileError> {
    let file = File::open(path).map_err(CaFileError::io(path, "open it"))?;
    let metadata = file.metadata().map_err(CaFileError::io(path, "look at it"))?;
    let (owner, us) = (metadata.uid(), nix::unistd::geteuid().as_raw());
    if owner != us {
        return Err(CaFileError::new(path, format!("owned by user {owner}, but it must be by user {us}")));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let why = format!("mode {mode:04o} lets others read the root key; make it 0600 (chmod 600)");
        return Err(CaFileError::new(path, why));
    }
    let mut pem = Zeroizing::new(String::with_capacity(MAX_KEY_BYTES as usize + 1));
    file.take(MAX_KEY_BYTES + 1).read_to_string(&mut pem).map_err(CaFileError::io(path, "read it"))?;
    if pem.len() as u64 > MAX_KEY_BYTES {
        return Err(CaFileError::new(path, format!("larger than {MAX_KEY_BYTES} bytes")));
    }
    KeyPair::from_pem(&pem)
        .map_err(|error| CaFileError::new(path, format!("not a private key in PEM: {error}")))
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, CaFileError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(CaFileError::io(path, "open it"))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(CaFileError::io(path, "read it"))?;
    if bytes.len() as u64 > limit {
        return Err(CaFileError::new(path, format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Waits for the lock, which the kernel releases when its holder dies.
fn lock(path: &Path) -> Result<File, CaFileError> {
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(KEY_MODE).open(path);
    let file = file.map_err(CaFileError::io(path, "open it"))?;
    let give_up = Instant::now() + LOCK_DEADLINE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => {
                let seconds = LOCK_DEADLINE.as_secs();
                let why = format!("another process has held this lock for {seconds} s; is it stopped?");
                return Err(CaFileError::new(path, why));
            }
            Err(TryLockError::Error(error)) => return Err(CaFileError::io(path, "lock it")(error)),
        }
    }
}

/// Writes beside `path` and renames; the caller holds the lock, so what is left there is from a process that died.
fn write_atomically(directory: &Path, path: &Path, bytes: &[u8], mode: u32) -> Result<(), CaFileError> {
    let temporary = path.with_extension("pem.new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(CaFileError::io(&temporary, "remove what is left of it")(error));
        }
        _ => {}
    }
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        // The umask may have taken bits away.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The new name is durable before the next file is begun: never a certificate without its key.
        File::open(directory)?.sync_all()
    };
    written().map_err(CaFileError::io(path, "write it"))
}
