//! What a relayed TCP connection keeps: bytes, half-close, resets, backpressure.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::net::kill::{Kill, kill_switch};

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (connected, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

struct Relayed {
    client: TcpStream,
    server: TcpStream,
    outcome: JoinHandle<Outcome>,
    kill: Kill,
}

async fn relayed() -> Relayed {
    let ((client, near), (far, server)) = (sockets().await, sockets().await);
    let (kill, killed) = kill_switch();
    let outcome = tokio::spawn(async move { relay(near, far, &(), &killed).await });
    Relayed { client, server, outcome, kill }
}

async fn is_reset(socket: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(1), socket.read_to_end(&mut rest)).await;
    ended.unwrap().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn each_half_closes_on_its_own_and_every_byte_arrives() {
    let Relayed { mut client, mut server, outcome, .. } = relayed().await;
    let question: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let answer: Vec<u8> = question.iter().rev().copied().collect();
    let asking = async {
        client.write_all(&question).await.unwrap();
        client.shutdown().await.unwrap();
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        read
    };
    let answering = async {
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.unwrap();
        server.write_all(&answer).await.unwrap();
        server.shutdown().await.unwrap();
        read
    };
    let (got_answer, got_question) = tokio::join!(asking, answering);
    assert!(got_answer == answer && got_question == question);
    let bytes = question.len() as u64;
    assert_eq!(outcome.await.unwrap(), Outcome { sent: bytes, received: bytes, end: End::Closed });
}

#[tokio::test]
async fn a_reset_of_either_side_is_a_reset_of_the_other() {
    let Relayed { client, mut server, outcome, .. } = relayed().await;
    socket::reset(client);
    assert!(is_reset(&mut server).await);
    assert_eq!(outcome.await.unwrap().end, End::NearReset(io::ErrorKind::ConnectionReset));
    let Relayed { mut client, server, outcome, .. } = relayed().await;
    socket::reset(server);
    assert!(is_reset(&mut client).await);
    let tcp = FarReset::Tcp(io::ErrorKind::ConnectionReset);
    assert_eq!(outcome.await.unwrap().end, End::FarReset(tcp));
}

#[tokio::test]
async fn a_slow_reader_slows_its_writer_whose_reset_is_still_heard() {
    let Relayed { mut client, mut server, outcome, .. } = relayed().await;
    let mut written = 0;
    let full = async {
        while let Ok(n) = client.write(&[0; 65_536]).await {
            written += n;
        }
    };
    assert!(timeout(Duration::from_millis(300), full).await.is_err(), "the relay hoards what nobody reads");
    socket::reset(client);
    let outcome = timeout(Duration::from_secs(1), outcome).await.unwrap().unwrap();
    assert_eq!(outcome.end, End::NearReset(io::ErrorKind::ConnectionReset));
    assert!(outcome.sent <= written as u64);
    assert!(is_reset(&mut server).await);
}

#[tokio::test]
async fn a_killed_connection_is_reset_on_both_sides() {
    let Relayed { mut client, mut server, outcome, kill } = relayed().await;
    kill.kill(Refusal::Draining);
    assert_eq!(outcome.await.unwrap().end, End::Killed(Refusal::Draining));
    assert!(is_reset(&mut client).await);
    assert!(is_reset(&mut server).await);
}
