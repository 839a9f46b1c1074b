//! What of the routes of a service is without effect, or is answered with 500, in words for a log.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use common::config::routing::VirtualService;
use common::config::{Key, Kind};

use super::attached::{Attached, Compiled, Scope};

/// Something stated that is without effect, or leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// What states it.
    pub of: Key,
    /// What is wrong, in words.
    pub why: Arc<str>,
    /// Path of the field that it is about, or of what has that field: `spec.rules[0]`.
    pub field: Arc<str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.of, self.why)
    }
}

/// Most problems that are told of one service.
pub(super) const MAX_PROBLEMS: usize = 32;

/// The problems of what applies to a service and what attaches to it.
pub(super) fn of(applied: &[&Arc<VirtualService>], direct: &[(Attached, Compiled)]) -> Box<[Problem]> {
    let mut found = BTreeSet::new();
    let mut tell = |of: &Key, field: &str, why: String| {
        found.insert(Problem { of: of.clone(), why: why.into(), field: field.into() })
    };
    for (attached, compiled) in direct {
        let key = attached.key();
        for rule in compiled.rules() {
            let field = rule.route.stated_at().last().map(|(_, field)| field).unwrap_or_default();
            if let Some(filter) = rule.route.missing_filter() {
                tell(
                    &key,
                    &format!("{field}.filters"),
                    format!("{}: there is no HTTPFaultFilter {filter}", rule.name()),
                );
            }
            for target in rule.route.leads_to() {
                if let Some(missing) = target.missing {
                    tell(
                        &key,
                        &format!("{field}.backendRefs"),
                        format!("{}: {}: {}", rule.name(), target.host, missing.meaning()),
                    );
                }
            }
        }
        for rule in compiled.connection_rules() {
            let (_, field) = rule.route.stated_at();
            for target in rule.route.leads_to() {
                if let Some(missing) = target.missing {
                    let why = format!("{}: {}", target.host, missing.meaning());
                    tell(&key, &format!("{field}.backendRefs"), why);
                }
            }
        }
    }
    for stated in applied {
        // For all callers: what a route of a consumer takes over is that consumer's own affair.
        let for_everyone = direct.iter().filter(|(it, _)| it.scope == Scope::Everyone);
        for (attached, _) in for_everyone {
            let of_requests = attached.route.kind.routes_requests();
            let clash = match of_requests {
                true => !stated.http.is_empty(),
                false => !stated.tls.is_empty() || !stated.tcp.is_empty(),
            };
            if clash {
                let ports = match &attached.ports {
                    None => String::new(),
                    Some(ports) => format!(" at ports {ports:?}"),
                };
                let of = Key { kind: Kind::VirtualService, object: stated.object.clone() };
                tell(
                    &of,
                    "spec.hosts",
                    format!("of no effect{ports}, because {} attaches to the service", attached.key()),
                );
            }
        }
    }
    found.into_iter().take(MAX_PROBLEMS).collect()
}
