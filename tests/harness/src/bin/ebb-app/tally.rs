//! What the tasks of a load generator count together, and when they stop.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use harness::report::{Failure, FailureKind, LoadReport};

use crate::{conclude, latency::Histogram};

/// Pause after a failure, so that a refused connection is not tried in a busy loop.
const PAUSE: Duration = Duration::from_millis(2);

/// How much a load generator does: so many, or for so long.
#[derive(Args, Clone, Copy)]
pub(crate) struct Amount {
    /// Stop after so many seconds
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Stop after so many in all, even if sooner
    #[arg(long)]
    count: Option<u64>,
    /// Longest one may take, in milliseconds
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

impl Amount {
    pub(crate) fn timeout(self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(crate) fn duration(self) -> Duration {
        Duration::try_from_secs_f64(self.seconds).unwrap_or(Duration::MAX / 4)
    }
}

/// Shared by the tasks of one load generator.
pub(crate) struct Tally {
    start: Instant,
    end: Instant,
    left: Cell<u64>,
    bytes: Cell<u64>,
    statuses: RefCell<BTreeMap<u16, u64>>,
    failures: RefCell<BTreeMap<FailureKind, u64>>,
    latency: RefCell<Histogram>,
}

impl Tally {
    pub(crate) fn start(amount: Amount) -> Rc<Self> {
        let start = Instant::now();
        Rc::new(Self {
            start,
            end: start + amount.duration(),
            left: Cell::new(amount.count.unwrap_or(u64::MAX)),
            bytes: Cell::new(0),
            statuses: RefCell::default(),
            failures: RefCell::default(),
            latency: RefCell::new(Histogram::new()),
        })
    }

    /// Whether there is one more to do; it is then the caller's to do.
    pub(crate) fn take(&self) -> bool {
        let left = self.left.get();
        if left == 0 || Instant::now() >= self.end {
            return false;
        }
        self.left.set(left - 1);
        true
    }

    pub(crate) fn done(&self, since: Instant, bytes: u64) {
        self.latency.borrow_mut().add(since.elapsed());
        self.bytes.set(self.bytes.get() + bytes);
    }

    pub(crate) fn status(&self, status: u16) {
        *self.statuses.borrow_mut().entry(status).or_default() += 1;
    }

    /// Counts a failure and takes a breath.
    pub(crate) async fn failed(&self, failure: &Failure) {
        count(&mut self.failures.borrow_mut(), failure);
        tokio::time::sleep(PAUSE).await;
    }

    pub(crate) fn report(&self, connections: u32) -> LoadReport {
        let (elapsed_s, latency) = (self.start.elapsed().as_secs_f64(), self.latency.borrow().summary());
        LoadReport {
            connections,
            done: latency.count,
            elapsed_s,
            rate: latency.count as f64 / elapsed_s,
            bytes: self.bytes.get(),
            statuses: self.statuses.borrow().clone(),
            failures: self.failures.borrow().clone(),
            latency,
        }
    }
}

/// Adds a failure to a count by kind.
pub(crate) fn count(failures: &mut BTreeMap<FailureKind, u64>, failure: &Failure) {
    *failures.entry(failure.kind).or_default() += 1;
}

/// Runs `tasks` copies of a task to their end and prints the report.
pub(crate) async fn run<T>(
    amount: Amount,
    tasks: u32,
    mut task: impl FnMut(Rc<Tally>, u32) -> T,
) -> Result<ExitCode>
where
    T: Future<Output = Result<()>> + 'static,
{
    let tally = Tally::start(amount);
    let local = tokio::task::LocalSet::new();
    let handles: Vec<_> =
        (0..tasks).map(|number| local.spawn_local(task(Rc::clone(&tally), number))).collect();
    local
        .run_until(async {
            for handle in handles {
                handle.await??;
            }
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    let report = tally.report(tasks);
    conclude(&report, report.done > 0 && report.failed() == 0)
}
