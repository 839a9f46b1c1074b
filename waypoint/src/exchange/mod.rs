//! One request: its walk through the stages, to an endpoint and back.
//!
//! What is decided stands in `routes`, `stages` and `upstream`; this carries it out, in the order of the stages, and
//! gathers what is told of it. One table of routes is asked for the whole request, so that a change while it is under way
//! is seen whole or not at all. What only a proxy may say of a caller (`x-forwarded-client-cert` and its like) is taken out
//! of what clients send, as Envoy does in Istio's waypoint; `x-envoy-internal` and peer metadata besides.

mod admission;
pub(crate) mod arrived;
mod attempts;
mod authorize;
pub(crate) mod called;
mod consult;
pub(crate) mod head;
pub(crate) mod limit;
mod mirror;
mod observed;
pub(crate) mod outgoing;
mod reply;
mod unasked;
pub(crate) mod upgrade;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use common::config::routing::HttpAction;
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, sleep};

use self::arrived::Arrived;
use self::attempts::{Attempts, Sent, Source};
use self::authorize::Admitted;
use self::called::{Called, since_1970};
pub use self::consult::{Checks, MAX_CHECKS_IN_FLIGHT};
use self::head::Head;
pub use self::mirror::{MAX_MIRRORS_IN_FLIGHT, MIRROR_DEADLINE};
use self::observed::Observed;
use self::outgoing::Path;
use crate::authorizer::Change;
use crate::authz::standing::Standing;
use crate::flags::Flag;
use crate::limits::Told;
use crate::payload::{Answer, Inbound};
use crate::record::{Details, Parties, Record};
use crate::routes::{Found, RequestFacts, Rule};
use crate::serve::Conversation;
use crate::serve::pulse::Pulse;
use crate::stages::cors::{self, Cors, Grant};
use crate::stages::respond::{self, Answer as Made};
use crate::stages::timeout::timeouts;
use crate::stages::{fault, redirect, split, transform};

/// An answer on its way to the client.
pub type Reply = Response<Answer<Observed>>;

/// Serves one request. The task that does is bound to `pulse`.
pub async fn serve(conversation: &Arc<Conversation>, pulse: Arc<Pulse>, request: Request<Incoming>) -> Reply {
    pulse.begin(request.body().is_end_stream());
    let is_head = request.method() == Method::HEAD;
    let parties = Parties::of(conversation);
    let arrived = Arrived::new(request, parties.telemetry.sampling());
    let mut record = Record::begin(parties, &arrived.request, &arrived.ids);
    let walked = {
        // In its place from the beginning: it is large, and would be moved there with every request.
        let mut walk = pin!(admitted_walk(conversation, &pulse, arrived, &mut record));
        poll_fn(|cx| pulse.poll_unless_over(cx, walk.as_mut())).await
    };
    match walked.unwrap_or_else(|| Err(reply::stood_still(&pulse, &mut record))) {
        Ok((Sent { response, in_flight, deadline, agreed }, standing)) => {
            let (parts, body) = response.into_parts();
            record.head(parts.status, &parts.headers);
            let observed = Observed::from_upstream(record, in_flight, standing);
            if let Some(agreed) = agreed {
                pulse.answered();
                agreed.carry(conversation.worker.clone(), observed);
                return Response::from_parts(parts, Answer::switched());
            }
            pulse.answer_by(deadline.map(Into::into));
            Response::from_parts(parts, Answer::from_upstream(body, pulse, observed))
        }
        Err(made) => {
            record.head(made.status, &made.headers);
            pulse.renew();
            // What is left of the request is with the server of HTTP, which ends the connection or has it at hand.
            pulse.arrived();
            let is_read =
                !is_head && !matches!(made.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            let answer = Answer::made(made.body, pulse, Observed::made(record));
            let mut response = Response::new(if is_read { answer } else { answer.unread() });
            *response.status_mut() = made.status;
            *response.headers_mut() = *made.headers;
            response
        }
    }
}

/// The walk of a request that policy lets through, for as long as policy does.
///
/// # Errors
/// The answer, where it is made here.
async fn admitted_walk(
    conversation: &Arc<Conversation>,
    pulse: &Arc<Pulse>,
    arrived: Arrived<Incoming>,
    record: &mut Record,
) -> Result<(Sent, Standing), Made> {
    let admitted = {
        let admit = pin!(authorize::admit(conversation, pulse, arrived, record));
        admit.await?
    };
    let Admitted { standing, head, body, asked, told } = admitted;
    let (version, is_grpc) = (head.version, head.facts(conversation).is_grpc());
    let walked = {
        let walk = pin!(walk(conversation, pulse, (head, body, asked), record));
        standing.unless_revoked(walk).await
    };
    match walked {
        Ok(mut sent) => {
            if !told.is_empty() {
                let headers = match &mut sent {
                    Ok(sent) => sent.response.headers_mut(),
                    Err(made) => &mut *made.headers,
                };
                told.iter().for_each(|it| it.apply(headers));
            }
            sent.map(|sent| (sent, standing))
        }
        Err(denial) => Err(authorize::refused(&denial, (version, is_grpc), record)),
    }
}

/// The request to its endpoint, and the answer's head back.
///
/// # Errors
/// The answer, where it is made here.
async fn walk(
    conversation: &Arc<Conversation>,
    pulse: &Arc<Pulse>,
    (mut head, mut body, asked): (Box<Head>, Inbound, Option<upgrade::Asked>),
    record: &mut Record,
) -> Result<Sent, Made> {
    let called = Called::find(conversation);
    let facts = head.facts(conversation);
    let is_grpc = facts.is_grpc();
    if let Some(why) = called.unasked() {
        tracing::debug!(%why, "a request is refused");
        record.flag(Flag::ExternallyDenied);
        record.details(Details::AuthorizerError);
        return Err(why.answer(is_grpc));
    }
    let found = called.routes().map_or(Found::Service, |routes| routes.find(&facts));
    let rule = match found {
        Found::Rule(rule) => Some(rule),
        Found::Service => None,
        Found::NoRoute => {
            limit::ask(&called, conversation, (&facts, None), record)?;
            record.flag(Flag::NoRoute);
            record.details(Details::RouteNotFound);
            return Err(respond::answer(StatusCode::NOT_FOUND, Bytes::new(), is_grpc));
        }
    };
    let timeouts = timeouts(rule.map(|rule| &*rule.route), &facts);
    let deadline = timeouts.total.map(|total| Instant::now() + total);
    if let Some(rule) = rule {
        record.route(rule.name());
    }
    let asking = consult::Asking { conversation, pulse, head: &mut head, body: &mut body };
    let told = match rule {
        Some(rule) => agreed(asking, &called, (rule, deadline), record).await?,
        None => Vec::new(),
    };
    let facts = head.facts(conversation);
    let left = limit::ask(&called, conversation, (&facts, rule), record)?;
    let chosen = rule.and_then(|rule| {
        let of_session = called.of_session(&rule.route, facts.headers);
        of_session.or_else(|| split::choose(&rule.route, &mut rand::rng()))
    });
    let path = Path { rule, chosen };
    // Who was asked took part of the time.
    let asked_until = deadline.filter(|_| rule.is_some_and(|it| it.route.external_auth().is_some()));
    let onward = match rule {
        Some(rule) => on_the_way(&path, rule, &facts, (pulse, record)).await,
        None => Onward::Sent(None),
    };
    let (grant, sent) = match onward {
        Onward::Preflight(answer) => return Err(answer),
        Onward::Answered(answer) => (None, Err(answer)),
        Onward::Sent(grant) => {
            let facing = Facing { conversation, pulse, called: &called, is_grpc, asked_until };
            (grant, forward(&facing, &path, (head, body, asked), record).await)
        }
    };
    answered(&path, (grant, left, told), sent)
}

/// Asks whoever a rule says has to agree, and returns what that tells the client. A preflight tells what was asked for and
/// nothing else, as in Envoy: nobody is asked about it.
///
/// # Errors
/// The answer, where the request may not go on.
async fn agreed(
    asking: consult::Asking<'_>,
    called: &Called<'_>,
    (rule, deadline): (&Rule, Option<Instant>),
    record: &mut Record,
) -> Result<Vec<Change>, Made> {
    let Some(authorizer) = rule.route.external_auth() else { return Ok(Vec::new()) };
    let grant = match cors::decide(&rule.route, &asking.head.facts(asking.conversation)) {
        Cors::Preflight(_) => return Ok(Vec::new()),
        Cors::Granted(grant) => Some(grant),
        Cors::Nothing => None,
    };
    let path = Path { rule: Some(rule), chosen: None };
    match consult::of_route(asking, called, authorizer, deadline, record).await {
        Ok(told) => Ok(told),
        Err(answer) => answered(&path, (grant, None, Vec::new()), Err(answer)).map(|_| Vec::new()),
    }
}

/// One request and what it falls into.
struct Facing<'a> {
    conversation: &'a Arc<Conversation>,
    pulse: &'a Arc<Pulse>,
    called: &'a Called<'a>,
    is_grpc: bool,
    /// When its time is over, where part of it went to an authorizer.
    asked_until: Option<Instant>,
}

/// Sends a request on.
///
/// # Errors
/// The answer, where it is made here.
async fn forward(
    facing: &Facing<'_>,
    path: &Path<'_>,
    (head, body, asked): (Box<Head>, Inbound, Option<upgrade::Asked>),
    record: &mut Record,
) -> Result<Sent, Made> {
    let Facing { conversation, pulse, called, is_grpc, asked_until } = *facing;
    let rule = path.rule;
    let timeouts = timeouts(rule.map(|rule| &*rule.route), &head.facts(conversation));
    let session = rule.and_then(|rule| rule.route.session());
    let session = session.map(|it| (it, it.kept(&head.headers, since_1970())));
    let called_by = (conversation.destination.port(), conversation.caller.as_deref());
    let outgoing = path.outgoing(*head, called_by).map_err(|why| {
        tracing::debug!(%why, "a rewrite makes no path");
        record.details(Details::PathNormalizationFailed);
        respond::answer(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new(), is_grpc)
    })?;
    let target = path.chosen.map(|it| it.target);
    let cluster = called.cluster(target).map_err(|none| reply::no_upstream(none, is_grpc, record))?;
    let mirrors = rule.map_or_else(Vec::new, |rule| called.mirrors(&rule.route, path.chosen.as_ref()));
    let retry = path.retries();
    let again = retry.is_some_and(|retry| retry.sends_again()) || !mirrors.is_empty();
    let (source, upload) = Source::new(body, again, pulse, record);
    for mirror in mirrors {
        mirror::send(conversation, mirror, &outgoing, &source);
    }
    let mut attempts = Attempts {
        conversation,
        pulse,
        cluster,
        outgoing,
        source,
        upload,
        timeouts,
        asked_until: asked_until.map(Instant::into_std),
        retry,
        asked,
        is_grpc,
        session,
    };
    attempts.run(record).await
}

/// Changes the headers of an answer as the route says, whoever made it: a client relies on them most where nobody
/// answered.
fn answered(
    path: &Path<'_>,
    (grant, left, told): (Option<Grant<'_>>, Option<Told>, Vec<Change>),
    mut sent: Result<Sent, Made>,
) -> Result<Sent, Made> {
    let headers = match &mut sent {
        Ok(sent) => sent.response.headers_mut(),
        Err(made) => &mut *made.headers,
    };
    if let Some(rule) = path.rule {
        transform::response(&rule.route, path.chosen.as_ref(), headers);
    }
    if let Some(grant) = grant {
        grant.tell(headers);
    }
    if let Some(left) = left {
        crate::stages::limit::tell(&left, headers);
    }
    told.iter().for_each(|it| it.apply(headers));
    sent
}

/// What becomes of a request before it is sent on.
pub(crate) enum Onward<'r> {
    /// It asks for permission, and this is the answer.
    Preflight(Made),
    /// It is answered here.
    Answered(Made),
    /// It is sent on; its answer tells the permission, if there is one.
    Sent(Option<Grant<'r>>),
}

/// What a rule does to a request before it is sent on.
async fn on_the_way<'r>(
    path: &Path<'r>,
    rule: &'r Rule,
    facts: &RequestFacts<'_>,
    (pulse, record): (&Pulse, &mut Record),
) -> Onward<'r> {
    let is_grpc = facts.is_grpc();
    if rule.route.missing_filter().is_some() {
        record.details(Details::DirectResponse);
        return Onward::Answered(respond::unroutable(is_grpc));
    }
    let injected = fault::inject(rule.route.fault(), &mut rand::rng());
    if let Some(delay) = injected.delay {
        record.flag(Flag::DelayInjected);
        pulse.rests_until(Instant::now() + delay);
        sleep(delay).await;
    }
    if let Some(abort) = injected.abort {
        record.flag(Flag::FaultInjected);
        record.details(Details::FaultAbort);
        return Onward::Answered(fault::aborted(abort, is_grpc));
    }
    let onward = past_faults(path, rule, facts);
    match &onward {
        Onward::Preflight(_) => record.details(Details::Cors),
        Onward::Answered(_) => record.details(Details::DirectResponse),
        Onward::Sent(_) => {}
    }
    onward
}

/// What a rule does to a request that no fault has ended. Pure.
pub(crate) fn past_faults<'r>(path: &Path<'r>, rule: &'r Rule, facts: &RequestFacts<'_>) -> Onward<'r> {
    let is_grpc = facts.is_grpc();
    let grant = match cors::decide(&rule.route, facts) {
        Cors::Preflight(answer) => return Onward::Preflight(answer),
        Cors::Granted(grant) => Some(grant),
        Cors::Nothing => None,
    };
    Onward::Answered(match rule.route.action() {
        HttpAction::Redirect(stated) => redirect::redirected(stated, rule.prefix(), facts),
        HttpAction::Respond(stated) => respond::direct(stated, is_grpc),
        HttpAction::Forward(_) if path.leads_nowhere() => respond::unroutable(is_grpc),
        HttpAction::Forward(_) | HttpAction::Delegate(_) => return Onward::Sent(grant),
    })
}

#[cfg(test)]
mod tests;
