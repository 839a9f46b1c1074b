//! The world of the labs: the pods of the namespace `market`, its waypoint, and what both tell.
//!
//! Put up when the first lab needs it. A lab is a file of routes that is applied, and taken away when the lab is over; it
//! is in force once the waypoint logs a request under a route whose name begins with that of the lab. Probes ask for a
//! path that servers answer at once and do not count, so that nothing a lab counts is disturbed by them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{cluster::Pod, interrupt::wait_for, process::Process};

use super::calls::{self, Called, Load, Question};
use crate::stage::{CHANGE, Name, READY, Stage, marker, pause};

/// The namespace.
const MARKET: &str = "market";

/// Who calls.
pub(crate) const CLIENT: Name = Name(MARKET, "client");

/// The waypoint.
pub(crate) const WAYPOINT: Name = Name(MARKET, "waypoint");

/// What servers answer with how many requests they had, which are counted without such as this.
const SERVED: &str = "/-/served";

/// Where applications listen in their pods.
const PORT: u16 = 8080;

/// Where a waypoint says whether it is ready.
const READINESS: u16 = 15021;

/// How long the log may be behind an answer.
const LOG: Duration = Duration::from_secs(3);

/// How long a count has to stand still until nothing more is under way.
const STILL: Duration = Duration::from_millis(300);

/// How long a server may take to say its count.
const ANSWER: Duration = Duration::from_secs(5);

macro_rules! example {
    ($file:literal) => {
        ($file, include_str!(concat!("../../../../deploy/examples/traffic/", $file)))
    };
}
pub(super) use example;

/// The manifests before any lab, in the order in which a user would apply them.
const EXAMPLE: [(&str, &str); 10] = [
    example!("10-namespace.yaml"),
    example!("20-waypoint.yaml"),
    example!("30-frontend.yaml"),
    example!("31-customers.yaml"),
    example!("32-ratings.yaml"),
    example!("40-slow.yaml"),
    example!("41-flaky.yaml"),
    example!("42-audit.yaml"),
    example!("43-fragile.yaml"),
    example!("50-client.yaml"),
];

/// A service of the market, by its name and its pods' Deployments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(super) name: &'static str,
    /// The last byte of its address.
    host: u8,
}

pub(super) const FRONTEND: Service = Service { name: "frontend", host: 10 };
pub(crate) const CUSTOMERS: Service = Service { name: "customers", host: 20 };
pub(super) const RATINGS: Service = Service { name: "ratings", host: 30 };
pub(super) const SLOW: Service = Service { name: "slow", host: 40 };
pub(super) const FLAKY: Service = Service { name: "flaky", host: 50 };
pub(super) const FRAGILE: Service = Service { name: "fragile", host: 70 };

impl Service {
    /// Its address, as its manifest has it.
    pub(crate) fn address(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 1, self.host)), 80)
    }
}

/// A lab: the name that its routes begin with, its file, and the service whose routes are in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lab {
    pub(super) name: &'static str,
    pub(super) file: (&'static str, &'static str),
    pub(super) of: Service,
}

/// What the waypoint told of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// The status that the caller got.
    pub(super) status: u16,
    /// Envoy's response flags; `-` for none.
    pub(super) flags: String,
    /// The name of the route.
    pub(super) route: String,
}

impl Told {
    /// Reads a line of the access log. Of its words the three are at fixed places, which no client can move.
    fn read(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once(" HTTP/1.1\" ")?;
        let mut words = rest.split(' ');
        let status = words.next()?.parse().ok()?;
        let flags = words.next()?.to_owned();
        Some(Self { status, flags, route: words.next_back()?.to_owned() })
    }

    /// Whether a flag is set.
    pub(super) fn has(&self, flag: &str) -> bool {
        self.flags.split(',').any(|set| set == flag)
    }
}

/// The market, put up.
#[derive(Debug)]
pub(super) struct Market<'s> {
    stage: &'s mut Stage,
}

impl<'s> Market<'s> {
    /// Puts the market up, where it is not yet, and waits until a call gets from one end of the chain to the other.
    ///
    /// # Errors
    /// Something cannot be started or does not come up in time.
    pub(super) fn open(stage: &'s mut Stage) -> Result<Self> {
        let is_new = stage.replica(CLIENT).is_err();
        if is_new {
            EXAMPLE.iter().try_for_each(|(file, yaml)| stage.apply(file, yaml).map(drop))?;
        }
        let market = Self { stage };
        if is_new {
            market.wait_until_ready()?;
        }
        Ok(market)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let probes = SocketAddr::from((Ipv4Addr::LOCALHOST, READINESS));
        let inside = self.stage.pod(WAYPOINT)?.namespace();
        let ready = wait_for("readiness of the waypoint", READY, || {
            let answer = inside.http_get(probes, "/healthz/ready", ANSWER);
            Ok(matches!(answer, Ok((200, _))).then_some(()))
        });
        ready.with_context(|| self.tail())?;
        wait_for("call along the whole chain", READY, || {
            let call = self.call(FRONTEND, Load::in_turn(1), |_| Question::path("/"))?;
            let described = call.first().and_then(Called::described);
            let end = described.and_then(|it| called(&it)).and_then(|customers| called(&customers));
            Ok(end.map(drop))
        })
        .with_context(|| self.tail())
    }

    /// Applies the file of a lab, does `act` once it is in force, and takes it away again.
    ///
    /// # Errors
    /// It is never in force, or `act` failed.
    pub(super) fn under<T>(&mut self, lab: &Lab, act: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let (file, yaml) = lab.file;
        self.stage.apply(file, yaml)?;
        let of_lab = |route: &str| route.starts_with(lab.name);
        let given = self
            .wait_for_route(lab, &format!("request under the routes of {file}"), of_lab)
            .and_then(|()| act(self));
        self.stage.kubelet.delete(file)?;
        let over =
            || self.wait_for_route(lab, &format!("end of the routes of {file}"), |route| !of_lab(route));
        given.and_then(|given| over().map(|()| given)).with_context(|| self.tail())
    }

    fn wait_for_route(&self, lab: &Lab, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        wait_for(what, CHANGE, || {
            let mark = marker(lab.name)?;
            let probe = Question::path(format!("{SERVED}?{mark}"));
            self.call(lab.of, Load::in_turn(1), |_| probe.clone())?;
            let told = self.told(&mark, 1)?;
            Ok(told.iter().all(|told| wanted(&told.route)).then_some(()))
        })
    }

    /// Calls of the client to a service.
    ///
    /// # Errors
    /// A caller cannot be started.
    pub(super) fn call(
        &self,
        to: Service,
        load: Load,
        ask: impl Fn(usize) -> Question + Sync,
    ) -> Result<Vec<Called>> {
        calls::call(self.stage.pod(CLIENT)?, to.address(), load, ask)
    }

    /// What the waypoint tells of the requests whose path holds `mark`, once there are as many as `lines`.
    ///
    /// # Errors
    /// There are not so many in time.
    pub(super) fn told(&self, mark: &str, lines: usize) -> Result<Vec<Told>> {
        let waypoint = self.waypoint()?;
        wait_for(&format!("{lines} lines of the waypoint's log about {mark}"), LOG, || {
            let told: Vec<_> = waypoint.log_lines(mark)?.iter().filter_map(|line| Told::read(line)).collect();
            Ok((told.len() >= lines).then_some(told))
        })
    }

    /// How many requests a pod has had, itself asked inside of its pod and not through the mesh.
    ///
    /// # Errors
    /// It does not say.
    pub(super) fn served(&self, deployment: &'static str) -> Result<u64> {
        let pod = self.stage.pod(Name(MARKET, deployment))?;
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let (status, body) = pod.namespace().http_get(to, SERVED, ANSWER)?;
        ensure!(status == 200, "{deployment} answers {status} when asked how many requests it had");
        body.trim().parse().with_context(|| format!("{deployment} says {body:?}"))
    }

    /// The same, when nothing more is under way.
    ///
    /// # Errors
    /// As [`Market::served`].
    pub(super) fn settled(&self, deployment: &'static str) -> Result<u64> {
        let mut count = self.served(deployment)?;
        loop {
            pause(STILL)?;
            match self.served(deployment)? {
                same if same == count => return Ok(count),
                more => count = more,
            }
        }
    }

    /// The node of a pod, for what is told of the way a call takes.
    ///
    /// # Errors
    /// There is no such pod.
    pub(super) fn node(&self, deployment: &'static str) -> Result<String> {
        Ok(self.pod(deployment)?.node().name().to_owned())
    }

    /// A pod.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn pod(&self, deployment: &'static str) -> Result<&Pod> {
        self.stage.pod(Name(MARKET, deployment))
    }

    fn waypoint(&self) -> Result<Arc<Process>> {
        self.stage.replica(WAYPOINT)?.waypoint_process().context("the waypoint's pod runs no waypoint")
    }

    /// The end of the waypoint's log, for errors.
    fn tail(&self) -> String {
        self.waypoint().map(|it| it.tail()).unwrap_or_default()
    }
}

/// How the server describes itself that another one called for its answer, where it answered with 200.
pub(super) fn called(by: &harness::report::Described) -> Option<harness::report::Described> {
    serde_json::from_str(by.called.as_ref()?.strip_prefix("200 ")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "[2026-01-02T03:04:05.678Z] \"GET /card?timeout-1 HTTP/1.1\" 504 UT,DI response_timeout - \"-\" 0 24 \
                        1000 - \"-\" \"-\" \"5f0\" \"market\" \"10.244.1.5:8080\" \
                        outbound|80||slow.market.svc.cluster.local - 10.96.1.40:80 10.244.1.2:4000 - timeout";

    #[test]
    fn a_line_gives_status_flags_and_route() {
        let told = Told::read(LINE).unwrap();
        assert_eq!((told.status, told.flags.as_str(), told.route.as_str()), (504, "UT,DI", "timeout"));
        assert!(told.has("UT") && told.has("DI") && !told.has("U") && !told.has("-"));
    }

    #[test]
    fn what_is_no_line_of_a_request_tells_nothing() {
        for line in ["", "2026 info waypoint starts", "[t] \"- - -\" 0 - - -", "[t] \"GET / HTTP/1.1\" soon"]
        {
            assert_eq!(Told::read(line), None, "{line}");
        }
    }

    #[test]
    fn the_addresses_of_services_are_those_of_their_manifests() {
        for service in [FRONTEND, CUSTOMERS, RATINGS, SLOW, FLAKY, FRAGILE] {
            let stated = format!("clusterIP: {}\n", service.address().ip());
            let named = format!("metadata: {{name: {}, namespace: market}}", service.name);
            let files = EXAMPLE.iter().filter(|(_, yaml)| yaml.contains(&named) && yaml.contains(&stated));
            assert_eq!(files.count(), 1, "{service:?}");
        }
    }
}
