//! The request as it leaves: what a rule makes of it, in the version of HTTP that its endpoint speaks.

use std::sync::Arc;

use common::snapshot::model::Workload;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};

use super::head::Head;
use crate::payload::Payload;
use crate::routes::{Forward, Rule};
use crate::stages::retry;
use crate::stages::transform::{self, Disclosure, NotAPath, Rewritten};

/// What a request falls under, and where it goes.
pub(crate) struct Path<'r> {
    /// The rule; none when it goes straight to what was called.
    pub(crate) rule: Option<&'r Rule>,
    /// The destination of the rule's route.
    pub(crate) chosen: Option<Forward<'r>>,
}

impl<'r> Path<'r> {
    /// Whether the rule's route leads to nobody, or to a backend that is missing.
    pub(crate) fn leads_nowhere(&self) -> bool {
        self.chosen.is_none_or(|chosen| chosen.target.missing.is_some())
    }

    /// When it is tried again.
    pub(crate) fn retries(&self) -> Option<retry::Policy<'r>> {
        retry::policy(match self.rule {
            Some(rule) => retry::Under::Route(rule.route.retries()),
            None => retry::Under::Nothing,
        })
    }

    /// The request as endpoints get it, but for what differs from try to try. `called` is the port, and by whom.
    ///
    /// # Errors
    /// When a rewrite makes no path.
    pub(crate) fn outgoing(
        &self,
        head: Head,
        (port, caller): (u16, Option<&Workload>),
    ) -> Result<Outgoing, NotAPath> {
        let facts = head.facts_for(port, caller);
        let rewritten = match (self.rule, &self.chosen) {
            (Some(rule), Some(chosen)) => transform::rewrite(rule, chosen, &facts)?,
            _ => Rewritten::default(),
        };
        let asked = head.target().map_err(|made| NotAPath { made })?;
        let Head { method, version, mut headers, authority, .. } = head;
        // A wish for another protocol is said again where it is met.
        for name in [HOST, CONNECTION, UPGRADE] {
            headers.remove(name);
        }
        if let (Some(rule), Some(chosen)) = (self.rule, &self.chosen) {
            let asked = (asked.as_str(), &*authority);
            transform::request(rule, chosen, &rewritten, asked, Disclosure::default(), &mut headers);
        }
        let target = match rewritten.target {
            None => asked,
            Some(made) => PathAndQuery::try_from(made.as_str()).map_err(|_| NotAPath { made })?,
        };
        Ok(Outgoing::new((method, version), target, rewritten.authority.unwrap_or(authority), headers))
    }
}

/// A request on its way to endpoints.
pub(crate) struct Outgoing {
    pub(super) method: Method,
    /// The version that the client speaks.
    pub(super) version: Version,
    pub(crate) target: PathAndQuery,
    pub(crate) authority: Arc<str>,
    /// The authority as `Host` among them, so that a try has only to copy them, and `consistentHash` by that header goes by
    /// the authority, as in Envoy.
    pub(crate) headers: HeaderMap,
}

impl Outgoing {
    /// As it was asked for in `version`.
    pub(super) fn new(
        (method, version): (Method, Version),
        target: PathAndQuery,
        authority: Arc<str>,
        mut headers: HeaderMap,
    ) -> Self {
        if let Ok(host) = HeaderValue::from_str(&authority) {
            headers.insert(HOST, host);
        }
        Self { method, version, target, authority, headers }
    }

    /// The request in a version of HTTP, with a body.
    pub(super) fn request(&self, version: Version, payload: Payload) -> Request<Payload> {
        let mut headers = self.headers.clone();
        let mut target = http::uri::Parts::default();
        if version == Version::HTTP_2 {
            target.scheme = Some(Scheme::HTTP);
            target.authority = self.authority.parse::<Authority>().ok();
            headers.remove(HOST);
        }
        target.path_and_query = Some(self.target.clone());
        let mut request = Request::new(payload);
        *request.method_mut() = self.method.clone();
        // Each of the parts is one that a URI is made of.
        *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
        *request.headers_mut() = headers;
        *request.version_mut() = version;
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_the_authority_and_in_http2_no_header() {
        let theirs = HeaderMap::from_iter([(HOST, HeaderValue::from_static("theirs"))]);
        let target = PathAndQuery::from_static("/a?b");
        let outgoing = Outgoing::new((Method::GET, Version::HTTP_11), target, "shop:80".into(), theirs);
        let request = outgoing.request(Version::HTTP_11, Payload::Empty);
        assert_eq!(request.headers().get_all(HOST).iter().collect::<Vec<_>>(), ["shop:80"]);
        assert_eq!(request.uri(), "/a?b");
        let request = outgoing.request(Version::HTTP_2, Payload::Empty);
        assert!(request.headers().is_empty());
        assert_eq!(request.uri(), "http://shop:80/a?b");
    }
}
