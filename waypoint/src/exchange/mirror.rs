//! Sends copies of a request: nobody waits for them, and their answers are thrown away.
//!
//! A copy may be lost at any time (too many under way, a slow mirror, a limit of its destination) and never slows down or
//! fails the request it is of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::balance::budget::Resource;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use super::attempts::{Source, version};
use super::outgoing::Outgoing;
use crate::payload::Payload;
use crate::serve::Conversation;
use crate::stages::mirror::shadow_authority;
use crate::upstream::dispatch::Upstream;
use crate::upstream::{Cluster, PickFacts};

/// Copies under way on one worker; beyond it none is sent.
pub const MAX_MIRRORS_IN_FLIGHT: usize = 1024;
/// How long a copy may take, its answer included.
pub const MIRROR_DEADLINE: Duration = Duration::from_secs(60);

/// Sends a copy of `outgoing` to `cluster`, on a task of its own.
pub(super) fn send(
    conversation: &Arc<Conversation>,
    cluster: Arc<Cluster>,
    outgoing: &Outgoing,
    source: &Source,
) {
    let Ok(place) = conversation.worker.mirrors.clone().try_acquire_owned() else { return };
    let Some(payload) = source.mirror() else { return };
    let copy = Outgoing::new(
        (outgoing.method.clone(), outgoing.version),
        outgoing.target.clone(),
        shadow_authority(&outgoing.authority).into(),
        outgoing.headers.clone(),
    );
    let conversation = conversation.clone();
    tokio::spawn(async move {
        // Late or failed, nobody is waiting.
        let _ = timeout(MIRROR_DEADLINE, carry(&conversation, &cluster, copy, payload)).await;
        drop(place);
    });
}

async fn carry(
    conversation: &Arc<Conversation>,
    cluster: &Arc<Cluster>,
    copy: Outgoing,
    payload: Payload,
) -> Option<()> {
    let _permit = cluster.admit(Resource::Request, Instant::now()).ok()?;
    let policy = cluster.policy();
    let empty = HeaderMap::new();
    let facts = PickFacts {
        headers: &empty,
        query: copy.target.query(),
        source: conversation.client,
        original: conversation.original,
        tried: &[],
        far_from: &[],
        session: None,
    };
    let picked =
        conversation.worker.pickers().pick(cluster, &facts, Instant::now(), &mut rand::rng()).ok()?;
    let upstream = Upstream { conversation, cluster, policy: &policy, picked: &picked, is_own: false };
    let version = version(copy.version, policy.version, false);
    let taken = upstream.send(version, copy.request(version, payload)).await.ok()?;
    let mut body = taken.response.into_body();
    while let Some(frame) = body.frame().await {
        frame.ok()?;
    }
    taken.lent.give_back();
    Some(())
}
