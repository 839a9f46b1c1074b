//! Logs and metrics: what an operator sees of the traffic, and what it costs the traffic to be seen.
//!
//! Knows no configuration sources and no protocols; it is told facts (who, where, how many bytes) and writes them
//! down under Istio's names. The surprising thing: no traffic thread ever waits for standard output or for a scrape.
//! Log lines go to a bounded buffer that a thread of its own empties, and a connection resolves its counters once.

pub mod access;
pub mod attributes;
pub mod edges;
pub mod exposition;
pub mod flags;
pub mod formatted;
mod histogram;
pub mod inherit;
pub mod labels;
pub mod line;
pub mod logging;
pub mod metrics;
pub mod process;
pub mod request_line;
pub mod requests;
pub mod sink;
pub mod tcp;
#[cfg(test)]
pub(crate) mod test_mesh;
mod timestamp;
