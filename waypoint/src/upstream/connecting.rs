//! Connections to the endpoint of an [`Upstream`]: one that is given back, one that another request makes, or a new one.
//!
//! Knows no requests. To connect takes `connectTimeout` at most. A wait for a place, where there may be only so many
//! connections, lasts as long as the request has time, as in Envoy: a route's timeout, or that it may stand still.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use common::balance::budget::Resource;
use common::balance::outlier::Outcome;
use common::hbone::request::Traceparent;
use common::refusal::Refusal;
use common::tls::origin::Inside;
use http::Version;
use tokio::time::{Instant as Moment, timeout, timeout_at};

use super::dispatch::{Failed, Upstream, pool};
use super::pool::{Connections, Held, PoolKey, Pooled};
use super::transport::{Place, Secured, Transport};
use super::{Cluster, Permit};

impl Upstream<'_> {
    /// A byte stream to the endpoint, and what counts it as long as it lives.
    ///
    /// # Errors
    /// [`Failed`] when it cannot be had.
    pub async fn open(&self) -> Result<(Transport, impl Send + 'static), Failed> {
        let place = match self.is_limited() {
            true => {
                let admitted = self.cluster.admit(Resource::Connection, Instant::now());
                Some((admitted.map_err(Failed::Overflow)?, Freed(self.cluster.clone())))
            }
            false => None,
        };
        let mut transport = self.connect(Inside::Bytes, None).await?;
        // Of HTTP routes nothing is tunnelled, as in Istio.
        if let Some(tunnel) = &self.policy.tunnel {
            let asking = timeout(self.policy.connect_timeout, transport.through(tunnel));
            let late = || Refusal::ConnectFailed("no answer from the forward proxy in time".into());
            transport = asking.await.map_err(|_| late()).flatten().map_err(Failed::Connect)?;
        }
        self.picked.attempt.note(Outcome::Opened, Instant::now());
        Ok((transport, (place, self.picked.attempt.endpoint().connected())))
    }

    /// A new connection, or a share in one of HTTP/2 that another request is making. A new one is told of in `trace`.
    pub(super) async fn connection(
        &self,
        key: &PoolKey,
        is_limited: bool,
        trace: Option<Traceparent>,
    ) -> Result<Pooled, Failed> {
        let pool = pool(self.conversation, is_limited);
        // Who gets a connection at once is not one of those that wait.
        if is_limited && let Some(pooled) = self.at_hand(pool, key) {
            return Ok(pooled);
        }
        let _pending = self.cluster.admit(Resource::Pending, Instant::now()).map_err(Failed::Overflow)?;
        let late = Moment::now() + self.policy.connect_timeout;
        if key.version != Version::HTTP_2 {
            return self.make(pool, key, is_limited, (late, trace)).await;
        }
        let requests = self.policy.max_requests_per_connection.map_or(u32::MAX, NonZeroU32::get);
        let most = requests.min(self.policy.max_concurrent_streams);
        // Whoever makes it may wait for a place, and with it those who wait for that one.
        self.picked.attempt.hold_up(is_limited && self.is_full());
        let make = || self.make(pool, key, is_limited, (late, trace));
        let made = pool.share((key, &self.policy.pool), (most, late), make).await;
        self.picked.attempt.hold_up(false);
        made
    }

    /// Whether there are as many connections as there may be.
    fn is_full(&self) -> bool {
        self.cluster.in_use().connections >= self.cluster.policy().limits.connections
    }

    /// A new connection; where there may be only so many, perhaps one that was given back meanwhile.
    async fn make(
        &self,
        pool: &Connections,
        key: &PoolKey,
        is_limited: bool,
        (late, trace): (Moment, Option<Traceparent>),
    ) -> Result<Pooled, Failed> {
        let mut place = None;
        if is_limited {
            // Stays said where the request's time is up meanwhile.
            self.picked.attempt.hold_up(true);
            let turn = self.wait_for_place(pool, key, late).await;
            self.picked.attempt.hold_up(false);
            match turn {
                Turn::Used(pooled) => return Ok(pooled),
                Turn::New(permit, alive) => place = Some((permit, alive, Freed(self.cluster.clone()))),
            }
        }
        let inside = if key.version == Version::HTTP_2 { Inside::Http2 } else { Inside::Http1 };
        let transport = self.connect(inside, trace).await?;
        let held: Arc<Held> = Arc::new((place, self.picked.attempt.endpoint().connected()));
        let place = Arc::downgrade(&held);
        let keepalive = self.policy.http2_keepalive;
        let beginning = timeout(self.policy.connect_timeout, transport.begin(key.version, keepalive, held));
        let sender = beginning.await.map_err(|_| self.late()).flatten().map_err(Failed::Connect)?;
        self.picked.attempt.note(Outcome::Connected, Instant::now());
        let most = self.policy.max_requests_per_connection.map(NonZeroU32::get);
        let until = self.policy.max_connection_duration.map(|most| Moment::now() + most);
        let mut pooled = Pooled {
            sender,
            made_under: self.policy.pool.clone(),
            taken: 0,
            most,
            idle: self.policy.http_idle_timeout,
            until,
            most_streams: self.policy.max_concurrent_streams,
            streams: Arc::default(),
            place,
        };
        match pooled.share() {
            Some(shared) => {
                pool.keep(key, pooled);
                self.cluster.freed().notify_waiters();
                Ok(shared)
            }
            None => {
                pooled.taken = 1;
                Ok(pooled)
            }
        }
    }

    /// A connection that was given back. Where there may be no other one, it may be one that was made under another
    /// `connectionPool` and is busy: that may be in the way for as long as it likes.
    fn at_hand(&self, pool: &Connections, key: &PoolKey) -> Option<Pooled> {
        // What is stated may be another thing by now.
        let now = self.cluster.policy();
        let used = [&self.policy.pool, &now.pool].into_iter().find_map(|stated| pool.take(key, stated));
        used.or_else(|| if self.is_full() { pool.take_busy(key) } else { None })
    }

    /// Waits until a connection has been given back, or there may be another one. Where the endpoint has none for this
    /// client, not even a busy one, only until it is `late`: others could keep it waiting for ever, and so there is one beyond
    /// the limit then. Envoy has one beyond its `max_connections` at once.
    async fn wait_for_place(&self, pool: &Connections, key: &PoolKey, late: Moment) -> Turn {
        // That there is no place counts once, however often it is looked for.
        let mut is_counted = false;
        loop {
            // Listened to before the look, so that a connection given back in between is not missed.
            let freed = self.cluster.freed().notified();
            if let Some(pooled) = self.at_hand(pool, key) {
                return Turn::Used(pooled);
            }
            let admitted = match is_counted {
                false => self.cluster.admit(Resource::Connection, Instant::now()).ok(),
                true => self.cluster.admit_again(Resource::Connection),
            };
            is_counted = true;
            if let Some(permit) = admitted {
                return Turn::New(permit, pool.begin(key));
            }
            // One that waits for another endpoint or client is in the way; its end is told like any other.
            pool.evict(&key.cluster);
            if Moment::now() < late {
                let _ = timeout_at(late, freed).await;
            } else if let Some(alive) = pool.begin_first(key) {
                return Turn::New(self.cluster.admit_beyond(Resource::Connection), alive);
            } else {
                freed.await;
            }
        }
    }

    async fn connect(&self, inside: Inside, trace: Option<Traceparent>) -> Result<Transport, Failed> {
        let (conversation, service) = (self.conversation, self.cluster.service());
        let place = Place {
            address: self.picked.address,
            workload: self.workload(),
            client: self.client(),
            host: Some(service.hostname.clone()),
            baggage: conversation.baggage.clone().filter(|_| !self.is_own),
            trace,
            keepalive: self.policy.tcp_keepalive.clone(),
        };
        let names = || service.external.iter().flat_map(|it| it.subject_alt_names.iter().cloned()).collect();
        let secured = self.policy.tls.clone().map(|tls| Secured { tls, names: names(), inside });
        let connecting = conversation.worker.connector.connect(&place, secured.as_ref());
        let connected = timeout(self.policy.connect_timeout, connecting).await;
        connected.map_err(|_| self.late()).flatten().map_err(Failed::Connect)
    }

    fn late(&self) -> Refusal {
        Refusal::ConnectFailed(format!("no answer from {} in time", self.picked.address).into())
    }
}

/// What a request to a destination that allows only so many connections has waited for.
enum Turn {
    /// A connection that another one has given back.
    Used(Pooled),
    /// A place for a new one, and what tells that there is one.
    New(Permit, Arc<()>),
}

/// Tells those who wait for a connection of a cluster that one has ended, or takes requests again.
pub(crate) struct Freed(pub(crate) Arc<Cluster>);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.freed().notify_waiters();
    }
}
