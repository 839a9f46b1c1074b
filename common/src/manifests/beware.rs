//! What an explanation has to say besides: documents that are not acted on, and notes about objects that decided.
//!
//! An object touches a question when it is of a namespace that a step of the answer comes from, of the root namespace, or of
//! none that could be read.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Manifests;
use crate::config::decode::Skipped;
use crate::config::{Key, Kind, Rejected};
use crate::explain::connection::NotThere;
use crate::explain::{By, Explanation, Step, plain};

/// Most documents of a sort that an explanation names as not acted on.
const MAX_TOLD: usize = 100;

/// What a question is about.
struct About {
    namespaces: BTreeSet<Arc<str>>,
    objects: BTreeSet<Key>,
}

impl About {
    fn of(told: &Explanation, root: &Arc<str>) -> Self {
        let keys = told.steps().iter().filter_map(|it| Some(it.by.as_ref()?.key.clone()));
        let objects: BTreeSet<Key> = keys.collect();
        let namespaces = objects.iter().map(|it| match it.kind {
            Kind::Namespace => it.object.name.clone(),
            _ => it.object.namespace.clone(),
        });
        Self { namespaces: namespaces.chain([root.clone()]).collect(), objects }
    }

    fn touches(&self, rejected: &Rejected) -> bool {
        let subject = &rejected.subject;
        match (subject.kind, &subject.namespace, &subject.name) {
            (Some(Kind::Namespace), _, Some(name)) => self.namespaces.contains(name),
            (Some(Kind::Node), ..) => false,
            (_, Some(namespace), _) => self.namespaces.contains(namespace),
            (_, None, _) => true,
        }
    }

    /// Whether it is called as something is that decided: the very thing that was asked about, or what is stated for it.
    fn names(&self, rejected: &Rejected) -> bool {
        let subject = &rejected.subject;
        self.objects.iter().any(|it| {
            Some(&it.object.name) == subject.name.as_ref()
                && Some(&it.object.namespace) == subject.namespace.as_ref()
        })
    }
}

impl Manifests {
    /// Tells what an explanation does not: what could not be read, what nobody acts on, and what was said about objects
    /// that decided. What bears the name of something that was asked about comes before everything else.
    pub fn beware(&self, told: &mut Explanation) {
        let about = About::of(told, &self.settings.root_namespace);
        let (touching, mut elsewhere): (Vec<_>, Vec<_>) =
            self.rejected.iter().partition(|it| about.touches(it));
        let (named, others): (Vec<&Rejected>, Vec<_>) = touching.into_iter().partition(|it| about.names(it));
        let first = named.iter().take(MAX_TOLD).map(|it| Step::beware(it.to_string(), None));
        told.begin_with(first.collect());
        let mut lines: Vec<String> = others.iter().map(ToString::to_string).collect();
        let ignored = self.skipped.iter().filter(|it| it.is_of_the_mesh());
        let (ignored, far): (Vec<_>, Vec<_>) = ignored.partition(|it| self.is_near(it, &about));
        lines.extend(
            ignored
                .iter()
                .map(|it| format!("{} at {} is of a kind that is not implemented", it.kind, it.origin)),
        );
        let is_near = |it: &&crate::config::Stated| {
            let Key { kind, object } = it.resource.key();
            let namespace = if kind == Kind::Namespace { object.name } else { object.namespace };
            about.namespaces.contains(&namespace)
        };
        let (repeated, apart): (Vec<_>, Vec<_>) = self.repeated.iter().partition(is_near);
        lines.extend(
            repeated.iter().map(|it| format!("{} at {} was stated before", it.resource.key(), it.origin)),
        );
        let left = named.len().saturating_sub(MAX_TOLD) + lines.len().saturating_sub(MAX_TOLD);
        lines.into_iter().take(MAX_TOLD).for_each(|it| told.say("beware", it, None));
        // Of other nodes nothing is decided here.
        elsewhere.retain(|it| it.subject.kind != Some(Kind::Node));
        let more = left + elsewhere.len() + far.len() + apart.len();
        if more > 0 {
            let (documents, are) = if more == 1 { ("document", "is") } else { ("documents", "are") };
            let of = if left == 0 { ", of other namespaces," } else { "" };
            let says =
                format!("{more} more {documents}{of} {are} not acted on; `waypoint analyze` tells of all");
            told.say("beware", says, None);
        }
        self.notes(told, &about.objects);
    }

    fn notes(&self, told: &mut Explanation, decided: &BTreeSet<Key>) {
        for stated in self.stated.iter().filter(|it| decided.contains(&it.resource.key())) {
            for note in stated.resource.notes().iter().take(MAX_TOLD) {
                let by = self.sight().by_field(stated.resource.key(), &note.field);
                told.say("beware", note.to_string(), Some(by));
            }
        }
    }

    fn is_near(&self, skipped: &Skipped, about: &About) -> bool {
        let stating = self.stating(&skipped.origin, None);
        let namespace = stating.as_ref().and_then(|it| it.node()?.at(&["metadata", "namespace"])?.text());
        about.namespaces.contains(namespace.unwrap_or("default"))
    }

    /// Why something is not there: that it is not stated, or cannot be read.
    pub(super) fn missing(&self, missing: &NotThere) -> String {
        let name = match missing {
            NotThere::Pod { name, .. } => name.rsplit('/').next(),
            NotThere::Service(host) => host.split('.').next(),
            _ => None,
        };
        let mut text = missing.to_string();
        let (named, others): (Vec<&Rejected>, Vec<_>) =
            self.rejected.iter().partition(|it| name.is_some() && it.subject.name.as_deref() == name);
        for (word, all) in [("it is stated, and cannot be read", named), ("beware", others)] {
            for rejected in all.iter().take(MAX_TOLD) {
                text.push_str(&format!("\n  {word}: {}", plain(&rejected.to_string())));
            }
            if let Some(more @ 1..) = all.len().checked_sub(MAX_TOLD) {
                text.push_str(&format!("\n  and {more} more; `waypoint analyze` tells of all"));
            }
        }
        text
    }
}

impl Step {
    fn beware(says: String, by: Option<By>) -> Self {
        Self { subject: "beware", says, by, facts: serde_json::Value::Null }
    }
}
