//! Labels and annotations of Istio's and of ours: names that nobody knows, values that say nothing, and names that stand
//! where nobody reads them.

use common::config::decode::yaml::tree::Node;
use common::config::similar::nearest;
use common::config::{Kind, Origin};

use super::Report;
use crate::analyze::finding::{Code, LABEL_VALUE, MISPLACED, UNKNOWN_ANNOTATION, UNKNOWN_LABEL};

/// Where a name is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Label,
    Annotation,
    Either,
}

/// A name, where it is read, and the values that it may have where only some say anything.
struct Word {
    name: &'static str,
    place: Place,
    values: &'static [&'static str],
    /// The kinds on which it is read; none are all.
    kinds: &'static [Kind],
}

const BOOLEAN: &[&str] = &["true", "false"];
const BOUND: &[Kind] = &[Kind::Namespace, Kind::Service, Kind::ServiceEntry, Kind::WorkloadEntry, Kind::Pod];

const fn word(name: &'static str, place: Place) -> Word {
    Word { name, place, values: &[], kinds: &[] }
}

const fn one_of(name: &'static str, place: Place, values: &'static [&'static str]) -> Word {
    Word { name, place, values, kinds: &[] }
}

/// Those of Istio's API, release 1.29, whose part before the slash is one of [`OURS`].
const WORDS: &[Word] = &[
    Word {
        name: "istio.io/dataplane-mode",
        place: Place::Label,
        values: &["ambient", "none"],
        kinds: &[Kind::Namespace, Kind::Pod],
    },
    Word { name: "istio.io/use-waypoint", place: Place::Label, values: &[], kinds: BOUND },
    Word { name: "istio.io/use-waypoint-namespace", place: Place::Label, values: &[], kinds: BOUND },
    Word {
        name: "istio.io/waypoint-for",
        place: Place::Label,
        values: &["service", "workload", "all", "none"],
        kinds: &[Kind::Gateway],
    },
    one_of("istio.io/ingress-use-waypoint", Place::Label, BOOLEAN),
    word("istio.io/use-waypoint-canary", Place::Label),
    word("istio.io/use-waypoint-canary-namespace", Place::Label),
    word("istio.io/use-waypoint-canary-weight", Place::Annotation),
    word("istio.io/rev", Place::Either),
    word("istio.io/tag", Place::Label),
    word("istio.io/global", Place::Label),
    word("istio.io/gateway-name", Place::Label),
    one_of("istio.io/dry-run", Place::Annotation, BOOLEAN),
    word("istio.io/reroute-virtual-interfaces", Place::Annotation),
    word("istio.io/workload-controller", Place::Annotation),
    word("istio.io/autoRegistrationGroup", Place::Annotation),
    word("istio.io/connectedAt", Place::Annotation),
    word("istio.io/disconnectedAt", Place::Annotation),
    word("ambient.istio.io/redirection", Place::Annotation),
    one_of("ambient.istio.io/bypass-inbound-capture", Place::Annotation, BOOLEAN),
    one_of("ambient.istio.io/dns-capture", Place::Annotation, BOOLEAN),
    word("ambient.istio.io/waypoint-inbound-binding", Place::Annotation),
    word("ambient.istio.io/xfcc-include-client-identity", Place::Annotation),
    word("networking.istio.io/traffic-distribution", Place::Annotation),
    word("networking.istio.io/exportTo", Place::Annotation),
    word("networking.istio.io/service-type", Place::Annotation),
    word("networking.istio.io/address-type", Place::Annotation),
    word("networking.istio.io/enable-autoallocate-ip", Place::Either),
    word("networking.istio.io/tunnel", Place::Label),
    word("networking.istio.io/gatewayPort", Place::Label),
    word("topology.istio.io/network", Place::Either),
    word("topology.istio.io/cluster", Place::Either),
    word("topology.istio.io/subzone", Place::Label),
    word("topology.istio.io/locality", Place::Either),
    word("topology.istio.io/controlPlaneClusters", Place::Annotation),
    word("service.istio.io/canonical-name", Place::Label),
    word("service.istio.io/canonical-revision", Place::Label),
    word("service.istio.io/workload-name", Place::Label),
    word("gateway.istio.io/managed", Place::Label),
    word("gateway.istio.io/name-override", Place::Annotation),
    word("gateway.istio.io/service-account", Place::Annotation),
    word("gateway.istio.io/controller-version", Place::Annotation),
    word("gateway.istio.io/defaults-for-class", Place::Label),
    word("gateway.istio.io/tls-terminate-mode", Place::Annotation),
    word("gateway.istio.io/tls-cipher-suites", Place::Annotation),
    word("gateway.istio.io/alias-for", Place::Annotation),
    Word { name: "ebb.dev/netns", place: Place::Annotation, values: &[], kinds: &[Kind::Pod] },
];

/// The parts before the slash of which every name is known here.
const OURS: [&str; 7] = [
    "istio.io",
    "ambient.istio.io",
    "networking.istio.io",
    "topology.istio.io",
    "service.istio.io",
    "gateway.istio.io",
    "ebb.dev",
];

/// Whose words are looked at.
pub(super) struct Bearer<'a> {
    /// Where it was stated.
    pub(super) origin: &'a Origin,
    /// Its kind, namespace and name.
    pub(super) object: &'a str,
    /// What it is read as.
    pub(super) kind: Kind,
    /// Where its metadata stands: `metadata`, or that of the pods of a template.
    pub(super) path: &'a str,
    /// The line that a line of its document is.
    pub(super) line: &'a dyn Fn(u32) -> u32,
}

impl Bearer<'_> {
    /// Looks at labels and annotations.
    pub(super) fn check(&self, metadata: &Node, report: &mut Report<'_>) {
        for (list, place) in [("labels", Place::Label), ("annotations", Place::Annotation)] {
            let Some(words) = metadata.get(list) else { continue };
            for entry in words.entries() {
                let Some((code, message)) = wrong(place, self.kind, &entry.key, entry.node.text()) else {
                    continue;
                };
                let mut origin = self.origin.clone();
                origin.line = (self.line)(entry.line);
                let field = format!("{}.{list}.{}", self.path, entry.key);
                report.tell(code, &origin, self.object, (&field, message));
            }
        }
    }
}

fn wrong(place: Place, kind: Kind, key: &str, value: Option<&str>) -> Option<(&'static Code, String)> {
    let (prefix, _) = key.split_once('/')?;
    let (what, code) = match place {
        Place::Annotation => ("annotation", UNKNOWN_ANNOTATION),
        Place::Label | Place::Either => ("label", UNKNOWN_LABEL),
    };
    let Some(word) = WORDS.iter().find(|it| it.name == key) else {
        let meant = nearest(key, WORDS.iter().map(|it| it.name));
        if !OURS.contains(&prefix) && (meant.is_none() || !is_slip_of_ours(prefix)) {
            return None;
        }
        let meant = meant.map(|it| format!("; did you mean {it}?")).unwrap_or_default();
        return Some((code, format!("no {what} of this name is known{meant}")));
    };
    if word.place != place && word.place != Place::Either {
        let is = if word.place == Place::Label { "a label" } else { "an annotation" };
        return Some((MISPLACED, format!("is {is}; nobody reads it here")));
    }
    if !word.kinds.is_empty() && !word.kinds.contains(&kind) {
        let kinds: Vec<&str> = word.kinds.iter().map(|it| it.name()).collect();
        return Some((MISPLACED, format!("is read of {} alone", kinds.join(", "))));
    }
    let value = value.unwrap_or_default();
    if word.values.is_empty() || word.values.contains(&value) {
        return None;
    }
    let meant = nearest(value, word.values.iter().copied());
    let meant = meant.map(|it| format!("; did you mean {it}?")).unwrap_or_default();
    Some((LABEL_VALUE, format!("{value:?} is none of {}{meant}", word.values.join(", "))))
}

/// Whether the part before the slash is one of ours but for a letter or two: `istio.oi`.
fn is_slip_of_ours(prefix: &str) -> bool {
    nearest(prefix, OURS).is_some()
}
