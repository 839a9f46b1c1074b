//! One process of ztunnel after another, and what is left when there is none.

use std::{collections::HashSet, thread, time::Duration};

use aya::{
    EbpfLoader,
    maps::{Array, Map, MapData},
    programs::TcAttachType,
};
use std::os::fd::AsFd as _;

use ebb_loader::{
    AttachMode, Enrolment, Error, PodFlags, Redirector, WorkerListeners,
    abi::{self, PodConfig, Verdict},
};

use crate::rig::{
    Enrolled, Node, PEER4, POD4, SILENCE, Wire, Ztunnel, address, assert_inbound, assert_joined,
    assert_outbound, enrolled, eventually, object, running, settings,
};

#[test]
fn a_crash_leaks_nothing_and_the_next_process_takes_over() {
    let Enrolled { wire, pod, ztunnel, node } = enrolled(1);
    let (mut client, mut accepted) = assert_outbound(&wire, &ztunnel);
    let steered = pod.counters().unwrap().of(Verdict::SteerSyn);
    // All a crash does that dropping does not is close the sockets, which comes next.
    drop(pod);
    assert_joined(&mut client, &mut accepted);
    drop(ztunnel);
    let server = wire.peer.listen(address(PEER4, 80));
    server.set_nonblocking(true).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| wire.pod.connect(address(PEER4, 80)));
        thread::sleep(SILENCE);
        let successor = Redirector::open(settings(&node.name, AttachMode::Auto)).unwrap();
        let fresh = Ztunnel::start(&wire.pod, 2);
        let adopted = Node { redirector: successor, name: node.name.clone() };
        let pod = adopted.enrol(&wire.pod, &fresh);
        assert!(pod.adopted());
        assert!(pod.counters().unwrap().of(Verdict::SteerSyn) > steered, "counters go on");
        assert_eq!(pod.verify().unwrap(), []);
        assert_eq!(fresh.accept().local, address(PEER4, 80));
        assert!(waiting.join().unwrap().is_ok());
        assert_inbound(&wire, &fresh);
    });
    assert!(server.accept().is_err(), "a connection went past ztunnel");
}

#[test]
fn drops_of_an_earlier_processs_programs_are_heard_by_one_process_at_a_time() {
    let Enrolled { wire, pod, ztunnel, node } = enrolled(1);
    let mut old = node.redirector.drops().unwrap();
    assert!(node.redirector.drops().is_err(), "two readers of one log");
    assert_eq!(old.take().unwrap(), []);
    drop(ztunnel);
    let successor = Redirector::open(settings(&node.name, AttachMode::Auto)).unwrap();
    let mut new = successor.drops().unwrap();
    let arrive = |port| {
        let _waits_in_vain = wire.peer.inside(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.connect_timeout(&address(POD4, port).into(), Duration::from_millis(50))
        });
    };
    arrive(80);
    assert_eq!(new.take().unwrap(), []);
    let heard = old.take().unwrap();
    assert_eq!((heard.len(), heard[0].pod.as_deref()), (1, Some("pod-1")));
    drop((old, pod));
    // Only one drop in many is told: a cpu that has told its first is silent for a while.
    eventually("a drop to be heard by the successor", || {
        arrive(81);
        // Nobody has enrolled the pod anew, so its number is nobody's.
        new.take().unwrap().iter().any(|drop| drop.pod.is_none() && drop.verdict == Verdict::DropNoListener)
    });
}

#[test]
fn without_listeners_new_connections_wait_for_the_next_process_and_open_ones_go_on() {
    let Enrolled { wire, pod, ztunnel, node } = enrolled(2);
    let (mut client, mut accepted) = assert_outbound(&wire, &ztunnel);
    let mut queued = wire.pod.connect(address(PEER4, 80)).unwrap();
    let server = wire.peer.listen(address(PEER4, 80));
    server.set_nonblocking(true).unwrap();
    pod.clear_listeners().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| wire.pod.connect(address(PEER4, 80)));
        thread::sleep(SILENCE);
        assert!(!waiting.is_finished(), "a new connection neither waits nor is captured");
        assert_joined(&mut client, &mut accepted);
        assert_joined(&mut queued, &mut ztunnel.accept().stream);
        let fresh = Ztunnel::start(&wire.pod, 1);
        let successor = Redirector::open(settings(&node.name, AttachMode::Auto)).unwrap();
        let adopted = Node { redirector: successor, name: node.name.clone() };
        let newer = adopted.enrol(&wire.pod, &fresh);
        assert!(newer.adopted());
        // The old process is asked to end only now: it must leave alone what the new one has put there.
        assert!(matches!(pod.clear_listeners(), Err(Error::Superseded { .. })));
        let mut late = fresh.accept();
        assert_joined(&mut waiting.join().unwrap().unwrap(), &mut late.stream);
    });
    assert!(server.accept().is_err(), "a connection went past ztunnel");
}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Entry(PodConfig);
// SAFETY: integers without padding.
unsafe impl aya::Pod for Entry {}

/// The configuration pinned for the pod of `node`.
fn pinned_config(node: &Node) -> Array<MapData, Entry> {
    let pin = node.pins().join("pod-1").join(abi::map::CONFIG);
    let pinned = MapData::from_pin(pin).expect("a pinned configuration");
    Array::try_from(Map::Array(pinned)).expect("an array")
}

fn of_layout(layout_version: u32) -> Entry {
    Entry(PodConfig { layout_version, ..PodConfig::default() })
}

/// Pins a configuration of another shape where the pod's is, as a build has it that knew fewer or more fields.
fn pin_another_shape(node: &Node) {
    let pin = node.pins().join("pod-1").join(abi::map::CONFIG);
    std::fs::remove_file(&pin).expect("a pinned configuration");
    let mut loader = EbpfLoader::new();
    loader.btf(None).map_max_entries(abi::map::CONFIG, 2).map_pin_path(abi::map::CONFIG, pin);
    drop(loader.load_file(object()).expect("the object's maps"));
}

#[test]
fn maps_of_another_layout_are_replaced_and_their_links_switched_over() {
    let version =
        |version: u32| move |node: &Node| pinned_config(node).set(0, of_layout(version), 0).unwrap();
    let older = version(abi::LAYOUT_VERSION - 1);
    let newer = version(abi::LAYOUT_VERSION + 1);
    let pins: [&dyn Fn(&Node); 3] = [&older, &newer, &pin_another_shape];
    for (layout, pin) in ["older", "newer", "of another shape"].into_iter().zip(pins) {
        let Enrolled { wire, pod: old, ztunnel, node } = enrolled(1);
        pin(&node);
        // The process that is running while the node is upgraded or rolled back.
        let refused = old.set_listeners(&ztunnel.workers());
        assert!(matches!(refused, Err(Error::Superseded { .. })), "{layout}: {refused:?}");
        drop(old);
        let pod = node.enrol(&wire.pod, &ztunnel);
        assert!(!pod.adopted(), "{layout}");
        assert_eq!(pod.verify().unwrap(), [], "{layout}");
        assert_eq!(
            pinned_config(&node).get(&0, 0).unwrap().0.layout_version,
            abi::LAYOUT_VERSION,
            "{layout}"
        );
        assert_outbound(&wire, &ztunnel);
        assert_inbound(&wire, &ztunnel);
        assert_eq!(
            running(&wire.pod, TcAttachType::Egress).len(),
            1,
            "{layout}: two generations are attached"
        );
    }
}

#[test]
fn a_pod_whose_usurper_left_is_noticed_and_can_be_enrolled_again() {
    let Enrolled { wire, pod: old, ztunnel, node } = enrolled(1);
    let fresh = Ztunnel::start(&wire.pod, 1);
    let successor = Redirector::open(settings(&node.name, AttachMode::Auto)).unwrap();
    let usurper = Node { redirector: successor, name: node.name.clone() };
    assert!(!old.is_abandoned(), "it is its own");
    let new = usurper.enrol(&wire.pod, &fresh);
    assert!(!old.is_abandoned(), "the other process serves it");
    assert!(matches!(old.repair(), Err(Error::Superseded { .. })));
    new.clear_listeners().unwrap();
    assert!(old.is_abandoned() && !new.is_abandoned());
    drop((new, fresh));
    // As the agent does: the handle goes, and the next look at the roster enrols the pod.
    drop(old);
    let again = node.enrol(&wire.pod, &ztunnel);
    assert!(again.adopted() && !again.is_abandoned());
    assert_eq!(again.verify().unwrap(), []);
    assert_outbound(&wire, &ztunnel);
    assert_inbound(&wire, &ztunnel);
    drop((again, usurper));
}

#[test]
fn a_pod_made_anew_under_its_old_uid_is_covered_though_the_old_namespace_lives() {
    let Enrolled { wire: old, pod, ztunnel, node } = enrolled(1);
    drop((pod, ztunnel));
    let new = Wire::new();
    let ztunnel = Ztunnel::start(&new.pod, 1);
    let pod = node.enrol(&new.pod, &ztunnel);
    assert!(!pod.adopted());
    assert_eq!(pod.verify().unwrap(), []);
    assert_outbound(&new, &ztunnel);
    assert_eq!(running(&old.pod, TcAttachType::Egress), []);
}

#[test]
fn pods_that_are_gone_leave_nothing_behind_for_long() {
    let Enrolled { wire, pod, ztunnel: _, node } = enrolled(1);
    drop(pod);
    assert!(node.redirector.leftovers(&HashSet::from(["pod-1".to_owned()])).unwrap().is_empty());
    assert_eq!(node.redirector.leftovers(&HashSet::new()).unwrap(), ["pod-1"]);
    node.redirector.remove_leftover("pod-1", None).unwrap();
    assert!(node.redirector.leftovers(&HashSet::new()).unwrap().is_empty());
    assert_eq!(running(&wire.pod, TcAttachType::Egress), []);
    assert!(node.redirector.remove_leftover("../escape", None).is_err());
}

#[test]
fn a_process_that_has_been_superseded_leaves_the_pod_alone() {
    let Enrolled { wire, pod: old, ztunnel, node } = enrolled(1);
    let successor = Redirector::open(settings(&node.name, AttachMode::Auto)).unwrap();
    let workers = ztunnel.workers();
    let enrolment =
        Enrolment { uid: "pod-1", netns: wire.pod.fd(), listeners: &workers, flags: PodFlags::default() };
    let new = successor.enrol(enrolment).unwrap();
    let theirs = running(&wire.pod, TcAttachType::Egress);
    // Both processes hear of the interface; only the newer one's program may be attached anywhere.
    wire.join("late0", "10.9.2", "fd09:2:");
    eventually("cover of the late interface", || new.verify().unwrap().is_empty());
    assert_eq!(running(&wire.pod, TcAttachType::Egress), theirs);
    for refused in
        [old.set_listeners(&workers), old.set_flags(PodFlags::default()), old.repair(), old.unenrol()]
    {
        assert!(matches!(refused, Err(Error::Superseded { .. })), "{refused:?}");
    }
    assert_eq!(new.verify().unwrap(), []);
    assert_outbound(&wire, &ztunnel);
}

#[test]
fn an_upgrade_that_fails_leaves_the_pod_under_the_old_programs() {
    let Enrolled { wire, pod, ztunnel, node } = enrolled(1);
    drop(pod);
    pinned_config(&node).set(0, of_layout(abi::LAYOUT_VERSION + 1), 0).unwrap();
    let before = running(&wire.pod, TcAttachType::Egress);
    // No socket at all, which shows only after the new maps are made.
    let idle = std::fs::File::open("/dev/null").unwrap();
    let worker = WorkerListeners { outbound: idle.as_fd(), plaintext: idle.as_fd(), hbone: idle.as_fd() };
    let enrolment =
        Enrolment { uid: "pod-1", netns: wire.pod.fd(), listeners: &[worker], flags: PodFlags::default() };
    assert!(matches!(node.redirector.enrol(enrolment), Err(Error::Kernel { .. })));
    assert_eq!(running(&wire.pod, TcAttachType::Egress), before, "the pod's traffic was let go");
    let pod = node.enrol(&wire.pod, &ztunnel);
    assert_eq!(pod.verify().unwrap(), []);
    assert_outbound(&wire, &ztunnel);
}
