//! One request: its walk through the stages, to an endpoint and back.

mod answer;
mod head;
mod observed;
mod upgrade;

use std::sync::Arc;
use std::time::Instant;

use common::balance::budget::Resource;
use common::balance::outlier::Outcome;
use common::config::destination::pool::HttpVersion;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, request};
use hyper::body::{Body as _, Incoming};

use self::answer::Made;
use self::observed::{InFlight, Observed};
use crate::destination::Destination;
use crate::flags::Flag;
use crate::payload::{Answer, Payload};
use crate::record::Record;
use crate::serve::Conversation;
use crate::upstream::dispatch::{Failed, Taken, Upstream};
use crate::upstream::{Cluster, ClusterKey, NoUpstream, PickFacts, Picked};

/// An answer on its way to the client.
pub type Reply = Response<Answer<Observed>>;

/// Serves one request.
pub async fn serve(conversation: Arc<Conversation>, request: Request<Incoming>) -> Reply {
    let mut record = Record::begin(&conversation, &request);
    match walk(&conversation, request, &mut record).await {
        Ok((response, in_flight)) => {
            let (parts, body) = response.into_parts();
            record.head(parts.status, &parts.headers);
            let observed = Observed::from_upstream(record, in_flight);
            Response::from_parts(parts, Answer::from_upstream(body, None, observed))
        }
        Err(made) => {
            record.head(made.status(), made.headers());
            let (parts, body) = made.into_parts();
            Response::from_parts(parts, Answer::made(body, Observed::made(record)))
        }
    }
}

/// The request to its endpoint, and the answer's head back.
///
/// # Errors
/// The answer, where it is made here.
async fn walk(
    conversation: &Arc<Conversation>,
    mut request: Request<Incoming>,
    record: &mut Record,
) -> Result<(Response<Incoming>, InFlight), Made> {
    let asked = upgrade::Asked::take(&mut request);
    let (parts, body) = request.into_parts();
    let is_grpc = false;
    let authority = head::authority(&parts).map_err(|why| {
        tracing::debug!(%why, "a request is refused");
        record.flag(Flag::ProtocolError);
        answer::made(StatusCode::BAD_REQUEST, "bad request", false)
    })?;
    let cluster = cluster(conversation).map_err(|none| no_upstream(none, is_grpc, record))?;
    let permit = cluster
        .admit(Resource::Request, Instant::now())
        .map_err(|overflow| no_upstream(overflow.into(), is_grpc, record))?;
    let policy = cluster.policy();
    let picked = pick(conversation, &cluster, &parts).map_err(|none| no_upstream(none, is_grpc, record))?;
    let version = version(&parts, policy.version, asked.is_some());
    let payload = if body.is_end_stream() { Payload::Empty } else { Payload::Once(body) };
    let request = outgoing(parts, &authority, version, payload, asked.as_ref());
    let upstream = Upstream { conversation, cluster: &cluster, policy: &policy, picked: &picked };
    match upstream.send(version, request).await {
        Ok(Taken { mut response, lent }) => {
            picked.attempt.note(Outcome::Answered(response.status().as_u16()), Instant::now());
            match asked {
                Some(asked) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    asked.carry(conversation.worker.clone(), &mut response);
                }
                _ => head::remove_hop_by_hop(response.headers_mut()),
            }
            *response.version_mut() = Version::HTTP_11;
            let Picked { attempt, .. } = picked;
            Ok((response, InFlight { lent, attempt, permit }))
        }
        Err(failed) => {
            picked.attempt.note(Outcome::Failed, Instant::now());
            Err(unanswered(&failed, is_grpc, record))
        }
    }
}

fn cluster(conversation: &Conversation) -> Result<Arc<Cluster>, NoUpstream> {
    let Destination::Service { service, port } = &conversation.destination else {
        return Err(NoUpstream::Unknown);
    };
    let service = common::config::ObjectName::new(service.namespace.clone(), service.name.clone());
    let key = ClusterKey { service, port: *port, subset: None };
    conversation.worker.shared.clusters.get(&key).ok_or(NoUpstream::Unknown)
}

fn pick(
    conversation: &Conversation,
    cluster: &Arc<Cluster>,
    parts: &request::Parts,
) -> Result<Picked, NoUpstream> {
    let facts = PickFacts {
        headers: &parts.headers,
        query: parts.uri.query(),
        source: conversation.client,
        original: conversation.original,
        tried: &[],
    };
    conversation.worker.pickers().pick(cluster, &facts, Instant::now(), &mut rand::rng())
}

/// The version of HTTP that is spoken to the endpoint: the client's, unless the policy says otherwise. Another protocol
/// can be asked for in HTTP/1.1 only.
fn version(parts: &request::Parts, stated: HttpVersion, upgrades: bool) -> Version {
    match stated {
        _ if upgrades => Version::HTTP_11,
        HttpVersion::Http1 => Version::HTTP_11,
        HttpVersion::Http2 => Version::HTTP_2,
        HttpVersion::Default | HttpVersion::AsClient => match parts.version {
            Version::HTTP_2 => Version::HTTP_2,
            _ => Version::HTTP_11,
        },
    }
}

/// The request as the endpoint gets it.
fn outgoing(
    parts: request::Parts,
    authority: &str,
    version: Version,
    payload: Payload,
    asked: Option<&upgrade::Asked>,
) -> Request<Payload> {
    let request::Parts { method, uri, mut headers, .. } = parts;
    head::remove_hop_by_hop(&mut headers);
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut target = http::uri::Parts::default();
    headers.remove(HOST);
    if version == Version::HTTP_2 {
        target.scheme = Some(Scheme::HTTP);
        target.authority = authority.parse::<Authority>().ok();
    } else if let Ok(host) = HeaderValue::from_str(authority) {
        headers.insert(HOST, host);
    }
    target.path_and_query = Some(path);
    if let Some(asked) = asked {
        asked.restate(&mut headers);
    }
    let mut request = Request::new(payload);
    *request.method_mut() = method;
    // Its parts are each what a URI is made of.
    *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
    *request.headers_mut() = headers;
    *request.version_mut() = version;
    request
}

fn no_upstream(none: NoUpstream, is_grpc: bool, record: &mut Record) -> Made {
    let (flag, text) = match none {
        NoUpstream::Unknown => (Flag::NoCluster, ""),
        NoUpstream::NoHealthy => (Flag::NoHealthyUpstream, "no healthy upstream"),
        NoUpstream::Overflow(_) => (
            Flag::Overflow,
            "upstream connect error or disconnect/reset before headers. reset reason: overflow",
        ),
    };
    record.flag(flag);
    let mut made = answer::made(StatusCode::SERVICE_UNAVAILABLE, text, is_grpc);
    if flag == Flag::Overflow {
        made.headers_mut().insert("x-envoy-overloaded", HeaderValue::from_static("true"));
    }
    made
}

fn unanswered(failed: &Failed, is_grpc: bool, record: &mut Record) -> Made {
    let (flag, text) = match failed {
        Failed::Overflow(overflow) => return no_upstream((*overflow).into(), is_grpc, record),
        Failed::Connect(refusal) => {
            tracing::debug!(%refusal, "an endpoint cannot be reached");
            (
                Flag::UpstreamConnectFailure,
                "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
            )
        }
        Failed::Reset(error) => {
            tracing::debug!(%error, "an endpoint broke off");
            (
                Flag::UpstreamTermination,
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
            )
        }
    };
    record.flag(flag);
    answer::made(StatusCode::SERVICE_UNAVAILABLE, text, is_grpc)
}
