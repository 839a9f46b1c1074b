//! Connections and listeners that come and go.

mod rig;

use std::{io::Read as _, net::SocketAddr, net::TcpStream};

use ebb_loader::abi::ListenerKind;
use rig::{Namespace, PATIENCE, PEER4, PEER6, POD4, POD6, address, assert_joined, enrolled, plain};
use socket2::{Domain, Socket, Type};

fn connect_from(namespace: &Namespace, from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    namespace.inside(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(socket.into())
    })
}

#[test]
fn a_port_can_be_used_again_at_once_after_ztunnel_closed_first() {
    let rig = enrolled(1);
    let cases = [
        (&rig.wire.pod, POD4, address(PEER4, 80), ListenerKind::Outbound),
        (&rig.wire.peer, PEER4, address(POD4, 80), ListenerKind::Plaintext),
        (&rig.wire.pod, POD6, address(PEER6, 80), ListenerKind::Outbound),
        (&rig.wire.peer, PEER6, address(POD6, 80), ListenerKind::Plaintext),
    ];
    for (from, source, to, kind) in cases {
        let source = address(source, 45678);
        for round in 0..3 {
            let mut client = connect_from(from, source, to).unwrap_or_else(|e| panic!("{kind:?} round {round}: {e}: {:?}", rig.pod.counters()));
            let mut accepted = rig.ztunnel.accept();
            assert_eq!((accepted.kind, accepted.peer), (kind, plain(source)));
            assert_joined(&mut client, &mut accepted.stream);
            drop(accepted);
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        }
    }
}
