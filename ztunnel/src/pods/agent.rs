//! Follows the roster: enrols pods in the kernel, hands their listeners to the workers, takes them out again.
//!
//! Runs on a thread of its own, because it enters namespaces and waits for the kernel. Order matters: listeners are
//! open before the first packet is captured, and capture ends before they close.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::certs::CertStore;
use common::snapshot::Snapshot;
use common::snapshot::publish::Reader;
use ebb_loader::Redirector;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::pods::older;
use crate::pods::roster::{self, Action, Member};
use crate::pods::serve::{self, Served};
use crate::pods::status::Status;
use crate::worker::Serve;

/// How long a pod that could not be enrolled waits for the next try.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How often the kernel is asked whether enrolments are as they were left, and leaving pods are looked at.
pub const VERIFY_INTERVAL: Duration = Duration::from_secs(2);

/// The node's pods.
pub struct Agent {
    node: Arc<str>,
    mesh: Reader,
    certs: CertStore,
    status: Arc<Status>,
    kernel: Redirector,
    workers: Vec<mpsc::Sender<Serve>>,
    served: HashMap<Member, Served>,
    leaving: Vec<Served>,
    failed: HashMap<Member, Instant>,
    swept: bool,
}

impl Agent {
    /// An agent that serves nothing yet.
    pub fn new(
        node: Arc<str>,
        mesh: Reader,
        certs: CertStore,
        status: Arc<Status>,
        kernel: Redirector,
        workers: Vec<mpsc::Sender<Serve>>,
    ) -> Self {
        let (served, leaving, failed) = Default::default();
        Self { node, mesh, certs, status, kernel, workers, served, leaving, failed, swept: false }
    }

    /// Follows the mesh until `stop` fires. What is enrolled then stays so: the kernel goes on dropping what nobody
    /// takes, and the next process takes over.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut verify = tokio::time::interval(VERIFY_INTERVAL);
        loop {
            let mesh = self.mesh.current();
            if mesh.generation() > 0 {
                self.follow(&mesh).await;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = self.mesh.changed() => {}
                _ = verify.tick() => self.verify(),
                () = sleep(RETRY_INTERVAL), if !self.failed.is_empty() => {}
            }
        }
    }

    async fn follow(&mut self, mesh: &Snapshot) {
        let wanted = mesh.pods_on(&self.node).filter_map(|workload| roster::member(workload));
        let actions = roster::compare(wanted, self.served.keys());
        let still_wanted: HashSet<&Member> = actions.iter().filter_map(Action::started).collect();
        self.failed.retain(|member, _| still_wanted.contains(member));
        self.status.begin(&actions);
        for action in actions {
            match action {
                Action::Stop(member) => self.stop(mesh, &member),
                Action::Start(member) => self.start(mesh, member).await,
                Action::Refuse(uid, why) => tracing::error!(pod = &*uid, why, "pod cannot be served"),
            }
        }
        self.sweep();
        let pods = self.served.values().map(|served| served.pod.clone()).collect();
        self.status.settled(pods, self.failed.len());
        self.end_older(mesh);
    }

    async fn start(&mut self, mesh: &Snapshot, member: Member) {
        let due = self.failed.get(&member).is_none_or(|tried| tried.elapsed() >= RETRY_INTERVAL);
        let Some(workload) = mesh.workload(&member.uid).filter(|_| due) else { return };
        let workers = u32::try_from(self.workers.len()).unwrap_or(u32::MAX);
        match serve::start(&self.kernel, workload, &member, workers) {
            Ok((served, listeners)) => {
                if let Err(refusal) = self.certs.want(&served.pod.identity) {
                    tracing::warn!(pod = &*member.uid, %refusal, "no certificate can be had yet");
                }
                for (worker, listeners) in self.workers.iter().zip(listeners) {
                    // A worker that is gone is a proxy that is ending.
                    let _ = worker.send(Serve { pod: served.pod.clone(), listeners }).await;
                }
                tracing::info!(pod = &*member.uid, adopted = served.is_adopted(), "pod enrolled");
                served.cut_when_none_is_older();
                self.status.started();
                self.failed.remove(&member);
                self.served.insert(member, served);
            }
            Err(error) => {
                tracing::error!(
                    pod = &*member.uid,
                    error = format!("{error:#}"),
                    "pod not enrolled; will try again"
                );
                self.failed.insert(member, Instant::now());
            }
        }
    }

    fn stop(&mut self, mesh: &Snapshot, member: &Member) {
        let Some(served) = self.served.remove(member) else { return };
        self.status.stopped();
        let identity = &served.pod.identity;
        if !self.served.values().any(|other| other.pod.identity == *identity) {
            self.certs.forget(identity);
        }
        let lives_on = mesh.workload(&member.uid).is_some_and(|workload| served.pod.is(workload));
        if lives_on && served.release() {
            tracing::info!(pod = &*member.uid, "pod leaves the mesh; its open connections go on");
            self.leaving.push(served);
        } else {
            tracing::info!(pod = &*member.uid, "pod is gone");
            served.end();
        }
    }

    /// Takes away what an earlier process enrolled and nobody wants any more; once, when the first roster stands.
    fn sweep(&mut self) {
        if std::mem::replace(&mut self.swept, true) {
            return;
        }
        let live = self.served.keys().chain(self.failed.keys()).map(|m| m.incarnation.to_string()).collect();
        match self.kernel.leftovers(&live) {
            Ok(uids) => uids.iter().for_each(|uid| {
                tracing::info!(uid, "removing the enrolment of a pod that left while no proxy ran");
                if let Err(error) = self.kernel.remove_leftover(uid) {
                    tracing::warn!(uid, %error, "an old enrolment cannot be removed");
                }
            }),
            Err(error) => tracing::warn!(%error, "old enrolments cannot be listed"),
        }
    }

    /// Connections older than enrolment that policy would not admit today.
    fn end_older(&self, mesh: &Snapshot) {
        for served in self.served.values() {
            let Some(workload) = mesh.workload(&served.pod.uid) else { continue };
            if !served.judge_older_at(mesh.policy_generation()) {
                continue;
            }
            if let Err(error) = older::end_refused(&served.pod, mesh.policy_for(workload)) {
                tracing::error!(pod = &*served.pod.uid, %error, "older connections cannot be judged; cutting them all");
                served.cut_older();
            }
        }
    }

    fn verify(&mut self) {
        for served in self.served.values() {
            served.verify();
            served.cut_when_none_is_older();
        }
        let (over, leaving): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.leaving).into_iter().partition(Served::is_idle);
        self.leaving = leaving;
        for served in over {
            served.end();
        }
        match self.kernel.counters() {
            Ok(counters) => self.status.count(&counters),
            Err(error) => tracing::warn!(%error, "redirection counters cannot be read"),
        }
    }
}
