//! A request as everything behind this sees it: rules, endpoints and the access log.
//!
//! What was meant for this hop alone is gone before anything is set here, so that no client can have a header taken out
//! again that Ebb puts in.

use http::Request;
use hyper::body::Incoming;

use super::head::{self, Malformed};
use super::upgrade::Asked;
use crate::trace_headers::{self, Ids, Sampling};

/// A request, without what was meant for this hop alone, and with its ids in order.
pub(crate) struct Arrived<B> {
    /// What is left of it.
    pub(crate) request: Request<B>,
    /// Its wish for another protocol.
    pub(super) asked: Option<Asked>,
    /// What it can be found by.
    pub(super) ids: Ids,
    /// Whether it may go on.
    pub(crate) verdict: Result<(), Malformed>,
}

impl Arrived<Incoming> {
    /// Takes it from its client.
    pub(super) fn new(mut request: Request<Incoming>, sampling: Sampling) -> Self {
        let asked = Asked::take(&mut request);
        Self::of(request, asked, sampling)
    }
}

impl<B> Arrived<B> {
    /// The same of one whose wish for another protocol was looked at.
    pub(crate) fn of(mut request: Request<B>, asked: Option<Asked>, sampling: Sampling) -> Self {
        let headers = request.headers_mut();
        let verdict = head::strip(headers);
        let ids = trace_headers::prepare(headers, sampling, &mut rand::rng());
        // Rules see it, as in Envoy.
        if let Some(asked) = &asked {
            asked.restate(headers);
        }
        Self { request, asked, ids, verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_here_cannot_be_taken_out_by_the_client() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let request = Request::get("/")
            .header("connection", "close, X-Request-Id, traceparent, x-b3-traceid, x-mine")
            .header("x-request-id", "theirs")
            .header("traceparent", trace)
            .header("x-mine", "1")
            .body(())
            .unwrap();
        let Arrived { request, verdict, .. } = Arrived::of(request, None, Sampling::Off);
        assert_eq!(verdict, Ok(()));
        let headers = request.headers();
        assert!(headers["x-request-id"].len() == 36, "{headers:?}");
        assert_eq!(headers["x-forwarded-proto"], "http");
        // Their own trace is theirs to take back, and then it is whole nowhere.
        for gone in ["connection", "traceparent", "x-b3-traceid", "x-b3-spanid", "x-mine"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
    }

    #[test]
    fn what_only_a_proxy_may_say_of_a_caller_reaches_no_application_when_a_client_says_it() {
        let forged = [
            (
                "x-forwarded-client-cert",
                "By=spiffe://cluster.local/ns/a/sa/b;URI=spiffe://cluster.local/ns/bank/sa/boss",
            ),
            ("X-Forwarded-Client-Cert", "Hash=00"),
            ("x-envoy-peer-metadata", "ChEKB0NMVVNURVI="),
            ("x-envoy-peer-metadata-id", "sidecar~10.0.0.1~boss.bank~bank.svc.cluster.local"),
            ("x-envoy-internal", "true"),
            ("x-envoy-external-address", "10.0.0.1"),
        ];
        // Hearsay, and known to be: applications get it as it came, and nothing here goes by it.
        let hearsay = [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "elsewhere"),
            ("forwarded", "for=10.0.0.1"),
            ("baggage", "k8s.namespace.name=bank"),
            ("x-envoy-retry-on", "5xx"),
        ];
        let mut request = Request::get("/");
        for (name, value) in forged.iter().chain(&hearsay) {
            request = request.header(*name, *value);
        }
        let Arrived { request, verdict, .. } = Arrived::of(request.body(()).unwrap(), None, Sampling::Off);
        assert_eq!(verdict, Ok(()));
        for (name, _) in forged {
            assert!(!request.headers().contains_key(name), "{name}");
        }
        for (name, value) in hearsay {
            assert_eq!(request.headers()[name], value, "{name}");
        }
    }

    #[test]
    fn a_request_without_such_wishes_keeps_what_it_brought() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let request = Request::get("/")
            .header("x-request-id", "theirs")
            .header("traceparent", trace)
            .header("x-forwarded-for", "10.0.0.1")
            .body(())
            .unwrap();
        let Arrived { request, .. } = Arrived::of(request, None, Sampling::Off);
        let headers = request.headers();
        assert_eq!(
            (&headers["x-request-id"], &headers["traceparent"]),
            (&"theirs".parse().unwrap(), &trace.parse().unwrap())
        );
        assert_eq!(
            (&headers["x-b3-spanid"], &headers["x-forwarded-for"]),
            (&"b7ad6b7169203331".parse().unwrap(), &"10.0.0.1".parse().unwrap())
        );
    }
}
