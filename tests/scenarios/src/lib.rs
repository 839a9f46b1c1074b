//! Parts of Ebb put together in memory: a mesh stated as manifests, a worker that follows it, and seeds.
//!
//! Knows no kernel programs and no network namespaces but its own. Time is tokio's and paused, so that hours pass in
//! no time; what is random comes from a seed that a failure prints.

#![forbid(unsafe_code)]

pub mod seeds;
pub mod staff;
pub mod world;
