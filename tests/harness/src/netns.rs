//! Owns one network namespace: makes it, names it under `/run/netns`, runs code and `ip` in it, removes it.
//!
//! Namespaces are entered by a fresh thread that calls `setns` and ends; `ip netns exec` would also remount `/sys`
//! and hide the cgroup and bpf file systems. A child process spawned by such a thread is born in the namespace.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
    panic,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use crate::run::Run;

/// Where named namespaces live, as iproute2 has it.
pub(crate) const NETNS: &str = "/run/netns";

/// Longest answer [`Namespace::http_get`] keeps.
const HTTP_ANSWER_MAX: u64 = 64 * 1024 * 1024;

/// A named network namespace, removed on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Makes a namespace called `PREFIX-suffix` with `sysctls` set (paths under `/proc/sys/net`).
    pub(crate) fn create(run: &Arc<Run>, suffix: &str, sysctls: &[(&str, &str)]) -> Result<Self> {
        let name = format!("{}-{suffix}", run.prefix());
        run.record_namespace(&name)?;
        let path = path_of(&name);
        File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        let made = on_thread(|| make(&path, sysctls)).with_context(|| format!("make namespace {name}"));
        match made.and_then(|()| File::open(&path).context("open the new namespace")) {
            Ok(file) => Ok(Self { name, file }),
            Err(error) => {
                // The error that matters is the first one.
                let _ = remove(&name);
                Err(error)
            }
        }
    }

    /// Its name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it, which other programs may open.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// The inode by which the kernel tells namespaces apart.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn inode(&self) -> Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// Runs `work` on a thread inside the namespace. Sockets it makes stay there for good.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` failed. A panic in `work` goes on in the caller.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("enter namespace {}", self.name))?;
            work()
        })
    }

    /// Runs a batch of `ip` commands (without the word `ip`), stopping at the first that fails.
    ///
    /// # Errors
    /// iproute2 is missing, or a command failed; the error holds what `ip` said.
    pub fn ip(&self, commands: &[String]) -> Result<()> {
        if commands.is_empty() {
            return Ok(());
        }
        self.within(|| ip_batch(commands)).with_context(|| format!("in namespace {}", self.name))
    }

    /// Sets a sysctl given as a path under `/proc/sys/net`.
    ///
    /// # Errors
    /// The kernel has no such setting, or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.within(|| write_sysctl(name, value))
    }

    /// Connects from inside the namespace.
    ///
    /// # Errors
    /// No answer within `timeout`, or a refusal.
    pub fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<TcpStream> {
        self.within(|| TcpStream::connect_timeout(&to, timeout).with_context(|| format!("connect to {to}")))
    }

    /// One plain HTTP/1.0 GET from inside the namespace: the status and the body.
    ///
    /// # Errors
    /// No connection, no answer within `timeout` per read, or an answer that is not HTTP.
    pub fn http_get(&self, to: SocketAddr, path: &str, timeout: Duration) -> Result<(u16, String)> {
        let mut stream = self.connect(to, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {to}\r\n\r\n")?;
        let mut answer = Vec::new();
        stream
            .take(HTTP_ANSWER_MAX)
            .read_to_end(&mut answer)
            .with_context(|| format!("answer to GET {path}"))?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer has no end of head")?;
        let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
        Ok((status.with_context(|| format!("no status in {head:?}"))?, body.to_owned()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("harness: namespace {} stays behind: {error:#}", self.name);
        }
    }
}

/// Unmounts and unlinks a named namespace; the kernel frees it when the last process and descriptor is gone. Fine when
/// there is none.
pub(crate) fn remove(name: &str) -> Result<()> {
    let path = path_of(name);
    if !path.exists() {
        return Ok(());
    }
    // EINVAL: the file was made but never mounted on, as when a run was killed in between.
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(errno) => bail!("umount {}: {errno}", path.display()),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context(format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

fn make(path: &Path, sysctls: &[(&str, &str)]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare")?;
    mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .context("bind mount the namespace")?;
    sysctls.iter().try_for_each(|(name, value)| write_sysctl(name, value))
}

fn write_sysctl(name: &str, value: &str) -> Result<()> {
    fs::write(Path::new("/proc/sys/net").join(name), value)
        .with_context(|| format!("set net/{name} to {value}"))
}

fn ip_batch(commands: &[String]) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run ip; is iproute2 installed?")?;
    let mut input = child.stdin.take().context("ip was given a pipe to read from")?;
    // A broken pipe means that ip gave up early; its own words say why.
    let _ = input.write_all(commands.join("\n").as_bytes()).and_then(|()| input.write_all(b"\n"));
    drop(input);
    let output = child.wait_with_output().context("wait for ip")?;
    if !output.status.success() {
        bail!("ip: {}; the batch was {commands:#?}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Runs `work` on a thread of its own, whose namespaces nobody else shares.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        match thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?.join() {
            Ok(result) => result,
            Err(panic) => panic::resume_unwind(panic),
        }
    })
}
