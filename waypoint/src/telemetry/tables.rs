//! What is told of requests to everything behind one waypoint, kept in step with the mesh.
//!
//! A Telemetry binds a waypoint where it is about the whole mesh or the waypoint's namespace, or by its targets: every
//! waypoint's class in the root namespace, its Gateway, a Service or a ServiceEntry. Of several on one level the oldest
//! counts, as in Istio.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use common::config::mesh::{FileLog, MeshConfig, ProviderKind};
use common::config::security::TargetRef;
use common::config::waypoint::Waypoint;
use common::config::{ObjectName, Telemetry};
use common::snapshot::Snapshot;
use common::snapshot::model::Service;
use common::spans::export::Takes;
use common::telemetry::inherit::{self, BUILT_IN_LOG, Logging, Merged, oldest};
use serde_json::{Value, json};

use super::counted::Counted;
use super::logs::Log;
use super::{Effective, Outputs};
use crate::destination::Destination;
use crate::spans::Tracer;
use crate::spans::tags::Tag;
use crate::trace_headers::Sampling;

/// Of ten thousand requests, how many are traced where nobody says (Istio's default of 1 %).
const DEFAULT_SAMPLING: u16 = 100;
/// Most problems that are kept.
pub const MAX_TELEMETRY_PROBLEMS: usize = 64;

/// What is told of everything behind one waypoint.
#[derive(Debug)]
pub struct Tables {
    gateway: ObjectName,
    /// What it was made of.
    concerned: Vec<Arc<Telemetry>>,
    config: Arc<MeshConfig>,
    /// For what no target names.
    everywhere: Arc<Effective>,
    /// For what one does.
    named: HashMap<Target, Arc<Effective>>,
    problems: BTreeSet<String>,
}

/// A Service, or the ServiceEntry of that name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Target {
    object: ObjectName,
    is_entry: bool,
}

impl Tables {
    /// Of a waypoint that stands for a Gateway, where nothing is stated.
    pub fn new(gateway: ObjectName) -> Self {
        Self {
            gateway,
            concerned: Vec::new(),
            config: Arc::default(),
            everywhere: Arc::default(),
            named: HashMap::new(),
            problems: BTreeSet::new(),
        }
    }

    /// What another mesh asks for.
    #[must_use]
    pub fn update(self: &Arc<Self>, mesh: &Snapshot, outputs: &Outputs) -> Arc<Self> {
        let concerned: Vec<_> = mesh.telemetries().filter(|it| self.concerns(it, mesh)).cloned().collect();
        let config = mesh.mesh_config();
        if concerned == self.concerned && (Arc::ptr_eq(config, &self.config) || *config == self.config) {
            return self.clone();
        }
        outputs.files.sweep();
        let mut problems = BTreeSet::new();
        let levels = self.levels(&concerned, mesh);
        let everywhere = make(&levels, config, outputs, &mut problems);
        let mut named = HashMap::new();
        for target in concerned.iter().flat_map(|it| targets_of(it)) {
            if named.contains_key(&target) {
                continue;
            }
            let closest = oldest(concerned.iter().filter(|it| targets_of(it).any(|it| it == target)));
            let levels: Vec<&Telemetry> = levels.iter().copied().chain(closest).collect();
            let made = make(&levels, config, outputs, &mut problems);
            named.insert(target, made);
        }
        for problem in problems.difference(&self.problems) {
            tracing::warn!(problem, "telemetry is not as stated");
        }
        let (gateway, config) = (self.gateway.clone(), config.clone());
        Arc::new(Self { gateway, concerned, config, everywhere, named, problems })
    }

    /// What is told of requests to what was called.
    pub fn of(&self, destination: &Destination) -> &Arc<Effective> {
        let named = match destination {
            Destination::Service { service, .. } if !self.named.is_empty() => {
                self.named.get(&Target::of(service))
            }
            _ => None,
        };
        named.unwrap_or(&self.everywhere)
    }

    /// What is in force, for operators.
    pub fn dump(&self) -> Value {
        let names: Vec<_> = self.concerned.iter().map(|it| it.object.to_string()).collect();
        let shown = |it: &Effective| {
            json!({
                "traced": it.tracer.as_ref().map(|it| format!("{:?}", it.sampling)),
                "logs": it.logs.as_ref().map(|it| it.len()),
            })
        };
        let named: serde_json::Map<_, _> =
            self.named.iter().map(|(target, it)| (target.object.to_string(), shown(it))).collect();
        json!({
            "telemetries": names, "everywhere": shown(&self.everywhere), "services": named, "problems": self.problems,
        })
    }

    fn concerns(&self, stated: &Telemetry, mesh: &Snapshot) -> bool {
        self.level(stated, mesh).is_some() || targets_of(stated).next().is_some()
    }

    /// How close it is to this waypoint, where it is about all of it.
    fn level(&self, stated: &Telemetry, mesh: &Snapshot) -> Option<u8> {
        let own = *stated.object.namespace == *self.gateway.namespace;
        let root = *stated.object.namespace == **mesh.root_namespace();
        if stated.is_wide() {
            return if root { Some(0) } else { own.then_some(1) };
        }
        let of = |it: &TargetRef| match &*it.kind {
            "GatewayClass" if root && Waypoint::is_class(&it.name) => Some(2),
            "Gateway" if own && *it.name == *self.gateway.name => Some(3),
            _ => None,
        };
        stated.targets.iter().filter_map(of).max()
    }

    /// One for each level, the widest first.
    fn levels<'t>(&self, concerned: &'t [Arc<Telemetry>], mesh: &Snapshot) -> Vec<&'t Telemetry> {
        let of = |level| oldest(concerned.iter().filter(|it| self.level(it, mesh) == Some(level)));
        (0..=3).filter_map(of).collect()
    }
}

impl Target {
    fn of(service: &Service) -> Self {
        let name = service.external.as_ref().map_or(&service.name, |it| &it.entry).clone();
        let object = ObjectName { namespace: service.namespace.clone(), name };
        Self { object, is_entry: service.external.is_some() }
    }
}

/// The services that it names, of its own namespace.
fn targets_of(stated: &Telemetry) -> impl Iterator<Item = Target> {
    stated.targets.iter().filter_map(|TargetRef { kind, name, .. }| {
        let is_entry = match &**kind {
            "Service" => false,
            "ServiceEntry" => true,
            _ => return None,
        };
        let object = ObjectName { namespace: stated.object.namespace.clone(), name: name.clone() };
        Some(Target { object, is_entry })
    })
}

/// What levels amount to.
fn make(
    levels: &[&Telemetry],
    config: &MeshConfig,
    outputs: &Outputs,
    problems: &mut BTreeSet<String>,
) -> Arc<Effective> {
    let merged = inherit::merge(levels, &config.defaults);
    let mut tell = |problem: String| {
        if problems.len() < MAX_TELEMETRY_PROBLEMS {
            problems.insert(problem);
        }
    };
    let tracer = tracer(&merged, config, outputs).unwrap_or_else(|problem| {
        tell(problem);
        None
    });
    let logs = match &merged.logs {
        Some(stated) => {
            let mut made = Vec::new();
            for log in stated.iter().filter(|it| !it.is_disabled) {
                match self::log(log, config, outputs) {
                    Ok(log) => made.push(log),
                    Err(problem) => tell(problem),
                }
            }
            Some(made.into_boxed_slice())
        }
        None => mesh_log(config, outputs).unwrap_or_else(|problem| {
            tell(problem);
            None
        }),
    };
    let counted = Counted::requests(&merged.metrics);
    let counted_connections = Counted::connections(&merged.metrics);
    let (mut request, mut response) = (Vec::new(), Vec::new());
    let of_logs = logs.iter().flat_map(|it| it.iter().map(Log::headers));
    let of_tags = tracer.iter().flat_map(|it| it.tags.iter().map(Tag::headers));
    let of_counted = counted.iter().map(Counted::headers);
    for (of_request, of_response) in of_logs.chain(of_tags).chain(of_counted) {
        request.extend(of_request);
        response.extend(of_response);
    }
    for all in [&mut request, &mut response] {
        all.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        all.dedup();
    }
    Arc::new(Effective {
        tracer,
        logs,
        counted,
        counted_connections,
        request_headers: request.into(),
        response_headers: response.into(),
    })
}

fn tracer(merged: &Merged, config: &MeshConfig, outputs: &Outputs) -> Result<Option<Arc<Tracer>>, String> {
    let stated = &merged.tracing;
    let Some(name) = stated.provider.as_ref().filter(|_| !stated.is_disabled) else { return Ok(None) };
    let provider =
        config.provider(name).ok_or_else(|| format!("tracing: MeshConfig has no provider {name}"))?;
    let exporter = outputs.exporters.get(provider, Takes::Spans).map_err(|why| format!("tracing: {why}"))?;
    let share = stated.sampling.or(config.tracing_sampling);
    let sampling =
        share.map_or(DEFAULT_SAMPLING, |it| u16::try_from(it.per_million() / 100).unwrap_or(10_000));
    let tags = stated.tags.iter().filter_map(|it| Tag::new(it, |name| std::env::var(name).ok())).collect();
    Ok(Some(Arc::new(Tracer {
        sampling: Sampling::TenThousandths(sampling),
        tags,
        istio_tags: stated.istio_tags,
        max_tag: exporter.max_tag(),
        exporter,
        me: outputs.exporters.me().clone(),
    })))
}

fn log(stated: &Logging, config: &MeshConfig, outputs: &Outputs) -> Result<Log, String> {
    let name = &stated.provider;
    let of_mesh = FileLog { path: "".into(), format: None, omit_empty: false };
    let provider = config.provider(name);
    let file = match provider.map(|it| (it, &it.kind)) {
        Some((_, ProviderKind::FileLog(file))) => file,
        Some((provider, ProviderKind::OtelLog(stated_log))) => {
            let exporter = outputs.exporters.get(provider, Takes::Logs);
            let made = exporter.and_then(|it| Log::sent(stated_log, stated.filter.clone(), it));
            return made.map_err(|why| format!("access log: {name}: {why}"));
        }
        Some((_, other)) => {
            return Err(format!(
                "access log: {name} is a provider of {}, which is not implemented",
                other.field()
            ));
        }
        None if **name == *BUILT_IN_LOG => &of_mesh,
        None => return Err(format!("access log: MeshConfig has no provider {name}")),
    };
    let made = Log::new(file, stated.filter.clone(), config, (&outputs.own, &outputs.files));
    made.map_err(|why| format!("access log: {name}: {why}"))
}

/// `accessLogFile` and what goes with it, where it is stated.
fn mesh_log(config: &MeshConfig, outputs: &Outputs) -> Result<Option<Box<[Log]>>, String> {
    let Some(path) = &config.access_log_file else { return Ok(None) };
    let file = FileLog { path: path.clone(), format: None, omit_empty: false };
    let log = Log::new(&file, None, config, (&outputs.own, &outputs.files));
    log.map(|it| Some([it].into())).map_err(|why| format!("accessLogFile: {why}"))
}
