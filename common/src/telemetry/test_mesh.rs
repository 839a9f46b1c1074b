//! Workloads and services for the tests of telemetry and of the admin dump.

use std::sync::Arc;

use crate::snapshot::model::{
    Endpoint, Health, Likeness, LoadBalancing, Locality, Service, ServicePort, TunnelProtocol, Workload,
    WorkloadKind,
};
use crate::spiffe::Identity;

/// A pod `<name>-1` of the Deployment `name` in the namespace `shop`.
pub(crate) fn workload(name: &str) -> Workload {
    Workload {
        uid: format!("Kubernetes//Pod/shop/{name}-1").into(),
        incarnation: "0001".into(),
        name: format!("{name}-1").into(),
        addresses: Arc::new(["10.0.0.7".parse().unwrap()]),
        node: "node-a".into(),
        workload_name: name.into(),
        locality: Arc::new(Locality { region: "r1".into(), zone: "z1".into(), subzone: "".into() }),
        health: Health::Healthy,
        netns: None,
        likeness: Arc::new(Likeness {
            identity: Identity::new("cluster.local", "shop", name),
            protocol: TunnelProtocol::Hbone,
            host_network: false,
            canonical_name: name.into(),
            canonical_revision: "v2".into(),
            labels: Default::default(),
            workload_kind: WorkloadKind::Deployment,
            app: "".into(),
            version: "".into(),
            cluster: "Kubernetes".into(),
            enrolment: None,
            probed: Arc::default(),
            waypoint: None,
        }),
    }
}

/// The service `name` in the namespace `shop`, ports 80 to 8080.
pub(crate) fn service(name: &str) -> Service {
    Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: format!("{name}.shop.svc.cluster.local").into(),
        vips: Box::new(["10.96.0.1".parse().unwrap()]),
        ports: Box::new([ServicePort { port: 80, name: "http".into(), app_protocol: "".into() }]),
        load_balancing: LoadBalancing::default(),
        waypoint: None,
        external: None,
    }
}

/// Where `workload` serves.
pub(crate) fn endpoint(workload: Workload) -> Endpoint {
    Endpoint {
        address: workload.addresses[0],
        health: workload.health,
        workload: Some(Arc::new(workload)),
        ports: Arc::new([(80, 8080)]),
        weight: std::num::NonZeroU32::MIN,
    }
}
