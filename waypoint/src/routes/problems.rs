//! What of the routes of a service is without effect, is answered with 500, or passes by who was to be asked, in words for a
//! log.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use common::config::routing::VirtualService;
use common::config::{Key, Kind};

use super::attached::{Attached, Compiled, Scope};

/// Something stated that is without effect, leads nowhere, or passes by what was to hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// What states it.
    pub of: Key,
    /// What sort of problem it is.
    pub flaw: Flaw,
    /// What is wrong, in words.
    pub why: Arc<str>,
    /// Path of the field that it is about, or of what has that field: `spec.rules[0]`.
    pub field: Arc<str>,
}

/// Sorts of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// What it names is not there, may not be named, or cannot be used.
    Missing,
    /// Something else takes its place.
    Overridden,
    /// It takes the place of a route that has an authorizer asked.
    Unasked,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.of, self.why)
    }
}

/// Most problems that are told of one service.
pub(super) const MAX_PROBLEMS: usize = 32;

/// Every problem once, in their order.
#[derive(Default)]
struct Problems(BTreeSet<Problem>);

/// The problems of what applies to a service and what attaches to it, or to the Gateway before it.
pub(super) fn of(
    applied: &[&Arc<VirtualService>],
    direct: &[(Attached, Compiled)],
    of_gateway: &[Attached],
) -> Box<[Problem]> {
    let mut found = Problems::default();
    for (attached, compiled) in direct {
        found.missing(attached, compiled);
    }
    found.unasked(applied, direct, of_gateway);
    found.overridden(applied, direct);
    found.0.into_iter().take(MAX_PROBLEMS).collect()
}

impl Problems {
    fn tell(&mut self, of: &Key, flaw: Flaw, field: &str, why: String) {
        self.0.insert(Problem { of: of.clone(), flaw, why: why.into(), field: field.into() });
    }

    /// What a route names that is not there.
    fn missing(&mut self, attached: &Attached, compiled: &Compiled) {
        let key = attached.key();
        for rule in compiled.rules() {
            let field = rule.route.stated_at().last().map(|(_, field)| field).unwrap_or_default();
            if let Some(filter) = rule.route.missing_filter() {
                let why = format!("{}: there is no HTTPFaultFilter {filter}", rule.name());
                self.tell(&key, Flaw::Missing, &format!("{field}.filters"), why);
            }
            for target in rule.route.leads_to() {
                if let Some(missing) = target.missing {
                    let why = format!("{}: {}: {}", rule.name(), target.host, missing.meaning());
                    self.tell(&key, Flaw::Missing, &format!("{field}.backendRefs"), why);
                }
            }
        }
        for rule in compiled.connection_rules() {
            let (_, field) = rule.route.stated_at();
            for target in rule.route.leads_to() {
                if let Some(missing) = target.missing {
                    let why = format!("{}: {}", target.host, missing.meaning());
                    self.tell(&key, Flaw::Missing, &format!("{field}.backendRefs"), why);
                }
            }
        }
    }

    /// What takes the place of a route that has somebody asked.
    fn unasked(
        &mut self,
        applied: &[&Arc<VirtualService>],
        direct: &[(Attached, Compiled)],
        of_gateway: &[Attached],
    ) {
        let asks = |it: &&Attached| it.route.http.iter().any(|rule| rule.external_auth.is_some());
        let for_everyone = || direct.iter().map(|(it, _)| it).filter(|it| it.scope == Scope::Everyone);
        let asking: Vec<&Attached> = for_everyone().filter(asks).collect();
        let of_gateway: Vec<&Attached> = of_gateway.iter().filter(asks).collect();
        if asking.is_empty() && of_gateway.is_empty() {
            return;
        }
        for (closer, _) in direct {
            // One that has somebody asked about everything has been thought about; one without rules for requests is passed.
            if closer.route.http.iter().all(|rule| rule.external_auth.is_some()) {
                continue;
            }
            let (whose, farther): (_, &[&[&Attached]]) = match closer.scope {
                Scope::Consumer(_) => ("callers of its namespace are", &[&asking, &of_gateway]),
                Scope::Everyone | Scope::Gateway => ("callers of the service are", &[&of_gateway]),
            };
            let passed = farther.iter().copied().flatten().find(|it| closer.meets(it));
            if let Some(passed) = passed {
                self.tell(&closer.key(), Flaw::Unasked, "spec.parentRefs", unasked(whose, passed));
            }
        }
        // Where a route attaches to all ports a VirtualService says nothing.
        let is_overridden = for_everyone().any(|it| it.ports.is_none() && !it.route.http.is_empty());
        let Some(passed) = of_gateway.first().filter(|_| !is_overridden) else { return };
        for stated in applied.iter().filter(|it| !it.http.is_empty()) {
            let of = Key { kind: Kind::VirtualService, object: stated.object.clone() };
            self.tell(&of, Flaw::Unasked, "spec.hosts", unasked("callers of the service are", passed));
        }
    }

    /// VirtualServices whose place routes take.
    fn overridden(&mut self, applied: &[&Arc<VirtualService>], direct: &[(Attached, Compiled)]) {
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
                    let why =
                        format!("of no effect{ports}, because {} attaches to the service", attached.key());
                    self.tell(&of, Flaw::Overridden, "spec.hosts", why);
                }
            }
        }
    }
}

/// Who is not asked about any more.
fn unasked(whose: &str, passed: &Attached) -> String {
    format!(
        "{whose} not asked about as {} states it, whose place it takes: what has to hold for all belongs in an \
         AuthorizationPolicy with the action CUSTOM",
        passed.key()
    )
}
