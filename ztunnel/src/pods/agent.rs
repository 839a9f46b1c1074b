//! Follows the roster: enrols pods in the kernel, hands their listeners to the workers, takes them out again.
//!
//! Runs on a thread of its own, because it enters namespaces and waits for the kernel. Order matters: listeners are
//! open before the first packet is captured, and capture ends before they close.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::certs::CertStore;
use common::snapshot::Snapshot;
use common::snapshot::publish::Reader;
use ebb_loader::Redirector;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::netns::Netns;
use crate::netns::listen::PodListeners;
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
    leaving: Vec<(Member, Served)>,
    failed: HashMap<Member, Instant>,
    refused: HashMap<Arc<str>, &'static str>,
    faulty: usize,
    swept: bool,
    leave: Leave,
}

/// How the agent is told that the process is about to end, and how it answers.
#[derive(Debug, Clone, Default)]
pub struct Leave {
    asked: CancellationToken,
    doors_closed: CancellationToken,
}

impl Leave {
    /// Asks for the doors to be closed, and waits until those of every pod are: new connections then wait in the kernel
    /// for the next process.
    pub async fn close_doors(&self) {
        self.asked.cancel();
        self.doors_closed.cancelled().await;
    }
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
        let (served, leaving, failed, refused) = Default::default();
        let (faulty, swept, leave) = (0, false, Leave::default());
        Self {
            node,
            mesh,
            certs,
            status,
            kernel,
            workers,
            served,
            leaving,
            failed,
            refused,
            faulty,
            swept,
            leave,
        }
    }

    /// To tell it, once it runs, that the process is about to end.
    pub fn leave(&self) -> Leave {
        self.leave.clone()
    }

    /// Follows the mesh until `stop` fires. What is enrolled then stays so: the kernel goes on dropping what nobody
    /// takes, and the next process takes over.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut verify = tokio::time::interval(VERIFY_INTERVAL);
        let Leave { asked, doors_closed } = self.leave.clone();
        loop {
            let mesh = self.mesh.current();
            if mesh.generation() > 0 {
                self.follow(&mesh).await;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = asked.cancelled(), if !doors_closed.is_cancelled() => {
                    self.served.values().for_each(Served::close_doors);
                    doors_closed.cancel();
                }
                _ = self.mesh.changed() => {}
                // Also what tries again, when the time for that has come.
                _ = verify.tick() => self.verify(),
            }
        }
    }

    async fn follow(&mut self, mesh: &Snapshot) {
        let (mut wanted, mut refused) = (Vec::new(), HashMap::new());
        for workload in mesh.pods_on(&self.node) {
            match roster::member(workload) {
                Ok(member) => wanted.push(member),
                Err((uid, why)) => drop(refused.insert(uid, why)),
            }
        }
        let actions = roster::compare(wanted, self.served.keys());
        let starting: HashSet<Member> = actions.iter().filter_map(Action::started).cloned().collect();
        self.failed.retain(|member, _| starting.contains(member));
        self.status.starting(starting.len() - self.failed.len());
        for action in actions {
            // A process that ends leaves new pods to its successor, whose listeners it would only displace.
            let ending = self.leave.asked.is_cancelled();
            match action {
                Action::Start(_) if ending => {}
                Action::Stop(member) => {
                    let restarts = starting.iter().any(|other| other.incarnation == member.incarnation);
                    self.stop(mesh, &member, restarts);
                }
                Action::Start(member) => self.start(mesh, member).await,
                Action::Refuse(uid, why) => drop(refused.insert(uid, why)),
            }
        }
        for (uid, why) in refused.iter().filter(|(uid, why)| self.refused.get(*uid) != Some(*why)) {
            tracing::error!(pod = &**uid, why, "pod cannot be served and is not protected");
        }
        self.refused = refused;
        self.sweep(mesh);
        self.report();
        self.end_older(mesh);
    }

    fn report(&self) {
        let pods = self.served.values().map(|served| served.pod.clone()).collect();
        self.status.settled(pods, self.failed.len() + self.refused.len() + self.faulty);
    }

    async fn start(&mut self, mesh: &Snapshot, member: Member) {
        let due = self.failed.get(&member).is_none_or(|tried| tried.elapsed() >= RETRY_INTERVAL);
        if !due {
            return;
        }
        match self.put_up(&member) {
            Ok((served, listeners)) => {
                if let Err(refusal) = self.certs.want(&served.pod.identity) {
                    tracing::warn!(pod = &*member.uid, %refusal, "no certificate can be had yet");
                }
                for (worker, listeners) in self.workers.iter().zip(listeners) {
                    // A worker that is gone is a proxy that is ending.
                    let _ = worker.send(Serve { pod: served.pod.clone(), listeners }).await;
                }
                if self.leave.asked.is_cancelled() {
                    served.close_doors();
                }
                tracing::info!(pod = &*member.uid, adopted = served.is_adopted(), "pod enrolled");
                // At once, because enrolling the pods after it may take longer than an older connection may last.
                end_older_of(&served, mesh);
                self.status.started();
                self.failed.remove(&member);
                self.served.insert(member, served);
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(pod = &*member.uid, error, "pod not enrolled; will try again");
                self.failed.insert(member, Instant::now());
            }
        }
    }

    /// Takes back a pod that is just leaving, or enrols it anew.
    fn put_up(&mut self, member: &Member) -> anyhow::Result<(Served, Vec<PodListeners>)> {
        let workers = u32::try_from(self.workers.len()).unwrap_or(u32::MAX);
        if let Some(at) = self.leaving.iter().position(|(leaving, _)| leaving == member) {
            let (pod, listeners) = self.leaving[at].1.take_back(workers)?;
            let (_, served) = self.leaving.swap_remove(at);
            return Ok((served.serving(pod), listeners));
        }
        // Something of it changed that cannot be changed while it leaves gently.
        let same_place = |(leaving, _): &(Member, Served)| leaving.incarnation == member.incarnation;
        while let Some(at) = self.leaving.iter().position(same_place) {
            self.leaving.swap_remove(at).1.end();
        }
        let others = self.served.values().chain(self.leaving.iter().map(|(_, served)| served));
        let netns = serve::open_netns((&member.netns, &member.addresses), others)?;
        serve::start(&self.kernel, netns, member, workers)
    }

    /// `restarts` says that the same pod is about to be served in another way.
    fn stop(&mut self, mesh: &Snapshot, member: &Member, restarts: bool) {
        let Some(mut served) = self.served.remove(member) else { return };
        self.status.stopped();
        let identity = &served.pod.identity;
        if !self.served.values().any(|other| other.pod.identity == *identity) {
            self.certs.forget(identity);
        }
        let lives_on = mesh.workload(&member.uid).is_some_and(|workload| served.pod.is(workload));
        if lives_on && !restarts && served.release() {
            tracing::info!(pod = &*member.uid, "pod leaves the mesh; its open connections go on");
            self.leaving.push((member.clone(), served));
        } else {
            tracing::info!(pod = &*member.uid, "pod is gone");
            served.end();
        }
    }

    /// Takes away what an earlier process enrolled and nobody wants any more; once, when the first whole roster stands.
    /// A pod that cannot be read is not a pod that left, so nothing is taken away while something cannot be read.
    fn sweep(&mut self, mesh: &Snapshot) {
        if self.swept || !mesh.rejected().is_empty() || mesh.workloads().next().is_none() {
            return;
        }
        self.swept = true;
        let unserved =
            self.refused.keys().filter_map(|uid| mesh.workload(uid)).map(|w| w.incarnation.to_string());
        let known = self.served.keys().chain(self.failed.keys()).chain(self.leaving.iter().map(|(m, _)| m));
        let live = known.map(|member| member.incarnation.to_string()).chain(unserved).collect();
        match self.kernel.leftovers(&live) {
            Ok(uids) => uids.iter().for_each(|uid| {
                tracing::info!(uid, "removing the enrolment of a pod that left while no proxy ran");
                let left = self.pod_that_left(mesh, uid);
                let netns = left.as_ref().map(|(_, netns)| netns.as_fd());
                match self.kernel.remove_leftover(uid, netns) {
                    Ok(()) => left.iter().for_each(|(pod, netns)| serve::undo_routing(netns, pod)),
                    Err(error) => tracing::warn!(uid, %error, "an old enrolment cannot be removed"),
                }
            }),
            Err(error) => tracing::warn!(%error, "old enrolments cannot be listed"),
        }
    }

    /// A pod that left the mesh and lives, in which an earlier process's filters and routing are to be undone. With a pod
    /// that is gone, the namespace and all that was in it went.
    fn pod_that_left(&self, mesh: &Snapshot, incarnation: &str) -> Option<(Arc<str>, Netns)> {
        let workload = mesh.workloads().find(|it| &*it.incarnation == incarnation)?;
        let path = workload.netns.as_deref().filter(|_| workload.node == self.node)?;
        match serve::open_netns((path, &workload.addresses), self.served.values()) {
            Ok(netns) => Some((workload.uid.clone(), netns)),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(pod = &*workload.uid, error, "an old enrolment's routing stays in the pod");
                None
            }
        }
    }

    fn end_older(&self, mesh: &Snapshot) {
        for served in self.served.values() {
            end_older_of(served, mesh);
        }
    }

    fn verify(&mut self) {
        self.give_up_abandoned();
        self.faulty = self.served.values().filter(|served| !served.verify()).count();
        let (over, leaving): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.leaving).into_iter().partition(|(_, served)| served.has_left());
        self.leaving = leaving;
        for (_, served) in over {
            served.end();
        }
        match self.kernel.counters() {
            Ok(counters) => self.status.count(&counters),
            Err(error) => tracing::warn!(%error, "redirection counters cannot be read"),
        }
    }
}

impl Agent {
    /// Forgets the pods that another process took over and then left: the next look at the roster enrols them anew.
    fn give_up_abandoned(&mut self) {
        if self.leave.asked.is_cancelled() {
            return;
        }
        let abandoned = self.served.iter().filter(|(_, served)| served.is_abandoned());
        let abandoned: Vec<Member> = abandoned.map(|(member, _)| member.clone()).collect();
        for member in abandoned {
            tracing::warn!(
                pod = &*member.uid,
                "the process that had taken the pod over is gone; enrolling it anew"
            );
            if let Some(served) = self.served.remove(&member) {
                served.pod.closing.cancel();
                self.status.stopped();
            }
        }
    }
}

/// Ends a pod's connections older than enrolment that policy would not admit today.
fn end_older_of(served: &Served, mesh: &Snapshot) {
    let Some(workload) = mesh.workload(&served.pod.uid) else { return };
    if !served.judge_older_at(mesh.policy_generation()) {
        return;
    }
    if let Err(error) = older::end_refused(&served.pod, mesh.policy_for(workload)) {
        tracing::error!(pod = &*served.pod.uid, %error, "older connections cannot be judged; cutting them all");
        served.cut_older();
    }
}
