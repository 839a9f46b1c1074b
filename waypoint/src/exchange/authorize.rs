//! A request before policy: its head is read once, and what policies see of it is what is routed and forwarded.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, StatusCode, Version};
use hyper::body::Incoming;

use super::arrived::Arrived;
use super::consult::{Asking, consult};
use super::head::Head;
use super::{admission, reply, upgrade};
use crate::authorizer::Change;
use crate::authz::Denial;
use crate::authz::standing::Standing;
use crate::flags::Flag;
use crate::payload::Inbound;
use crate::record::{Details, Record};
use crate::serve::Conversation;
use crate::serve::pulse::Pulse;
use crate::stages::respond::{self, Answer as Made};

/// What a client is told, in Envoy's words.
const DENIED: &str = "RBAC: access denied";

/// A request that policy lets through.
pub(super) struct Admitted {
    pub(super) standing: Standing,
    pub(super) head: Box<Head>,
    pub(super) body: Inbound,
    pub(super) asked: Option<upgrade::Asked>,
    /// What authorizers tell its client.
    pub(super) told: Vec<Change>,
}

/// Reads a request, sees whose it is, and judges it.
///
/// # Errors
/// The answer, where it is malformed or refused.
pub(super) async fn admit(
    conversation: &Arc<Conversation>,
    pulse: &Pulse,
    arrived: Arrived<Incoming>,
    record: &mut Record,
) -> Result<Admitted, Made> {
    let Arrived { request, asked, verdict, .. } = arrived;
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let mut head = verdict.and_then(|()| Head::read(parts)).map(Box::new).map_err(|why| {
        tracing::debug!(%why, "a request is refused");
        record.flag(Flag::ProtocolError);
        record.details(Details::CodecError);
        reply::malformed(why, version)
    })?;
    admission::authenticate(conversation, &mut head, record).await?;
    let is_grpc = head.facts(conversation).is_grpc();
    let Some(mut standing) = Standing::request(conversation, &head) else {
        record.flag(Flag::Overload);
        record.details(Details::Overload);
        return Err(respond::answer(StatusCode::SERVICE_UNAVAILABLE, Bytes::new(), is_grpc));
    };
    let mut body = Inbound::from(body);
    let (now, shown) = (&mut head, &mut body);
    let asking = Asking { conversation, pulse, head: now, body: shown };
    let told = consult(asking, &mut standing, record).await?;
    standing.admit(Some(&head)).map_err(|denial| refused(&denial, (version, is_grpc), record))?;
    Ok(Admitted { standing, head, body, asked, told })
}

/// The answer to what policy refuses.
pub(super) fn refused(denial: &Denial, (version, is_grpc): (Version, bool), record: &mut Record) -> Made {
    tracing::debug!(%denial, "a request is refused");
    if matches!(denial, Denial::Ambiguous(_)) {
        record.flag(Flag::ProtocolError);
        record.details(Details::CodecError);
        let mut made = respond::answer(StatusCode::BAD_REQUEST, Bytes::new(), is_grpc);
        if version != Version::HTTP_2 {
            made.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        return made;
    }
    record.details(Details::Denied(denial.policy()));
    respond::answer(StatusCode::FORBIDDEN, DENIED, is_grpc)
}
