//! The answer to a request beyond a limit, and what answers tell of limits. Pure.
//!
//! Names of headers as Envoy and the IETF draft of RateLimit fields (draft-ietf-httpapi-ratelimit-headers-03) have them.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::respond::{Answer, answer, grpc_answer};
use crate::limits::Told;

/// What is told, in Envoy's words.
const LIMITED: &str = "local_rate_limited";
/// gRPC's `RESOURCE_EXHAUSTED`.
const GRPC_RESOURCE_EXHAUSTED: u8 = 8;
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The answer to a request that has to wait; to a gRPC client in gRPC's form.
pub fn refused(wait: Duration, told: Option<&Told>, is_grpc: bool) -> Answer {
    let mut made = match is_grpc {
        true => grpc_answer(GRPC_RESOURCE_EXHAUSTED, LIMITED.as_bytes()),
        false => answer(StatusCode::TOO_MANY_REQUESTS, LIMITED, false),
    };
    if let Some(told) = told {
        made.headers.insert(RETRY_AFTER, seconds(wait));
        tell(told, &mut made.headers);
    }
    made
}

/// Tells what is left.
pub fn tell(told: &Told, headers: &mut HeaderMap) {
    headers.insert(LIMIT, HeaderValue::from(told.limit));
    headers.insert(REMAINING, HeaderValue::from(told.remaining));
    headers.insert(RESET, seconds(told.reset));
}

/// Whole seconds, those begun included: who waits for so long does not come too early.
fn seconds(of: Duration) -> HeaderValue {
    HeaderValue::from(of.as_secs() + u64::from(of.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_limited_is_told_when_to_come_again() {
        let told = Told { limit: 20, remaining: 0, reset: Duration::from_millis(1_900) };
        let plain = refused(Duration::from_millis(1), Some(&told), false);
        assert_eq!((plain.status.as_u16(), &*plain.body), (429, &b"local_rate_limited"[..]));
        for (name, value) in [
            ("retry-after", "1"),
            ("x-ratelimit-limit", "20"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "2"),
        ] {
            assert_eq!(plain.headers[name], value, "{name}");
        }
        let silent = refused(Duration::from_secs(1), None, false);
        assert_eq!(silent.headers.len(), 1, "{:?}", silent.headers);
        let grpc = refused(Duration::from_secs(2), Some(&told), true);
        assert_eq!((grpc.status.as_u16(), grpc.body.len()), (200, 0));
        for (name, value) in [("grpc-status", "8"), ("grpc-message", LIMITED), ("retry-after", "2")] {
            assert_eq!(grpc.headers[name], value, "{name}");
        }
    }
}
