//! The tries of one request: which endpoint, how long, and whether there is another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::balance::budget::Resource;
use common::balance::outlier::Outcome;
use common::config::destination::balance::Algorithm;
use common::config::destination::pool::HttpVersion;
use common::config::routing::session::{Kept, Session};
use common::hbone::request::Traceparent;
use http::header::SET_COOKIE;
use http::{HeaderName, HeaderValue, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use tokio::time::{sleep, timeout};

use super::called::since_1970;
use super::observed::InFlight;
use super::outgoing::Outgoing;
use super::{head, reply, upgrade};
use crate::flags::Flag;
use crate::payload::{Inbound, Moving, Payload, Recording, Upload};
use crate::record::{Counted, Details, Record};
use crate::serve::Conversation;
use crate::serve::pulse::Pulse;
use crate::stages::numeral;
use crate::stages::respond::Answer as Made;
use crate::stages::retry::{self, Failure, Verdict};
use crate::stages::timeout::{Timeouts, expired};
use crate::upstream::dispatch::{Failed, Taken, Unanswered, Upstream};
use crate::upstream::{Cluster, EffectivePolicy, Permit, PickFacts, Picked};

/// How long the endpoint took for the head of its answer, in milliseconds (Envoy's header).
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// A request's body, as far as it may be sent again.
pub(super) enum Source {
    /// None.
    Empty,
    /// Sent once; another try has it where the one before sent nothing.
    Once(Option<Moving<Inbound>>),
    /// Kept for another try, or for mirrors.
    Recorded(Recording),
}

impl Source {
    /// Of a body that may be needed `again`, as long as it is wanted. What is read of it is counted in `record`, and moves
    /// `pulse`.
    pub(super) fn new(body: Inbound, again: bool, pulse: &Arc<Pulse>, record: &mut Record) -> (Self, Upload) {
        if body.is_end_stream() {
            return (Self::Empty, Upload::none());
        }
        let (body, upload) = Moving::new(Counted::new(body, record.receiver()), pulse.clone());
        let source = if again { Self::Recorded(Recording::new(body)) } else { Self::Once(Some(body)) };
        (source, upload)
    }

    /// It will not be sent again.
    fn stop(&self) {
        if let Self::Recorded(recording) = self {
            recording.stop();
        }
    }

    /// A copy for a mirror.
    pub(super) fn mirror(&self) -> Option<Payload> {
        match self {
            Self::Empty => Some(Payload::Empty),
            Self::Once(_) => None,
            Self::Recorded(recording) => Some(recording.mirror()),
        }
    }

    /// The body from its beginning; `None` when that is gone, and then the request must not be sent. `unsent` is what the
    /// try before did not send.
    fn payload(&mut self, unsent: Option<Payload>) -> Option<Payload> {
        match self {
            Self::Empty => Some(Payload::Empty),
            Self::Once(body) => body.take().map(Payload::Once).or(unsent),
            Self::Recorded(recording) => recording.attempt(),
        }
    }
}

/// One request and everything its tries go by.
pub(super) struct Attempts<'a> {
    pub(super) conversation: &'a Arc<Conversation>,
    pub(super) pulse: &'a Arc<Pulse>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) outgoing: Outgoing,
    pub(super) source: Source,
    pub(super) upload: Upload,
    pub(super) timeouts: Timeouts,
    /// When its time is over, where some of it has gone by already.
    pub(super) asked_until: Option<Instant>,
    pub(super) retry: Option<retry::Policy<'a>>,
    pub(super) asked: Option<upgrade::Asked>,
    pub(super) is_grpc: bool,
    /// The session that the route keeps to one endpoint, and the client's where it has one.
    pub(super) session: Option<(&'a Session, Option<Kept>)>,
}

/// An answer whose body is still to come.
pub(super) struct Sent {
    pub(super) response: Response<Incoming>,
    pub(super) in_flight: InFlight,
    /// When it has to be over.
    pub(super) deadline: Option<Instant>,
    /// The other protocol that comes behind it.
    pub(super) agreed: Option<upgrade::Agreed>,
}

/// How one try ended.
struct Tried {
    picked: Picked,
    began: Instant,
    ended: Instant,
    result: Result<Taken, Ended>,
    /// The body, if nothing of it was sent.
    unsent: Option<Payload>,
}

/// Why a try brought no answer.
enum Ended {
    Failed(Failed),
    /// The try's time is up.
    TryExpired,
    /// The request's time is up.
    Expired,
}

impl Attempts<'_> {
    /// Tries until there is an answer, or none is to be had.
    ///
    /// # Errors
    /// The answer that is made here instead.
    pub(super) async fn run(&mut self, record: &mut Record) -> Result<Sent, Made> {
        let is_grpc = self.is_grpc;
        let none = |none, record: &mut Record| reply::no_upstream(none, is_grpc, record);
        let mut now = Instant::now();
        let permit =
            self.cluster.admit(Resource::Request, now).map_err(|overflow| none(overflow.into(), record))?;
        let deadline = self.asked_until.or_else(|| self.timeouts.total.map(|total| now + total));
        let (mut tried, mut retries, mut retrying) = (Vec::new(), 0, None);
        let mut payload = self.source.payload(None).expect("nobody has read of the body yet");
        // Before it is copied: the copies have no room to spare.
        retry::tell_attempt(1, &mut self.outgoing.headers);
        loop {
            let policy = self.cluster.policy();
            let picked = self.pick(&policy, &tried, now).map_err(|why| none(why, record))?;
            tried.push(picked.address);
            let trace = record.tries(&mut self.outgoing.headers);
            let mut one = self.one(&policy, picked, (retries + 1, payload, trace), (now, deadline)).await;
            record.upstream(self.cluster.name(), one.picked.address, one.picked.workload.as_ref());
            record.service(&self.cluster.service());
            record.tried(one.result.as_ref().ok().map(|taken| taken.response.status()));
            self.note(&one);
            match self.verdict(&one.result, retries) {
                Verdict::Final => return self.finish(one, permit, deadline, record),
                Verdict::Exhausted => {
                    record.flag(Flag::RetryLimit);
                    return self.finish(one, permit, deadline, record);
                }
                Verdict::Again => {
                    // A request is one retry at a time.
                    drop(retrying.take());
                    match self.cluster.admit(Resource::Retry, Instant::now()) {
                        Ok(place) => retrying = Some(place),
                        Err(_) => {
                            record.flag(Flag::Overflow);
                            return self.finish(one, permit, deadline, record);
                        }
                    }
                }
            }
            // Asked for now and not when it is sent: from here on the try before reads no more of it.
            payload = match self.source.payload(one.unsent.take()) {
                Some(payload) => payload,
                None => return self.finish(one, permit, deadline, record),
            };
            drop(one);
            retries += 1;
            self.back_off(retries, deadline, record).await?;
            now = Instant::now();
        }
    }

    fn pick(
        &self,
        policy: &EffectivePolicy,
        tried: &[SocketAddr],
        now: Instant,
    ) -> Result<Picked, crate::upstream::NoUpstream> {
        let hashes = matches!(policy.algorithm, Algorithm::ConsistentHash(_));
        let avoids = self.retry.is_some_and(|retry| retry.avoids_hosts(hashes));
        let facts = PickFacts {
            headers: &self.outgoing.headers,
            query: self.outgoing.target.query(),
            source: self.conversation.client,
            original: self.conversation.original,
            tried: if avoids { tried } else { &[] },
            far_from: self.retry.map_or(&[], |retry| retry.avoided_localities(tried)),
            session: self.session.and_then(|(_, kept)| kept).map(|it| it.endpoint),
        };
        self.conversation.worker.pickers().pick(&self.cluster, &facts, now, &mut rand::rng())
    }

    /// One try, by its number, which begins now.
    async fn one(
        &self,
        policy: &EffectivePolicy,
        picked: Picked,
        (number, payload, trace): (u32, Payload, Option<Traceparent>),
        (began, deadline): (Instant, Option<Instant>),
    ) -> Tried {
        let version = version(self.outgoing.version, policy.version, self.asked.is_some());
        let mut request = self.outgoing.request(version, payload);
        if let Some(trace) = trace {
            request.extensions_mut().insert(trace);
        }
        if number > 1 {
            retry::tell_attempt(number, request.headers_mut());
        }
        if let Some(asked) = &self.asked {
            asked.restate(request.headers_mut());
        }
        let upstream = Upstream {
            conversation: self.conversation,
            cluster: &self.cluster,
            policy,
            picked: &picked,
            is_own: false,
        };
        let left = deadline.map(|deadline| deadline.saturating_duration_since(began));
        let is_last = left.is_some_and(|left| self.timeouts.per_try.is_none_or(|per_try| left <= per_try));
        let most = if is_last { left } else { self.timeouts.per_try };
        if let Some(until) = most.map(|most| began + most).or(deadline) {
            self.pulse.waits_until(until.into());
        }
        let sending = upstream.send(version, request);
        let sent = match most {
            None => Ok(sending.await),
            Some(most) => timeout(most, sending).await,
        };
        let (result, unsent) = match sent {
            Ok(Ok(taken)) if self.asked.is_none() && is_switch(&taken) => {
                (Err(Ended::Failed(Failed::Protocol)), None)
            }
            Ok(Ok(taken)) => (Ok(taken), None),
            Ok(Err(Unanswered { why, unsent })) => (Err(Ended::Failed(why)), unsent),
            Err(_) if is_last => (Err(Ended::Expired), None),
            Err(_) => (Err(Ended::TryExpired), None),
        };
        Tried { picked, began, ended: Instant::now(), result, unsent }
    }

    fn verdict(&self, result: &Result<Taken, Ended>, retries: u32) -> Verdict {
        let Some(policy) = &self.retry else { return Verdict::Final };
        let failed = |why, was_sent| retry::Outcome::Failed { why, was_sent };
        let outcome = match result {
            Ok(taken) => retry::Outcome::Answered {
                status: taken.response.status(),
                headers: taken.response.headers(),
            },
            Err(Ended::Expired) => return Verdict::Final,
            Err(Ended::TryExpired) => failed(Failure::TryExpired, true),
            Err(Ended::Failed(failure)) if failure.is_of_client() => return Verdict::Final,
            Err(Ended::Failed(Failed::Overflow(_))) => failed(Failure::Overflow, false),
            Err(Ended::Failed(Failed::Connect(_))) => failed(Failure::Connect, false),
            Err(Ended::Failed(failure @ Failed::Reset(_))) if failure.is_refused() => {
                failed(Failure::Refused, true)
            }
            Err(Ended::Failed(Failed::Reset(_) | Failed::Protocol)) => failed(Failure::Reset, true),
        };
        policy.judge(&outcome, retries)
    }

    /// Tells outlier detection how a try went. What a limit of ours kept from being sent says nothing of the endpoint, nor
    /// does what the client did: that it broke off, was slow to send, or would wait only so long.
    fn note(&self, one: &Tried) {
        let outcome = match &one.result {
            Ok(taken) => Outcome::Answered(taken.response.status().as_u16()),
            Err(Ended::Failed(Failed::Overflow(_))) => return,
            Err(Ended::Failed(failed)) if failed.is_of_client() => return,
            Err(Ended::Expired) if self.timeouts.of_client => return,
            Err(Ended::TryExpired | Ended::Expired) if self.upload.is_owed() => return,
            Err(Ended::TryExpired | Ended::Expired) if one.picked.attempt.is_held_up() => return,
            Err(Ended::Failed(_)) => Outcome::Failed,
            Err(Ended::TryExpired | Ended::Expired) => Outcome::TimedOut,
        };
        one.picked.attempt.note(outcome, one.ended);
    }

    /// Waits before the next try, or until the request's time is up.
    async fn back_off(&self, retry: u32, deadline: Option<Instant>, record: &mut Record) -> Result<(), Made> {
        let pause = self.retry.map_or(Duration::ZERO, |policy| policy.backoff(retry, &mut rand::rng()));
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if let Some(left) = left.filter(|left| *left <= pause) {
            sleep(left).await;
            record.flag(Flag::UpstreamTimeout);
            record.details(Details::ResponseTimeout);
            return Err(expired(self.is_grpc));
        }
        sleep(pause).await;
        Ok(())
    }

    /// What the last try comes to.
    fn finish(
        &mut self,
        one: Tried,
        permit: Permit,
        deadline: Option<Instant>,
        record: &mut Record,
    ) -> Result<Sent, Made> {
        let Tried { picked, began, ended, result, .. } = one;
        self.source.stop();
        let Taken { mut response, lent } = match result {
            Ok(taken) => taken,
            Err(Ended::Failed(failed)) => return Err(reply::unanswered(&failed, self.is_grpc, record)),
            Err(ended @ (Ended::TryExpired | Ended::Expired)) => {
                record.flag(Flag::UpstreamTimeout);
                record.details(match ended {
                    Ended::TryExpired => Details::PerTryTimeout,
                    _ => Details::ResponseTimeout,
                });
                return Err(expired(self.is_grpc));
            }
        };
        let agreed = match self.asked.take() {
            Some(asked) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                asked.agreed(&mut response)
            }
            _ => {
                head::remove_hop_by_hop(response.headers_mut());
                None
            }
        };
        *response.version_mut() = self.outgoing.version;
        let headers = response.headers_mut();
        let took = ended - began;
        record.service_time(took);
        headers.insert(SERVICE_TIME, numeral(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)));
        for cookie in &picked.set_cookies {
            if let Ok(cookie) = HeaderValue::from_str(cookie) {
                headers.append(SET_COOKIE, cookie);
            }
        }
        let told = self.session.and_then(|(session, kept)| session.told(picked.address, kept, since_1970()));
        if let Some((name, value)) = told
            && let Ok(value) = HeaderValue::try_from(value)
        {
            headers.append(name, value);
        }
        let in_flight = InFlight { lent, attempt: picked.attempt, permit, upload: self.upload.take() };
        Ok(Sent { response, in_flight, deadline, agreed })
    }
}

/// Whether another protocol is to follow an answer.
fn is_switch(taken: &Taken) -> bool {
    taken.response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// The version of HTTP that is spoken to an endpoint: the client's, unless the policy says otherwise. Another protocol can
/// be asked for in HTTP/1.1 only.
pub(super) fn version(of_client: Version, stated: HttpVersion, upgrades: bool) -> Version {
    match stated {
        _ if upgrades => Version::HTTP_11,
        HttpVersion::Http1 => Version::HTTP_11,
        HttpVersion::Http2 => Version::HTTP_2,
        HttpVersion::Default | HttpVersion::AsClient => of_client,
    }
}
