use std::sync::{Arc, Mutex};

use common::config::decode::yaml;
use common::config::mesh::DefaultProviders;
use common::config::names::Names;
use common::config::{Batch, Resource, Telemetry};
use common::snapshot::{Mesh, MeshSettings, Snapshot};
use common::spans::Me;
use common::spans::export::Exporters;
use common::telemetry::inherit::{Logging as Log, merge};
use common::telemetry::logging::Logging;
use tokio::runtime::Handle;

use super::logs::Files;
use super::tables::Tables;
use super::{Effective, Outputs};
use crate::destination::Destination;
use crate::spans::tests::{Collector, To};
use crate::trace_headers::Sampling;

/// Outputs whose spans go to nobody.
pub(crate) fn outputs(log: &Logging) -> Outputs {
    outputs_to(log, Arc::default())
}

/// Outputs whose spans go to `collector`.
pub(crate) fn outputs_to(log: &Logging, collector: Arc<Collector>) -> Outputs {
    let me = Me { service: "waypoint.edge".into(), ..Me::default() };
    let exporters = Exporters::new(Arc::new(me), Arc::new(To(collector)), Handle::current());
    Outputs { own: log.access.clone(), files: Files::default(), exporters }
}

/// The MeshConfig of these tests.
pub(crate) const MESH: &str = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  \
     mesh: |-\n    extensionProviders:\n    - name: otel\n      opentelemetry: {service: otel.obs.svc.cluster.local, port: \
     4317}\n    - name: zipkin\n      zipkin: {service: zipkin.obs.svc.cluster.local, port: 9411}\n    - name: json\n      \
     envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {code: '%RESPONSE_CODE%', user: '%REQ(X-USER)%'}}}\n    - \
     name: text\n      envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: 'T %RESPONSE_CODE% %RESPONSE_FLAGS%'}}\n    - \
     name: broken\n      envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: '%NOTHING%'}}\n    - name: als\n      envoyOtelAls: {service: \
     otel.obs.svc.cluster.local, port: 4317, logName: shop-log, logFormat: {text: '%REQ(:METHOD)% %REQ(:PATH)% \
     %RESPONSE_CODE%', labels: {user: '%REQ(X-USER)%'}}}\n";

pub(crate) fn telemetry(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: \
         {spec}\n"
    )
}

fn read(manifests: &str) -> Arc<Snapshot> {
    let decoded = yaml::decode(&"a.yaml".into(), manifests.as_bytes(), &mut Names::default());
    assert!(decoded.rejected.is_empty(), "{:#?}", decoded.rejected);
    Mesh::new(MeshSettings::default()).apply(Batch { upserts: decoded.stated, ..Batch::default() })
}

fn stated(spec: &str) -> Arc<Telemetry> {
    let text = telemetry("shop", "t", spec);
    let decoded = yaml::decode(&"a.yaml".into(), text.as_bytes(), &mut Names::default());
    match decoded.stated.first().map(|it| &it.resource) {
        Some(Resource::Telemetry(it)) => it.clone(),
        _ => panic!("{:?}", decoded.rejected),
    }
}

#[test]
fn the_closest_word_on_tracing_counts() {
    let defaults =
        DefaultProviders { tracing: ["a".into(), "b".into()].into(), ..DefaultProviders::default() };
    let merged = |levels: &[&str]| {
        let all: Vec<_> = levels.iter().map(|spec| stated(spec)).collect();
        let tracing = merge(&all.iter().map(|it| &**it).collect::<Vec<_>>(), &defaults).tracing;
        let tags: Vec<_> = tracing.tags.iter().map(|it| it.name.to_string()).collect();
        let share = tracing.sampling.map(|it| it.per_million() / 10_000);
        (
            tracing.provider.unwrap().to_string(),
            share,
            tracing.is_disabled,
            tracing.istio_tags,
            tags.join(" "),
        )
    };
    let of = |provider: &str, share, disabled, istio, tags: &str| {
        (provider.to_owned(), share, disabled, istio, tags.to_owned())
    };
    assert_eq!(merged(&[]), of("a", None, false, true, ""));
    let wide = "{tracing: [{providers: [{name: z}], randomSamplingPercentage: 10, customTags: {x: {literal: {value: '1'}}, w: \
                {literal: {value: '1'}}}}]}";
    assert_eq!(merged(&[wide]), of("z", Some(10), false, true, "x w"));
    let close = "{tracing: [{randomSamplingPercentage: 50, enableIstioTags: false, customTags: {near: {literal: {value: '1'}}}}]}";
    assert_eq!(merged(&[wide, close]), of("z", Some(50), false, false, "near"));
    let off = "{tracing: [{disableSpanReporting: true}]}";
    assert_eq!(merged(&[wide, off]), of("z", Some(10), true, true, "x w"));
    assert_eq!(
        merged(&[wide, off, "{tracing: [{disableSpanReporting: false}]}"]),
        of("z", Some(10), false, true, "x w")
    );
    // The client's side is somebody else's.
    assert_eq!(
        merged(&["{tracing: [{match: {mode: CLIENT}, providers: [{name: c}]}]}"]),
        of("a", None, false, true, "")
    );
}

#[test]
fn the_closest_word_on_logs_counts() {
    let merged = |defaults: &[&str], levels: &[&str]| {
        let access_logging = defaults.iter().map(|it| (*it).into()).collect();
        let defaults = DefaultProviders { access_logging, ..DefaultProviders::default() };
        let all: Vec<_> = levels.iter().map(|spec| stated(spec)).collect();
        let logs = merge(&all.iter().map(|it| &**it).collect::<Vec<_>>(), &defaults).logs;
        let shown = |it: Log| {
            let filter = it.filter.map(|it| format!("?{}", it.text())).unwrap_or_default();
            format!("{}{}{filter}", if it.is_disabled { "-" } else { "" }, it.provider)
        };
        logs.map(|all| all.into_iter().map(shown).collect::<Vec<_>>().join(" "))
    };
    let some = |text: &str| Some(text.to_owned());
    let (files, off) =
        ("{accessLogging: [{providers: [{name: a}, {name: b}]}]}", "{accessLogging: [{disabled: true}]}");
    let filtered = "{accessLogging: [{filter: {expression: 'response.code > 1'}}]}";
    assert_eq!(merged(&[], &[]), None);
    assert_eq!(merged(&[], &["{tracing: []}"]), None);
    assert_eq!(merged(&["m"], &[]), some("m"));
    assert_eq!(merged(&["m"], &[off]), some("-m"));
    assert_eq!(merged(&[], &[off]), some("-envoy"));
    assert_eq!(merged(&[], &[filtered]), some("envoy?response.code > 1"));
    assert_eq!(merged(&["m"], &[files]), some("a b"));
    assert_eq!(merged(&[], &[files, filtered]), some("a?response.code > 1 b?response.code > 1"));
    assert_eq!(merged(&[], &[files, off]), some("-a -b"));
    assert_eq!(merged(&[], &[files, off, files]), some("a b"));
    assert_eq!(
        merged(&[], &[files, "{accessLogging: [{providers: [{name: b}], disabled: true}]}"]),
        some("-b")
    );
    let both = "{accessLogging: [{providers: [{name: a}]}, {providers: [{name: c}], disabled: true}]}";
    assert_eq!(merged(&[], &[both]), some("a -c"));
    assert_eq!(merged(&["m"], &["{accessLogging: [{match: {mode: CLIENT}, disabled: true}]}"]), some("m"));
}

const SERVICES: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.1, \
     ports: [{port: 80}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop}\nspec: {clusterIP: \
     10.96.0.2, ports: [{port: 80}]}\n";

struct Asked {
    mesh: Arc<Snapshot>,
    tables: Arc<Tables>,
}

impl Asked {
    fn of(&self, service: &str) -> &Arc<Effective> {
        let service = self.mesh.service("shop", service).unwrap().clone();
        self.tables.of(&Destination::Service { service, port: 80 })
    }

    fn sampling(&self, service: &str) -> Option<u16> {
        match self.of(service).sampling() {
            Sampling::Off => None,
            Sampling::TenThousandths(share) => Some(share),
        }
    }
}

fn asked(manifests: &str) -> Asked {
    let sink = Box::new(std::io::sink());
    let (log, _) =
        common::telemetry::logging::build("info", common::telemetry::line::LogFormat::Plain, sink).unwrap();
    let mesh = read(&(SERVICES.to_owned() + manifests));
    let tables = Arc::new(Tables::new(crate::routes::tests::view().waypoint));
    let tables = tables.update(&mesh, &outputs(&log));
    Asked { mesh, tables }
}

#[tokio::test]
async fn a_telemetry_binds_the_mesh_the_namespace_or_its_targets() {
    let traced =
        |share: u32| format!("tracing: [{{providers: [{{name: otel}}], randomSamplingPercentage: {share}}}]");
    let wide = telemetry("istio-system", "mesh", &format!("{{{}}}", traced(10)));
    assert_eq!(asked(&wide).sampling("web"), None, "without the provider there is none");
    let mesh = MESH.to_owned() + &wide;
    assert_eq!(asked(&mesh).sampling("web"), Some(1000));
    // The waypoint stands for edge/waypoint: what is stated in the service's own namespace is not about it.
    let elsewhere = telemetry("shop", "own", &format!("{{{}}}", traced(20)));
    assert_eq!(asked(&(mesh.clone() + &elsewhere)).sampling("web"), Some(1000));
    let own = telemetry("edge", "own", &format!("{{{}}}", traced(30)));
    assert_eq!(asked(&(mesh.clone() + &own)).sampling("web"), Some(3000));
    let target = |group: &str, kind: &str, name: &str, share| {
        format!("{{targetRefs: [{{group: '{group}', kind: {kind}, name: {name}}}], {}}}", traced(share))
    };
    let gateway = telemetry("edge", "gw", &target("gateway.networking.k8s.io", "Gateway", "waypoint", 40));
    let service = telemetry("shop", "svc", &target("", "Service", "web", 50));
    let all = asked(&(mesh + &own + &gateway + &service));
    assert_eq!((all.sampling("web"), all.sampling("api")), (Some(5000), Some(4000)));
    let selecting =
        telemetry("edge", "sel", &format!("{{selector: {{matchLabels: {{a: b}}}}, {}}}", traced(60)));
    assert_eq!(asked(&(MESH.to_owned() + &selecting)).sampling("web"), None);
}

#[tokio::test]
async fn what_cannot_be_done_is_named() {
    let spec = "{tracing: [{providers: [{name: gone}]}], accessLogging: [{providers: [{name: broken}, {name: otel}, {name: \
                json}]}]}";
    let all = asked(&(MESH.to_owned() + &telemetry("istio-system", "t", spec)));
    assert!(all.of("web").tracer.is_none());
    assert_eq!(all.of("web").logs.as_ref().map(|it| it.len()), Some(1));
    assert_eq!(all.of("web").request_headers.iter().map(|it| it.as_str()).collect::<Vec<_>>(), ["x-user"]);
    let problems = all.tables.dump()["problems"].to_string();
    for problem in ["no provider gone", "%NOTHING% is not known", "otel is a provider of opentelemetry"] {
        assert!(problems.contains(problem), "{problem}: {problems}");
    }
}

/// Keeps a file name of its own.
static TURN: Mutex<u32> = Mutex::new(0);

#[tokio::test]
async fn a_log_may_be_a_file() {
    let turn = {
        let mut turn = TURN.lock().unwrap();
        *turn += 1;
        *turn
    };
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join(format!("access-{turn}.log"));
    let mesh = MESH
        .replace("/dev/stdout, logFormat: {text: 'T", &format!("{}, logFormat: {{text: 'T", path.display()));
    let all = asked(&(mesh + &telemetry("edge", "t", "{accessLogging: [{providers: [{name: text}]}]}")));
    let out = std::io::sink();
    let (log, subscriber) =
        common::telemetry::logging::build("info", common::telemetry::line::LogFormat::Plain, Box::new(out))
            .unwrap();
    let _guard = tracing::subscriber::set_default(subscriber);
    let line = common::telemetry::request_line::RequestLine { status: 204, ..Default::default() };
    all.of("web").log(&log.access, &line, false);
    // The last lines are written when nobody writes to it any more.
    drop(all);
    assert_eq!(std::fs::read_to_string(path).unwrap(), "T 204 -\n");
}
