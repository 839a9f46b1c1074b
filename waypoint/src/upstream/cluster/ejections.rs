//! What endpoints did, and which of them are left out for it.
//!
//! Decides nothing: that is the detector's. What changes is exchanged in one piece, under the lock of those who exchange.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::balance::outlier::{Cause, Detector, Effect, Outcome, Run, Settings};

use super::{Cluster, NEVER};
use crate::upstream::members::{self, Member};
use crate::upstream::{EffectivePolicy, EndpointState};

/// Sweeps that are made up for at once when nobody came for long: more than a forgiven endpoint ever needs.
const MAX_SWEEPS_AT_ONCE: u32 = 64;

impl Cluster {
    /// How often endpoints were ejected.
    pub fn ejections(&self, cause: Cause) -> u64 {
        self.ejections[position(cause)].load(Ordering::Relaxed)
    }

    /// Takes note of what an endpoint did. A success that ends nothing touches no lock.
    pub(in crate::upstream) fn note(
        &self,
        endpoint: &Arc<EndpointState>,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Cause> {
        let compiled = self.compiled.load();
        let effect = compiled.policy.outlier.as_ref()?.effect(outcome);
        let run = match effect {
            Effect::Lengthens(run) => run,
            Effect::Ends(run) if endpoint.may_run(run) => run,
            Effect::Ends(_) | Effect::Nothing => return None,
        };
        drop(compiled);
        self.record(endpoint, run, outcome, now)
    }

    fn record(
        &self,
        endpoint: &Arc<EndpointState>,
        run: Run,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Cause> {
        let mut detector = self.lock();
        let compiled = self.compiled.load_full();
        let settings = compiled.policy.outlier.as_ref()?;
        let at = members::at(&compiled.members, endpoint.address)?;
        if !Arc::ptr_eq(&compiled.members[at].state, endpoint) {
            // Its successor has the address now, and is not to pay for it.
            return None;
        }
        let cause = detector.record(settings, endpoint.address, outcome, now);
        endpoint.set_run(run, matches!(settings.effect(outcome), Effect::Lengthens(_)));
        let ejected = cause?;
        endpoint.eject();
        self.ejections[position(ejected)].fetch_add(1, Ordering::Relaxed);
        if self.sweep_due.load(Ordering::Relaxed) == NEVER {
            self.sweep_due.store(self.nanos(now + settings.interval), Ordering::Relaxed);
        }
        self.compiled.store(Arc::new(compiled.with(compiled.members.clone())));
        cause
    }

    /// Ends the ejections whose time is over. Costs one load when none can be; to be called at least about every
    /// `interval`, which picking does too.
    pub fn sweep(&self, now: Instant) {
        let due = self.sweep_due.load(Ordering::Relaxed);
        if due == NEVER || self.nanos(now) < due {
            return;
        }
        let mut detector = self.lock();
        let compiled = self.compiled.load_full();
        let Some(settings) = &compiled.policy.outlier else { return };
        // Another may have been quicker.
        let due = self.sweep_due.load(Ordering::Relaxed);
        if due == NEVER || self.nanos(now) < due {
            return;
        }
        let (returned, next) = self.catch_up(&mut detector, settings, due, now);
        let settled = detector.is_settled();
        self.sweep_due.store(if settled { NEVER } else { next }, Ordering::Relaxed);
        for address in &returned {
            let Some(at) = members::at(&compiled.members, *address) else { continue };
            compiled.members[at].state.restore();
        }
        if !returned.is_empty() {
            self.compiled.store(Arc::new(compiled.with(compiled.members.clone())));
        }
    }

    /// The sweeps that were due since the last one, each for its own time; and when the next is due.
    fn catch_up(
        &self,
        detector: &mut Detector,
        settings: &Settings,
        due: u64,
        now: Instant,
    ) -> (Vec<SocketAddr>, u64) {
        let interval = settings.interval.max(Duration::from_millis(1));
        let first = now.checked_sub(interval.saturating_mul(MAX_SWEEPS_AT_ONCE - 1)).unwrap_or(self.epoch);
        let mut at = (self.epoch + Duration::from_nanos(due)).max(first);
        let mut returned = Vec::new();
        while at <= now {
            returned.extend(detector.sweep(settings, at));
            at += interval;
        }
        (returned, self.nanos(at))
    }
}

/// Tells the detector who the endpoints are. What it knew of one that another pod has taken the place of is forgotten;
/// without a detection all is.
pub(super) fn track(detector: &mut Detector, policy: &EffectivePolicy, before: &[Member], now: &[Member]) {
    if policy.outlier.is_none() {
        detector.track([]);
        for state in now.iter().map(|it| &it.state) {
            state.restore();
        }
        return;
    }
    let stayed = now.iter().filter(|member| {
        members::at(before, member.address).is_some_and(|at| Arc::ptr_eq(&before[at].state, &member.state))
    });
    detector.track(stayed.map(|it| it.address));
    detector.track(now.iter().map(|it| it.address));
}

fn position(cause: Cause) -> usize {
    match cause {
        Cause::Consecutive5xx => 0,
        Cause::ConsecutiveGateway => 1,
        Cause::ConsecutiveLocalOrigin => 2,
    }
}
