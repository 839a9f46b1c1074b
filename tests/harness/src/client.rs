//! Runs the client programs of `ebb-app` in a pod and reads what they report.
//!
//! A client that failed to reach its server has done its job: the failure is in the report. An error here means that there is
//! no report.

use std::{fmt::Display, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use crate::{
    binaries,
    cluster::Pod,
    interrupt::wait_for,
    process::{Process, Spawn},
    report::{Answer, BulkReport, HoldReport, LoadReport, Outcome, PeerReport, Sent},
};

/// The role under which clients' CPU time is accounted.
pub const ROLE: &str = "client";

/// How long a client may take beyond what its own flags allow, before the test gives it up.
const WITHIN: Duration = Duration::from_secs(60);

/// A place to run clients from.
#[derive(Clone, Copy, Debug)]
pub struct Client<'p> {
    pod: &'p Pod,
    within: Duration,
}

impl<'p> Client<'p> {
    /// Clients in this pod.
    #[must_use]
    pub fn in_pod(pod: &'p Pod) -> Self {
        Self { pod, within: WITHIN }
    }

    /// Lets a client run this long instead of a minute.
    #[must_use]
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    /// `ebb-app get URL`: one HTTP request.
    ///
    /// # Errors
    /// There is no report.
    pub fn get(&self, url: impl Display) -> Result<Outcome<Answer>> {
        self.run(&["get", &url.to_string()])
    }

    /// `ebb-app get` with further flags.
    ///
    /// # Errors
    /// There is no report.
    pub fn get_with(&self, url: impl Display, flags: &[&str]) -> Result<Outcome<Answer>> {
        self.run(&[&["get", &url.to_string()], flags].concat())
    }

    /// `ebb-app load URL`.
    ///
    /// # Errors
    /// There is no report.
    pub fn load(&self, url: impl Display, flags: &[&str]) -> Result<LoadReport> {
        self.run(&[&["load", &url.to_string()], flags].concat())
    }

    /// `ebb-app connrate URL`.
    ///
    /// # Errors
    /// There is no report.
    pub fn connrate(&self, url: impl Display, flags: &[&str]) -> Result<LoadReport> {
        self.run(&[&["connrate", &url.to_string()], flags].concat())
    }

    /// `ebb-app pingpong TO`.
    ///
    /// # Errors
    /// There is no report.
    pub fn pingpong(&self, to: SocketAddr, flags: &[&str]) -> Result<LoadReport> {
        self.run(&[&["pingpong", &to.to_string()], flags].concat())
    }

    /// `ebb-app bulk TO`.
    ///
    /// # Errors
    /// There is no report.
    pub fn bulk(&self, to: SocketAddr, flags: &[&str]) -> Result<BulkReport> {
        self.run(&[&["bulk", &to.to_string()], flags].concat())
    }

    /// `ebb-app ledger TO`: numbered records to a `tcp-sink --ledger`.
    ///
    /// # Errors
    /// There is no report.
    pub fn ledger(&self, to: SocketAddr, flags: &[&str]) -> Result<Sent> {
        self.run(&[&["ledger", &to.to_string()], flags].concat())
    }

    /// `ebb-app peer --connect TO` with a script such as `["send:5", "fin", "recv:5", "eof"]`.
    ///
    /// # Errors
    /// There is no report.
    pub fn peer(&self, to: SocketAddr, script: &[&str]) -> Result<PeerReport> {
        self.run(&[&["peer", "--connect", &to.to_string()], script].concat())
    }

    /// `ebb-app hold TO`: returns once all connections are open, or could not be.
    ///
    /// # Errors
    /// There is no report of the opening.
    pub fn hold(&self, to: SocketAddr, flags: &[&str]) -> Result<Held> {
        let running = self.start_with(&[&["hold", &to.to_string()], flags].concat(), Spawn::with_input)?;
        let opened = wait_for("report of opened connections", self.within, || running.last_report(1));
        Ok(Held { opened: opened.with_context(|| running.process.tail())?, running, within: self.within })
    }

    /// Runs any program of `ebb-app` to its end and reads its last report.
    ///
    /// # Errors
    /// It does not end in time, or prints no such report; the error shows its log.
    pub fn run<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        self.start(arguments)?.report(self.within)
    }

    /// Starts any program of `ebb-app` and leaves it running.
    ///
    /// # Errors
    /// The binary is missing.
    pub fn start(&self, arguments: &[&str]) -> Result<Running> {
        self.start_with(arguments, |spawn| spawn)
    }

    fn start_with(&self, arguments: &[&str], adapt: impl FnOnce(Spawn) -> Spawn) -> Result<Running> {
        let name = format!("{}.{}", self.pod.name(), arguments.first().unwrap_or(&"ebb-app"));
        let spawn = Spawn::new(name, binaries::find("ebb-app")?).role(ROLE).args(arguments);
        Ok(Running { process: self.pod.spawn(adapt(spawn))? })
    }
}

/// A program of `ebb-app` that was started and not waited for. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    process: Process,
}

impl Running {
    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Waits until a server program listens.
    ///
    /// # Errors
    /// It does not in time, or has ended.
    pub fn wait_ready(&self, within: Duration) -> Result<()> {
        self.process.wait_for_log("ready:", within).map(drop)
    }

    /// Waits for its end and reads its last report.
    ///
    /// # Errors
    /// It does not end in time, or prints no such report; the error shows its log.
    pub fn report<T: DeserializeOwned>(&self, within: Duration) -> Result<T> {
        self.process.wait(within).with_context(|| self.process.tail())?;
        self.last_report(1)?.with_context(|| format!("no report; {}", self.process.tail()))
    }

    /// The last of at least `count` report lines, if there are so many yet.
    fn last_report<T: DeserializeOwned>(&self, count: usize) -> Result<Option<T>> {
        let output = self.process.stdout()?;
        // A line still being written has no end yet.
        let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines: Vec<_> = whole.lines().filter(|line| !line.is_empty()).collect();
        let last = lines.last().filter(|_| lines.len() >= count);
        last.map(|line| {
            serde_json::from_str(line).with_context(|| format!("not the report expected: {line}"))
        })
        .transpose()
    }
}

/// Connections held open by `ebb-app hold`.
#[derive(Debug)]
pub struct Held {
    running: Running,
    opened: HoldReport,
    within: Duration,
}

impl Held {
    /// How opening them went.
    #[must_use]
    pub fn opened(&self) -> &HoldReport {
        &self.opened
    }

    /// The process that holds them.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.running.process
    }

    /// Tries every connection once more and lets them go.
    ///
    /// # Errors
    /// There is no report of it.
    pub fn release(self) -> Result<HoldReport> {
        self.running.process.close_input();
        self.running.report(self.within)
    }
}
