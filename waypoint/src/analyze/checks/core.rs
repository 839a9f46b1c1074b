//! Every object as it is written: fields that are passed over, labels and annotations that say nothing; and the templates
//! of pods, which nothing else looks at.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::config::core::Labels;
use common::config::decode::Skipped;
use common::config::decode::yaml::tree::Node;
use common::config::waypoint::GATEWAY_NAME;
use common::config::{Kind, ObjectName, Resource, Stated};
use common::manifests::Manifests;

use super::words::Bearer;
use super::{Report, View, fields};
use crate::analyze::finding::{MISPLACED, NO_SUCH_GATEWAY};

/// Where the template of pods stands, by the kind that has one.
const TEMPLATES: [(&str, &[&str]); 6] = [
    ("apps/v1 Deployment", &["spec", "template"]),
    ("apps/v1 StatefulSet", &["spec", "template"]),
    ("apps/v1 DaemonSet", &["spec", "template"]),
    ("apps/v1 ReplicaSet", &["spec", "template"]),
    ("batch/v1 Job", &["spec", "template"]),
    ("batch/v1 CronJob", &["spec", "jobTemplate", "spec", "template"]),
];
/// What counts on pods, and is often written on what makes them.
const OF_PODS: [&str; 3] =
    ["istio.io/dataplane-mode", "istio.io/use-waypoint", "istio.io/use-waypoint-namespace"];

/// The labels of the pods that templates make, by namespace.
pub(super) type Templates = BTreeMap<Arc<str>, Vec<Labels>>;

fn path_of(skipped: &Skipped) -> Option<&'static [&'static str]> {
    TEMPLATES.iter().find(|(kind, _)| **kind == *skipped.kind).map(|(_, path)| *path)
}

/// The templates that were stated.
pub(super) fn templates(manifests: &Manifests) -> Templates {
    let mut found = Templates::new();
    for skipped in &manifests.skipped {
        let Some(path) = path_of(skipped) else { continue };
        let Some(stating) = manifests.stating(&skipped.origin, None) else { continue };
        let Some(document) = stating.node() else { continue };
        let labels = document.at(path).and_then(|it| it.at(&["metadata", "labels"]));
        let pairs = labels.map(Node::entries).unwrap_or_default().iter();
        let pairs = pairs.filter_map(|it| Some((Arc::from(&*it.key), Arc::from(it.node.text()?))));
        let (namespace, _) = named(document);
        found.entry(namespace.into()).or_default().push(Labels::new(pairs.collect()));
    }
    found
}

fn named(document: &Node) -> (&str, &str) {
    let says = |key| document.at(&["metadata", key]).and_then(Node::text);
    (says("namespace").unwrap_or("default"), says("name").unwrap_or_default())
}

pub(super) fn check(view: &View<'_>, report: &mut Report<'_>) {
    for stated in &view.manifests.stated {
        object(view, stated, report);
    }
    for skipped in &view.manifests.skipped {
        if let Some(path) = path_of(skipped) {
            template(view, skipped, path, report);
        }
    }
}

fn object(view: &View<'_>, stated: &Stated, report: &mut Report<'_>) {
    let key = stated.resource.key();
    let Some(stating) = view.manifests.stating(&stated.origin, Some(&key)) else { return };
    let Some(document) = stating.node() else { return };
    fields::check(stated, document, report);
    if let Some(metadata) = document.get("metadata") {
        let object = key.to_string();
        let line = |line| stating.line(line);
        let (origin, kind) = (&stated.origin, key.kind);
        Bearer { origin, object: &object, kind, path: "metadata", line: &line }.check(metadata, report);
    }
    if let Resource::Pod(pod) = &stated.resource
        && let Some(gateway) = pod.labels.get(GATEWAY_NAME)
        && !view.gateways.contains_key(&ObjectName::new(pod.object.namespace.clone(), gateway.clone()))
    {
        let message =
            format!("no Gateway {gateway} in {}: it is a waypoint for nobody", pod.object.namespace);
        report.say(NO_SUCH_GATEWAY, stated, format!("metadata.labels.{GATEWAY_NAME}"), message);
    }
}

/// What the pods of a template would be told of.
fn template(view: &View<'_>, skipped: &Skipped, path: &[&str], report: &mut Report<'_>) {
    let Some(stating) = view.manifests.stating(&skipped.origin, None) else { return };
    let Some(document) = stating.node() else { return };
    let (namespace, name) = named(document);
    let kind = skipped.kind.rsplit(' ').next().unwrap_or_default();
    let object = format!("{kind} {namespace}/{name}");
    let at = |line: u32| {
        let mut origin = skipped.origin.clone();
        origin.line = stating.line(line);
        origin
    };
    let own = document.at(&["metadata", "labels"]).map(Node::entries).unwrap_or_default();
    let field = format!("{}.metadata", path.join("."));
    for entry in own.iter().filter(|it| OF_PODS.contains(&&*it.key)) {
        let message = format!("counts on pods: write it in {field}.labels");
        report.tell(
            MISPLACED,
            &at(entry.line),
            &object,
            (&format!("metadata.labels.{}", entry.key), message),
        );
    }
    let Some(metadata) = document.at(path).and_then(|it| it.get("metadata")) else { return };
    let line = |line| stating.line(line);
    let origin = &skipped.origin;
    Bearer { origin, object: &object, kind: Kind::Pod, path: &field, line: &line }.check(metadata, report);
    let labels = metadata.get("labels").map(Node::entries).unwrap_or_default();
    let Some(gateway) = labels.iter().find(|it| it.key == GATEWAY_NAME) else { return };
    let wanted = gateway.node.text().unwrap_or_default();
    if !view.gateways.contains_key(&ObjectName::new(namespace, wanted)) {
        let message = format!("no Gateway {wanted} in {namespace}: its pods are waypoints for nobody");
        let field = format!("{field}.labels.{GATEWAY_NAME}");
        report.tell(NO_SUCH_GATEWAY, &at(gateway.line), &object, (&field, message));
    }
}
