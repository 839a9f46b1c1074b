//! What the loader says of machines, requests and drops.

use std::{collections::HashSet, thread};

use ebb_loader::{
    AttachMode, Missing, PodFlags, Redirector,
    abi::{Hook, Verdict},
};
use nix::libc;
use socket2::{Domain, Socket, Type};

use crate::rig::{Enrolled, Node, PEER6, POD6, SILENCE, Wire, Ztunnel, address, enrolled, settings};

#[test]
fn drops_are_reported_with_pod_and_flow() {
    let Enrolled { wire, pod, ztunnel, node } = enrolled(1);
    let mut reader = node.redirector.drops().unwrap();
    drop(ztunnel);
    wire.peer.inside(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        let _times_out = socket.connect_timeout(&address(POD6, 80).into(), SILENCE);
    });
    let drops = reader.take().unwrap();
    let drop = drops.iter().find(|drop| drop.hook == Hook::AssignInbound).expect("a report");
    assert_eq!((drop.verdict, drop.pod.as_deref()), (Verdict::DropNoListener, Some(pod.uid())));
    let (source, destination) = drop.flow.unwrap();
    assert_eq!((source.ip(), destination), (PEER6.parse().unwrap(), address(POD6, 80)));
    assert!(drop.to_string().contains("drop_no_listener at assign_inbound"), "{drop}");
    assert!(node.redirector.counters().unwrap().of(Verdict::DropNoListener) >= 1);
}

#[test]
fn what_is_missing_is_named_in_one_sentence() {
    crate::rig::require_root();
    let open = |settings| match Redirector::open(settings) {
        Err(unsupported) => unsupported,
        Ok(_) => panic!("must not open"),
    };
    let name = crate::rig::unique("absent");
    let mut absent = settings(&name, AttachMode::Auto);
    absent.object = "/nonexistent/ebb-redirect.o".into();
    let error = open(absent);
    assert!(
        matches!(error.missing, Missing::Object { .. }) && error.to_string().contains("cargo xtask ebpf"),
        "{error}"
    );
    assert!(error.to_string().contains("--ebpf-object target/ebpf/ebb-redirect.o"), "{error}");

    let unprivileged = settings("unprivileged", AttachMode::Auto);
    let denied = thread::spawn(move || {
        // SAFETY: the raw call changes this thread alone, which ends here.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(changed, 0);
        open(unprivileged)
    });
    let error = denied.join().unwrap();
    assert!(
        matches!(error.missing, Missing::Permission { .. }) && error.to_string().contains("CAP_BPF"),
        "{error}"
    );
    let _absent = std::fs::remove_dir_all(crate::rig::pins(&name));
}

#[test]
fn a_bpffs_is_mounted_where_there_is_none() {
    crate::rig::require_root();
    let place = std::env::temp_dir().join(crate::rig::unique("ebb-bpffs"));
    let mut elsewhere = settings("node", AttachMode::Auto);
    elsewhere.bpffs = place.clone();
    let opened = Redirector::open(elsewhere).map(|_| ());
    let mounted = place.join("node").is_dir();
    let _unmounted = nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH);
    let _removed = std::fs::remove_dir(&place);
    opened.unwrap();
    assert!(mounted);
}

#[test]
fn nothing_is_mounted_where_the_folder_lies_on_a_bpffs() {
    crate::rig::require_root();
    let name = crate::rig::unique("below");
    let mut below = settings("node", AttachMode::Auto);
    below.bpffs = crate::rig::pins(&name).join("deeper");
    let opened = Redirector::open(below.clone()).map(|_| ());
    let pinned = below.bpffs.join("node").is_dir();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let _unmounted = nix::mount::umount2(&below.bpffs, nix::mount::MntFlags::MNT_DETACH);
    let _removed = std::fs::remove_dir_all(crate::rig::pins(&name));
    opened.unwrap();
    assert!(pinned);
    assert!(!mounts.contains(&name), "{mounts}");
}

#[test]
fn nonsense_is_refused_before_anything_is_touched() {
    let wire = Wire::new();
    let node = Node::start();
    let ztunnel = Ztunnel::start(&wire.pod, 1);
    let workers = ztunnel.workers();
    let enrol = |uid: &str, count: usize| {
        let listeners = vec![workers[0]; count];
        let enrolment = ebb_loader::Enrolment {
            uid,
            netns: wire.pod.fd(),
            listeners: &listeners,
            flags: PodFlags::default(),
        };
        node.redirector.enrol(enrolment).err().expect("refused").to_string()
    };
    for (uid, count, complaint) in
        [("../x", 1, "cannot name a pin"), ("pod", 0, "0 workers"), ("pod", 17, "17 workers")]
    {
        let refusal = enrol(uid, count);
        assert!(refusal.contains(complaint), "{uid} with {count}: {refusal}");
        assert!(!node.pins().join("pod").exists(), "{complaint}: something was touched");
    }
    assert!(node.redirector.leftovers(&HashSet::new()).unwrap().is_empty());
}
