//! From the snapshot to the routes of the services a waypoint stands for, and from a request to its rule. Pure.
//!
//! [`Tables`] keeps the compiled routes of every service and follows the snapshots; [`RequestFacts`] is what a rule sees
//! of a request, its path in the form that [`canonical_path`] gives it. What becomes of a request is for `stages`.
//!
//! # Where it differs from Istio and Envoy
//!
//! On purpose, and each with a name, so that a comparison with the real ones can leave it out:
//!
//! - `path-refused`: a path with `//`, a segment `.` or `..`, a backslash, an escaped separator, dot or NUL, overlong
//!   UTF-8 or a fragment is answered with 400. Istio's default removes dot segments, turns `\` into `/` and passes the
//!   others on.
//! - `path-hex-case`: escapes have upper-case digits, in paths and in the paths that rules ask for. Envoy leaves both
//!   as they are, so that a rule for `%c3` misses `%C3`.
//! - `path-asterisk`: the path `*` falls under a rule without `uri`. In Envoy such a rule asks for `/`.
//! - `authority-refused`: an authority that is no host with an optional port is answered with 400. Envoy passes on what
//!   consists of characters that an authority may have.
//! - `cookies-joined`: several `cookie` headers are one, joined by `; `, before rules see them. Envoy does that for HTTP/2
//!   alone.
//! - `user-agent-apart`: several `user-agent` headers are several values. Envoy joins them by commas, as it does with other
//!   headers that it knows itself, and not with those that it does not.
//! - `source-conditions`: `sourceLabels` and `sourceNamespace` are conditions on the workload that calls. Istio's
//!   waypoint leaves such matches out.
//! - `match-gateways`: `gateways` of a match without `mesh` leaves it out here. Istio's waypoint does not look at it.
//! - `closest-host`: a VirtualService whose host names the service less closely than that of another does not apply.
//!   Istio's waypoint puts the rules of all of them into one list.
//! - `delegate-both`: where a delegated match and the delegating one state the same header or `withoutHeaders`, both
//!   hold. In Istio the delegated one takes the place of the other.
//! - `delegate-mirrors`: a delegated route without any mirror has all those of the delegating one. Istio merges
//!   `mirror` and its percentage one by one, and not `mirrors`.
//! - `delegate-timeout-zero`: a delegated route that states a timeout of 0 has that of the delegating one.
//! - `tls-order`: of TLS routes the first that holds decides, as the reference says. Envoy takes the closest name.
//! - `retries-without-attempts`: `retries` without `attempts` means two. Istio's translation reads it as none.
//! - `retry-headers-ignored`: `x-envoy-retry-on`, `x-envoy-max-retries`, `x-envoy-upstream-rq-timeout-ms` and their
//!   like change nothing: a client does not set the policy of a service. So `retriable-headers` never fires.
//! - `retry-avoids-hosts`: hosts that were tried are avoided unless the service hashes consistently. Istio's waypoint
//!   avoids them then too.
//! - `redirect-port`: `derivePort: FROM_PROTOCOL_DEFAULT`, and a `port` that is the scheme's own, leave the port out of
//!   `Location`. Envoy keeps the one of the request's authority.
//! - `redirect-two-ports`: a port that is stated takes the place of the one in `authority`. Envoy writes both.
//! - `redirect-grpc`: a redirect is one to a gRPC client too. Envoy makes it a gRPC status.
//! - `cors-nothing-asked`: where a script may send any header and asks for none, a preflight's answer says nothing of
//!   headers. Envoy's names none: `access-control-allow-headers` without a value.
//! - `mirror-draws`: every mirror is drawn for by itself. In Envoy those of one request share a draw.
//! - `mirror-address`: an authority that is an IPv6 address gets no `-shadow`, with which it would be none.
//! - `rewrite-refused`: a regex rewrite that makes no path is answered with 500. Envoy sends what it made.
//! - `original-host-of-destinations`: `x-envoy-original-host` is told too where a destination among several states the
//!   authority. Envoy tells it of the route's rewrites only.
//! - `grpc-routes-for-grpc`: a GRPCRoute takes requests of gRPC's content type alone. Istio's takes whatever has the path.
//! - `route-retries`: `retry` of an HTTPRoute without `attempts` means two, as in Istio, and includes resets, as the
//!   Gateway API asks for. Istio leaves those out.
//! - `consumer-routes`: a route of another namespace than its Service's is for callers of that namespace. Istio's waypoint
//!   has none.
//! - `gateway-routes-last`: a VirtualService goes before a route that attaches to the waypoint's Gateway.
//! - `timeout-from-head`: a route's timeout counts from the request's head, so that a slow upload uses it up. Envoy's counts
//!   from the request's end.
//! - `stream-idle`: a request that stands still for five minutes is ended, unless the operator says otherwise. Istio's
//!   proxies wait for ever.
//! - `formatter-commands`: `%REQ(x)%` and its like in a header's value are sent as they stand.

mod asking;
mod attached;
mod attachments;
mod canonical;
mod connection;
mod delegate;
mod facts;
pub(crate) mod hosts;
mod index;
mod matching;
mod problems;
mod route;
mod statement;
mod table;
mod tables;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::canonical::canonical_rule;
pub use self::canonical::{Canonical, MAX_TARGET_BYTES, Malformed, canonical_path};
pub use self::connection::{ConnectionRoute, ConnectionRoutes, ConnectionRule};
pub(crate) use self::facts::with_query;
pub use self::facts::{ConnectionFacts, RequestFacts};
pub use self::matching::{Found, HttpRoutes};
pub(crate) use self::matching::{Unmet, holds};
pub use self::problems::{Flaw, Problem};
pub use self::route::{Forward, PathPart, Route, Rule, Target};
pub use self::statement::Missing;
pub use self::table::{PortRoutes, ServiceRoutes, View, compile};
pub use self::tables::Tables;
