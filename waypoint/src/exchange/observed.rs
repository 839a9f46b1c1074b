//! What lasts as long as the body of an answer: its record, the connection it comes on, and the places it takes.

use http::HeaderMap;

use crate::payload::{BodyError, Observer};
use crate::record::Record;
use crate::upstream::dispatch::Lent;
use crate::upstream::{Attempt, Permit};

/// Told how the body of an answer went; gives everything back at its end.
pub struct Observed {
    record: Record,
    upstream: Option<InFlight>,
}

/// What a request to an endpoint holds until its answer is over.
pub struct InFlight {
    /// The connection.
    pub lent: Lent,
    /// Counts the request as under way at the endpoint.
    pub attempt: Attempt,
    /// Counts the request as under way at the destination.
    pub permit: Permit,
}

impl Observed {
    /// For an answer that was made here.
    pub fn made(record: Record) -> Self {
        Self { record, upstream: None }
    }

    /// For an answer that comes from an endpoint.
    pub fn from_upstream(record: Record, upstream: InFlight) -> Self {
        Self { record, upstream: Some(upstream) }
    }

    /// Another protocol was carried, with so many bytes from the client and to it: to its end, or until it stood still and
    /// was out of time. Its connection serves no further request.
    pub fn carried(mut self, received: u64, sent: u64, in_time: bool) {
        self.record.carried(received, sent);
        self.record.ended(if in_time { Ok(()) } else { Err(&BodyError::StoodStill) });
    }
}

impl Observer for Observed {
    fn sent(&mut self, data: &[u8]) {
        self.record.sent(data);
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.record.trailers(trailers);
    }

    fn ended(&mut self, how: Result<(), &BodyError>) {
        self.record.ended(how);
        if let Some(InFlight { lent, attempt, permit }) = self.upstream.take()
            && how.is_ok()
        {
            lent.give_back();
            drop((attempt, permit));
        }
    }
}
