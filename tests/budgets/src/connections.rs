//! What a connection is decided by and told of: its route, its admission, its CONNECT, its line in the log, its counters.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use common::connection::admit::{Admission, judge_for};
use common::connection::route::{NextHop, route_from};
use common::hbone::request::{Authority, Baggage, Connect, Forwarded, Traceparent};
use common::snapshot::model::{Service, Workload};
use common::telemetry::access::{Connection, Outcome};
use common::telemetry::labels::{EdgeLabels, Reporter, Security};
use common::telemetry::line::LogFormat;
use common::telemetry::logging;
use common::telemetry::metrics::Metrics;
use common::telemetry::tcp::EdgeCache;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::counted::{Units, counted};
use crate::mesh;

/// Where a pod's connection to a service goes, in turn for every pod and every service.
pub(crate) fn route(units: Units) -> Result<()> {
    let mesh = mesh::large()?;
    let pods = mesh::workloads(&mesh)?;
    let mut rng = StdRng::seed_from_u64(1);
    let mut one = |i: usize| {
        let called = SocketAddr::from(([10, 96, 0, (i % 50 + 1) as u8], 80));
        let hop = route_from(&mesh, &pods[i % pods.len()], called, |_| 0, &mut rng);
        ensure!(matches!(hop, Ok(NextHop::Tunnel { .. } | NextHop::Local { .. })), "{hop:?}");
        Ok(())
    };
    counted(units, &mut one)
}

/// Whether a pod lets in a connection that the only policy for it admits, in turn for every pod.
pub(crate) fn admit(units: Units) -> Result<()> {
    let mesh = mesh::large()?;
    let pods = mesh::workloads(&mesh)?;
    let admissions: Vec<Admission> = pods.iter().map(admission).collect();
    counted(units, &mut |i| {
        let at = i % pods.len();
        judge_for(black_box(&mesh), &pods[at], &admissions[at])
            .map_err(|refusal| anyhow::anyhow!("{refusal}"))
    })
}

/// Of a connection to `pod` by somebody who has its identity.
fn admission(pod: &Arc<Workload>) -> Admission {
    Admission {
        target: SocketAddr::new(pod.addresses[0], 8080),
        client: SocketAddr::from(([10, 0, 9, 9], 40_000)),
        identity: Some(pod.identity.clone()),
        by_way_of: None,
    }
}

/// A CONNECT with all its headers, as it is handed to `h2`.
pub(crate) fn encode(units: Units) -> Result<()> {
    let all = connects()?;
    counted(units, &mut |i| {
        black_box(all[i % all.len()].encode()?);
        Ok(())
    })
}

/// The same, as `h2` hands it over.
pub(crate) fn decode(units: Units) -> Result<()> {
    let encoded: Result<Vec<_>, _> = connects()?.iter().map(Connect::encode).collect();
    let all: Vec<_> = encoded?.into_iter().map(|it| it.into_parts().0).collect();
    counted(units, &mut |i| {
        let read = Connect::decode(&all[i % all.len()])?;
        ensure!(read.baggage.is_some() && read.forwarded.is_some() && read.traceparent.is_some());
        Ok(())
    })
}

fn connects() -> Result<Vec<Connect>> {
    let mesh = mesh::large()?;
    let pods = mesh::workloads(&mesh)?;
    let of = |pod: &Arc<Workload>| {
        let client = SocketAddr::new(pod.addresses[0], 40_000);
        Ok(Connect {
            forwarded: Some(Forwarded { client, host: Some("web.shop.svc.cluster.local".into()) }),
            baggage: Some(Baggage::of(pod)),
            traceparent: Some(Traceparent::new(
                0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
                0xb7ad_6b71_6920_3331,
            )),
            ..Connect::to(Authority::address(SocketAddr::new(pod.addresses[0], 8080))?)
        })
    };
    pods.iter().map(of).collect()
}

/// The line of a connection that ended well.
pub(crate) fn log_line(units: Units) -> Result<()> {
    let (log, subscriber) = logging::build("info", LogFormat::Plain, Box::new(std::io::sink()))?;
    tracing::subscriber::set_global_default(subscriber)?;
    let (pods, services) = (Pods::new()?, &Pods::services()?);
    counted(units, &mut |i| {
        let (source, destination) = pods.pair(i);
        let tunnelled_to = SocketAddr::new(destination.addresses[0], 8080);
        let connection = Connection {
            reporter: Reporter::Source,
            source: SocketAddr::new(source.addresses[0], 40_000),
            source_workload: Some(source),
            source_identity: Some(&source.identity),
            destination: SocketAddr::new(destination.addresses[0], 15_008),
            tunnelled_to: Some(&tunnelled_to),
            service: Some(&services[i % services.len()]),
            destination_workload: Some(destination),
            destination_identity: Some(&destination.identity),
        };
        let duration = Duration::from_micros(1_234);
        let outcome = Outcome { request_bytes: 120, response_bytes: 2_500, duration, error: None };
        log.access.completed(&connection, &outcome);
        Ok(())
    })
}

/// The counters of a connection between two pods that have talked before: one of a thousand edges.
pub(crate) fn edge(units: Units) -> Result<()> {
    let metrics = Metrics::build("ztunnel", "0").0;
    let edges = EdgeCache::new(metrics.tcp());
    let pods = Pods::new()?;
    let labels = |i: usize| {
        let (source, destination) = pods.pair(i);
        EdgeLabels {
            reporter: Reporter::Source,
            source: Some(source),
            destination: Some(destination),
            service: None,
            source_identity: Some(&source.identity),
            destination_identity: Some(&destination.identity),
            security: Security::MutualTls,
        }
    };
    let held: Vec<_> = (0..mesh::WORKLOADS).map(|i| edges.edge(&labels(i))).collect();
    counted(units, &mut |i| {
        let edge = edges.edge(&labels(i));
        ensure!(Arc::ptr_eq(&edge, &held[i % held.len()]), "an edge of another connection");
        Ok(())
    })
}

/// Who talks to whom.
struct Pods(Vec<Arc<Workload>>);

impl Pods {
    fn new() -> Result<Self> {
        Ok(Self(mesh::workloads(&*mesh::large()?)?))
    }

    fn services() -> Result<Vec<Arc<Service>>> {
        Ok(mesh::large()?.services().cloned().collect())
    }

    fn pair(&self, i: usize) -> (&Workload, &Workload) {
        (&self.0[i % self.0.len()], &self.0[(i + 1) % self.0.len()])
    }
}
