//! Ebb's namespace proxy, as a library so that its parts can be tested from outside.
//!
//! The walk of a request: `accept` (HBONE in, which HTTP it is) makes an `exchange`, `routes` says which rule it falls
//! under, `stages` apply the rule, and `upstream` takes it to an endpoint over HBONE again.

#![forbid(unsafe_code)]

pub mod routes;
pub mod stages;
pub mod upstream;
