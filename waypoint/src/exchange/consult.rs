//! Asks the authorizers of CUSTOM policies, before any other policy is asked, and those of a route's filter when it takes
//! the request; carries out what they say.
//!
//! A check goes to the authorizer's service as any request goes to its destination, on the waypoint's own behalf. What is
//! asked and what an answer means stands in `authorizer`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use common::balance::budget::Resource;
use common::config::ObjectName;
use common::config::mesh::{
    Authorizer, HttpAuthorizer, MAX_PROVIDERS, MeshConfig, ProviderKind, ProviderService,
};
use common::config::routing::http::AskedBy;
use common::snapshot::model::StringMatch;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::attempts::version;
use super::authorize;
use super::called::Called;
use super::head::Head;
use super::outgoing::Outgoing;
use crate::authorizer::{self, Asked, Change, Failure, MAX_VERDICT_BYTES, Refused, Seen, Verdict, grpc};
use crate::authz::standing::Standing;
use crate::flags::Flag;
use crate::payload::{Hidden, Inbound, Payload};
use crate::record::{Details, Record};
use crate::routes::Target;
use crate::serve::Conversation;
use crate::serve::pulse::Pulse;
use crate::stages::respond::{self, Answer as Made};
use crate::stages::timeout::expired;
use crate::upstream::dispatch::Upstream;
use crate::upstream::{Cluster, ClusterKey, PickFacts};

/// Checks by one provider under way on one worker; beyond it requests that need one are refused.
pub const MAX_CHECKS_IN_FLIGHT: usize = 1024;

/// Places for checks of one worker: of each provider its own, so that one that is slow hurts nobody else's requests.
#[derive(Debug)]
pub struct Checks {
    most: usize,
    by_provider: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
}

impl Checks {
    /// With so many of each provider.
    pub fn new(most: usize) -> Self {
        Self { most, by_provider: Mutex::default() }
    }

    /// A place for a check; `None` when there are too many.
    fn place(&self, provider: &Arc<str>) -> Option<OwnedSemaphorePermit> {
        let places = {
            // Each use leaves it whole.
            let mut all = self.by_provider.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() > MAX_PROVIDERS {
                // Of providers that are no longer stated.
                all.retain(|_, it| it.available_permits() < self.most);
            }
            let new = || Arc::new(Semaphore::new(self.most));
            all.entry(provider.clone()).or_insert_with(new).clone()
        };
        places.try_acquire_owned().ok()
    }
}

/// A request that is asked about.
pub(super) struct Asking<'c> {
    pub(super) conversation: &'c Arc<Conversation>,
    pub(super) pulse: &'c Pulse,
    pub(super) head: &'c mut Head,
    pub(super) body: &'c mut Inbound,
}

/// Either of the protocols; of gRPC with the headers that are shown, where not all are.
#[derive(Clone, Copy)]
enum Provider<'p> {
    Http(&'p HttpAuthorizer),
    Grpc(&'p Authorizer, Option<&'p [StringMatch]>),
}

/// Who is asked.
struct Authority<'p> {
    provider: Provider<'p>,
    /// By which its checks are counted.
    name: Arc<str>,
    /// Where it is.
    cluster: Result<Arc<Cluster>, Failure>,
    /// The authority of a check by gRPC.
    host: Arc<str>,
}

impl<'p> Provider<'p> {
    fn find(config: &'p MeshConfig, name: &str) -> Option<Self> {
        match &config.provider(name)?.kind {
            ProviderKind::HttpAuthorizer(it) => Some(Self::Http(it)),
            ProviderKind::GrpcAuthorizer(it) => Some(Self::Grpc(it, None)),
            _ => None,
        }
    }

    fn common(self) -> &'p Authorizer {
        match self {
            Self::Http(it) => &it.common,
            Self::Grpc(it, _) => it,
        }
    }
}

impl Asking<'_> {
    /// Asks these, one after the other, until one does not agree. One that is not known is left for the policies to
    /// refuse. Returns what they tell the client of a request that may go on.
    ///
    /// # Errors
    /// The answer, where the request may not.
    async fn each(
        mut self,
        providers: Vec<Arc<str>>,
        standing: &mut Standing,
        record: &mut Record,
    ) -> Result<Vec<Change>, Made> {
        let mut told = Vec::new();
        for name in providers {
            let config = self.conversation.worker.shared.mesh().mesh_config().clone();
            let Some(provider) = Provider::find(&config, &name) else { break };
            let service = &provider.common().service;
            let (cluster, host) = (cluster(self.conversation, service), service.host.clone());
            told.extend(self.ask(&Authority { provider, name: name.clone(), cluster, host }, record).await?);
            standing.agreed(name, self.head);
        }
        Ok(told)
    }

    /// Asks one.
    ///
    /// # Errors
    /// The answer, where it does not agree.
    async fn ask(&mut self, authority: &Authority<'_>, record: &mut Record) -> Result<Vec<Change>, Made> {
        let Authority { provider, name, .. } = authority;
        let is_grpc = self.head.facts(self.conversation).is_grpc();
        let seen = self.seen(*provider, is_grpc, record).await?;
        let Some(_place) = self.conversation.worker.checks.place(name) else {
            return Err(overloaded(is_grpc, record));
        };
        let until = tokio::time::Instant::now() + provider.common().timeout;
        self.pulse.rests_until(until);
        let verdict = self.check(authority, seen.as_ref()).await;
        self.pulse.moves();
        if let Provider::Http(authorizer) = provider {
            authorizer::http::strip(authorizer, &mut self.head.headers);
        }
        match verdict {
            Ok(Verdict::Agreed(changes)) => {
                changes.apply(&mut self.head.headers);
                Ok(changes.answer)
            }
            Ok(Verdict::Refused(refused)) => Err(denied(refused, is_grpc, record)),
            Err(failure) if provider.common().fail_open => {
                tracing::debug!(provider = %name, %failure, "an authorizer says nothing; the request goes on");
                Ok(Vec::new())
            }
            Err(failure) => {
                tracing::debug!(provider = %name, %failure, "an authorizer says nothing");
                record.flag(Flag::ExternallyDenied);
                record.details(Details::AuthorizerError);
                let status = StatusCode::from_u16(provider.common().status_on_error);
                Err(respond::answer(status.unwrap_or(StatusCode::FORBIDDEN), Bytes::new(), is_grpc))
            }
        }
    }

    /// What the provider sees of the body.
    async fn seen(
        &mut self,
        provider: Provider<'_>,
        is_grpc: bool,
        record: &mut Record,
    ) -> Result<Option<Seen>, Made> {
        let Some(stated) = provider.common().body else { return Ok(None) };
        let most = stated.max_bytes as usize;
        let too_large = |record: &mut Record| {
            record.details(Details::PayloadTooLarge);
            respond::answer(StatusCode::PAYLOAD_TOO_LARGE, Bytes::new(), is_grpc)
        };
        if !stated.allow_partial && self.body.size_hint().lower() > u64::from(stated.max_bytes) {
            return Err(too_large(record));
        }
        match self.body.show(most, self.pulse).await {
            Ok(seen) if seen.is_partial && !stated.allow_partial => Err(too_large(record)),
            Ok(seen) => Ok(Some(seen)),
            Err(Hidden::NoRoom) => Err(overloaded(is_grpc, record)),
            Err(Hidden::Broken) => {
                record.flag(Flag::ClientGone);
                record.details(Details::ClientGone);
                Err(respond::answer(StatusCode::BAD_REQUEST, Bytes::new(), is_grpc))
            }
        }
    }

    /// Asks a provider, and waits for as long as it may take.
    async fn check(&self, authority: &Authority<'_>, seen: Option<&Seen>) -> Result<Verdict, Failure> {
        let conversation = self.conversation;
        let facts = self.head.facts(conversation);
        let target = facts.target();
        let asked = Asked {
            method: &self.head.method,
            target: &target,
            authority: facts.authority,
            headers: &self.head.headers,
            version: self.head.version,
            body: seen,
        };
        let common = authority.provider.common();
        let cluster = authority.cluster.as_ref().map_err(Failure::clone)?;
        let checked = async {
            match authority.provider {
                Provider::Http(authorizer) => {
                    let question = authorizer::http::question(authorizer, &asked);
                    let outgoing = Outgoing::new(
                        (asked.method.clone(), Version::HTTP_11),
                        path(&question.target)?,
                        asked.authority.into(),
                        question.headers,
                    );
                    let answer = carry(conversation, cluster, &outgoing, question.body).await?;
                    let head = answer.response;
                    authorizer::http::verdict(authorizer, head.status(), head.headers(), answer.body)
                }
                Provider::Grpc(authorizer, shown) => {
                    let parties = parties(conversation);
                    let shown = shown.map(|names| authorizer::shown(names, asked.headers));
                    let asked = Asked { headers: shown.as_ref().unwrap_or(asked.headers), ..asked };
                    let question = grpc::question(authorizer, &asked, &parties, SystemTime::now());
                    let outgoing = Outgoing::new(
                        (Method::POST, Version::HTTP_2),
                        path(grpc::CHECK)?,
                        authority.host.clone(),
                        grpc::headers(common.timeout),
                    );
                    let answer = carry(conversation, cluster, &outgoing, question).await?;
                    let head = answer.response;
                    grpc::verdict(head.status(), head.headers(), answer.trailers.as_ref(), &answer.body)
                }
            }
        };
        timeout(common.timeout, checked).await.unwrap_or(Err(Failure::Late))
    }
}

fn path(target: &str) -> Result<PathAndQuery, Failure> {
    PathAndQuery::try_from(target).map_err(|_| Failure::Malformed("no path to ask at"))
}

fn parties(conversation: &Conversation) -> grpc::Parties {
    let identity = &conversation.peer.identity;
    let principal = if conversation.proved { identity.to_string() } else { String::new() };
    grpc::Parties { client: conversation.client, principal, called: conversation.original }
}

/// The destination that a provider's service is.
fn cluster(conversation: &Conversation, service: &ProviderService) -> Result<Arc<Cluster>, Failure> {
    let followed = conversation.worker.shared.followed();
    let mesh = followed.mesh();
    let domain = followed.tables().cluster_domain();
    let key = mesh.provided(service, domain).map(|found| ClusterKey {
        service: ObjectName::new(found.namespace.clone(), found.name.clone()),
        port: service.port,
        subset: None,
    });
    let cluster =
        key.and_then(|key| conversation.worker.shared.clusters.get_of(followed.destinations(), &key));
    cluster.ok_or_else(|| Failure::Unreachable(format!("{}:{}", service.host, service.port)))
}

/// An authorizer's answer, whole.
struct Answered {
    response: Response<()>,
    trailers: Option<HeaderMap>,
    body: Bytes,
}

/// One check to an endpoint and back.
async fn carry(
    conversation: &Arc<Conversation>,
    cluster: &Arc<Cluster>,
    outgoing: &Outgoing,
    body: Bytes,
) -> Result<Answered, Failure> {
    let unreachable = || Failure::Unreachable(cluster.name().to_string());
    let _permit = cluster.admit(Resource::Request, Instant::now()).map_err(|_| unreachable())?;
    let policy = cluster.policy();
    let facts = PickFacts {
        headers: &outgoing.headers,
        query: outgoing.target.query(),
        source: conversation.client,
        original: conversation.original,
        tried: &[],
        far_from: &[],
        session: None,
    };
    let picked = conversation.worker.pickers().pick(cluster, &facts, Instant::now(), &mut rand::rng());
    let picked = picked.map_err(|_| unreachable())?;
    let upstream = Upstream { conversation, cluster, policy: &policy, picked: &picked, is_own: true };
    let version = match outgoing.version {
        Version::HTTP_2 => Version::HTTP_2,
        of_check => version(of_check, policy.version, false),
    };
    let payload = if body.is_empty() { Payload::Empty } else { Payload::Whole(Some(body)) };
    let taken = upstream.send(version, outgoing.request(version, payload)).await;
    let taken =
        taken.map_err(|unanswered| Failure::Unreachable(format!("{} ({unanswered:?})", cluster.name())))?;
    let (parts, incoming) = taken.response.into_parts();
    let (body, trailers) = read(incoming).await?;
    taken.lent.give_back();
    Ok(Answered { response: Response::from_parts(parts, ()), trailers, body })
}

/// Reads an answer to its end.
async fn read(mut incoming: Incoming) -> Result<(Bytes, Option<HeaderMap>), Failure> {
    let (mut body, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|_| Failure::Malformed("it broke off"))?;
        match frame.into_data() {
            Ok(data) if body.len() + data.len() > MAX_VERDICT_BYTES => {
                return Err(Failure::Malformed("it is too long"));
            }
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((body.freeze(), trailers))
}

/// The answer to what an authorizer refuses.
fn denied(refused: Refused, is_grpc: bool, record: &mut Record) -> Made {
    record.flag(Flag::ExternallyDenied);
    record.details(Details::ExternallyDenied);
    let mut made = respond::answer(refused.status, refused.body, is_grpc);
    if is_grpc {
        // What it is, is said in gRPC's own way.
        let headers = refused.headers.iter().filter(|it| it.name != header::CONTENT_TYPE);
        headers.for_each(|it| it.apply(&mut made.headers));
        return made;
    }
    // A type that is stated is that of the body, beside which ours would be a second.
    if refused.headers.iter().any(|it| it.name == header::CONTENT_TYPE) {
        made.headers.remove(header::CONTENT_TYPE);
    }
    refused.headers.iter().for_each(|it| it.apply(&mut made.headers));
    made
}

fn overloaded(is_grpc: bool, record: &mut Record) -> Made {
    record.flag(Flag::Overload);
    record.details(Details::Overload);
    respond::answer(StatusCode::SERVICE_UNAVAILABLE, Bytes::new(), is_grpc)
}

/// Asks whoever CUSTOM policies say has to agree, if anybody, and returns what they tell the client.
///
/// # Errors
/// The answer, where the request may not go on.
pub(super) async fn consult(
    asking: Asking<'_>,
    standing: &mut Standing,
    record: &mut Record,
) -> Result<Vec<Change>, Made> {
    let head = &asking.head;
    let providers = standing.providers(head).map_err(|denial| {
        let of = (head.version, head.facts(asking.conversation).is_grpc());
        authorize::refused(&denial, of, record)
    })?;
    if providers.is_empty() {
        return Ok(Vec::new());
    }
    // Rare and large: without a box of its own it would be moved about with every request.
    Box::pin(asking.each(providers, standing, record)).await
}

/// Asks whoever a route's filter says has to agree, and returns what it tells the client.
///
/// # Errors
/// The answer, where the request may not go on: also where there is nobody to ask.
pub(super) async fn of_route(
    mut asking: Asking<'_>,
    called: &Called<'_>,
    (asked_by, target): (&AskedBy, &Target),
    deadline: Option<tokio::time::Instant>,
    record: &mut Record,
) -> Result<Vec<Change>, Made> {
    let Some(cluster) = called.cluster(Some(target)).ok().filter(|_| target.missing.is_none()) else {
        tracing::debug!(authorizer = %target.host, "there is no authorizer to ask");
        record.flag(Flag::ExternallyDenied);
        record.details(Details::AuthorizerError);
        return Err(respond::unroutable(asking.head.facts(asking.conversation).is_grpc()));
    };
    let provider = match asked_by {
        AskedBy::Http(authorizer) => Provider::Http(authorizer),
        AskedBy::Grpc { common, shown_headers } => Provider::Grpc(common, shown_headers.as_deref()),
    };
    let (name, host) = (cluster.name().clone(), target.host.clone());
    let is_grpc = asking.head.facts(asking.conversation).is_grpc();
    let authority = Authority { provider, name, cluster: Ok(cluster), host };
    let asked = Box::pin(asking.ask(&authority, record));
    let Some(deadline) = deadline else { return asked.await };
    match tokio::time::timeout_at(deadline, asked).await {
        Ok(answer) => answer,
        Err(_) => {
            record.flag(Flag::UpstreamTimeout);
            record.details(Details::ResponseTimeout);
            Err(expired(is_grpc))
        }
    }
}
