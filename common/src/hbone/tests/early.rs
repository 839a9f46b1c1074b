//! The first bytes of a connection travel with its CONNECT.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::hbone::client::OpenError;
use crate::net::buffer::{EARLY_BYTES, read_early};
use crate::net::relay::End;

#[tokio::test]
async fn what_the_client_said_at_once_is_there_before_the_answer_and_is_delivered_once() {
    let mut wire = Wire::new(&budget()).await;
    let (mut client, client_side) = sockets().await;
    client.write_all(b"hello ").await.unwrap();
    client_side.readable().await.unwrap();
    let early = read_early(&client_side);
    assert_eq!(early, "hello ");

    let request = to_somewhere();
    let opening = wire.tunnel.lease().unwrap().open_with(&request, &early);
    let accepting = async {
        let mut incoming = wire.incoming.recv().await.unwrap();
        let first = std::future::poll_fn(|cx| incoming.recv.poll_data(cx)).await.unwrap().unwrap();
        assert_eq!(first, "hello ", "not sent before the answer");
        incoming.accept(None).unwrap()
    };
    let (near, far) = tokio::join!(opening, accepting);
    let (_kill, outbound) = spawn_relay(client_side, near.unwrap());
    drop((client, far));
    let outcome = outbound.await.unwrap();
    assert_eq!(outcome.sent, 6, "bytes that left with the CONNECT count as sent");
}

#[tokio::test]
async fn early_bytes_come_first_and_the_rest_follows() {
    let mut wire = Wire::new(&budget()).await;
    let (mut client, client_side) = sockets().await;
    let request = to_somewhere();
    let early = Bytes::from_static(b"one ");
    let opening = wire.tunnel.lease().unwrap().open_with(&request, &early);
    let accepting = async { wire.incoming.recv().await.unwrap().accept(None).unwrap() };
    let (near, far) = tokio::join!(opening, accepting);
    let (mut server, server_side) = sockets().await;
    let (_kill, outbound) = spawn_relay(client_side, near.unwrap());
    let (_keep, _inbound) = spawn_relay(server_side, far);
    client.write_all(b"two").await.unwrap();
    client.shutdown().await.unwrap();
    let mut received = String::new();
    server.read_to_string(&mut received).await.unwrap();
    assert_eq!(received, "one two");
    drop(server);
    drop(client);
    let outcome = outbound.await.unwrap();
    assert_eq!((outcome.sent, outcome.end), (7, End::Closed));
}

#[tokio::test]
async fn a_refused_connection_hands_its_early_bytes_to_nobody() {
    let mut wire = Wire::new(&budget()).await;
    let request = to_somewhere();
    let early = Bytes::from_static(b"secret");
    let opening = wire.tunnel.lease().unwrap().open_with(&request, &early);
    let refusing = async { wire.incoming.recv().await.unwrap().refuse(http::StatusCode::UNAUTHORIZED) };
    let (opened, ()) = tokio::join!(opening, refusing);
    assert_eq!(opened.unwrap_err(), OpenError::Refused(crate::refusal::Refusal::PeerRefused(401)));
}

#[tokio::test]
async fn silence_is_not_waited_for_and_a_flood_is_taken_in_part() {
    let (mut client, accepted) = sockets().await;
    assert!(read_early(&accepted).is_empty());
    client.write_all(&vec![7; 3 * EARLY_BYTES]).await.unwrap();
    accepted.readable().await.unwrap();
    let taken = read_early(&accepted).len();
    assert!((1..=EARLY_BYTES).contains(&taken), "{taken} bytes");
}
