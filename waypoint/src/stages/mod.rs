//! What becomes of a request, one file a stage. Each is a pure decision; `exchange` carries them out in this order:
//!
//! `fault`, `cors`, then by the action of the route `redirect`, `respond`, or `split`, `transform`, `mirror`, `timeout`
//! and `retry`. A request that no rule takes goes straight to its service, under `timeout` and `retry` alone.

pub mod cors;
mod draw;
pub mod fault;
pub mod limit;
pub mod mirror;
pub mod redirect;
pub mod respond;
pub mod retry;
pub mod split;
pub mod timeout;
pub mod transform;
