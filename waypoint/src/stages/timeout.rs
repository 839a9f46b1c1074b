//! How long a request may take, all tries together, and how long each try.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};

use super::respond::{Answer, answer};
use crate::routes::{RequestFacts, Route};

/// How long a gRPC client waits.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// What is told when the time is over, in Envoy's words.
const EXPIRED: &str = "upstream request timeout";

/// The times of one request; `None` is without end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Of the whole request, from when it is sent on to the last byte of its answer: all tries, the waits between them, and
    /// what of its body is still to come. What happens before (a stated delay, say) does not count. At its end:
    /// [`expired`], flag `UT`; once the answer has begun, its stream or connection is reset. Envoy begins later, with the
    /// end of the request's body: a client that takes its time to send is cut here and not there.
    pub total: Option<Duration>,
    /// Of each try, always shorter than the whole.
    pub per_try: Option<Duration>,
    /// The whole is as short as it is by the client's word.
    pub of_client: bool,
}

/// The times of a request under a route, or under none.
pub fn timeouts(route: Option<&Route>, facts: &RequestFacts<'_>) -> Timeouts {
    let of_route = route.and_then(Route::timeout);
    let of_client = if facts.is_grpc() { grpc_timeout(facts.headers) } else { None };
    let total = [of_route, of_client].into_iter().flatten().min();
    let per_try = route.and_then(Route::retries).and_then(|it| it.per_try_timeout);
    let of_client = of_client.is_some() && of_route.is_none_or(|it| total < Some(it));
    Timeouts { total, per_try: per_try.filter(|it| total.is_none_or(|total| *it < total)), of_client }
}

/// The answer when the whole time is over.
pub fn expired(is_grpc: bool) -> Answer {
    answer(StatusCode::GATEWAY_TIMEOUT, EXPIRED, is_grpc)
}

/// `grpc-timeout`: up to eight digits and a unit. What is not of that form, and 0, is no limit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let stated = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = stated.split_at_checked(stated.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    };
    (!timeout.is_zero()).then_some(timeout)
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

    use super::*;
    use crate::routes::Rule;
    use crate::routes::tests::rule;

    fn of(rule: Option<&Rule>, content_type: &str, grpc_timeout: Option<&str>) -> (Option<u64>, Option<u64>) {
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().unwrap())]);
        if let Some(stated) = grpc_timeout {
            headers.insert(GRPC_TIMEOUT, stated.parse().unwrap());
        }
        let facts = RequestFacts {
            method: "POST",
            scheme: "http",
            authority: "a",
            path: "/",
            query: None,
            headers: &headers,
            port: 80,
            source: None,
            claims: None,
        };
        let found = timeouts(rule.map(|it| &*it.route), &facts);
        let nanos = |it: Duration| u64::try_from(it.as_nanos()).unwrap();
        (found.total.map(nanos), found.per_try.map(nanos))
    }

    fn stated(fields: &str) -> Rule {
        rule(&format!("route: [{{destination: {{host: reviews}}}}]\n{fields}"))
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_route_without_a_timeout_has_none() {
        assert_eq!(of(None, "text/plain", None), (None, None));
        assert_eq!(of(Some(&stated("")), "text/plain", None), (None, None));
        assert_eq!(of(Some(&stated("timeout: 0s")), "text/plain", None), (None, None));
        assert_eq!(of(Some(&stated("timeout: 3s")), "text/plain", None), (Some(3 * SECOND), None));
    }

    #[test]
    fn a_try_has_its_own_time_only_within_the_whole() {
        for (fields, expected) in [
            ("retries: {attempts: 1, perTryTimeout: 2s}", (None, Some(2 * SECOND))),
            ("timeout: 3s\nretries: {attempts: 1, perTryTimeout: 2s}", (Some(3 * SECOND), Some(2 * SECOND))),
            ("timeout: 2s\nretries: {attempts: 1, perTryTimeout: 2s}", (Some(2 * SECOND), None)),
            ("timeout: 1s\nretries: {attempts: 1, perTryTimeout: 2s}", (Some(SECOND), None)),
        ] {
            assert_eq!(of(Some(&stated(fields)), "text/plain", None), expected, "{fields}");
        }
    }

    #[test]
    fn a_grpc_client_may_wait_less_than_the_route_and_never_longer() {
        let three = stated("timeout: 3s");
        for (sent, capped, free) in [
            ("2S", Some(2 * SECOND), Some(2 * SECOND)),
            ("4S", Some(3 * SECOND), Some(4 * SECOND)),
            ("1M", Some(3 * SECOND), Some(60 * SECOND)),
            ("1H", Some(3 * SECOND), Some(3600 * SECOND)),
            ("5m", Some(5_000_000), Some(5_000_000)),
            ("5u", Some(5_000), Some(5_000)),
            ("5n", Some(5), Some(5)),
            ("99999999S", Some(3 * SECOND), Some(99_999_999 * SECOND)),
            ("0S", Some(3 * SECOND), None),
            ("999999999S", Some(3 * SECOND), None),
            ("S", Some(3 * SECOND), None),
            ("", Some(3 * SECOND), None),
            ("1", Some(3 * SECOND), None),
            ("1s", Some(3 * SECOND), None),
            ("+1S", Some(3 * SECOND), None),
            ("1.5S", Some(3 * SECOND), None),
        ] {
            assert_eq!(of(Some(&three), "application/grpc", Some(sent)).0, capped, "{sent:?}");
            assert_eq!(of(None, "application/grpc+proto", Some(sent)).0, free, "{sent:?}");
        }
        assert_eq!(of(None, "application/json", Some("2S")).0, None, "only gRPC has it");
    }

    #[test]
    fn the_end_is_told_with_504() {
        let told = expired(false);
        assert_eq!((told.status.as_u16(), &*told.body), (504, EXPIRED.as_bytes()));
        assert_eq!(expired(true).headers["grpc-status"], "14");
    }
}
