//! How long one change takes to reach the endpoints that requests are sent to, among many destinations.
//!
//! `cargo run --release -p waypoint --example clusters -- [services]`: as many services of ten pods, each with a
//! DestinationRule of its own and asked for once; then one pod changes, one rule, and one service.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use common::config::decode::yaml;
use common::config::names::Names;
use common::config::{Batch, ObjectName};
use common::snapshot::{Mesh, MeshSettings, Snapshot};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use waypoint::upstream::{ClusterKey, Clusters, PickFacts, Pickers, Vantage};

const PODS_PER_SERVICE: usize = 10;
const PER_NAMESPACE: usize = 50;
/// How often each change is timed.
const CHANGES: usize = 20;
/// How many picks are timed.
const PICKS: u32 = 1_000_000;

fn main() -> Result<()> {
    let services = std::env::args().nth(1).map(|it| it.parse()).transpose()?.unwrap_or(10_000);
    let settings = MeshSettings::default();
    let vantage = Vantage::new(&settings, ObjectName::new("edge", "waypoint"));
    let (mut mesh, mut names) = (Mesh::new(settings), Names::default());
    let clusters = Clusters::new(vantage, Instant::now());

    let first = apply(&mut mesh, &mut names, &everything(services)?)?;
    let started = Instant::now();
    clusters.update(&first, started);
    println!("first update: {:?}", started.elapsed());
    let started = Instant::now();
    for n in 0..services {
        clusters.get(&key(n)).with_context(|| format!("no cluster for service {n}"))?;
    }
    println!("{services} clusters built: {:?}", started.elapsed());

    time("one pod", &clusters, &mut mesh, &mut names, |change| pod(7, change))?;
    time("one rule", &clusters, &mut mesh, &mut names, |change| rule(7, change))?;
    time("one service", &clusters, &mut mesh, &mut names, |change| service(7, 80 + change % 2))?;
    time("a wildcard rule", &clusters, &mut mesh, &mut names, |change| {
        rule(7, change).replace("name: web-7", "name: any").replace("host: web-7", "host: \"*.local\"")
    })?;
    pick(&clusters)
}

fn time(
    what: &str,
    clusters: &Clusters,
    mesh: &mut Mesh,
    names: &mut Names,
    text: impl Fn(usize) -> String,
) -> Result<()> {
    let mut took = Vec::new();
    for change in 1..=CHANGES {
        let snapshot = apply(mesh, names, &text(change))?;
        let started = Instant::now();
        clusters.update(&snapshot, started);
        took.push(started.elapsed());
    }
    took.sort();
    println!("{what} changed: median {:?}, worst {:?}", took[CHANGES / 2], took[CHANGES - 1]);
    Ok(())
}

fn pick(clusters: &Clusters) -> Result<()> {
    let cluster = clusters.get(&key(3)).context("no cluster")?;
    let (mut pickers, mut rng, now) = (Pickers::default(), StdRng::seed_from_u64(1), Instant::now());
    let facts = PickFacts::connection("10.9.9.9:40000".parse()?, "10.96.0.1:80".parse()?);
    let mut took = Duration::ZERO;
    for (what, looked_up) in [("from a cluster at hand", false), ("looked up by name", true)] {
        let started = Instant::now();
        for _ in 0..PICKS {
            let cluster =
                if looked_up { clusters.get(&key(3)).context("no cluster")? } else { cluster.clone() };
            let picked = pickers.pick(&cluster, &facts, now, &mut rng);
            picked.map_err(|it| anyhow::anyhow!("{}", it.flag()))?;
        }
        took = started.elapsed().max(took);
        println!("one endpoint picked, {what}: {:?}", started.elapsed() / PICKS);
    }
    ensure!(took > Duration::ZERO, "nothing was timed");
    Ok(())
}

fn apply(mesh: &mut Mesh, names: &mut Names, text: &str) -> Result<Arc<Snapshot>> {
    let decoded = yaml::decode(&"mesh.yaml".into(), text.as_bytes(), names);
    ensure!(decoded.rejected.is_empty(), "rejected: {}", decoded.rejected[0]);
    Ok(mesh.apply(Batch { upserts: decoded.stated, ..Batch::default() }))
}

fn everything(services: usize) -> Result<String> {
    let mut text = String::new();
    for n in 0..services {
        text.push_str(&service(n, 80));
        text.push_str(&rule(n, 0));
    }
    for n in 0..services * PODS_PER_SERVICE {
        write!(text, "{}", pod(n, 0))?;
    }
    Ok(text)
}

fn key(service: usize) -> ClusterKey {
    let namespace = format!("shop-{}", service / PER_NAMESPACE);
    ClusterKey { service: ObjectName::new(namespace, format!("web-{service}")), port: 80, subset: None }
}

fn service(n: usize, target: usize) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web-{n}, namespace: shop-{}}}\nspec:\n  clusterIP: \
         10.251.{}.{}\n  selector: {{app: web-{n}}}\n  ports: [{{name: http, port: 80, targetPort: {target}}}]\n",
        n / PER_NAMESPACE,
        n / 250,
        n % 250 + 1
    )
}

fn rule(n: usize, change: usize) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web-{n}, namespace: \
         shop-{}}}\nspec:\n  host: web-{n}\n  trafficPolicy:\n    connectionPool: {{tcp: {{maxConnections: {}}}}}\n    \
         outlierDetection: {{consecutive5xxErrors: 5}}\n",
        n / PER_NAMESPACE,
        change + 1
    )
}

fn pod(n: usize, change: usize) -> String {
    let service = n / PODS_PER_SERVICE;
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web-{n}, namespace: shop-{}, uid: uid-{n}, labels: {{app: \
         web-{service}, version: v{change}}}}}\nspec: {{nodeName: node-{}}}\nstatus: {{phase: Running, podIP: \
         10.{}.{}.{}}}\n",
        service / PER_NAMESPACE,
        n % 100,
        n / 62_500,
        n / 250 % 250,
        n % 250 + 1
    )
}
