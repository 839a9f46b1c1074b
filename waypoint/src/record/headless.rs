//! What is told of a request of which there is not even a whole head.

use std::time::Duration;

use common::telemetry::request_line::RequestLine;
use common::telemetry::requests::{Ending, RequestEnds, RequestProtocol, Took};
use http::StatusCode;

use super::{Details, Parties};
use crate::flags::Flags;
use crate::serve::Conversation;

/// A head did not come within `time`: the client was answered 408. As in Envoy there is no flag for it.
pub fn late_head(conversation: &Conversation, time: Duration) {
    tell(&Parties::of(conversation), StatusCode::REQUEST_TIMEOUT, &Details::RequestHeaderTimeout, time);
}

fn tell(parties: &Parties, status: StatusCode, details: &Details, took: Duration) {
    let ends = RequestEnds {
        source: parties.caller.as_ref(),
        source_identity: parties.identity(),
        destination: parties.workload.as_ref(),
        service: parties.service.as_ref(),
    };
    let (protocol, flags) = (RequestProtocol::Http, Flags::default());
    let ending = Ending { protocol, status: status.as_u16(), grpc_status: None, flags };
    parties.ledger.requests.edge(&ends).ended(ending, &Took { duration: took, ..Took::default() });
    let line = RequestLine {
        status: status.as_u16(),
        details: Some(details),
        duration: took,
        downstream_local: Some(parties.called),
        downstream_remote: Some(parties.client),
        ..RequestLine::default()
    };
    parties.telemetry.log(&parties.ledger.access, &line, false);
}

#[cfg(test)]
mod tests {
    use super::super::tests::seen;
    use super::*;

    #[test]
    fn a_head_that_does_not_come_is_told_of() {
        let seen = seen();
        let time = Duration::from_secs(10);
        tell(&seen.parties, StatusCode::REQUEST_TIMEOUT, &Details::RequestHeaderTimeout, time);
        let line = seen.line();
        assert!(line.starts_with("\"- - -\" 408 - request_header_timeout - \"-\" 0 0 0 "), "{line}");
    }
}
