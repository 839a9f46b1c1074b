//! Takes one attempt of a request, or a connection, to the endpoint that was picked for it.
//!
//! Knows no routes and does not decide whether to try again. A connection that had waited and turns out to be gone is
//! replaced once by a fresh one: nothing was sent on it.

use std::sync::Arc;
use std::time::Instant;

use common::balance::budget::{Overflow, Resource};
use common::balance::outlier::Outcome;
use common::refusal::Refusal;
use common::snapshot::model::{Service, Workload};
use common::tls::origin::Inside;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use tokio::time::{timeout, timeout_at};

use super::connection::{Place, Secured, SendError, Transport};
use super::pool::{Connections, Held, PoolKey, Pooled};
use super::{Cluster, EffectivePolicy, Permit, Picked};
use crate::payload::Payload;
use crate::serve::Conversation;

/// Where an attempt goes.
pub struct Upstream<'a> {
    /// On whose behalf.
    pub conversation: &'a Arc<Conversation>,
    /// The destination.
    pub cluster: &'a Arc<Cluster>,
    /// How it is treated.
    pub policy: &'a EffectivePolicy,
    /// The endpoint.
    pub picked: &'a Picked,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failed {
    /// No connection was made.
    Connect(Refusal),
    /// A limit of the destination is reached.
    Overflow(Overflow),
    /// The connection broke off after the request was begun.
    Reset(hyper::Error),
}

/// No answer to a request.
#[derive(Debug)]
pub struct Unanswered {
    /// Why.
    pub why: Failed,
    /// The request's body, where nothing of it was read.
    pub unsent: Option<Payload>,
}

impl Failed {
    /// Whether the client broke its request off, of which the endpoint is innocent.
    pub fn is_of_client(&self) -> bool {
        matches!(self, Self::Reset(error) if error.is_user())
    }

    /// Whether the endpoint says that it has not begun with the request (REFUSED_STREAM).
    pub fn is_refused(&self) -> bool {
        let Self::Reset(error) = self else { return false };
        let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
        cause.and_then(h2::Error::reason) == Some(h2::Reason::REFUSED_STREAM)
    }
}

/// The head of an answer, and the connection it came on.
pub struct Taken {
    /// The answer.
    pub response: Response<Incoming>,
    /// What the connection is given back with.
    pub lent: Lent,
}

/// A connection that is in use. Dropped, it is closed, if it takes one request at a time.
pub struct Lent {
    conversation: Arc<Conversation>,
    key: PoolKey,
    pooled: Pooled,
    is_limited: bool,
    /// What the connection takes, also where it goes on as another protocol after HTTP has let go of it.
    _place: Option<Arc<Held>>,
}

impl Lent {
    /// Gives it back for the next request: the answer has been read to its end.
    pub fn give_back(self) {
        if self.pooled.sender.is_exclusive() {
            pool(&self.conversation, self.is_limited).keep(&self.key, self.pooled);
            if self.is_limited {
                self.conversation.worker.shared.freed.notify_waiters();
            }
        }
    }
}

/// A connection of a destination that allows only so many must be found by every worker.
fn pool(conversation: &Conversation, is_limited: bool) -> &Connections {
    let worker = &conversation.worker;
    if is_limited { &worker.shared.limited } else { &worker.connections }
}

impl Upstream<'_> {
    /// Sends a request in `version` and waits for the head of its answer.
    ///
    /// # Errors
    /// [`Unanswered`]: why there is none.
    pub async fn send(&self, version: Version, mut request: Request<Payload>) -> Result<Taken, Unanswered> {
        let is_limited = self.is_limited();
        let (service, workload) = (self.cluster.service(), self.workload());
        let key = PoolKey {
            cluster: self.cluster.name().clone(),
            address: self.picked.address,
            incarnation: workload.map_or_else(|| Arc::from(""), |it| it.incarnation.clone()),
            version,
            client: self.conversation.client.ip(),
            tls: self.policy.tls.clone(),
            external: service.external.clone(),
            namespace: service.namespace.clone(),
        };
        loop {
            let mut pooled = match pool(self.conversation, is_limited).take(&key) {
                Some(pooled) => pooled,
                // Rare and large: without a box of its own, room for a handshake would be moved about with every request.
                None => match Box::pin(self.connection(&key, is_limited)).await {
                    Ok(pooled) => pooled,
                    Err(why) => return Err(Unanswered { why, unsent: Some(request.into_body()) }),
                },
            };
            let is_fresh = pooled.taken == 1;
            let place = pooled.place.upgrade();
            match pooled.sender.send(request).await {
                Ok(response) => {
                    let conversation = self.conversation.clone();
                    return Ok(Taken {
                        response,
                        lent: Lent { conversation, key, pooled, is_limited, _place: place },
                    });
                }
                Err(SendError::Unsent(back)) if !is_fresh => request = *back,
                Err(SendError::Unsent(back)) => {
                    let why = format!("{} closed the connection at once", self.picked.address);
                    let why = Failed::Connect(Refusal::ConnectFailed(why.into()));
                    return Err(Unanswered { why, unsent: Some(back.into_body()) });
                }
                Err(SendError::Broken(error)) => {
                    return Err(Unanswered { why: Failed::Reset(error), unsent: None });
                }
            }
        }
    }

    /// Who is at the endpoint. Of a service that goes where it is called nobody was picked: it is whoever has that address.
    fn workload(&self) -> Option<Arc<Workload>> {
        let goes = |it: &Arc<Service>| it.external.as_ref().is_some_and(|it| it.goes_where_called);
        let at = || self.conversation.worker.shared.mesh().workload_at(self.picked.address.ip()).cloned();
        self.picked.workload.clone().or_else(|| at().filter(|_| goes(&self.cluster.service())))
    }

    /// Whether there may be only so many connections. Others are not counted, as in Envoy, where a limit that is stated
    /// later holds for connections made since: used up by those of before, which are in other pools, it would keep
    /// everybody waiting for ever.
    fn is_limited(&self) -> bool {
        self.policy.limits.connections != u32::MAX
    }

    /// A byte stream to the endpoint, and what counts it as long as it lives.
    ///
    /// # Errors
    /// [`Failed`] when it cannot be had.
    pub async fn open(&self) -> Result<(Transport, impl Send + 'static), Failed> {
        let place = match self.is_limited() {
            true => {
                let admitted = self.cluster.admit(Resource::Connection, Instant::now());
                Some((admitted.map_err(Failed::Overflow)?, Freed(self.conversation.clone())))
            }
            false => None,
        };
        let mut transport = self.connect(Inside::Bytes).await?;
        // Of HTTP routes nothing is tunnelled, as in Istio.
        if let Some(tunnel) = &self.policy.tunnel {
            let asking = timeout(self.policy.connect_timeout, transport.through(tunnel));
            let late = || Refusal::ConnectFailed("no answer from the forward proxy in time".into());
            transport = asking.await.map_err(|_| late()).flatten().map_err(Failed::Connect)?;
        }
        self.picked.attempt.note(Outcome::Opened, Instant::now());
        Ok((transport, (place, self.picked.attempt.endpoint().connected())))
    }

    /// A new connection; where there may be only so many, perhaps one that was given back meanwhile.
    async fn connection(&self, key: &PoolKey, is_limited: bool) -> Result<Pooled, Failed> {
        let pool = pool(self.conversation, is_limited);
        let _pending = self.cluster.admit(Resource::Pending, Instant::now()).map_err(Failed::Overflow)?;
        let place = match is_limited {
            true => match self.wait_for_place(pool, key).await? {
                Turn::Used(pooled) => return Ok(pooled),
                Turn::New(permit) => Some((permit, Freed(self.conversation.clone()))),
            },
            false => None,
        };
        let inside = if key.version == Version::HTTP_2 { Inside::Http2 } else { Inside::Http1 };
        let transport = self.connect(inside).await?;
        let held: Arc<Held> = Arc::new((place, self.picked.attempt.endpoint().connected()));
        let place = Arc::downgrade(&held);
        let keepalive = self.policy.http2_keepalive;
        let sender = transport.begin(key.version, keepalive, held).await.map_err(Failed::Connect)?;
        self.picked.attempt.note(Outcome::Connected, Instant::now());
        let most = self.policy.max_requests_per_connection.map(std::num::NonZeroU32::get);
        let until = self.policy.max_connection_duration.map(|most| tokio::time::Instant::now() + most);
        let mut pooled = Pooled {
            sender,
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
                Ok(shared)
            }
            None => {
                pooled.taken = 1;
                Ok(pooled)
            }
        }
    }

    /// Waits until a connection has been given back, or there may be another one, for no longer than making one may take.
    async fn wait_for_place(&self, pool: &Connections, key: &PoolKey) -> Result<Turn, Failed> {
        let late = tokio::time::Instant::now() + self.policy.connect_timeout;
        loop {
            // Listened to before the look, so that a connection given back in between is not missed.
            let freed = self.conversation.worker.shared.freed.notified();
            if let Some(pooled) = pool.take(key) {
                return Ok(Turn::Used(pooled));
            }
            match self.cluster.admit(Resource::Connection, Instant::now()) {
                Ok(permit) => return Ok(Turn::New(permit)),
                // One that waits for another endpoint or client is in the way; its end is told like any other.
                Err(overflow) => {
                    pool.evict(&key.cluster);
                    timeout_at(late, freed).await.map_err(|_| Failed::Overflow(overflow))?;
                }
            }
        }
    }

    async fn connect(&self, inside: Inside) -> Result<Transport, Failed> {
        let (conversation, service) = (self.conversation, self.cluster.service());
        let place = Place {
            address: self.picked.address,
            workload: self.workload(),
            client: conversation.client,
            host: Some(service.hostname.clone()),
            baggage: conversation.baggage.clone(),
            keepalive: self.policy.tcp_keepalive.clone(),
        };
        let names = || service.external.iter().flat_map(|it| it.subject_alt_names.iter().cloned()).collect();
        let secured = self.policy.tls.clone().map(|tls| Secured { tls, names: names(), inside });
        let connecting = conversation.worker.connector.connect(&place, secured.as_ref());
        let late = || Refusal::ConnectFailed(format!("no answer from {} in time", place.address).into());
        timeout(self.policy.connect_timeout, connecting)
            .await
            .map_err(|_| late())
            .flatten()
            .map_err(Failed::Connect)
    }
}

/// What a request to a destination that allows only so many connections has waited for.
enum Turn {
    /// A connection that another one has given back.
    Used(Pooled),
    /// A place for a new one.
    New(Permit),
}

/// Tells those who wait for a connection that one has ended.
struct Freed(Arc<Conversation>);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.worker.shared.freed.notify_waiters();
    }
}
