use std::net::SocketAddr;

use super::{Desk, NoUpstream, PickFacts, facts, last, pod, policy_of_web, service, web};

fn simple(algorithm: &str) -> String {
    policy_of_web(&format!("loadBalancer: {{simple: {algorithm}}}"))
}

#[test]
fn requests_under_way_are_counted_until_they_end() {
    let mut desk = Desk::new(&web(1));
    let cluster = desk.web();
    let one = desk.pick(&cluster).unwrap().attempt;
    let other = desk.pick(&cluster).unwrap().attempt;
    let endpoint = cluster.endpoints()[0].clone();
    assert_eq!(endpoint.active(), 2);
    desk.write("mesh.yaml", &web(2));
    assert_eq!(cluster.endpoints()[0].active(), 2, "through a rebuild");
    drop(one);
    drop(other);
    assert_eq!(endpoint.active(), 0);
    let connection = endpoint.connected();
    assert_eq!(endpoint.connections(), 1);
    drop(connection);
    assert_eq!(endpoint.connections(), 0);
}

#[test]
fn the_less_busy_of_two_is_taken_whichever_worker_asks() {
    let mut desk = Desk::new(&web(2));
    let cluster = desk.web();
    let mut held = Vec::new();
    for _ in 0..100 {
        // Each request by a worker that has never seen the cluster.
        desk.pickers = Default::default();
        held.push(desk.pick(&cluster).unwrap());
    }
    let active: Vec<u32> = cluster.endpoints().iter().map(|it| it.active()).collect();
    assert_eq!(active, [50, 50]);
}

#[test]
fn round_robin_asks_each_in_turn() {
    let mut desk = Desk::new(&(web(4) + &simple("ROUND_ROBIN")));
    let cluster = desk.web();
    let round: Vec<u8> = (0..4).map(|_| last(desk.pick(&cluster).unwrap().address)).collect();
    let mut each = round.clone();
    each.sort_unstable();
    assert_eq!(each, [1, 2, 3, 4]);
    for _ in 0..10 {
        let next: Vec<u8> = (0..4).map(|_| last(desk.pick(&cluster).unwrap().address)).collect();
        assert_eq!(next, round);
    }
}

#[test]
fn chance_gives_each_its_part() {
    let mut desk = Desk::new(&(web(4) + &simple("RANDOM")));
    let cluster = desk.web();
    let tally = desk.tally(&cluster, 4000);
    assert!(tally.values().all(|it| (850..1150).contains(it)), "{tally:?}");
}

#[test]
fn an_endpoint_that_was_tried_is_avoided_while_there_is_another() {
    for algorithm in ["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"] {
        let mut desk = Desk::new(&(web(2) + &simple(algorithm)));
        let cluster = desk.web();
        let tried: [SocketAddr; 1] = ["10.0.0.1:8080".parse().unwrap()];
        let again = |desk: &mut Desk| {
            let picks =
                (0..200).map(|_| desk.pick_by(&cluster, PickFacts { tried: &tried, ..facts() }).unwrap());
            picks.filter(|it| it.address == tried[0]).count()
        };
        // By chance six draws in a row hit the one that was tried about three times in 200.
        assert!(again(&mut desk) <= 15, "{algorithm}");
        desk.write("mesh.yaml", &(web(1) + &simple(algorithm)));
        assert_eq!(again(&mut desk), 200, "{algorithm}: there is no other");
    }
}

#[test]
fn an_endpoint_that_fails_at_once_and_is_never_busy_does_not_get_every_try() {
    let mut desk = Desk::new(&(web(3) + &simple("LEAST_REQUEST")));
    let cluster = desk.web();
    // Two that are idle, because they turn everything away, and one that has the work of all.
    let tried: [SocketAddr; 2] = ["10.0.0.1:8080".parse().unwrap(), "10.0.0.2:8080".parse().unwrap()];
    let mut under_way = Vec::new();
    while under_way.len() < 20 {
        let picked = desk.pick_by(&cluster, PickFacts { tried: &tried, ..facts() }).unwrap();
        under_way.extend((picked.address == "10.0.0.3:8080".parse().unwrap()).then_some(picked));
    }
    let picks = (0..200).map(|_| desk.pick_by(&cluster, PickFacts { tried: &tried, ..facts() }).unwrap());
    let others = picks.filter(|it| tried.contains(&it.address)).count();
    // Of three pairs one has both; six draws in a row are that one three times in 2000.
    assert!(others <= 5, "{others}");
}

#[test]
fn passthrough_goes_to_the_endpoint_that_was_called() {
    let mut desk = Desk::new(&(web(3) + &simple("PASSTHROUGH")));
    let cluster = desk.web();
    let mut called = |original: &str| {
        let original: SocketAddr = original.parse().unwrap();
        desk.pick_by(&cluster, PickFacts { original, ..facts() }).map(|it| last(it.address))
    };
    for n in 1..=3 {
        assert_eq!(called(&format!("10.0.0.{n}:8080")), Ok(n));
        assert_eq!(called(&format!("[::ffff:10.0.0.{n}]:8080")), Ok(n));
    }
    assert_eq!(called("10.0.0.4:8080"), Err(NoUpstream::NoHealthy), "not one of the service's");
    assert_eq!(called("10.0.0.1:22"), Err(NoUpstream::NoHealthy), "not a port of the service's");
    assert!(called("10.96.0.1:80").is_ok(), "the service's own address: any endpoint");
}

#[test]
fn a_new_endpoint_gets_less_until_it_is_warm_and_the_old_ones_are_not_new_for_a_rebuild() {
    for algorithm in ["LEAST_REQUEST", "ROUND_ROBIN"] {
        let warmup =
            format!("loadBalancer: {{simple: {algorithm}, warmup: {{duration: 100s, minimumPercent: 10}}}}");
        let mesh = |pods: u8| web(pods) + &policy_of_web(&warmup);
        let mut desk = Desk::new(&mesh(3));
        let cluster = desk.web();
        desk.pass(200);
        let even = desk.tally(&cluster, 3000);
        assert!(even.values().all(|it| (850..1150).contains(it)), "{algorithm}, all warm: {even:?}");
        desk.write("mesh.yaml", &mesh(4));
        for (after, weight) in [(0, 0.1), (30, 0.3), (30, 0.6), (40, 1.0)] {
            desk.pass(after);
            let tally = desk.tally(&cluster, 4000);
            let (found, expected) = (tally[&4] as f64, 4000.0 * weight / (3.0 + weight));
            assert!((found - expected).abs() < 0.2 * expected, "{algorithm}, weight {weight}: {tally:?}");
        }
    }
}

#[test]
fn a_destination_without_endpoints_gets_some_when_they_come() {
    let mut desk = Desk::new(&service("web"));
    let cluster = desk.web();
    assert_eq!(desk.pick(&cluster).unwrap_err(), NoUpstream::NoHealthy);
    desk.write("pods.yaml", &pod(9, "v1"));
    assert_eq!(desk.seen(&cluster), [9]);
}

#[test]
fn a_worker_forgets_the_turns_of_clusters_that_are_gone() {
    let mut desk = Desk::new(&web(1));
    for n in 0..500 {
        desk.write("mesh.yaml", &(service(&format!("s{n}")) + &pod(1, "v1")));
        let cluster = desk.cluster(&format!("s{n}"), None);
        desk.pick(&cluster).unwrap();
    }
    assert!(desk.pickers.len() <= 65, "{} kept", desk.pickers.len());
}

#[test]
fn a_pod_with_two_addresses_is_one_endpoint_of_the_family_that_the_service_has() {
    let dual = |n| {
        let both = format!("status: {{podIPs: [{{ip: 10.0.0.{n}}}, {{ip: 'fd00::{n}'}}], ");
        pod(n, "v1").replace("status: {", &both)
    };
    let addresses = |desk: &Desk| -> Vec<String> {
        desk.web().endpoints().iter().map(|it| it.address.ip().to_string()).collect()
    };
    let mut desk = Desk::new(&(service("web") + &dual(1) + &dual(2)));
    assert_eq!(addresses(&desk), ["10.0.0.1", "10.0.0.2"]);
    desk.write("mesh.yaml", &(service("web").replace("10.96.0.1", "'fd00:96::1'") + &dual(1) + &dual(2)));
    assert_eq!(addresses(&desk), ["fd00::1", "fd00::2"]);
    // Whoever has but one address is reached there, whatever the service has.
    let other = pod(2, "v1").replace("10.0.0.2", "'fd00::2'");
    desk.write("mesh.yaml", &(service("web") + &dual(1) + &other));
    assert_eq!(addresses(&desk), ["10.0.0.1", "fd00::2"]);
}
