//! Documents by themselves: what cannot be read, what is read otherwise than it looks, and kinds nobody here acts on.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::config::Origin;
use common::config::decode::{Foreign, Skipped};
use common::config::note::Caveat;
use common::config::similar::nearest;

use super::{Report, View};
use crate::analyze::finding::{
    CAVEAT, KIND_MISSPELT, NEVER_FIRES, NOT_MANIFESTS, NOT_OURS, NOT_READ, REJECTED, TWICE, UNREACHABLE_RULE,
};

/// What comes of a document that may be a policy, or may bind something to a waypoint.
const DENIES: &str = "; where no version was read before, nobody is admitted to what it may concern";

pub(super) fn check(view: &View<'_>, report: &mut Report<'_>) {
    for rejected in &view.manifests.rejected {
        let object = match (&rejected.subject.kind, rejected.subject.key()) {
            (_, Some(key)) => key.to_string(),
            (Some(kind), None) => kind.to_string(),
            (None, None) => "document".to_owned(),
        };
        let denies = if rejected.guards_access && !rejected.last_good { DENIES } else { "" };
        let message = format!("{}{denies}", rejected.reason);
        report.tell(REJECTED, &rejected.origin, object, (&rejected.field, message));
    }
    for stated in &view.manifests.stated {
        for note in stated.resource.notes() {
            let code = match note.caveat {
                Caveat::NeverReached => UNREACHABLE_RULE,
                Caveat::FaultNeverFires => NEVER_FIRES,
                _ => CAVEAT,
            };
            report.say(code, stated, &*note.field, note.caveat.meaning());
        }
    }
    for repeated in &view.manifests.repeated {
        let first = view.origins.get(&repeated.resource.key());
        let first = first.map(|it| it.origin.to_string()).unwrap_or_default();
        report.say(TWICE, repeated, "metadata.name", format!("stated at {first} already, which is in force"));
    }
    skipped(&view.manifests.skipped, report);
    foreign(&view.manifests.foreign, report);
}

/// Most files that are named as stating no manifests.
const MAX_FOREIGN: usize = 20;

/// Files that are passed over: in a tree of sources there may be thousands.
fn foreign(all: &[Foreign], report: &mut Report<'_>) {
    for (at, Foreign { file, why }) in all.iter().enumerate().take(MAX_FOREIGN) {
        let more = match all.len().saturating_sub(MAX_FOREIGN) {
            more @ 1.. if at + 1 == MAX_FOREIGN => format!("; and {more} more files are not read"),
            _ => String::new(),
        };
        let origin = Origin { file: file.clone(), line: 0 };
        report.tell(NOT_MANIFESTS, &origin, "file", ("", format!("states no manifests: {why}{more}")));
    }
}

/// The core kind that was meant by one that is none.
fn misspelt(kind: &str) -> Option<&'static str> {
    let (version, name) = kind.split_once(' ')?;
    let known = ["Namespace", "Node", "Pod", "Service", "ServiceAccount"];
    nearest(name, known).filter(|it| version == "v1" && *it != name)
}

/// Those of the mesh one by one, all others by kind.
fn skipped(all: &[Skipped], report: &mut Report<'_>) {
    let mut others: BTreeMap<&Arc<str>, (usize, &Skipped)> = BTreeMap::new();
    for skipped in all {
        if let Some(meant) = misspelt(&skipped.kind) {
            report.tell(
                KIND_MISSPELT,
                &skipped.origin,
                &skipped.kind,
                ("kind", format!("did you mean {meant}?")),
            );
        } else if skipped.is_of_the_mesh() {
            report.tell(
                NOT_READ,
                &skipped.origin,
                &skipped.kind,
                ("", "of a kind that Ebb does not implement"),
            );
        } else {
            others.entry(&skipped.kind).or_insert((0, skipped)).0 += 1;
        }
    }
    for (kind, (count, first)) in others {
        let objects = if count == 1 { "object" } else { "objects" };
        report.tell(
            NOT_OURS,
            &first.origin,
            kind,
            ("", format!("{count} {objects} of a kind that changes nothing here")),
        );
    }
}
