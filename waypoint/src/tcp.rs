//! Carries a stream that is not HTTP to an endpoint, byte by byte.

use std::sync::Arc;

use common::hbone::io::TunnelIo;
use common::refusal::Refusal;
use common::telemetry::labels::Reporter;
use tokio::io::copy_bidirectional;

use crate::serve::Conversation;
use crate::upstream::connection::Transport;
use crate::upstream::dispatch;

/// Carries `client` to an endpoint and to its end.
pub async fn carry(conversation: &Arc<Conversation>, mut client: TunnelIo) {
    let worker = &conversation.worker;
    let far = match dispatch::tcp(conversation).await {
        Ok(far) => far,
        Err(refusal) => return refuse(conversation, &refusal),
    };
    let ended = async {
        match far {
            Transport::Tunnel(mut far) => copy_bidirectional(&mut client, &mut far).await,
            Transport::Tcp(mut far) => copy_bidirectional(&mut client, &mut far).await,
        }
    };
    // However it ended, both sides have been told by the end of the other.
    tokio::select! {
        _ = ended => {}
        () = worker.end.cancelled() => {}
    }
}

fn refuse(conversation: &Conversation, refusal: &Refusal) {
    let ends = (conversation.client, conversation.peer.local);
    conversation.worker.access.refused_early(Reporter::Destination, ends, refusal);
}
