//! The mesh as traffic code sees it: one immutable `Snapshot`, built from accepted resources.
//!
//! A snapshot shares structure with the one before it, so that one changed pod costs work in proportion to that pod.

pub mod model;
