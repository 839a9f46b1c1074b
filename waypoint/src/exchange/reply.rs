//! Answers to requests that no endpoint answered, in the words of Envoy's local replies. Pure but for the record.

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, StatusCode, Version};

use super::head::Malformed;
use crate::flags::Flag;
use crate::record::{Details, Record, Reset};
use crate::serve::pulse::Pulse;
use crate::stages::respond::{Answer, answer};
use crate::upstream::NoUpstream;
use crate::upstream::dispatch::Failed;

const OVERFLOW: &str = "upstream connect error or disconnect/reset before headers. reset reason: overflow";
const CONNECT: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: connection failure";
const PROTOCOL: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: protocol error";
const STOOD_STILL: &str = "stream timeout";
const RESET: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: connection termination";

/// The request cannot be read in one way. What comes behind it on a connection of HTTP/1 is not looked at: whoever sent it
/// may have meant other requests than were seen.
pub(super) fn malformed(why: Malformed, version: Version) -> Answer {
    let mut made = answer(why.status(), Bytes::new(), false);
    if version != Version::HTTP_2 {
        made.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    made
}

/// Nothing of the request moved for too long, and nobody has answered. As in Envoy the client is to blame only where it has
/// not sent all of it.
pub(super) fn stood_still(pulse: &Pulse, record: &mut Record) -> Answer {
    record.flag(Flag::StreamIdle);
    record.details(Details::StreamIdleTimeout);
    let status = if pulse.is_whole() { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
    answer(status, STOOD_STILL, record.is_grpc())
}

/// There is no endpoint to ask.
pub(super) fn no_upstream(none: NoUpstream, is_grpc: bool, record: &mut Record) -> Answer {
    let (flag, text, details) = match none {
        NoUpstream::Unknown => (Flag::NoCluster, "", Details::ClusterNotFound),
        NoUpstream::NoHealthy => (Flag::NoHealthyUpstream, "no healthy upstream", Details::NoHealthyUpstream),
        NoUpstream::Overflow(_) => (Flag::Overflow, OVERFLOW, Details::ResetBeforeResponse(Reset::Overflow)),
    };
    record.flag(flag);
    record.details(details);
    let mut made = answer(StatusCode::SERVICE_UNAVAILABLE, text, is_grpc);
    if flag == Flag::Overflow {
        made.headers.insert("x-envoy-overloaded", HeaderValue::from_static("true"));
    }
    made
}

/// What the endpoint answered is not HTTP as it should be.
fn no_http(is_grpc: bool, record: &mut Record) -> Answer {
    record.flag(Flag::UpstreamProtocolError);
    record.details(Details::ResetBeforeResponse(Reset::Protocol));
    answer(StatusCode::BAD_GATEWAY, PROTOCOL, is_grpc)
}

/// The last endpoint that was asked gave no answer.
pub(super) fn unanswered(failed: &Failed, is_grpc: bool, record: &mut Record) -> Answer {
    let (flag, text, how) = match failed {
        Failed::Overflow(overflow) => return no_upstream((*overflow).into(), is_grpc, record),
        Failed::Connect(refusal) => {
            tracing::debug!(%refusal, "an endpoint cannot be reached");
            record.transport_failure(refusal);
            (Flag::UpstreamConnectFailure, CONNECT, Reset::ConnectFailure)
        }
        Failed::Protocol => {
            tracing::debug!("an endpoint changes to a protocol that nobody asked for");
            return no_http(is_grpc, record);
        }
        Failed::Reset(error) if error.is_parse() => {
            tracing::debug!(%error, "an endpoint's answer cannot be read");
            return no_http(is_grpc, record);
        }
        Failed::Reset(error) if failed.is_of_client() => {
            tracing::debug!(%error, "a client broke its request off");
            (Flag::ClientGone, RESET, Reset::Termination)
        }
        Failed::Reset(error) => {
            tracing::debug!(%error, "an endpoint broke off");
            match failed.is_refused() {
                true => (Flag::UpstreamReset, RESET, Reset::Remote),
                false => (Flag::UpstreamTermination, RESET, Reset::Termination),
            }
        }
    };
    record.flag(flag);
    record.details(Details::ResetBeforeResponse(how));
    answer(StatusCode::SERVICE_UNAVAILABLE, text, is_grpc)
}
