//! Which connections a ztunnel tells of in spans, and to whom; kept in step with the mesh.
//!
//! A ztunnel knows no requests, so it begins no traces: it joins those that a waypoint tells it of. What holds is the
//! Telemetry of the mesh and that of the pod's namespace; those with selectors or targets are for others. The surprising
//! thing: where no provider is named there is nothing, neither a task nor a queue.

pub mod joined;
pub mod reach;
mod secrecy;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use common::config::Telemetry;
use common::config::mesh::MeshConfig;
use common::config::telemetry::{CustomTag, TagSource};
use common::settings::NodeSettings;
use common::snapshot::Snapshot;
use common::spans::Me;
use common::spans::export::{Exporter, Exporters, Takes};
use common::telemetry::inherit::{self, oldest};
use serde_json::{Value, json};

/// Name of the service account that a ztunnel has in Istio, and of the service that it is in traces.
pub const ZTUNNEL: &str = "ztunnel";

/// Most problems that are kept.
pub const MAX_TRACING_PROBLEMS: usize = 64;

/// Those who take spans, and which connections they are told of.
#[derive(Debug)]
pub struct Spans {
    exporters: Exporters,
    now: ArcSwap<Stated>,
}

/// How connections to pods of one namespace are told of.
#[derive(Debug)]
pub struct Tracer {
    /// Where spans go.
    pub exporter: Arc<Exporter>,
    /// Who tells.
    pub me: Arc<Me>,
    /// Istio's own tags (`enableIstioTags`).
    pub istio_tags: bool,
    /// Tags of an operator's, of those that need no request.
    pub tags: Box<[(Arc<str>, Arc<str>)]>,
    /// Longest value of a tag in bytes.
    pub max_tag: usize,
}

/// What is stated, and what it comes to.
#[derive(Debug, Default)]
struct Stated {
    telemetries: Vec<Arc<Telemetry>>,
    config: Arc<MeshConfig>,
    everywhere: Option<Arc<Tracer>>,
    /// Of namespaces with a word of their own.
    namespaces: HashMap<Arc<str>, Option<Arc<Tracer>>>,
    /// Why something is not as it is stated.
    problems: BTreeSet<String>,
}

impl Spans {
    /// Nobody is told of anything yet.
    pub fn new(exporters: Exporters) -> Self {
        Self { exporters, now: ArcSwap::default() }
    }

    /// Who tells: the ztunnel of a node.
    pub fn me(node: &NodeSettings) -> Me {
        let (namespace, domain) = (&node.root_namespace, &node.cluster_domain);
        Me {
            program: "ebb-ztunnel",
            service: format!("{ZTUNNEL}.{namespace}"),
            node: format!("{ZTUNNEL}~{}~{ZTUNNEL}.{namespace}~{namespace}.svc.{domain}", node.node),
            mesh: node.trust_domain.clone(),
            canonical_service: ZTUNNEL.to_owned(),
            namespace: namespace.clone(),
            cluster: node.cluster_id.clone(),
        }
    }

    /// Those who take spans.
    pub fn exporters(&self) -> &Exporters {
        &self.exporters
    }

    /// How connections to pods of a namespace are told of; `None` where they are not.
    pub fn tracer(&self, namespace: &str) -> Option<Arc<Tracer>> {
        let now = self.now.load();
        now.namespaces.get(namespace).unwrap_or(&now.everywhere).clone()
    }

    /// Takes over what another mesh states.
    pub fn follow(&self, mesh: &Snapshot) {
        let of_ztunnel = |it: &&Arc<Telemetry>| it.is_wide() && !it.tracing.is_empty();
        let telemetries: Vec<_> = mesh.telemetries().filter(of_ztunnel).cloned().collect();
        let (before, config) = (self.now.load(), mesh.mesh_config());
        if telemetries == before.telemetries && *config == before.config {
            return;
        }
        let root = mesh.root_namespace();
        let of = |namespace: &str| oldest(telemetries.iter().filter(|it| *it.object.namespace == *namespace));
        let of_mesh = of(root);
        // The environment is the node's, not a tenant's, who could have it told to whom it likes.
        let trusted = inherit::merge(of_mesh.as_slice(), &config.defaults).tracing.tags;
        let mut problems = BTreeSet::new();
        let mut made = |levels: &[&Telemetry]| {
            let made = self.made(levels, (config, &trusted));
            made.unwrap_or_else(|problem| {
                if problems.len() < MAX_TRACING_PROBLEMS {
                    problems.insert(problem);
                }
                None
            })
        };
        let everywhere = made(of_mesh.as_slice());
        let own: BTreeSet<_> = telemetries.iter().map(|it| &it.object.namespace).collect();
        let namespaces = own.into_iter().filter(|it| *it != root).map(|namespace| {
            let levels: Vec<_> = of_mesh.into_iter().chain(of(namespace)).collect();
            (namespace.clone(), made(&levels))
        });
        let namespaces = namespaces.collect();
        for problem in problems.difference(&before.problems) {
            tracing::warn!(problem, "tracing is not as stated");
        }
        let config = config.clone();
        self.now.store(Arc::new(Stated { telemetries, config, everywhere, namespaces, problems }));
    }

    /// What is in force, for operators.
    pub fn dump(&self) -> Value {
        let now = self.now.load();
        let shown = |it: &Option<Arc<Tracer>>| it.as_ref().map(|it| it.exporter.provider().to_string());
        let names: Vec<_> = now.telemetries.iter().map(|it| it.object.to_string()).collect();
        let namespaces: BTreeMap<_, _> =
            now.namespaces.iter().map(|(namespace, it)| (namespace.to_string(), shown(it))).collect();
        json!({
            "telemetries": names,
            "everywhere": shown(&now.everywhere),
            "namespaces": namespaces,
            "problems": now.problems,
        })
    }

    /// Of several levels, the widest first. `trusted` are tags that may say what the environment holds.
    fn made(
        &self,
        levels: &[&Telemetry],
        (config, trusted): (&MeshConfig, &[CustomTag]),
    ) -> Result<Option<Arc<Tracer>>, String> {
        let stated = inherit::merge(levels, &config.defaults).tracing;
        let Some(name) = stated.provider.filter(|_| !stated.is_disabled) else { return Ok(None) };
        let provider = config.provider(&name).ok_or_else(|| format!("MeshConfig has no provider {name}"))?;
        let exporter = self.exporters.get(provider, Takes::Spans)?;
        let tags = stated.tags.iter();
        let tags = tags.filter_map(|it| Some((it.name.clone(), known(it, trusted.contains(it))?))).collect();
        Ok(Some(Arc::new(Tracer {
            me: self.exporters.me().clone(),
            istio_tags: stated.istio_tags,
            tags,
            max_tag: exporter.max_tag(),
            exporter,
        })))
    }
}

/// What a tag says, where no request is needed for it. `is_trusted` says that it may be told what the environment holds.
fn known(tag: &CustomTag, is_trusted: bool) -> Option<Arc<str>> {
    match &tag.value {
        TagSource::Literal(text) => Some(text.clone()),
        TagSource::Environment(name, other) => {
            let held = is_trusted.then(|| std::env::var(&**name).ok()).flatten();
            held.map(Into::into).or_else(|| other.clone())
        }
        // Of requests, which a ztunnel does not see.
        TagSource::Header(..) | TagSource::Formatter(_) => None,
    }
}
