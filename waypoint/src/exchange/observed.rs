//! What lasts as long as the body of an answer: its record, the connection it comes on, and the places it takes.

use std::task::{Context, Poll};

use http::HeaderMap;

use crate::authz::standing::Standing;
use crate::payload::{BodyError, Observer, Upload};
use crate::record::Record;
use crate::upstream::dispatch::Lent;
use crate::upstream::{Attempt, Permit};

/// Told how the body of an answer went; gives everything back at its end.
pub struct Observed {
    record: Record,
    upstream: Option<InFlight>,
    standing: Option<Standing>,
}

/// What a request to an endpoint holds until its answer is over.
pub struct InFlight {
    /// The connection.
    pub lent: Box<Lent>,
    /// Counts the request as under way at the endpoint.
    pub attempt: Attempt,
    /// Counts the request as under way at the destination.
    pub permit: Permit,
    /// The body of the request, of which nothing is wanted any more when the answer is over.
    pub upload: Upload,
}

impl Observed {
    /// For an answer that was made here.
    pub fn made(record: Record) -> Self {
        Self { record, upstream: None, standing: None }
    }

    /// For an answer that comes from an endpoint.
    pub fn from_upstream(record: Record, upstream: InFlight, standing: Standing) -> Self {
        Self { record, upstream: Some(upstream), standing: Some(standing) }
    }

    /// Waits until policy no longer allows it.
    pub async fn revoked(&self) -> BodyError {
        match &self.standing {
            Some(standing) => BodyError::Denied(standing.revoked().await.policy()),
            None => std::future::pending().await,
        }
    }

    /// Another protocol was carried, with so many bytes from the client and to it: to its end, or until something ended it.
    /// Its connection serves no further request.
    pub fn carried(mut self, received: u64, sent: u64, how: Result<(), &BodyError>) {
        self.record.carried(received, sent);
        self.record.ended(how);
    }
}

impl Observer for Observed {
    fn poll_revoked(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        match &self.standing {
            Some(standing) => standing.poll_revoked(cx).map(|denial| BodyError::Denied(denial.policy())),
            None => Poll::Pending,
        }
    }

    fn sent(&mut self, data: &[u8]) {
        self.record.sent(data);
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.record.trailers(trailers);
    }

    fn ended(&mut self, how: Result<(), &BodyError>) {
        self.record.ended(how);
        // An endpoint that has answered may wait for the rest of the request: its connection takes no other.
        if let Some(InFlight { lent, attempt, permit, upload }) = self.upstream.take()
            && how.is_ok()
            && upload.is_whole()
        {
            lent.give_back();
            drop((attempt, permit));
        }
    }
}
