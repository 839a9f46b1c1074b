//! The filters of clsact, which others add, remove, replace and put in the way as they do links.

use std::os::fd::AsFd as _;

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::Link as _,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
};
use ebb_loader::{AttachMode, Attachment, EnrolledPod, FaultKind, abi::program};

use crate::rig::{Node, Wire, Ztunnel, assert_inbound, assert_joined, assert_outbound, direct, object};

fn enrolled() -> (Wire, Node, Ztunnel, EnrolledPod) {
    let wire = Wire::new();
    let node = Node::with(AttachMode::Clsact);
    let ztunnel = Ztunnel::start(&wire.pod, 1);
    let pod = node.enrol(&wire.pod, &ztunnel);
    assert_eq!(pod.verify().expect("verify"), []);
    (wire, node, ztunnel, pod)
}

/// A program that lets every packet of an interface out, loaded and attached nowhere.
fn foreign() -> (Ebpf, u32) {
    let mut ebpf = Ebpf::load_file(object()).expect("object");
    let program = classifier(&mut ebpf);
    program.load().expect("load");
    let id = program.info().expect("info").id();
    (ebpf, id)
}

fn classifier(ebpf: &mut Ebpf) -> &mut SchedClassifier {
    ebpf.program_mut(program::ASSIGN_OUTBOUND).expect("program").try_into().expect("classifier")
}

fn filter(priority: u16, handle: TcHandle) -> TcAttachOptions {
    TcAttachOptions::Netlink(NlOptions { priority, handle, classid: None })
}

#[test]
fn clsact_serves_where_tcx_is_not_to_be_had() {
    let wire = Wire::new();
    let node = Node::with(AttachMode::Clsact);
    assert_eq!(node.redirector.capabilities().attachment, Attachment::Clsact);
    let ztunnel = Ztunnel::start(&wire.pod, 1);
    let pod = node.enrol(&wire.pod, &ztunnel);
    assert_eq!(pod.verify().unwrap(), []);
    assert_outbound(&wire, &ztunnel);
    assert_inbound(&wire, &ztunnel);
    drop(pod);
    let pod = node.enrol(&wire.pod, &ztunnel);
    assert!(pod.adopted());
    assert_outbound(&wire, &ztunnel);
    wire.pod.run("tc filter del dev eth0 egress");
    assert_eq!(pod.verify().unwrap().len(), 1);
    pod.repair().unwrap();
    assert_outbound(&wire, &ztunnel);
    pod.unenrol().unwrap();
    assert_eq!(wire.pod.run("tc filter show dev eth0 egress").trim(), "");
    let (mut client, mut served) = direct(&wire, 83);
    assert_joined(&mut client, &mut served);
}

#[test]
fn a_leftovers_filters_go_from_a_pod_that_lives_and_its_traffic_is_free_again() {
    let (wire, node, ztunnel, pod) = enrolled();
    drop((pod, ztunnel));
    let filters = || ["ingress", "egress"].map(|end| wire.pod.run(&format!("tc filter show dev eth0 {end}")));
    assert!(filters().iter().all(|shown| shown.contains("direct-action")), "{:?}", filters());
    node.redirector.remove_leftover("pod-1", Some(wire.pod.0.as_fd())).unwrap();
    assert_eq!(filters().map(|shown| shown.trim().to_owned()), ["", ""]);
    assert_eq!(wire.pod.run("tc filter show dev lo ingress").trim(), "");
    assert!(!node.pins().join("pod-1").exists());
    let (mut client, mut served) = direct(&wire, 84);
    assert_joined(&mut client, &mut served);
}

#[test]
fn a_filter_that_overtakes_ours_is_noticed_and_overtaken_again_and_again() {
    let (wire, _node, ztunnel, pod) = enrolled();
    let (mut theirs, id) = foreign();
    for round in 0..3 {
        wire.pod.inside(|| {
            let options = filter(1, TcHandle::AUTO_ASSIGN);
            classifier(&mut theirs).attach_with_options("eth0", TcAttachType::Egress, options).unwrap();
        });
        let faults = pod.verify().unwrap();
        assert_eq!(faults.len(), 1, "round {round}");
        assert_eq!(faults[0].kind, FaultKind::Preceded { program: id });
        assert!(faults[0].to_string().contains("egress of eth0"), "{}", faults[0]);
        pod.repair().unwrap();
        assert_eq!(pod.verify().unwrap(), [], "round {round}");
        let shown = wire.pod.run("tc filter show dev eth0 egress");
        assert_eq!(shown.matches("capture_outbound").count(), 1, "{shown}");
        assert_eq!(
            shown.matches("assign_outbound direct-action").count(),
            round + 1,
            "theirs are kept: {shown}"
        );
    }
    assert_outbound(&wire, &ztunnel);
    pod.unenrol().unwrap();
    assert!(!wire.pod.run("tc filter show dev eth0 egress").contains("capture_outbound"));
}

#[test]
fn a_filter_behind_ours_is_nobodys_business() {
    let (wire, _node, ztunnel, pod) = enrolled();
    let (mut theirs, _) = foreign();
    wire.pod.inside(|| {
        let options = filter(2, TcHandle::AUTO_ASSIGN);
        classifier(&mut theirs).attach_with_options("eth0", TcAttachType::Egress, options).unwrap();
    });
    assert_eq!(pod.verify().unwrap(), []);
    assert_outbound(&wire, &ztunnel);
}

#[test]
fn a_program_put_into_our_filter_is_noticed_and_put_out() {
    let (wire, _node, ztunnel, pod) = enrolled();
    let (mut theirs, _) = foreign();
    wire.pod.inside(|| {
        let handle = TcHandle::new(0, 0x0ebb);
        let ours = SchedClassifierLink::attached("eth0", TcAttachType::Egress, 1, handle, None).unwrap();
        let program = classifier(&mut theirs);
        let id = program.attach_to_link(ours).unwrap();
        std::mem::forget(program.take_link(id).unwrap());
    });
    let faults = pod.verify().unwrap();
    assert_eq!((faults.len(), faults[0].kind), (1, FaultKind::Detached));
    pod.repair().unwrap();
    assert_eq!(pod.verify().unwrap(), []);
    assert_outbound(&wire, &ztunnel);
}

#[test]
fn a_program_that_tcx_runs_before_every_filter_is_noticed() {
    let (wire, _node, _ztunnel, pod) = enrolled();
    let (mut theirs, id) = foreign();
    let link = wire.pod.inside(|| {
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let program = classifier(&mut theirs);
        let link = program.attach_with_options("eth0", TcAttachType::Ingress, first).unwrap();
        program.take_link(link).unwrap()
    });
    let faults = pod.verify().unwrap();
    assert_eq!((faults.len(), faults[0].kind), (1, FaultKind::Preceded { program: id }));
    link.detach().unwrap();
    assert_eq!(pod.verify().unwrap(), []);
}

#[test]
fn a_qdisc_that_somebody_removed_is_put_back_with_its_filters() {
    let (wire, _node, ztunnel, pod) = enrolled();
    wire.pod.run("tc qdisc del dev eth0 clsact");
    let faults = pod.verify().unwrap();
    assert!(faults.len() == 2 && faults.iter().all(|fault| fault.kind == FaultKind::Detached), "{faults:?}");
    pod.repair().unwrap();
    assert_eq!(pod.verify().unwrap(), []);
    assert_outbound(&wire, &ztunnel);
    assert_inbound(&wire, &ztunnel);
}
