//! Keeps the program of a waypoint's pod as a kubelet does: starts it again when it ends, asks it whether it is ready, and
//! writes into its Pod what it finds.
//!
//! Nobody else writes that Pod's file. The surprising thing: the file is there before the program is ready, and says so, as
//! an API server would; a waypoint must not be used by its existence alone.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::manifest;
use crate::{
    cluster::Pod,
    process::{Process, Spawn},
};

/// How often the program is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How often it is asked whether it is ready (`periodSeconds` is 1 at least in Kubernetes; tests are in a hurry).
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// How long an answer may take (`timeoutSeconds`).
const ANSWER: Duration = Duration::from_secs(1);

/// How many probes in a row must fail until a ready pod is not (`failureThreshold`).
const FAILURES: u32 = 3;

/// Longest pause before a program that keeps ending is started again (`CrashLoopBackOff`, there up to 5 minutes).
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// First pause after the first restart, which comes at once.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);

/// How long a program may take to end in good order (`terminationGracePeriodSeconds`, there 30).
const GRACE: Duration = Duration::from_secs(10);

/// The readiness server.
const READINESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15021);

/// The Pod in each of the states that it is written in.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) ready: Value,
    pub(super) unready: Value,
    pub(super) terminating: Value,
}

/// Keeps one program. Dropping it ends the program.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    pod: Arc<Pod>,
    spawn: Spawn,
    file: PathBuf,
    objects: Objects,
    process: Mutex<Arc<Process>>,
    ready: AtomicBool,
    stop: AtomicBool,
}

impl Keeper {
    /// Starts the program and writes the Pod to `file`.
    pub(super) fn start(pod: Arc<Pod>, spawn: Spawn, file: PathBuf, objects: Objects) -> Result<Self> {
        let process = Mutex::new(Arc::new(pod.spawn(spawn.clone())?));
        let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { pod, spawn, file, objects, process, ready, stop });
        shared.write(&shared.objects.unready)?;
        let kept = Arc::clone(&shared);
        let thread = thread::Builder::new().name("keeper".into()).spawn(move || {
            if let Err(error) = kept.keep() {
                eprintln!("harness: pod {} is no longer kept: {error:#}", kept.pod.name());
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Whether the Pod says that it is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Relaxed)
    }

    /// The program that runs now, or ended last.
    pub(super) fn process(&self) -> Arc<Process> {
        Arc::clone(&self.shared.current())
    }

    /// Takes the pod out of use, as its deletion does: first its Pod says so, then the program is asked to end.
    pub(super) fn retire(&mut self) -> Result<()> {
        self.stop();
        self.shared.write(&self.shared.objects.terminating)?;
        self.process().terminate(GRACE).map(drop)
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn current(&self) -> MutexGuard<'_, Arc<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self) -> Result<()> {
        let (mut failures, mut probed) = (0, None::<Instant>);
        let mut pause = Duration::ZERO;
        while !self.stop.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
            let alive = self.current().is_alive();
            if !alive {
                self.tell(false)?;
                if !self.sleep(pause) {
                    return Ok(());
                }
                pause = (pause * 2).clamp(BACKOFF_FIRST, BACKOFF_MAX);
                let next = self.pod.spawn(self.spawn.clone())?;
                *self.current() = Arc::new(next);
            } else if probed.is_none_or(|at| at.elapsed() >= PROBE_EVERY) {
                probed = Some(Instant::now());
                failures = if self.answers() { 0 } else { failures + 1 };
                if failures == 0 {
                    self.tell(true)?;
                } else if failures >= FAILURES {
                    self.tell(false)?;
                }
            }
        }
        Ok(())
    }

    /// Whether it slept to the end.
    fn sleep(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        while Instant::now() < until && !self.stop.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
        }
        !self.stop.load(Ordering::Relaxed)
    }

    fn answers(&self) -> bool {
        let answer = self.pod.namespace().http_get(READINESS, "/healthz/ready", ANSWER);
        matches!(answer, Ok((200, _)))
    }

    fn tell(&self, ready: bool) -> Result<()> {
        if self.ready.swap(ready, Ordering::Relaxed) == ready {
            return Ok(());
        }
        self.write(if ready { &self.objects.ready } else { &self.objects.unready })
    }

    fn write(&self, object: &Value) -> Result<()> {
        let directory = self.file.parent().context("a Pod's file is in a directory")?;
        let name = self.file.file_name().and_then(|name| name.to_str()).context("a Pod's file has a name")?;
        manifest::write(directory, name, std::slice::from_ref(object))
    }
}
