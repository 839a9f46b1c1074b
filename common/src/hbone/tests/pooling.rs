//! Who shares a connection, and what happens when it goes away.

use super::*;

#[tokio::test]
async fn sizes() {
    let mut wire = Wire::new(&budget()).await;
    let (near, _far) = wire.stream().await;
    let (a, b) = sockets().await;
    eprintln!("stream {}", std::mem::size_of::<Stream>());
    eprintln!(
        "stream send {} recv {}",
        std::mem::size_of::<h2::SendStream<bytes::Bytes>>(),
        std::mem::size_of::<h2::RecvStream>()
    );
    eprintln!("baggage {}", std::mem::size_of::<crate::hbone::request::Baggage>());
    eprintln!("tcpstream {}", std::mem::size_of::<TcpStream>());
    let (_k, killed) = kill_switch();
    let m = Meters::none();
    let f = relay::relay(a, near, &m, &killed);
    eprintln!("relay {}", std::mem::size_of_val(&f));
    let (c, d) = sockets().await;
    let f = crate::net::relay::relay(b, c, &m, &killed);
    eprintln!("tcp relay {}", std::mem::size_of_val(&f));
    drop(d);
    let r = to_somewhere();
    let f = wire.tunnel.lease().unwrap().open(&r);
    eprintln!("open {}", std::mem::size_of_val(&f));
}
