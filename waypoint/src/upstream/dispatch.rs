//! Takes one attempt of a request, or a connection, to the endpoint that was picked for it.
//!
//! Knows no routes and does not decide whether to try again. A connection that had waited and turns out to be gone is
//! replaced once by a fresh one: nothing was sent on it.

use std::net::SocketAddr;
use std::sync::Arc;

use common::balance::budget::Overflow;
use common::hbone::request::Traceparent;
use common::refusal::Refusal;
use common::snapshot::model::{Service, Workload};
use http::{Request, Response, Version};
use hyper::body::Incoming;

use super::connection::SendError;
use super::pool::{Connections, Held, PoolKey, Pooled};
use super::{Cluster, EffectivePolicy, Freed, Picked};
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
    /// It is the waypoint that asks, for a request of that conversation, and not its client: connections are shared by all
    /// clients, and the endpoint's node is told of the waypoint.
    pub is_own: bool,
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
    /// What it answered is not HTTP: another protocol, for which nobody had asked.
    Protocol,
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
    /// What the connection is given back with. In a box of its own: it goes from hand to hand with the answer.
    pub lent: Box<Lent>,
}

/// A connection that is in use. Dropped, it is closed, if it takes one request at a time.
pub struct Lent {
    conversation: Arc<Conversation>,
    key: PoolKey,
    pooled: Pooled,
    /// What the connection takes, also where it goes on as another protocol after HTTP has let go of it.
    _place: Option<Arc<Held>>,
    /// Tells of the place on it when all above is let go of, where there may be only so many connections.
    freed: Option<Freed>,
}

impl Lent {
    /// Gives it back for the next request: the answer has been read to its end.
    pub fn give_back(self) {
        if self.pooled.sender.is_exclusive() {
            pool(&self.conversation, self.freed.is_some()).keep(&self.key, self.pooled);
        }
    }
}

/// The trace that a connection is made in: the one that this waypoint records the request in. A client's own words about
/// traces, which are passed on where nothing is recorded, would be believed of a waypoint.
fn trace<B>(request: &Request<B>) -> Option<Traceparent> {
    request.extensions().get::<Traceparent>().copied()
}

/// A connection of a destination that allows only so many must be found by every worker.
pub(super) fn pool(conversation: &Conversation, is_limited: bool) -> &Connections {
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
            client: self.client().ip(),
            tls: self.policy.tls.clone(),
            external: service.external.clone(),
            namespace: service.namespace.clone(),
        };
        loop {
            let pooled = match pool(self.conversation, is_limited).take(&key, &self.policy.pool) {
                Some(pooled) => pooled,
                // Rare and large: without a box of its own, room for a handshake would be moved about with every request.
                None => match Box::pin(self.connection(&key, is_limited, trace(&request))).await {
                    Ok(pooled) => pooled,
                    Err(why) => return Err(Unanswered { why, unsent: Some(request.into_body()) }),
                },
            };
            let is_fresh = pooled.taken == 1;
            let place = pooled.place.upgrade();
            // Dropped in this order: who waits is told however this try ends, once the connection is let go of.
            let mut used = (pooled, place, is_limited.then(|| Freed(self.cluster.clone())));
            match used.0.sender.send(request).await {
                Ok(response) => {
                    let (pooled, place, freed) = used;
                    let conversation = self.conversation.clone();
                    let lent = Lent { conversation, key, pooled, _place: place, freed };
                    return Ok(Taken { response, lent: Box::new(lent) });
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

    /// Who the endpoint's node is told calls.
    pub(super) fn client(&self) -> SocketAddr {
        if self.is_own { self.conversation.peer.local } else { self.conversation.client }
    }

    /// Who is at the endpoint. Of a service that goes where it is called nobody was picked: it is whoever has that address.
    pub(super) fn workload(&self) -> Option<Arc<Workload>> {
        let goes = |it: &Arc<Service>| it.external.as_ref().is_some_and(|it| it.goes_where_called);
        let at = || self.conversation.worker.shared.mesh().workload_at(self.picked.address.ip()).cloned();
        self.picked.workload.clone().or_else(|| at().filter(|_| goes(&self.cluster.service())))
    }

    /// Whether there may be only so many connections. Others are not counted, as in Envoy, where a limit that is stated
    /// later holds for connections made since: used up by those of before, which are in other pools, it would keep
    /// everybody waiting for ever.
    pub(super) fn is_limited(&self) -> bool {
        self.policy.limits.connections != u32::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_word_about_traces_is_not_said_again_as_the_waypoints() {
        const STATED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut request = Request::builder().header("traceparent", STATED).body(()).unwrap();
        assert_eq!(trace(&request), None);
        let recorded = Traceparent::new(7, 8).sampled();
        request.extensions_mut().insert(recorded);
        assert_eq!(trace(&request), Some(recorded));
    }
}
