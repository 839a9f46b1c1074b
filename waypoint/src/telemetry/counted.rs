//! Metrics of requests as a Telemetry changes them: some off, some with other labels.
//!
//! Metrics that are changed alike are counted together, so that a request costs as many lookups as there are ways of
//! differing, and none more than before where there is none.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use common::config::expression::Expression;
use common::config::telemetry::{Metric, MetricOverride, TagOverride};
use common::telemetry::request_line::RequestLine;
use common::telemetry::requests::{Ending, Family, RequestEdgeCache, RequestEnds, Took, Variant};
use http::HeaderName;

/// What a label says whose value is missing.
const UNKNOWN: &str = "unknown";

/// The metrics of requests to some destination.
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
    /// What overrides amount to, the widest first; `None` where nothing differs. What cannot be done is told to `tell`.
    pub fn new(overrides: &[MetricOverride], mut tell: impl FnMut(String)) -> Option<Self> {
        let mut said: [Said; Family::EACH.len()] = Default::default();
        for stated in overrides {
            let family = stated.metric.map(family);
            if family == Some(None) {
                let name = Metric::ALL.iter().find(|(metric, ..)| Some(*metric) == stated.metric);
                let word = name.map_or("", |(_, word, _)| word);
                tell(format!("metrics: {word} cannot be changed; only metrics of requests can"));
            }
            for (at, said) in said.iter_mut().enumerate() {
                if family.is_some_and(|family| family.map(|it| it as usize) != Some(at)) {
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
        for (said, family) in said.into_iter().zip(Family::EACH).filter(|(said, _)| !said.is_disabled) {
            match groups.iter_mut().find(|(known, _)| *known == said) {
                Some((_, families)) => *families |= family.bit(),
                None => groups.push((said, family.bit())),
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
        for Group { variant, values } in &self.groups {
            let value =
                |it| Expression::evaluate(it, line).map_or(Cow::Borrowed(UNKNOWN), |it| it.into_text());
            let values: Vec<Cow<'_, str>> = values.iter().map(value).collect();
            cache.variant(ends, variant, &values).ended(ending, took);
        }
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
                TagOverride::Remove => removed.push(name),
                TagOverride::Upsert(value) => {
                    added.push(name);
                    values.push(value);
                }
            }
        }
        Self { variant: Variant::new(families, removed, added), values }
    }
}

/// The metric as it is counted here; `None` for those of connections.
fn family(metric: Metric) -> Option<Family> {
    Some(match metric {
        Metric::RequestCount => Family::Requests,
        Metric::RequestDuration => Family::Duration,
        Metric::RequestSize => Family::RequestBytes,
        Metric::ResponseSize => Family::ResponseBytes,
        Metric::GrpcRequestMessages => Family::RequestMessages,
        Metric::GrpcResponseMessages => Family::ResponseMessages,
        Metric::TcpOpenedConnections
        | Metric::TcpClosedConnections
        | Metric::TcpSentBytes
        | Metric::TcpReceivedBytes => return None,
    })
}
