//! Metrics of requests and of connections as a Telemetry changes them: some off, some with other labels.
//!
//! Metrics that are changed alike are counted together, so that a request costs as many lookups as there are ways of
//! differing, and none more than before where there is none.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use common::config::expression::Expression;
use common::config::telemetry::{Metric, MetricOverride, TagOverride};
use common::telemetry::labels::{self, EdgeLabels};
use common::telemetry::request_line::RequestLine;
use common::telemetry::requests::{Ending, Family, RequestEdgeCache, RequestEnds, Took, Variant};
use common::telemetry::tcp::{Edge, EdgeCache, TcpFamily};
use http::HeaderName;

/// What a label says whose value is missing.
const UNKNOWN: &str = "unknown";

/// The metrics of requests, or of connections, to some destination.
#[derive(Debug)]
pub struct Counted {
    groups: Vec<Group>,
}

/// Metrics that are changed alike.
#[derive(Debug)]
struct Group {
    variant: Variant,
    /// Of the labels that are added, in their order.
    values: Vec<Expression>,
}

/// What is said of one metric.
#[derive(Debug, Clone, Default, PartialEq)]
struct Said {
    is_disabled: bool,
    tags: BTreeMap<Arc<str>, TagOverride>,
}

impl Counted {
    /// What overrides amount to for metrics of requests, the widest first; `None` where nothing differs.
    pub fn requests(overrides: &[MetricOverride]) -> Option<Self> {
        let place = |metric| of_requests(metric).map(|it| it as usize);
        Self::new::<{ Family::EACH.len() }>(overrides, place)
    }

    /// The same for metrics of connections.
    pub fn connections(overrides: &[MetricOverride]) -> Option<Self> {
        let place = |metric| of_connections(metric).map(|it| it as usize);
        let mut counted = Self::new::<{ TcpFamily::COUNT }>(overrides, place)?;
        if counted.groups.is_empty() {
            // What is open is counted by somebody all the same.
            counted.groups.push(Group::new(Said::default(), 0));
        }
        Some(counted)
    }

    /// `place` is that of a metric among the `N` which are meant; `None` for one that is not.
    fn new<const N: usize>(
        overrides: &[MetricOverride],
        place: impl Fn(Metric) -> Option<usize>,
    ) -> Option<Self> {
        let mut said: [Said; N] = std::array::from_fn(|_| Said::default());
        for stated in overrides {
            let one = stated.metric.map(&place);
            for (at, said) in said.iter_mut().enumerate() {
                if one.is_some_and(|one| one != Some(at)) {
                    continue;
                }
                said.is_disabled = stated.disabled.unwrap_or(said.is_disabled);
                said.tags.extend(stated.tags.iter().cloned());
            }
        }
        if said.iter().all(|it| *it == Said::default()) {
            return None;
        }
        let mut groups: Vec<(Said, u8)> = Vec::new();
        for (at, said) in said.into_iter().enumerate().filter(|(_, said)| !said.is_disabled) {
            match groups.iter_mut().find(|(known, _)| *known == said) {
                Some((_, families)) => *families |= 1 << at,
                None => groups.push((said, 1 << at)),
            }
        }
        Some(Self { groups: groups.into_iter().map(|(said, families)| Group::new(said, families)).collect() })
    }

    /// Counts a request that is over.
    pub fn count(
        &self,
        cache: &RequestEdgeCache,
        ends: &RequestEnds<'_>,
        (ending, took): (Ending, &Took),
        line: &RequestLine<'_>,
    ) {
        for group in &self.groups {
            cache.variant(ends, &group.variant, &group.values(line)).ended(ending, took);
        }
    }

    /// What counts a connection, of which `line` is what is known when it begins. Never nothing.
    pub fn edges(
        &self,
        cache: &EdgeCache,
        labels: &EdgeLabels<'_>,
        line: &RequestLine<'_>,
    ) -> Vec<Arc<Edge>> {
        let counts_open = self.groups.iter().position(|it| it.variant.is_plain()).unwrap_or(0);
        let edge = |(at, group): (usize, &Group)| {
            cache.variant(labels, (&group.variant, at == counts_open), &group.values(line))
        };
        self.groups.iter().enumerate().map(edge).collect()
    }

    /// Headers of requests and of answers that it asks for.
    pub fn headers(&self) -> (Vec<HeaderName>, Vec<HeaderName>) {
        let all = self.groups.iter().flat_map(|it| it.values.iter().map(Expression::headers));
        all.fold(Default::default(), |(mut request, mut response), (of_request, of_response)| {
            request.extend(of_request);
            response.extend(of_response);
            (request, response)
        })
    }
}

impl Group {
    fn new(said: Said, families: u8) -> Self {
        let (mut removed, mut added, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (name, stated) in said.tags {
            match stated {
                // What is not there cannot go, and would only look like a difference.
                TagOverride::Remove if !labels::is_own(&name) => {}
                TagOverride::Remove => removed.push(name),
                TagOverride::Upsert(value) => {
                    added.push(name);
                    values.push(value);
                }
            }
        }
        Self { variant: Variant::new(families, removed, added), values }
    }

    /// What is to be said in the labels that are added.
    fn values<'l>(&'l self, line: &'l RequestLine<'_>) -> Vec<Cow<'l, str>> {
        let value = |it| Expression::evaluate(it, line).map_or(Cow::Borrowed(UNKNOWN), |it| it.into_text());
        self.values.iter().map(value).collect()
    }
}

/// The metric of requests; `None` for those of connections.
fn of_requests(metric: Metric) -> Option<Family> {
    Some(match metric {
        Metric::RequestCount => Family::Requests,
        Metric::RequestDuration => Family::Duration,
        Metric::RequestSize => Family::RequestBytes,
        Metric::ResponseSize => Family::ResponseBytes,
        Metric::GrpcRequestMessages => Family::RequestMessages,
        Metric::GrpcResponseMessages => Family::ResponseMessages,
        _ => return None,
    })
}

/// The metric of connections; `None` for those of requests.
fn of_connections(metric: Metric) -> Option<TcpFamily> {
    Some(match metric {
        Metric::TcpOpenedConnections => TcpFamily::Opened,
        Metric::TcpClosedConnections => TcpFamily::Closed,
        Metric::TcpReceivedBytes => TcpFamily::ReceivedBytes,
        Metric::TcpSentBytes => TcpFamily::SentBytes,
        _ => return None,
    })
}
