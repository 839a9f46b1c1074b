//! The policies attached to one thing, in the order in which they are asked.

use std::sync::Arc;

use common::config::security::PolicyAction;
use http::HeaderName;

use super::{Denial, HttpFacts, Policy};

/// Policies attached to the waypoint, to a service or to a ServiceEntry. Each is shared with every other it is part of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicySet {
    custom: Box<[Arc<Policy>]>,
    audit: Box<[Arc<Policy>]>,
    deny: Box<[Arc<Policy>]>,
    allow: Box<[Arc<Policy>]>,
    has_dry_run: bool,
    looks_at_paths: bool,
    /// Headers they look at, of those whose name can be spelled in two ways.
    headers: Box<[HeaderName]>,
}

impl PolicySet {
    /// Sorts policies by what they do.
    pub fn new(all: &[Arc<Policy>]) -> Self {
        let of = |action| all.iter().filter(|it| it.action() == action).cloned().collect();
        let two_ways = |it: &&HeaderName| it.as_str().contains(['-', '_']);
        let mut headers: Vec<HeaderName> =
            all.iter().flat_map(|it| it.headers()).filter(two_ways).cloned().collect();
        headers.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        headers.dedup();
        Self {
            custom: of(PolicyAction::Custom),
            audit: of(PolicyAction::Audit),
            deny: of(PolicyAction::Deny),
            allow: of(PolicyAction::Allow),
            has_dry_run: all.iter().any(|it| it.dry_run()),
            looks_at_paths: all.iter().any(|it| it.looks_at_paths()),
            headers: headers.into(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        [&self.custom, &self.audit, &self.deny, &self.allow].iter().all(|it| it.is_empty())
    }

    /// Every policy, in the order in which they are asked.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.custom.iter().chain(&self.audit).chain(&self.deny).chain(&self.allow)
    }

    pub(super) fn custom(&self) -> &[Arc<Policy>] {
        &self.custom
    }

    pub(super) fn audit(&self) -> &[Arc<Policy>] {
        &self.audit
    }

    pub(super) fn deny(&self) -> &[Arc<Policy>] {
        &self.deny
    }

    pub(super) fn allow(&self) -> &[Arc<Policy>] {
        &self.allow
    }

    pub(super) fn has_dry_run(&self) -> bool {
        self.has_dry_run
    }

    /// That no server can take what policies look at for something else.
    pub(super) fn unambiguous(&self, http: &HttpFacts<'_>) -> Result<(), Denial> {
        if self.looks_at_paths && http.reads_twice {
            return Err(Denial::Ambiguous(
                "a path that policies look at has parameters, or is escaped twice",
            ));
        }
        if self.headers.is_empty() {
            return Ok(());
        }
        let sent = http.request.headers.keys().filter(|it| it.as_str().contains(['-', '_']));
        for name in sent {
            if self.headers.iter().any(|it| it != name && are_twins(it.as_str(), name.as_str())) {
                return Err(Denial::Ambiguous("a header that can be taken for one that policies look at"));
            }
        }
        Ok(())
    }
}

/// Whether two names differ in `-` and `_` alone, or not at all.
pub(crate) fn are_twins(a: &str, b: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    a.len() == b.len() && a.bytes().map(plain).eq(b.bytes().map(plain))
}
