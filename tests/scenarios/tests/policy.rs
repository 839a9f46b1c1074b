//! What happens to open connections while configuration changes around them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::lifecycle::drain::{DrainGuard, Drained};
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::spiffe::Identity;
use ebb_scenarios::seeds;
use ebb_scenarios::staff::Staff;
use ebb_scenarios::world::{SHOP, World, from, pod, policy};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::timeout;
use ztunnel::inbound::admit::{Admission, judge};
use ztunnel::live::{Direction, Entry, Protocol, Registration};
use ztunnel::pods::Pod;

/// Within this time of simulated time a policy has taken effect on what is open.
const EFFECT: Duration = Duration::from_secs(1);

fn world() -> World {
    let mut world = World::default();
    world.write("mesh.yaml", &(SHOP.to_owned() + &pod("client", "10.0.0.2", "client", "u1")));
    world.write("web.yaml", &pod("web", "10.0.0.3", "web", "u2"));
    world
}

/// An admitted connection.
struct Open {
    pod: Arc<Pod>,
    admission: Admission,
    entered: Registration,
    /// A drain waits for it, as for all that came in by a door.
    _awaited: DrainGuard,
    /// A snapshot since it was opened would not have admitted it, or its pod went away.
    refused: bool,
}

impl Open {
    /// Opens as the inbound path does: judged and entered without an await in between.
    fn try_new(staff: &Staff, pod: &Arc<Pod>, account: Option<&str>) -> Result<Self, Refusal> {
        let mesh = staff.worker.mesh.current();
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address and a port");
        let admission = Admission {
            target: address("10.0.0.3:8080"),
            client: address("10.0.0.2:40000"),
            identity: account.map(|account| Identity::new("cluster.local", "shop", account)),
            by_way_of: None,
        };
        judge(&mesh, pod, &admission)?;
        let entry = Entry {
            pod: pod.clone(),
            direction: Direction::Inbound,
            protocol: if account.is_some() { Protocol::Hbone } else { Protocol::Tcp },
            source: admission.client,
            original: admission.target,
            server: admission.target,
            admission: Some(admission.clone()),
        };
        let entered = staff.worker.live.enter(entry)?;
        let awaited = staff.worker.drain.guard();
        Ok(Self { pod: pod.clone(), admission, entered, refused: false, _awaited: awaited })
    }

    fn allowed(&self, mesh: &Snapshot) -> Result<(), Refusal> {
        judge(mesh, &self.pod, &self.admission)
    }

    async fn ended(&self) -> Option<Refusal> {
        timeout(Duration::ZERO, self.entered.killed.wait()).await.ok()
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_policy_ends_within_a_second_what_it_no_longer_allows_and_nothing_else() {
    let mut world = world();
    let staff = Staff::start(world.reader()).unwrap();
    let web = world.pod("web");
    let open = |account| Open::try_new(&staff, &web, account).unwrap();
    let (client, other, plain) = (open(Some("client")), open(Some("other")), open(None));
    world.write("policy.yaml", &policy("p", "DENY", &from("client")));
    let why = timeout(EFFECT, client.entered.killed.wait()).await.expect("still open a second later");
    assert_eq!(why, Refusal::DeniedByPolicy("shop/p".into()));
    assert!(timeout(Duration::from_secs(60), other.entered.killed.wait()).await.is_err());
    world.write("policy.yaml", &policy("p", "ALLOW", &from("other")));
    assert_eq!(
        timeout(EFFECT, plain.entered.killed.wait()).await,
        Ok(Refusal::NoAllowPolicyMatched("shop/p".into()))
    );
    assert!(timeout(Duration::from_secs(60), other.entered.killed.wait()).await.is_err());
    world.write("policy.yaml", &policy("p", "ALLOW", "{form: []}"));
    assert_eq!(
        timeout(EFFECT, other.entered.killed.wait()).await,
        Ok(Refusal::PolicyUnknown("AuthorizationPolicy shop/p".into()))
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_away_takes_its_connections_along_and_no_others() {
    let mut world = world();
    let staff = Staff::start(world.reader()).unwrap();
    let (web, client) = (world.pod("web"), world.pod("client"));
    staff.serve(&web).unwrap();
    staff.serve(&client).unwrap();
    let (to_web, to_client) =
        (Open::try_new(&staff, &web, None).unwrap(), Open::try_new(&staff, &client, None).unwrap());
    world.write("web.yaml", "");
    assert_eq!(timeout(EFFECT, to_web.entered.killed.wait()).await, Ok(Refusal::UnknownWorkload));
    client.gone.cancel();
    assert_eq!(timeout(EFFECT, to_client.entered.killed.wait()).await, Ok(Refusal::PodGone));
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_what_is_open_and_ends_the_rest_at_its_deadline() {
    let world = world();
    let staff = Staff::start(world.reader()).unwrap();
    let web = world.pod("web");
    let (short, long) =
        (Open::try_new(&staff, &web, None).unwrap(), Open::try_new(&staff, &web, Some("client")).unwrap());
    let finishing = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let undisturbed = short.ended().await.is_none();
        drop(short);
        undisturbed
    });
    let drained = staff.trigger.drain(Duration::from_secs(5)).await;
    assert_eq!(drained, Drained::DeadlinePassed { left: 1 });
    assert!(finishing.await.unwrap(), "a connection was ended before the deadline");
    assert_eq!(long.ended().await, None);
    staff.end.cancel();
    assert_eq!(timeout(EFFECT, long.entered.killed.wait()).await, Ok(Refusal::Draining));
    timeout(EFFECT, staff.running).await.unwrap().unwrap();
}

/// What `policy.yaml` may say.
fn policies() -> Vec<String> {
    vec![
        String::new(),
        policy("p", "ALLOW", &from("client")),
        policy("p", "ALLOW", &from("other")),
        policy("p", "DENY", &from("client")),
        policy("p", "DENY", "{}"),
        policy("p", "ALLOW", "{}") + &policy("q", "DENY", &from("other")),
        policy("p", "ALLOW", "{form: []}"),
        "---\napiVersion: security.istio.io/v1\nkind: [".to_owned(),
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: d, namespace: shop}\n\
         spec: {mtls: {mode: STRICT}}\n"
            .to_owned(),
    ]
}

#[test]
fn whatever_happens_in_whatever_order_an_open_connection_is_one_that_is_allowed() {
    seeds::each(300, |mut rng| async move {
        let mut world = world();
        let staff = Staff::start(world.reader()).unwrap();
        let (mut web, mut incarnation) = (world.pod("web"), 2);
        staff.serve(&web).unwrap();
        let mut open: Vec<Open> = Vec::new();
        for _ in 0..40 {
            step(&mut rng, &mut world, &staff, (&mut web, &mut incarnation), &mut open);
            if rng.random_bool(0.3) {
                tokio::task::yield_now().await;
            }
            if rng.random_bool(0.3) {
                tokio::time::sleep(EFFECT).await;
                settled(&world, &staff, &open).await;
            }
        }
        tokio::time::sleep(EFFECT).await;
        settled(&world, &staff, &open).await;
        drop(open);
        web.closing.cancel();
        web.gone.cancel();
        tokio::time::sleep(EFFECT).await;
        assert_eq!((staff.trigger.live(), web.open.load(std::sync::atomic::Ordering::Relaxed)), (0, 0));
    });
}

/// One event: a policy, a label, another incarnation, a connection, the end of one.
fn step(
    rng: &mut StdRng,
    world: &mut World,
    staff: &Staff,
    (web, incarnation): (&mut Arc<Pod>, &mut u32),
    open: &mut Vec<Open>,
) {
    let account = [Some("client"), Some("other"), None];
    let now = match rng.random_range(0..10) {
        0..3 => world.write("policy.yaml", policies().choose(rng).expect("there are some")),
        3 => {
            let app = if rng.random() { "web" } else { "else" };
            world.write("web.yaml", &pod("web", "10.0.0.3", app, &format!("u{incarnation}")))
        }
        4 => {
            // As the agent of pods does when it finds another incarnation: what the old one had ends.
            *incarnation += 1;
            let now = world.write("web.yaml", &pod("web", "10.0.0.3", "web", &format!("u{incarnation}")));
            web.closing.cancel();
            web.gone.cancel();
            open.iter_mut().for_each(|it| it.refused = true);
            *web = world.pod("web");
            staff.serve(web).expect("a socket can be opened");
            now
        }
        5 if !open.is_empty() => {
            open.swap_remove(rng.random_range(0..open.len()));
            return;
        }
        _ => {
            open.extend(Open::try_new(staff, web, *account.choose(rng).expect("there are some")));
            return;
        }
    };
    open.iter_mut().for_each(|it| it.refused |= it.allowed(&now).is_err());
}

async fn settled(world: &World, staff: &Staff, open: &[Open]) {
    let mut entries = 0;
    staff.worker.live.for_each(|_| entries += 1);
    assert_eq!(entries, open.len(), "entries of connections that are over, or none of some that are open");
    for connection in open {
        match (connection.ended().await, connection.allowed(&world.now())) {
            (None, verdict) => assert_eq!(verdict, Ok(()), "open, though not allowed"),
            (Some(why), _) => assert!(connection.refused, "ended for no reason: {why}"),
        }
    }
}
