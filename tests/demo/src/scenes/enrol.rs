//! Enrolment by one label: nothing restarts, nothing breaks, and the wire carries TLS alone.
//!
//! The connection that is open when the label arrives goes on as it began, in the clear, and says so; it is closed before
//! the wire is searched, since what is claimed is for connections made in the mesh.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use harness::interrupt::wait_for;

use crate::{
    http::{self, Connection},
    screen::{Claim, Facts, Row},
    sight::{Sight, TUNNEL_PORT},
    stage::{
        AMBIENT, Application, CALL, CHANGE, CLIENT, INTRUDER, LABEL, Name, SHOP, Stage, WEB_V1, WEB_V2,
        marker,
    },
};

/// The service `web`, as its manifest has it.
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 80);

/// Calls to the service until both versions have answered; that one is missed by chance is one in a thousand million.
const SERVICE_CALLS_MAX: usize = 32;

struct Enrolled {
    took: Duration,
    applications: (Vec<Application>, Vec<Application>),
    older: Result<String, String>,
    older_server: String,
    path: String,
    status: u16,
    client: IpAddr,
    client_as_seen: IpAddr,
    sight: Sight,
    service: BTreeSet<String>,
}

/// Labels the namespace under an open connection, then makes the call of the first scene again.
pub(super) fn play(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mut older = Connection::open(stage.pod(CLIENT)?, stage.server(WEB_V2)?, CALL)?;
    let older_server = older.get("/")?.described()?.name;
    let before = stage.applications()?;
    let took = label(stage)?;
    let older = older.get("/").and_then(|reply| Ok(reply.described()?.name));

    stage.watch_wire()?;
    let marker = marker("card")?;
    let path = format!("/checkout?number={marker}");
    let reply = stage.call(CLIENT, WEB_V2, &path)?;
    let described = reply.described()?;
    Ok(Box::new(Enrolled {
        took,
        applications: (before, stage.applications()?),
        older: older.map_err(|error| format!("{error:#}")),
        older_server,
        path,
        status: reply.status,
        client: stage.address(CLIENT)?,
        client_as_seen: described.peer.ip(),
        sight: stage.sight(&marker)?,
        service: call_service(stage)?,
    }))
}

/// Sets the label and waits until every pod of the namespace is served by its node's ztunnel.
pub(super) fn label(stage: &mut Stage) -> Result<Duration> {
    let start = Instant::now();
    stage.kubelet.label_namespace(SHOP, LABEL, Some(AMBIENT))?;
    let pods =
        [CLIENT, INTRUDER, WEB_V1, WEB_V2].map(|name| stage.replica(name).map(|it| it.name().to_owned()));
    let pods = pods.into_iter().collect::<Result<BTreeSet<_>>>()?;
    wait_for("enrolment of every pod of the namespace", CHANGE, || {
        let mut served = BTreeSet::new();
        for ztunnel in &stage.ztunnels {
            let dump = ztunnel.config_dump()?;
            let states = dump["workloadState"].as_object().into_iter().flat_map(|states| states.values());
            served.extend(states.filter_map(|state| state["info"]["name"].as_str()).map(str::to_owned));
        }
        Ok(pods.is_subset(&served).then(|| start.elapsed()))
    })
}

/// Which deployments answer at the service's address.
fn call_service(stage: &Stage) -> Result<BTreeSet<String>> {
    let mut answered = BTreeSet::new();
    for _ in 0..SERVICE_CALLS_MAX {
        let reply = http::get(stage.pod(CLIENT)?, SERVICE, "/", CALL)?;
        ensure!(reply.status == 200, "the service answered {}", reply.status);
        let name = reply.described()?.name;
        let Name(_, version) = if name.starts_with(WEB_V1.1) { WEB_V1 } else { WEB_V2 };
        answered.insert(version.to_owned());
        if answered.len() == 2 {
            break;
        }
    }
    Ok(answered)
}

impl Facts for Enrolled {
    fn rows(&self) -> Vec<Row> {
        let (before, after) = &self.applications;
        let mut rows = vec![
            Row::fact("namespace shop", format!("labelled {LABEL}={AMBIENT}")),
            Row::fact("every pod in the mesh", format!("after {} ms", self.took.as_millis())),
        ];
        for old in before {
            let now = after.iter().find(|new| new.pod == old.pod);
            let now = match now {
                Some(now) if now == old => "and still the same".to_owned(),
                Some(now) => format!("now {}", process(now)),
                None => "now gone".to_owned(),
            };
            rows.push(Row::fact(&old.pod, format!("{}, {now}", process(old))));
        }
        let older = match &self.older {
            Ok(name) => format!("200 from {name}, in the clear as it began"),
            Err(error) => error.clone(),
        };
        rows.extend([
            Row::fact("connection opened before", older),
            Row::fact("client calls web-v2", format!("GET {}", self.path)),
            Row::fact("answer", format!("{}, the server saw {}", self.status, self.client_as_seen)),
            Row::fact("read between the nodes", self.sight.read()),
            Row::fact("packets there", self.sight.by_port()),
            Row::fact(
                format!("TLS on port {TUNNEL_PORT}"),
                format!("{} handshake records, {} of data", self.sight.tls.handshake, self.sight.tls.data),
            ),
            Row::fact(
                format!("service {SERVICE}"),
                format!("answered by {}", self.service.iter().cloned().collect::<Vec<_>>().join(" and ")),
            ),
        ]);
        rows
    }

    fn claims(&self) -> Vec<Claim> {
        let (before, after) = &self.applications;
        let sealed = self.sight.is_sealed();
        let tls = self.sight.packets(TUNNEL_PORT) > 0 && self.sight.tls.data > 0;
        vec![
            Claim::new(
                "no application was restarted: same processes, same start",
                !before.is_empty() && before == after,
            ),
            Claim::new(
                "a connection opened before the label went on working",
                self.older.as_ref() == Ok(&self.older_server),
            ),
            Claim::new(
                "the same call succeeds, and is nowhere readable on the wire",
                self.status == 200 && sealed,
            ),
            Claim::new(format!("what the wire carried was TLS on port {TUNNEL_PORT}"), tls),
            Claim::new("the server still saw the client's own address", self.client == self.client_as_seen),
            Claim::new("the service's address leads to both versions", self.service.len() == 2),
        ]
    }
}

/// Process id and start, in seconds after boot (the kernel reports hundredths, `sysconf(_SC_CLK_TCK)` on Linux).
fn process(application: &Application) -> String {
    let (pid, started) = (application.id.pid, application.id.started);
    format!("pid {pid}, started {}.{:02} s after boot", started / 100, started % 100)
}

#[cfg(test)]
mod tests {
    use harness::run::ProcessId;

    use super::*;
    use crate::sight::Tls;

    fn facts() -> Enrolled {
        let apps = vec![Application { pod: "web-v1-x".into(), id: ProcessId { pid: 7, started: 1234 } }];
        Enrolled {
            took: Duration::from_millis(80),
            applications: (apps.clone(), apps),
            older: Ok("web-v2-x".into()),
            older_server: "web-v2-x".into(),
            path: "/checkout?number=card-1".into(),
            status: 200,
            client: "10.244.1.2".parse().unwrap(),
            client_as_seen: "10.244.1.2".parse().unwrap(),
            sight: Sight {
                ports: [(15008, 12)].into(),
                tls: Tls { handshake: 2, data: 4 },
                ..Sight::default()
            },
            service: ["web-v1".into(), "web-v2".into()].into(),
        }
    }

    fn failing(change: impl FnOnce(&mut Enrolled)) -> Vec<usize> {
        let mut facts = facts();
        change(&mut facts);
        let claims = facts.claims();
        claims.iter().enumerate().filter(|(_, claim)| !claim.holds).map(|(at, _)| at).collect()
    }

    #[test]
    fn sealed_traffic_and_living_applications_bear_out_every_claim() {
        assert!(failing(|_| {}).is_empty());
    }

    #[test]
    fn each_claim_fails_with_its_fact() {
        assert_eq!(failing(|facts| facts.applications.1[0].id.started += 1), [0]);
        assert_eq!(failing(|facts| facts.older = Err("reset".into())), [1]);
        assert_eq!(failing(|facts| facts.sight.readable = true), [2]);
        assert_eq!(failing(|facts| _ = facts.sight.ports.insert(8080, 1)), [2]);
        assert_eq!(failing(|facts| facts.sight.tls.data = 0), [3]);
        assert_eq!(failing(|facts| facts.client_as_seen = "10.244.2.1".parse().unwrap()), [4]);
        assert_eq!(failing(|facts| _ = facts.service.pop_first()), [5]);
    }

    #[test]
    fn a_wire_without_packets_proves_nothing() {
        assert_eq!(failing(|facts| facts.sight = Sight::default()), [3]);
    }
}
