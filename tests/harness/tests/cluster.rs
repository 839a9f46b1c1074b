//! What a cluster promises by itself: it is there fast, its pods reach each other, and it leaves nothing behind.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use harness::{
    binaries,
    cluster::{Cluster, Pod},
    process::{Process, Spawn},
    report::{Answer, FailureKind, Outcome},
};

const SOON: Duration = Duration::from_secs(10);

fn serve(pod: &Pod) -> Result<Process> {
    let app =
        pod.spawn(Spawn::new(pod.name(), binaries::find("ebb-app")?).args(["http", "--name", pod.name()]))?;
    app.wait_for_log("ready:", SOON)?;
    Ok(app)
}

fn get(pod: &Pod, url: &str) -> Result<Outcome<Answer>> {
    let spawn = Spawn::new("get", binaries::find("ebb-app")?).args(["get", "--timeout-ms", "3000", url]);
    let client = pod.spawn(spawn.role("client"))?;
    client.wait(SOON)?;
    Ok(serde_json::from_str(&client.stdout()?)?)
}

fn traces_of(prefix: &str) -> Vec<String> {
    let places =
        ["/run/netns", "/run/ebb", "/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/unified", "/sys/fs/bpf/ebb"];
    let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    let names = entries.map(|entry| entry.path().display().to_string());
    let mut found: Vec<_> = names.filter(|name| name.contains(prefix)).collect();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(prefix)).map(str::to_owned));
    found
}

#[test]
fn two_nodes_and_four_pods_are_up_in_a_second() {
    let start = Instant::now();
    let cluster = Cluster::two_nodes().unwrap();
    let pods: Vec<Pod> = (0..4).map(|n| cluster.node(n % 2).add_pod(&format!("p{n}")).unwrap()).collect();
    let took = start.elapsed();
    assert_eq!(pods[3].addresses().v4.to_string(), "10.244.2.3");
    eprintln!("2 nodes and 4 pods in {took:?}");
    assert!(took < Duration::from_secs(1), "took {took:?}");
}

#[test]
fn pods_reach_each_other_across_and_within_nodes_in_both_families() {
    let cluster = Cluster::two_nodes().unwrap();
    let server = cluster.node(0).add_pod("server").unwrap();
    let near = cluster.node(0).add_pod("near").unwrap();
    let far = cluster.node(1).add_pod("far").unwrap();
    let _app = serve(&server).unwrap();
    for client in [&near, &far] {
        for (from, to) in client.addresses().both().into_iter().zip(server.addresses().both()) {
            let url = format!("http://{}/hello", SocketAddr::new(to, 8080));
            let answer = get(client, &url).unwrap().done().unwrap();
            let described = answer.described().unwrap();
            assert_eq!(described.name, "server");
            assert_eq!(described.peer.ip(), from, "no address is translated on the way");
            assert_eq!(described.local.ip(), to);
        }
    }
}

#[test]
fn three_nodes_are_joined_by_a_bridge() {
    let cluster = Cluster::start(3).unwrap();
    let server = cluster.node(2).add_pod("server").unwrap();
    let client = cluster.node(0).add_pod("client").unwrap();
    let _app = serve(&server).unwrap();
    for to in server.addresses().both() {
        let url = format!("http://{}/", SocketAddr::new(to, 8080));
        assert_eq!(get(&client, &url).unwrap().done().unwrap().described().unwrap().name, "server");
    }
}

#[test]
fn a_closed_port_and_a_missing_pod_fail_differently() {
    let cluster = Cluster::two_nodes().unwrap();
    let server = cluster.node(0).add_pod("server").unwrap();
    let client = cluster.node(1).add_pod("client").unwrap();
    let closed = get(&client, &format!("http://{}:81/", server.addresses().v4)).unwrap();
    assert_eq!(closed.failure().unwrap().kind, FailureKind::Refused);
    let gone = server.addresses().v4;
    drop(server);
    let missing = get(&client, &format!("http://{gone}:81/")).unwrap();
    assert_eq!(missing.failure().unwrap().kind, FailureKind::Unreachable, "{missing:?}");
}

#[test]
fn a_cluster_leaves_nothing_behind_even_when_its_test_panics() {
    let mut prefix = String::new();
    let mut pid = 0;
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let cluster = Cluster::two_nodes().unwrap();
        cluster.run().prefix().clone_into(&mut prefix);
        let pod = cluster.node(0).add_pod("pod").unwrap();
        cluster.run().pins("node-1").unwrap();
        let app = serve(&pod).unwrap();
        pid = app.pid();
        assert!(!traces_of(&prefix).is_empty());
        // The process outlives its handle's scope: the cluster itself must end it.
        std::mem::forget(app);
        panic!("as a failing test would");
    }));
    assert!(panicked.is_err());
    assert_eq!(traces_of(&prefix), Vec::<String>::new());
    let state = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    assert!(state.is_empty() || state.contains("zombie"), "{state}");
    assert!(!Path::new("/run/ebb").join(&prefix).exists());
}

#[test]
fn a_role_remembers_the_cpu_time_of_processes_that_ended() {
    let cluster = Cluster::two_nodes().unwrap();
    let server = cluster.node(0).add_pod("server").unwrap();
    let app = serve(&server).unwrap();
    for _ in 0..5 {
        get(&server, &format!("http://{}:8080/", server.addresses().v4)).unwrap().done().unwrap();
    }
    let clients = cluster.run().role("client").unwrap().cpu().unwrap();
    assert!(clients > Duration::from_micros(500), "five processes cost only {clients:?}");
    assert!(app.role().cpu().unwrap() > Duration::ZERO);
    assert!(app.memory().unwrap().rss > 100 * 1024);
    assert!(app.fd_count().unwrap() > 3);
    assert_eq!(app.thread_count().unwrap(), 1);
    app.kill9().unwrap();
    assert!(!app.is_alive());
}
