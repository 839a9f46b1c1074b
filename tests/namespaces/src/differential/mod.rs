//! The waypoint beside a real Envoy: the same routes, the same requests, the same endpoints, and what became of each.
//!
//! A table of routes is made by chance ([`generate`]), written twice, as Istio's manifests ([`istio`]) and as what istiod
//! would make of them for Envoy ([`envoy`]), and asked the same requests through both ([`stage`]). Endpoints note what
//! they get ([`backend`]); outcomes are compared field by field ([`outcome`]), and a disagreement is either one of the
//! differences that are meant ([`differences`]) or a failure.

pub mod backend;
pub mod differences;
pub mod envoy;
pub mod generate;
pub mod istio;
pub mod outcome;
pub mod stage;
pub mod tables;
pub mod wire;

/// The port of each service that leads to a port where nobody listens.
pub const CLOSED_PORT: u16 = 82;

/// The subsets of each service: of one endpoint, of another, of four, of none.
pub const SUBSETS: [&str; 4] = ["v1", "v2", "v3", "v9"];

/// A subset that no service has.
pub const UNKNOWN_SUBSET: &str = "nowhere";
