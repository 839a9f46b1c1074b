//! Which comparison a run is: of connections, of requests, of one hop, of what stays on a node, of size. What is measured, in
//! what and against which targets hangs on it.
//!
//! Comparisons are run one after the other, each with its own systems, so that idle ones of another do not disturb.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    figures::{self, Figure},
    scenarios::Scenario::{self, *},
    systems,
};

/// Ebb with its default settings.
pub(crate) const EBB: &str = "ebb";

/// A comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Layer {
    /// Of connections through the node proxies.
    #[default]
    L4,
    /// Of HTTP requests through a proxy that routes them.
    L7,
    /// Of one proxy that passes HTTP requests on.
    Hop,
    /// Of connections between two pods of one node.
    SameNode,
    /// Of connections from a pod in the mesh to one that is not, on the same node.
    Passthrough,
    /// Of what a node holds for many pods, and a node proxy for many workloads.
    Scale,
}

/// All, in the order of a run and of the report.
pub(crate) const ALL: [Layer; 6] =
    [Layer::L4, Layer::L7, Layer::Hop, Layer::SameNode, Layer::Passthrough, Layer::Scale];

impl Layer {
    /// Its name on the command line and in the JSON file.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::L4 => "l4",
            Self::L7 => "l7",
            Self::Hop => "hop",
            Self::SameNode => "same-node",
            Self::Passthrough => "passthrough",
            Self::Scale => "scale",
        }
    }

    /// What it is called in the report.
    #[must_use]
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::L4 => "Connections (l4)",
            Self::L7 => "Requests (l7)",
            Self::Hop => "One HTTP hop (hop)",
            Self::SameNode => "Two pods of one node (same-node)",
            Self::Passthrough => "Out of the mesh (passthrough)",
            Self::Scale => "Size (scale)",
        }
    }

    /// The system whose figures are judged.
    #[must_use]
    pub(crate) fn subject(self) -> &'static str {
        match self {
            Self::SameNode => "ebb-same-node",
            _ => EBB,
        }
    }

    /// What is done in it, for the reader of the report.
    #[must_use]
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::L4 => {
                "A client's pod on one node, a server's pod on another, TCP between them; whatever secures it does not look \
                 inside."
            }
            Self::L7 => {
                "The same pods; every request is compared with ten routes (paths, prefixes, regexes, headers, methods) and \
                 falls under the last one."
            }
            Self::Hop => {
                "One proxy between the pods passes requests on, over plain HTTP/1.1 for all but Ebb. Its own CPU is what is \
                 compared; of Ebb that is the waypoint's, which beside that decrypts and encrypts (HBONE on both legs) and \
                 writes an access log."
            }
            Self::SameNode => "Both pods are on one node, so that nothing crosses a wire.",
            Self::Passthrough => {
                "A pod in the mesh calls one that is not, on the same node: plain TCP that a proxy looks at and passes on."
            }
            Self::Scale => {
                "What the proxies of one node hold when it has many pods, each pod with a proxy in sidecar mode; and what a \
                 node proxy needs to get ready in a mesh of many workloads."
            }
        }
    }

    /// What is measured, in the order of a run: memory while the proxies are fresh, new connections after all that needs a
    /// quiet machine, since the sockets they leave in TIME_WAIT were seen to add 16 ms to what came after.
    #[must_use]
    pub(crate) fn scenarios(self) -> &'static [Scenario] {
        match self {
            Self::L4 => &[
                Memory,
                Cold,
                PingPong,
                Paced(1000),
                Paced(4000),
                Bulk(1),
                Bulk(8),
                Http(1),
                Http(16),
                Http(64),
                Policy,
                Connect,
            ],
            Self::L7 => &[
                Idle,
                Paced(500),
                Paced(1000),
                Paced(2000),
                Http(1),
                Http(16),
                Http(64),
                Routes,
                Change,
                Matching,
                Connect,
            ],
            Self::Hop => &[Idle, Paced(1000), Http(1), Http(16), Http(64), Connect],
            Self::SameNode => &[PingPong, Paced(1000), Bulk(1), Bulk(8), Http(1), Http(16), Connect],
            Self::Passthrough => &[PingPong, Paced(1000), Bulk(1), Http(1), Http(16), Connect],
            Self::Scale => &[
                Pods(1),
                Pods(10),
                Pods(50),
                Workloads(1000),
                Workloads(10_000),
                Workloads(50_000),
                Workloads(100_000),
            ],
        }
    }

    /// What comes out, in the order of the report.
    #[must_use]
    pub(crate) fn figures(self) -> Vec<Figure> {
        self.scenarios().iter().flat_map(|scenario| figures::of(self, *scenario)).collect()
    }

    /// The system that ratios in the report's tables are taken against. Verdicts choose the better yardstick for themselves.
    #[must_use]
    pub(crate) fn baseline(self) -> &'static str {
        match self {
            Self::Hop => "envoy-hop",
            _ => "envoy-1",
        }
    }

    /// Headers of the requests that are sent, beside Host.
    #[must_use]
    pub(crate) fn request_headers(self) -> &'static [&'static str] {
        match self {
            Self::L7 | Self::Hop => systems::REQUEST_HEADERS,
            _ => &[],
        }
    }

    /// Whether every system keeps to mutual TLS here, apart from having no mesh.
    #[must_use]
    pub(crate) fn is_encrypted(self) -> bool {
        matches!(self, Self::L4 | Self::L7)
    }

    /// Whether both pods are on one node.
    #[must_use]
    pub(crate) fn is_one_node(self) -> bool {
        matches!(self, Self::SameNode | Self::Passthrough)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Layer {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        ALL.into_iter().find(|layer| layer.name() == name).ok_or_else(|| format!("no comparison {name}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_figure_has_a_name_of_its_own_and_every_scenario_a_figure() {
        for layer in ALL {
            let figures = layer.figures();
            let ids: BTreeSet<_> = figures.iter().map(|figure| figure.id.as_str()).collect();
            assert_eq!(ids.len(), figures.len(), "{layer:?}");
            for scenario in layer.scenarios() {
                assert!(figures.iter().any(|figure| figure.scenario == *scenario), "{scenario:?}");
            }
        }
    }

    #[test]
    fn the_name_is_that_in_the_json_and_on_the_command_line() {
        for layer in ALL {
            assert_eq!(serde_json::to_value(layer).unwrap(), layer.name());
            assert_eq!(layer.name().parse(), Ok(layer));
        }
        assert!("l5".parse::<Layer>().is_err());
    }

    #[test]
    fn new_connections_come_after_all_that_needs_a_quiet_machine() {
        for layer in ALL {
            let place = layer.scenarios().iter().position(|scenario| *scenario == Connect);
            assert!(place.is_none_or(|place| place + 1 == layer.scenarios().len()), "{layer:?}");
        }
    }
}
