//! Which requests a waypoint tells of in spans, what operators have it say of them, and its way to collectors.
//!
//! Knows no requests: `record` makes a span of what it knows, and `common`'s `spans` sends it.

pub mod reach;
pub mod tags;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use common::spans::Me;
use common::spans::export::Exporter;

use self::tags::Tag;
use crate::trace_headers::Sampling;

/// Which requests of some destination are traced, and how.
#[derive(Debug)]
pub struct Tracer {
    /// Which of those whose callers left that open.
    pub sampling: Sampling,
    /// Tags that an operator adds.
    pub tags: Box<[Tag]>,
    /// Istio's own tags (`enableIstioTags`).
    pub istio_tags: bool,
    /// Longest value of a tag in bytes.
    pub max_tag: usize,
    /// Where spans go.
    pub exporter: Arc<Exporter>,
    /// Who tells.
    pub me: Arc<Me>,
}
