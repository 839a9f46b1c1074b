//! Interfaces and programs that others add, remove or put in the way.

use std::time::{Duration, Instant};

use aya::{
    Ebpf,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use ebb_loader::{
    FaultKind,
    abi::{ListenerKind, program},
};

use crate::rig::{Node, Wire, Ztunnel, address, assert_outbound, enrolled, eventually, running};

#[test]
fn a_second_interface_and_one_that_comes_later_are_redirected() {
    let wire = Wire::new();
    wire.join("eth1", "10.9.1", "fd09:1:");
    let node = Node::start();
    let ztunnel = Ztunnel::start(&wire.pod, 1);
    let pod = node.enrol(&wire.pod, &ztunnel);
    wire.join("late0", "10.9.2", "fd09:2:");
    let came = Instant::now();
    eventually("cover of the late interface", || {
        running(&wire.pod, TcAttachType::Egress).len() == 1 && pod.verify().unwrap().is_empty()
    });
    assert!(came.elapsed() < Duration::from_secs(2), "{:?}", came.elapsed());
    for peer in ["10.9.1.1", "10.9.2.1", "fd09:1::1", "fd09:2::1"] {
        let _client = wire.pod.connect(address(peer, 80)).unwrap();
        assert_eq!(ztunnel.accept().local, address(peer, 80));
    }
    for own in ["10.9.1.2", "10.9.2.2"] {
        let _client = wire.peer.connect(address(own, 80)).unwrap();
        assert_eq!(
            (ztunnel.accept().kind, ztunnel.accept_within(Duration::ZERO).is_none()),
            (ListenerKind::Plaintext, true)
        );
    }
    wire.pod.run("ip link del late0");
    eventually("the pins of an interface to go with it", || {
        std::fs::read_dir(node.pins().join("pod-1"))
            .unwrap()
            .filter(|pin| pin.as_ref().unwrap().file_name().to_string_lossy().contains("egress"))
            .count()
            == 2
    });
}

#[test]
fn a_program_put_before_ours_is_noticed_and_overtaken() {
    let rig = enrolled(1);
    let mut foreign = Ebpf::load_file(crate::rig::object()).unwrap();
    let other: &mut SchedClassifier =
        foreign.program_mut(program::ASSIGN_OUTBOUND).unwrap().try_into().unwrap();
    other.load().unwrap();
    let id = other.info().unwrap().id();
    rig.wire.pod.inside(|| {
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        other.attach_with_options("eth0", TcAttachType::Egress, first).unwrap();
    });
    let faults = rig.pod.verify().unwrap();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].kind, FaultKind::Preceded { program: id });
    assert!(faults[0].to_string().contains("egress of eth0"), "{}", faults[0]);
    rig.pod.repair().unwrap();
    assert_eq!(rig.pod.verify().unwrap(), []);
    let order = running(&rig.wire.pod, TcAttachType::Egress);
    assert_eq!((order.len(), order[1]), (2, id), "ours first, theirs kept");
    assert_outbound(&rig.wire, &rig.ztunnel);
}

#[test]
fn a_link_that_someone_removed_is_noticed_and_put_back() {
    let rig = enrolled(1);
    let pins = rig.node.pins().join("pod-1");
    let egress = std::fs::read_dir(&pins).unwrap().map(|pin| pin.unwrap().path());
    let egress = egress.filter(|path| path.to_string_lossy().ends_with("-egress")).collect::<Vec<_>>();
    assert_eq!(egress.len(), 1);
    std::fs::remove_file(&egress[0]).unwrap();
    eventually("the link to go", || running(&rig.wire.pod, TcAttachType::Egress).is_empty());
    let faults = rig.pod.verify().unwrap();
    assert_eq!((faults.len(), faults[0].kind), (1, FaultKind::Detached));
    rig.pod.repair().unwrap();
    assert_eq!(rig.pod.verify().unwrap(), []);
    assert_outbound(&rig.wire, &rig.ztunnel);
}
