//! Ebb's namespace proxy, as a library so that its parts can be tested from outside.
//!
//! The walk of a request: `accept` (HBONE in) and `serve` (which protocol) make an `exchange`, `routes` says which rule it
//! falls under, `stages` apply the rule, and `upstream` takes it to an endpoint over HBONE again.

#![forbid(unsafe_code)]

pub mod accept;
pub mod analyze;
pub mod app;
pub mod authn;
pub mod authorizer;
pub mod authz;
pub mod destination;
pub mod exchange;
pub mod explain;
pub mod farewell;
pub mod flags;
pub mod gather;
pub mod limits;
pub mod payload;
mod pod_call;
#[cfg(test)]
mod pod_call_tests;
pub mod record;
pub mod routes;
pub mod serve;
pub mod settings;
pub mod sniff;
pub mod spans;
pub mod stages;
pub mod strict;
pub mod tcp;
pub mod telemetry;
pub mod trace_headers;
pub mod upstream;
pub mod worker;
