//! Connections one after the other from several threads, while the test does something to the mesh.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use harness::netns::Namespace;

use crate::peer::{Doorway, Flow};

/// How long one exchange may take at most: a restart, and the kernel's retries of a SYN around it.
const EXCHANGE: Duration = Duration::from_secs(15);

/// Running load.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Report>>,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Exchanges that went well.
    pub done: usize,
    /// The others.
    pub failed: Vec<Failed>,
    /// The longest of those that went well.
    pub worst: Duration,
}

/// An exchange that did not go well.
#[derive(Clone, Debug)]
pub struct Failed {
    /// When it began.
    pub begun: Instant,
    /// How long it took.
    pub after: Duration,
    /// What became of it.
    pub why: String,
}

impl Load {
    /// `threads` clients in `from` open connection after connection to the echo server at `to`, and send `text`.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn start(from: &Namespace, to: SocketAddr, text: &str, threads: usize) -> Result<Self> {
        let (stop, done): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        let client = || -> Result<JoinHandle<Report>> {
            let (doorway, stop, done) = (Doorway::to(from)?, Arc::clone(&stop), Arc::clone(&done));
            let text = text.to_owned();
            Ok(std::thread::spawn(move || {
                exchange_until(&stop, &done, || Flow::open_within(&doorway, to, EXCHANGE)?.say(&text))
            }))
        };
        let threads = (0..threads).map(|_| client()).collect::<Result<_>>()?;
        Ok(Self { stop, done, threads })
    }

    /// Exchanges that have gone well so far.
    #[must_use]
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Lets every client end its exchange, and tells how it went.
    ///
    /// # Errors
    /// A client panicked.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let mut whole = Report::default();
        for thread in self.threads {
            let report = thread.join().map_err(|_| anyhow!("a client panicked"))?;
            whole.done += report.done;
            whole.failed.extend(report.failed);
            whole.worst = whole.worst.max(report.worst);
        }
        Ok(whole)
    }
}

fn exchange_until(stop: &AtomicBool, done: &AtomicUsize, exchange: impl Fn() -> Result<()>) -> Report {
    let mut report = Report::default();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        match exchange() {
            Ok(()) => {
                report.done += 1;
                done.fetch_add(1, Ordering::Relaxed);
                report.worst = report.worst.max(start.elapsed());
            }
            Err(error) => {
                let (after, why) = (start.elapsed(), format!("{error:#}"));
                report.failed.push(Failed { begun: start, after, why });
            }
        }
    }
    report
}
