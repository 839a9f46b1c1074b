//! Connections that the kernel makes, as applications see them.

use crate::rig::{PEER4, PEER6, POD4, POD6, SILENCE, address, assert_joined, enrolled, plain};
use ebb_loader::abi::{Hook, ListenerKind, Verdict};

#[test]
fn what_the_pod_opens_reaches_the_outbound_listener_with_its_true_addresses() {
    let rig = enrolled(1);
    for (pod, peer) in [(POD4, PEER4), (POD6, PEER6)] {
        let mut client = rig.wire.pod.connect(address(peer, 80)).unwrap();
        let mut accepted = rig.ztunnel.accept();
        assert_eq!(accepted.kind, ListenerKind::Outbound);
        assert_eq!(accepted.local, address(peer, 80));
        assert_eq!(accepted.peer, plain(client.local_addr().unwrap()));
        assert_eq!(accepted.peer.ip().to_string(), pod);
        assert_joined(&mut client, &mut accepted.stream);
    }
    assert!(rig.pod.counters().unwrap().get(Hook::CaptureOutbound, Verdict::SteerSyn) >= 2);
}

#[test]
fn what_arrives_for_the_pod_reaches_the_listener_of_its_port() {
    let rig = enrolled(1);
    for pod in [POD4, POD6] {
        for (port, kind) in [(8080, ListenerKind::Plaintext), (15008, ListenerKind::Hbone)] {
            let mut client = rig.wire.peer.connect(address(pod, port)).unwrap();
            let mut accepted = rig.ztunnel.accept();
            assert_eq!((accepted.kind, accepted.local), (kind, address(pod, port)));
            assert_eq!(accepted.peer, plain(client.local_addr().unwrap()));
            assert_joined(&mut client, &mut accepted.stream);
        }
    }
}

#[test]
fn connections_within_the_pod_are_left_alone() {
    let rig = enrolled(1);
    for ip in ["127.0.0.1", "::1", POD4, POD6] {
        let server = rig.wire.pod.listen(address(ip, 8080));
        let mut client = rig.wire.pod.connect(address(ip, 8080)).unwrap();
        let (mut accepted, _) = server.accept().unwrap();
        assert_joined(&mut client, &mut accepted);
    }
    assert!(rig.ztunnel.accept_within(SILENCE).is_none());
}
