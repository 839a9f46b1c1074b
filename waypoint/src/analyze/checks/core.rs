//! Every object as it is written: fields that are passed over, labels and annotations that say nothing; and the templates
//! of pods, which nothing else looks at.

use std::collections::{BTreeMap, BTreeSet};
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
const TEMPLATES: [(&str, &[&str]); 7] = [
    ("apps/v1 Deployment", &["spec", "template"]),
    ("apps/v1 StatefulSet", &["spec", "template"]),
    ("apps/v1 DaemonSet", &["spec", "template"]),
    ("apps/v1 ReplicaSet", &["spec", "template"]),
    ("batch/v1 Job", &["spec", "template"]),
    ("batch/v1 CronJob", &["spec", "jobTemplate", "spec", "template"]),
    ("v1 ReplicationController", &["spec", "template"]),
];
/// API groups of which no object is made into pods. Of others, the kinds of operators are among them, nobody knows.
const WITHOUT_PODS: [&str; 17] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "autoscaling",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "extensions.istio.io",
    "gateway.networking.k8s.io",
    "networking.istio.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "security.istio.io",
    "storage.k8s.io",
    "telemetry.istio.io",
];
/// What counts on pods, and is often written on what makes them.
const OF_PODS: [&str; 3] =
    ["istio.io/dataplane-mode", "istio.io/use-waypoint", "istio.io/use-waypoint-namespace"];

/// The labels of the pods that templates make, by namespace.
pub(super) type Templates = BTreeMap<Arc<str>, Vec<Labels>>;

fn path_of(skipped: &Skipped) -> Option<&'static [&'static str]> {
    TEMPLATES.iter().find(|(kind, _)| **kind == *skipped.kind).map(|(_, path)| *path)
}

/// What makes pods, besides those that are stated.
#[derive(Default)]
pub(super) struct Made {
    /// The templates that can be read.
    pub(super) templates: Templates,
    /// Namespaces with pods that nobody knows: of a kind that is not known here, or of a template that cannot be read.
    pub(super) unclear: BTreeSet<Arc<str>>,
}

/// The templates that were stated.
pub(super) fn made(manifests: &Manifests) -> Made {
    let mut made = Made::default();
    for skipped in &manifests.skipped {
        let path = path_of(skipped);
        if path.is_none() && !may_make_pods(&skipped.kind) {
            continue;
        }
        let stating = manifests.stating(&skipped.origin, None);
        let document = stating.as_ref().and_then(|it| it.node());
        let namespace: Arc<str> = document.map_or("default", |it| named(it).0).into();
        match document.zip(path).and_then(|(document, path)| labels(document, path)) {
            Some(labels) => made.templates.entry(namespace).or_default().push(labels),
            None => drop(made.unclear.insert(namespace)),
        }
    }
    made
}

/// The labels that a template states; `None` where that cannot be told.
fn labels(document: &Node, path: &[&str]) -> Option<Labels> {
    let labels = document.at(path)?.at(&["metadata", "labels"])?;
    let pairs = labels.entries().iter().map(|it| Some((Arc::from(&*it.key), Arc::from(it.node.text()?))));
    let pairs = pairs.collect::<Option<Vec<_>>>().filter(|it| !it.is_empty())?;
    Some(Labels::new(pairs))
}

/// Whether objects of a kind that nobody acts on here may be made into pods.
fn may_make_pods(kind: &str) -> bool {
    let Some((version, name)) = kind.split_once(' ') else { return false };
    let group = version.split_once('/').map_or("", |(group, _)| group);
    // Of the core, those that make pods are known by their templates.
    !group.is_empty() && !name.is_empty() && !WITHOUT_PODS.contains(&group)
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
