//! Waypoints that come and go, and configuration that changes, under 500 requests a second: what clients see of it.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ebb_tests::{
    app::{self, App, gateway},
    counting::Arrivals,
    mesh::{Mesh, SETTLED, eventually},
    multiplexed::Multiplexed,
    paced::{Done, Paced, Plan},
    peer::Server,
};

/// Requests per second, evenly apart.
const RATE: u32 = 500;

/// Further requests per second, all on one HTTP/2 connection.
const MULTIPLEXED: u32 = 50;

/// The backends fail the first arrival of a GET whose number this divides: one in 14 GETs.
const FAILS_ONCE: u64 = 28;

/// The retry budget: how often GETs may be sent beyond once each, by their clients and by the waypoint together, in
/// percent of the GETs. That is Envoy's budget, 20 % of the requests.
const BUDGET_PERCENT: usize = 20;

/// Numbers of requests that only see whether the mesh is there.
const PROBES: u64 = 1_000_000;

/// How long after a kill its clients may not have heard of it.
const CUT: Duration = Duration::from_millis(500);

/// How long one version of the configuration is there.
const CHANGE_EACH: Duration = Duration::from_millis(200);

/// How long the load goes on between two events.
const BETWEEN: Duration = Duration::from_secs(1);

fn vip() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}

fn plan() -> Plan {
    Plan { to: vip(), host: "web", per_second: RATE, clients: 48, first: 0, post_each: 2, fresh_each: 5 }
}

/// A client in `shop`, and the service `web` behind a waypoint of so many replicas. Who serves it is started by the test.
fn mesh(apps: &[App], waypoints: u32) -> Result<Mesh> {
    let mut mesh = Mesh::start()?;
    let web = app::service("web", 10)
        .replace("namespace: shop}", "namespace: shop, labels: {istio.io/use-waypoint: wp}}")
        .replace("name: tcp", "name: http")
        .replace("selector: {app: web}", "selector: {part-of: web}");
    mesh.apply("20-web.yaml", &web)?;
    mesh.apply("21-gateway.yaml", &gateway("wp", "service"))?;
    mesh.run(&[&[App::new("client")], apps].concat())?;
    mesh.run(&[App::new("wp").waypoint("wp").account("waypoint").replicas(waypoints)])?;
    mesh.wait_ready("wp")?;
    Ok(mesh)
}

fn waypoints(mesh: &Mesh) -> BTreeSet<IpAddr> {
    mesh.kubelet().replicas("shop", "wp").iter().flat_map(|it| it.pod().addresses().both()).collect()
}

/// Waits until requests are answered under `config`.
fn in_force(mesh: &Mesh, config: &str) -> Result<()> {
    eventually("the routes to be in force", SETTLED, || {
        let one = Plan { clients: 1, post_each: 0, fresh_each: 1, ..plan() };
        let load = Paced::start(mesh.pod("client")?.namespace(), one)?;
        std::thread::sleep(Duration::from_millis(60));
        let done = load.stop()?;
        let under = |it: &Done| {
            it.answer
                .as_ref()
                .is_ok_and(|answer| answer.status == 200 && answer.header("x-config") == Some(config))
        };
        Ok(!done.is_empty() && done.iter().all(under))
    })
}

fn pause() {
    std::thread::sleep(BETWEEN);
}

// The servers speak HTTP/1.1 alone.
const RETRIES: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec:
  host: web
  trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
    - route: [{destination: {host: web}}]
      headers: {response: {set: {x-config: retries}}}
      retries: {attempts: 3, retryOn: "connect-failure,refused-stream,reset,5xx"}
"#;

#[test]
fn a_waypoint_scaled_and_killed_under_load_costs_no_get_and_repeats_no_post() -> Result<()> {
    let backend = App::new("web").label("part-of", "web").on(1).replicas(2);
    let mut mesh = mesh(&[backend], 3)?;
    let arrivals = Arrivals::default();
    let servers: Vec<Server> = mesh
        .kubelet()
        .replicas("shop", "web")
        .iter()
        .map(|it| arrivals.serve(it.pod(), FAILS_ONCE))
        .collect::<Result<_>>()?;
    mesh.apply("50-routes.yaml", RETRIES)?;
    in_force(&mesh, "retries")?;

    let load = Paced::start(mesh.pod("client")?.namespace(), Plan { first: PROBES, ..plan() })?;
    let multiplexed = Multiplexed::start(mesh.pod("client")?.namespace(), vip(), MULTIPLEXED, 2 * PROBES)?;
    let began = Instant::now();
    pause();
    let first = waypoints(&mesh);
    mesh.kubelet_mut().scale("shop", "wp", 1)?;
    pause();
    mesh.kubelet_mut().scale("shop", "wp", 3)?;
    mesh.wait_ready("wp")?;
    pause();
    // The oldest, which was alone for a while and has most of the kept connections.
    let victim = mesh.replica("wp")?;
    let killed = Instant::now();
    victim.waypoint_process().context("a waypoint has a program")?.kill9()?;
    pause();
    mesh.wait_ready("wp")?;
    pause();
    let lasted = began.elapsed();
    let mut done = load.stop()?;
    let sent = done.len();
    let on_one_connection = multiplexed.stop()?;
    assert!(on_one_connection.len() as f64 >= 0.8 * lasted.as_secs_f64() * f64::from(MULTIPLEXED));
    done.extend(on_one_connection);

    let report = Report::of(&done, &arrivals, killed);
    eprintln!("{} requests in {lasted:?}: {report:#?}", done.len());
    let due = lasted.as_secs_f64() * f64::from(RATE);
    assert!(sent as f64 >= 0.9 * due, "{sent} requests of {due}");
    assert_eq!(report.failed_gets, [""; 0], "every GET succeeds");
    assert_eq!(report.posts_repeated, 0, "no POST arrives twice");
    assert_eq!(report.failed_posts_uncut, [""; 0], "no POST fails but by the kill");
    let under_way = plan().clients + MULTIPLEXED;
    assert!(report.failed_posts_cut.len() <= under_way as usize, "{report:#?}");
    assert!(report.retries > 0, "the waypoint tries again");
    let extra = report.gets_resent + report.retries;
    assert!(extra * 100 <= BUDGET_PERCENT * report.gets, "{extra} of {}", report.gets);
    assert_eq!(report.resent_before_kill, 0, "a waypoint that ends in good order cuts nothing");
    let seen: BTreeSet<IpAddr> = servers.iter().flat_map(Server::accepted).map(|it| it.peer.ip()).collect();
    let of_load = |them: &BTreeSet<IpAddr>| them.intersection(&seen).count();
    assert_eq!(of_load(&first), 3, "all three were used: {seen:?}");
    assert_eq!(of_load(&waypoints(&mesh)), 3, "and all three that came after: {seen:?}");

    a_waypoint_that_falls_silent_is_passed_over(&mesh)?;
    mesh.finish()
}

/// As if its node had lost power: nothing comes back, and the manifests do not know yet.
fn a_waypoint_that_falls_silent_is_passed_over(mesh: &Mesh) -> Result<()> {
    mesh.pod("wp")?.namespace().ip(&["link set eth0 down".into()])?;
    let calls = Plan { per_second: 50, fresh_each: 1, first: 3 * PROBES, ..plan() };
    let load = Paced::start(mesh.pod("client")?.namespace(), calls)?;
    pause();
    let done = load.stop()?;
    let failed: Vec<_> = done.iter().filter(|it| !it.is_ok() || it.resent > 0).collect();
    assert!(failed.is_empty() && done.len() > 40, "of {}: {failed:#?}", done.len());
    let waited = done.iter().filter(|it| it.ended - it.began > BETWEEN).count();
    eprintln!("{} requests, {waited} of which met it", done.len());
    ensure!(waited > 0, "nobody met it, so that nothing was seen");
    Ok(())
}

/// How it went.
#[derive(Debug, Default)]
struct Report {
    gets: usize,
    posts: usize,
    /// On a connection of their own.
    fresh: usize,
    failed_gets: Vec<String>,
    /// Under way when the waypoint was killed.
    failed_posts_cut: Vec<String>,
    failed_posts_uncut: Vec<String>,
    /// By clients, because a connection was cut.
    gets_resent: usize,
    resent_before_kill: usize,
    /// Arrivals beyond those that clients sent.
    retries: usize,
    posts_repeated: usize,
    slowest: Duration,
}

impl Report {
    fn of(done: &[Done], arrivals: &Arrivals, killed: Instant) -> Self {
        let mut report = Self::default();
        for one in done {
            let arrived = arrivals.of(one.number) as usize;
            let failure = || format!("{} after {:?}: {:?}", one.number, one.ended - one.began, one.answer);
            report.fresh += usize::from(one.fresh);
            report.slowest = report.slowest.max(one.ended - one.began);
            if one.post {
                report.posts += 1;
                report.posts_repeated += usize::from(arrived > 1);
                if !one.is_ok() {
                    let was_cut = one.began < killed + CUT && one.ended >= killed;
                    let kind =
                        if was_cut { &mut report.failed_posts_cut } else { &mut report.failed_posts_uncut };
                    kind.push(failure());
                }
            } else {
                report.gets += 1;
                report.gets_resent += one.resent as usize;
                report.resent_before_kill += if one.ended < killed { one.resent as usize } else { 0 };
                report.retries += arrived.saturating_sub(1 + one.resent as usize);
                if !one.is_ok() {
                    report.failed_gets.push(failure());
                }
            }
        }
        report
    }
}

/// Two versions of one file: everything in it is of the one or of the other.
fn version(which: &str, pods: &str) -> String {
    format!(
        r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: web, namespace: shop}}
spec:
  host: web
  subsets:
    - {{name: only-{which}, labels: {{version: {pods}}}}}
    - {{name: both, labels: {{version: {pods}}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: shop}}
spec:
  hosts: [web]
  http:
    - route:
        - {{destination: {{host: web, subset: only-{which}}}, weight: 50}}
        - {{destination: {{host: web, subset: both}}, weight: 50}}
      headers:
        request: {{set: {{x-config: {which}}}}}
        response: {{set: {{x-config: {which}}}}}
      retries: {{attempts: 3, retryOn: "connect-failure,refused-stream,reset,503"}}
"#
    )
}

#[test]
fn a_change_of_configuration_under_load_fails_no_request_and_none_sees_half_of_it() -> Result<()> {
    let of = |name: &str, version: &str| {
        App::new(name)
            .http()
            .label("part-of", "web")
            .label("version", version)
            .on(1)
            .replicas(2)
            .stops_after(1)
    };
    let mut mesh = mesh(&[of("web-v1", "v1"), of("web-v2", "v2")], 1)?;
    mesh.apply("50-routes.yaml", &version("a", "v1"))?;
    in_force(&mesh, "a")?;

    let load = Paced::start(mesh.pod("client")?.namespace(), Plan { post_each: 0, ..plan() })?;
    let began = Instant::now();
    let changing = Changing::start(mesh.manifests());
    for replicas in [3, 1, 3, 2] {
        pause();
        for name in ["web-v1", "web-v2"] {
            mesh.kubelet_mut().scale("shop", name, replicas)?;
        }
    }
    let changes = changing.stop()?;
    let lasted = began.elapsed();
    let done = load.stop()?;

    let mut seen = [("a", "v1", 0), ("b", "v2", 0)];
    let mut wrong = Vec::new();
    for one in &done {
        match whole(one) {
            Ok((config, pods)) => match seen.iter_mut().find(|it| (it.0, it.1) == (&*config, &*pods)) {
                Some((_, _, count)) => *count += 1,
                None => wrong.push(format!("{}: {config} by {pods}", one.number)),
            },
            Err(why) => wrong.push(format!("{} after {:?}: {why:#}", one.number, one.ended - one.began)),
        }
    }
    eprintln!("in {lasted:?}: {} requests, {changes} changes, {seen:?}", done.len());
    assert_eq!(wrong, [""; 0], "{} of {}", wrong.len(), done.len());
    let share = done.len() / 3;
    assert!(seen.iter().all(|(_, _, count)| *count > share), "both were in force: {seen:?}");
    let due = lasted.as_secs_f64() * f64::from(RATE);
    assert!(done.len() as f64 >= 0.9 * due, "{} requests of {due}", done.len());
    mesh.finish()
}

/// Exchanges the one version for the other all the time.
struct Changing {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u32>>,
}

impl Changing {
    /// In a directory of manifests, each time in one step.
    fn start(directory: &Path) -> Self {
        let (directory, stop) = (directory.to_owned(), Arc::<AtomicBool>::default());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut changes = 0;
            while !stopped.load(Ordering::Relaxed) {
                changes += 1;
                let (which, pods) = if changes % 2 == 0 { ("a", "v1") } else { ("b", "v2") };
                let written = directory.join(".50-routes.yaml.changed");
                fs::write(&written, version(which, pods))?;
                fs::rename(&written, directory.join("50-routes.yaml"))?;
                std::thread::sleep(CHANGE_EACH);
            }
            Ok(changes)
        });
        Self { stop, thread }
    }

    /// How many changes there were.
    fn stop(self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("a panic"))?
    }
}

/// Which version a request saw on its way there and back, and the pods it came to.
fn whole(one: &Done) -> Result<(String, String)> {
    let answer = one.answer.as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(one.resent == 0, "it was sent again");
    let seen: harness::report::Described = serde_json::from_str(&answer.body)?;
    let there = seen.headers.get("x-config").context("no header on the way there")?;
    let back = answer.header("x-config").context("no header on the way back")?;
    ensure!(there == back, "{there} on the way there, {back} on the way back");
    Ok((back.to_owned(), seen.version))
}
