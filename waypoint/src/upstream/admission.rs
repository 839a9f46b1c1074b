//! Circuit breaking: how many connections, waiting requests, requests and retries of a cluster are under way, and
//! whether there may be one more (flag `UO`).
//!
//! Counted for the whole process and exactly: whoever gets the last place has it, however many ask at once. A place is
//! given back by dropping the permit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use common::balance::budget::{InUse, Limits, Overflow, Resource};

use super::Cluster;

/// What is in use, and how often there was no place.
#[derive(Debug, Default)]
pub(super) struct Usage {
    used: [AtomicU32; Usage::RESOURCES.len()],
    overflows: [AtomicU64; Usage::RESOURCES.len()],
    recent: Recent,
}

impl Usage {
    /// In the order of the counters.
    pub(super) const RESOURCES: [Resource; 4] =
        [Resource::Connection, Resource::Pending, Resource::Request, Resource::Retry];

    /// Takes a place. `window` is the time now and how far back requests count for a retry budget, when they do.
    pub(super) fn take(
        &self,
        resource: Resource,
        limits: &Limits,
        window: Option<(Duration, Duration)>,
    ) -> Result<(), Overflow> {
        let recent = match (resource, window) {
            (Resource::Retry, Some((now, interval))) => self.recent.count(now, interval),
            _ => 0,
        };
        let counter = &self.used[at(resource)];
        let mut used = counter.load(Ordering::Relaxed);
        loop {
            let mut in_use = self.in_use();
            // Those that began of late and are over by now count too.
            in_use.requests = in_use.requests.max(recent);
            *field(&mut in_use, resource) = used;
            if let Err(overflow) = limits.admit(resource, &in_use) {
                self.overflows[at(resource)].fetch_add(1, Ordering::Relaxed);
                return Err(overflow);
            }
            // What was judged is what is counted up: a place taken in between is judged with.
            match counter.compare_exchange_weak(used, used + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => used = now,
            }
        }
        if let (Resource::Request, Some((now, interval))) = (resource, window) {
            self.recent.add(now, interval);
        }
        Ok(())
    }

    /// Takes a place, if there is one, for whom it was counted already that there was none.
    pub(super) fn take_again(&self, resource: Resource, limits: &Limits) -> bool {
        let counter = &self.used[at(resource)];
        let mut used = counter.load(Ordering::Relaxed);
        loop {
            let mut in_use = self.in_use();
            *field(&mut in_use, resource) = used;
            if limits.admit(resource, &in_use).is_err() {
                return false;
            }
            match counter.compare_exchange_weak(used, used + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => used = now,
            }
        }
    }

    /// Takes a place whether there is one or not.
    pub(super) fn take_beyond(&self, resource: Resource) {
        self.used[at(resource)].fetch_add(1, Ordering::Relaxed);
    }

    fn give_back(&self, resource: Resource) {
        self.used[at(resource)].fetch_sub(1, Ordering::Relaxed);
    }

    /// What is in use now.
    pub(super) fn in_use(&self) -> InUse {
        let [connections, pending, requests, retries] =
            [0, 1, 2, 3].map(|at: usize| self.used[at].load(Ordering::Relaxed));
        InUse { connections, pending, requests, retries }
    }

    /// How often there was no place.
    pub(super) fn overflows(&self, resource: Resource) -> u64 {
        self.overflows[at(resource)].load(Ordering::Relaxed)
    }
}

/// How many requests began within an interval that ends now, about: those of the running interval, and of the one before
/// the part that is still within.
#[derive(Debug, Default)]
struct Recent {
    /// Number of the interval, and requests in it.
    running: AtomicU64,
    before: AtomicU64,
}

const COUNT_BITS: u32 = u32::BITS;

impl Recent {
    /// Counts one more.
    fn add(&self, now: Duration, interval: Duration) {
        let (number, _) = part(now, interval);
        let mut running = self.running.load(Ordering::Relaxed);
        loop {
            let same = running >> COUNT_BITS == number;
            // An interval with as many requests as there are numbers cannot be: it would carry into the number.
            let next = if same { running + 1 } else { (number << COUNT_BITS) + 1 };
            match self.running.compare_exchange_weak(running, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) if same => return,
                Ok(_) => return self.before.store(running, Ordering::Relaxed),
                Err(now) => running = now,
            }
        }
    }

    /// How many there were.
    fn count(&self, now: Duration, interval: Duration) -> u32 {
        let (number, passed) = part(now, interval);
        let of = |kept: u64, wanted: u64| if kept >> COUNT_BITS == wanted { kept as u32 } else { 0 };
        let running = self.running.load(Ordering::Relaxed);
        // When nothing was counted in this interval yet, the running one is the one before.
        let before = match number.checked_sub(1) {
            Some(wanted) => of(self.before.load(Ordering::Relaxed), wanted).max(of(running, wanted)),
            None => 0,
        };
        of(running, number).saturating_add((f64::from(before) * (1.0 - passed)) as u32)
    }
}

/// The number of the interval, and how much of it has passed.
fn part(now: Duration, interval: Duration) -> (u64, f64) {
    let passed = now.as_secs_f64() / interval.as_secs_f64().max(f64::MIN_POSITIVE);
    // Numbers have as many bits as counts; after that they begin anew.
    (u64::from((passed as u64) as u32), passed.fract())
}

fn at(resource: Resource) -> usize {
    match resource {
        Resource::Connection => 0,
        Resource::Pending => 1,
        Resource::Request => 2,
        Resource::Retry => 3,
    }
}

fn field(in_use: &mut InUse, resource: Resource) -> &mut u32 {
    match resource {
        Resource::Connection => &mut in_use.connections,
        Resource::Pending => &mut in_use.pending,
        Resource::Request => &mut in_use.requests,
        Resource::Retry => &mut in_use.retries,
    }
}

/// A place that is taken while this lives.
#[derive(Debug)]
pub struct Permit {
    cluster: Arc<Cluster>,
    resource: Resource,
}

impl Permit {
    pub(super) fn new(cluster: Arc<Cluster>, resource: Resource) -> Self {
        Self { cluster, resource }
    }

    /// Of what.
    pub fn resource(&self) -> Resource {
        self.resource
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.cluster.usage().give_back(self.resource);
    }
}
