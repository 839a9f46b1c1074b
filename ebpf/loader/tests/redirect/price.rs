//! What an enrolled pod costs this process, alone in a process of its own so that nothing else is on the bill.

use std::{process::Command, time::Duration};

use ebb_loader::{EnrolledPod, Enrolment, PodFlags};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};

use crate::rig::{Node, Wire, Ztunnel};

const PODS: u32 = 12;
/// Twice what it takes on a slow machine, and half of what it took before the programs were made to be checked fast.
const PROCESSOR_TIME: Duration = Duration::from_millis(60);
const HEAP_KIB: u64 = 100;
/// What aya reads of the kernel's types alone is 14 MiB.
const IDLE_KIB: u64 = 6 * 1024;
const ALONE: &str = "EBB_PRICE_ALONE";

#[test]
fn a_pod_costs_little_processor_time_and_memory() {
    if std::env::var_os(ALONE).is_some() {
        return measure();
    }
    let name = "price::a_pod_costs_little_processor_time_and_memory";
    let alone = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&alone.stdout) + String::from_utf8_lossy(&alone.stderr);
    assert!(alone.status.success(), "{said}");
    println!("{said}");
}

fn measure() {
    let node = Node::start();
    let wires: Vec<Wire> = (0..PODS).map(|_| Wire::new()).collect();
    let ztunnels: Vec<Ztunnel> = wires.iter().map(|wire| Ztunnel::start(&wire.pod, 2)).collect();
    let enrol = |number: usize| -> EnrolledPod {
        let (wire, ztunnel) = (&wires[number], &ztunnels[number]);
        let uid = format!("pod-{number}");
        let listeners = ztunnel.workers();
        let enrolment =
            Enrolment { uid: &uid, netns: wire.pod.fd(), listeners: &listeners, flags: PodFlags::default() };
        node.redirector.enrol(enrolment).expect("enrol")
    };
    // The first one pays for what all share.
    let mut pods = vec![enrol(0)];
    let (idle, mut times) = (anonymous_kib(), Vec::new());
    for number in 1..PODS as usize {
        let before = processor_time();
        pods.push(enrol(number));
        times.push(processor_time() - before);
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    let each = (anonymous_kib() - idle) / u64::from(PODS - 1);
    println!("each pod: {median:?} (least {:?}), {each} KiB; with one pod: {idle} KiB", times[0]);
    assert!(median < PROCESSOR_TIME, "{times:?}");
    assert!(each < HEAP_KIB, "{each} KiB a pod");
    assert!(idle < IDLE_KIB, "{idle} KiB with one pod");
}

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage");
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

fn anonymous_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.split_whitespace().next().expect("size").parse().expect("size")
}
