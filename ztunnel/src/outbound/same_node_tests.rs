//! When a connection may do without a tunnel, who is believed then, and how its end is told.

use std::sync::atomic::AtomicUsize;

use common::certs::{EmbeddedCa, StoreSettings};
use common::net::kill::{Kill, kill_switch};
use common::snapshot::Snapshot;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustls::time_provider::DefaultTimeProvider;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::outbound::route::route;
use crate::testing::{GATEWAY, WAYPOINT_POD, behind_waypoint, flow, mesh, pod};

const CLIENT: &str = "10.0.0.2:40000";

fn hop(mesh: &Snapshot, flow: &Flow) -> NextHop {
    route(mesh, flow, |_| 0, &mut SmallRng::seed_from_u64(1)).expect("it is routed")
}

/// A pod like that one, but for what is changed.
fn like(pod: &Pod, change: impl FnOnce(&mut Pod)) -> Arc<Pod> {
    let mut other = Pod {
        uid: pod.uid.clone(),
        incarnation: pod.incarnation.clone(),
        identity: pod.identity.clone(),
        addresses: pod.addresses.clone(),
        listeners: pod.listeners.clone(),
        netns: pod.netns.clone(),
        closing: CancellationToken::new(),
        gone: CancellationToken::new(),
        open: AtomicUsize::new(0),
    };
    change(&mut other);
    Arc::new(other)
}

/// How the call of `client` from `from` to `original` arrives at `web`, as `served`; `None` where it is tunnelled.
fn arrives(from: &str, original: &str, served: impl FnOnce(&Arc<Pod>) -> Option<Arc<Pod>>) -> Option<Flow> {
    let mesh = mesh("");
    let (client, web) = (pod(&mesh, "client"), pod(&mesh, "web"));
    let flow = flow(&client, from, original);
    neighbour(&flow, &hop(&mesh, &flow), |uid| served(&web).filter(|pod| *pod.uid == *uid))
}

#[test]
fn a_call_to_a_pod_that_is_served_here_arrives_as_its_tunnel_would() {
    for (from, original, client, tunnel) in [
        (CLIENT, "10.0.0.3:8080", CLIENT, "10.0.0.3:15008"),
        (CLIENT, "10.96.0.10:80", CLIENT, "10.0.0.3:15008"),
        ("[fd00::2]:40000", "[fd00::3]:8080", "[fd00::2]:40000", "[fd00::3]:15008"),
    ] {
        let arrived = arrives(from, original, |web| Some(web.clone())).expect("no tunnel is needed");
        assert_eq!(
            (arrived.client.to_string(), arrived.original.to_string()),
            (client.into(), tunnel.into())
        );
        assert!(arrived.pod.uid.ends_with("web"));
    }
}

#[test]
fn what_is_not_the_very_pod_that_was_chosen_is_tunnelled_to() {
    type Change = fn(&mut Pod);
    let others: [(&str, Change); 6] = [
        ("another incarnation", |pod| pod.incarnation = "u9".into()),
        ("another uid", |pod| pod.uid = "Kubernetes//Pod/shop/other".into()),
        ("another identity", |pod| pod.identity = Identity::new("cluster.local", "shop", "other")),
        ("other addresses", |pod| pod.addresses = Arc::new([[10, 0, 0, 7].into()])),
        ("one that closes", |pod| pod.closing.cancel()),
        ("one that is gone", |pod| pod.gone.cancel()),
    ];
    for (what, change) in others {
        assert!(arrives(CLIENT, "10.0.0.3:8080", |web| Some(like(web, change))).is_none(), "{what}");
    }
    assert!(arrives(CLIENT, "10.0.0.3:8080", |_| None).is_none(), "one of another node");
}

#[test]
fn only_a_tunnel_to_a_pod_is_done_without() {
    let waypoint = behind_waypoint("all") + WAYPOINT_POD;
    assert!(waypoint.contains("wp") && GATEWAY.contains("wp"));
    for (more, original, kind) in [
        (waypoint.as_str(), "10.0.0.3:8080", "waypoint"),
        ("", "10.0.0.4:80", "plain"),
        ("", "10.0.0.2:80", "local"),
    ] {
        let mesh = mesh(more);
        let flow = flow(&pod(&mesh, "client"), CLIENT, original);
        let hop = hop(&mesh, &flow);
        assert!(!matches!(hop, NextHop::Tunnel { .. }), "{kind}: {hop:?}");
        let anybody = |uid: &str| Some(pod(&mesh, uid.rsplit('/').next()?));
        assert!(neighbour(&flow, &hop, anybody).is_none(), "{kind}");
    }
}

#[test]
fn where_the_kernel_would_choose_the_address_it_is_tunnelled() {
    let with = |addresses: &[[u8; 4]], client: &str, peer: &str| {
        let mesh = mesh("");
        let client_pod = like(&pod(&mesh, "client"), |pod| {
            let v4 = addresses.iter().map(|ip| IpAddr::from(*ip));
            pod.addresses = v4.chain(["fd00::2".parse().unwrap()]).collect();
        });
        let flow = flow(&client_pod, client, "10.0.0.3:80");
        tunnel_address(&flow, peer.parse().unwrap()).map(|ip| ip.to_string())
    };
    let (one, two) = ([[10, 0, 0, 2]], [[10, 0, 0, 2], [10, 1, 0, 2]]);
    assert_eq!(with(&one, CLIENT, "10.0.0.3").as_deref(), Some("10.0.0.2"));
    assert_eq!(with(&two, "10.1.0.2:4", "10.0.0.3").as_deref(), Some("10.1.0.2"), "the socket's own");
    assert_eq!(with(&one, "[fd00::2]:4", "10.0.0.3").as_deref(), Some("10.0.0.2"), "the only one");
    assert_eq!(with(&two, "[fd00::2]:4", "10.0.0.3"), None, "either of two");
    assert_eq!(with(&one, "192.168.9.9:4", "10.0.0.3"), None, "one that the mesh does not know");
}

fn id(name: &str) -> Identity {
    Identity::new("cluster.local", "shop", name)
}

/// A store that supplies these, with an authority of its own.
fn store(directory: &std::path::Path, wanted: &[&str]) -> CertStore {
    let clock = Arc::new(DefaultTimeProvider);
    let ca = EmbeddedCa::open_or_create(directory, "cluster.local".into(), clock).unwrap();
    let store = CertStore::new(Arc::new(ca), StoreSettings::new(Handle::current()));
    wanted.iter().for_each(|name| store.want(&id(name)).unwrap());
    store
}

#[tokio::test]
async fn who_calls_is_proved_by_certificates_that_both_have_now() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), &["client", "web"]);
    let (client, web) = (id("client"), id("web"));
    let known = SameNode::default();
    assert_eq!(known.proved(&store, &client, &web), None, "there is none yet, and none is waited for");
    store.get(&client).await.unwrap();
    let first = store.get(&web).await.unwrap();
    assert_eq!(known.proved(&store, &client, &web), Some(client.clone()));
    assert_eq!(known.proved(&store, &client, &id("nobody")), None);
    assert_eq!(lock(&known.proofs).len(), 1);

    // Another certificate of the same identity is judged anew, and so is one that was judged long ago.
    store.forget(&web);
    assert_eq!(known.proved(&store, &client, &web), None, "it has none any more");
    store.want(&web).unwrap();
    let (ours, second) = (store.get(&client).await.unwrap(), store.get(&web).await.unwrap());
    let now = Instant::now();
    let proof = || lock(&known.proofs).remove(&(client.clone(), web.clone())).unwrap();
    assert!(!proof().is_of(&ours, &second, now));
    assert_eq!(known.proved(&store, &client, &web), Some(client.clone()));
    let proof = proof();
    assert!(proof.is_of(&ours, &second, now) && !proof.is_of(&ours, &first, now));
    assert!(!proof.is_of(&ours, &second, now + PROOF_LIFE + Duration::from_secs(1)));
}

#[tokio::test]
async fn certificates_of_another_mesh_prove_nothing_to_either_side() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ours, theirs) = (store(ours.path(), &["client", "web"]), store(theirs.path(), &["client", "web"]));
    let (client, web) = (ours.get(&id("client")).await.unwrap(), ours.get(&id("web")).await.unwrap());
    let (stranger, other) = (theirs.get(&id("client")).await.unwrap(), theirs.get(&id("web")).await.unwrap());
    assert!(accept_each_other(&client, &web) && accept_each_other(&stranger, &other));
    assert!(!accept_each_other(&stranger, &web));
    assert!(!accept_each_other(&client, &other));
}

#[tokio::test]
async fn what_a_worker_knows_is_bounded_and_goes_with_the_pods() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), &["client", "web"]);
    store.get(&id("client")).await.unwrap();
    store.get(&id("web")).await.unwrap();
    let known = SameNode::default();
    for n in 0..MAX_PROOFS {
        let proof = Proof { certificates: (Weak::new(), Weak::new()), at: Instant::now() };
        lock(&known.proofs).insert((id(&n.to_string()), id("web")), proof);
    }
    assert!(known.proved(&store, &id("client"), &id("web")).is_some());
    assert!(lock(&known.proofs).len() <= MAX_PROOFS);

    let mesh = mesh("");
    let (client, web) = (pod(&mesh, "client"), pod(&mesh, "web"));
    known.serve(&client);
    known.serve(&web);
    web.gone.cancel();
    known.forget();
    assert!(known.pod(&client.uid).is_some() && known.pod(&web.uid).is_none());
}

#[test]
fn each_side_is_told_of_an_end_what_a_tunnel_would_have_told_it() {
    let switches = || (kill_switch(), kill_switch());
    let seen = |end: &End, thrown: fn(&Kill, &Kill)| {
        let ((caller, at_caller), (called, at_called)) = switches();
        thrown(&caller, &called);
        Both { caller: &at_caller, called: &at_called }.seen(end.clone())
    };
    let stream = |code| End::FarReset(FarReset::Stream(code));
    let reset = std::io::ErrorKind::ConnectionReset;
    assert_eq!(seen(&End::Closed, |_, _| {}), (End::Closed, End::Closed));
    assert_eq!(seen(&End::NearReset(reset), |_, _| {}), (End::NearReset(reset), stream(CONNECT_ERROR)));
    let tcp = End::FarReset(FarReset::Tcp(reset));
    assert_eq!(seen(&tcp, |_, _| {}), (stream(CONNECT_ERROR), End::NearReset(reset)));

    let policy = Refusal::DeniedByPolicy("shop/p".into());
    let denied = End::Killed(policy);
    let by_policy = |_: &Kill, called: &Kill| called.kill(Refusal::DeniedByPolicy("shop/p".into()));
    assert_eq!(seen(&denied, by_policy), (stream(CANCEL), denied.clone()));
    let (gone, lost) = (End::Killed(Refusal::PodGone), End::FarReset(FarReset::TunnelLost));
    assert_eq!(seen(&gone, |_, called| called.kill(Refusal::PodGone)), (lost.clone(), gone.clone()));
    assert_eq!(seen(&gone, |caller, _| caller.kill(Refusal::PodGone)), (gone, lost));
    let draining = End::Killed(Refusal::Draining);
    let both = |caller: &Kill, called: &Kill| {
        caller.kill(Refusal::Draining);
        called.kill(Refusal::Draining);
    };
    assert_eq!(seen(&draining, both), (draining.clone(), draining));
}
