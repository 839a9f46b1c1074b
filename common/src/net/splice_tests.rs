//! What a worker's pipes promise: bounded, lent empty, nothing lost.

use std::io::{Read, Write};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Pipes of this thread that are out, and those that are open.
pub(in crate::net) fn lent_and_open() -> (usize, usize) {
    PIPES.with(|pipes| {
        let open = pipes.open.load(Relaxed);
        (open - pipes.spare.borrow().len(), open)
    })
}

/// Every pipe that this thread may have.
pub(in crate::net) fn lend_all() -> Vec<Pipe> {
    std::iter::from_fn(Pipe::lend).collect()
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (connected, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

async fn fill(pipe: &mut Pipe, from: &TcpStream) -> io::Result<Filled> {
    std::future::poll_fn(|cx| pipe.poll_fill(cx, from)).await
}

#[test]
fn a_worker_has_so_many_pipes_and_lends_them_again() {
    let all = lend_all();
    assert_eq!((all.len(), lent_and_open()), (PIPES_PER_WORKER, (PIPES_PER_WORKER, PIPES_PER_WORKER)));
    drop(all);
    assert_eq!(lent_and_open(), (0, SPARE_PIPES), "some are kept for the next");
    assert_eq!(lend_all().len(), PIPES_PER_WORKER);
}

#[test]
fn a_pipe_that_ends_on_another_thread_makes_room_on_its_own() {
    let all = lend_all();
    std::thread::spawn(move || drop(all)).join().unwrap();
    assert_eq!(lent_and_open(), (0, 0));
    assert!(Pipe::lend().is_some());
}

#[tokio::test]
async fn what_is_left_in_a_pipe_is_never_lent_to_another() {
    let (mut client, server) = sockets().await;
    client.write_all(b"secret").await.unwrap();
    let mut pipe = Pipe::lend().unwrap();
    assert_eq!(fill(&mut pipe, &server).await.unwrap(), Filled::Bytes(6));
    drop(pipe);
    assert_eq!(lent_and_open(), (0, 0), "it was closed");
}

#[tokio::test]
async fn what_cannot_be_spliced_on_can_be_copied_on() {
    let (mut client, server) = sockets().await;
    let sent: Vec<u8> = (0..200_000_u32).map(|i| (i >> 3) as u8).collect();
    client.write_all(&sent).await.unwrap();
    client.shutdown().await.unwrap();
    let (mut pipe, mut got) = (Pipe::lend().unwrap(), Vec::new());
    while let Filled::Bytes(_) = fill(&mut pipe, &server).await.unwrap() {
        got.extend_from_slice(&pipe.into_bytes().unwrap());
        assert_eq!(lent_and_open(), (0, 1), "it is empty, and so as good as new");
        pipe = Pipe::lend().unwrap();
    }
    assert!(got == sent);
}

#[tokio::test]
async fn a_plain_stream_is_never_taken_for_one_with_urgent_bytes() {
    const MUCH: usize = 1 << 29;
    let (client, server) = sockets().await;
    let mut client = client.into_std().unwrap();
    client.set_nonblocking(false).unwrap();
    let writer = std::thread::spawn(move || {
        let chunk = vec![7; 3000];
        (0..MUCH / chunk.len()).for_each(|_| client.write_all(&chunk).unwrap());
    });
    loop {
        let mut pipe = Pipe::lend().unwrap();
        match fill(&mut pipe, &server).await.unwrap() {
            Filled::Bytes(_) => drop(pipe.into_bytes().unwrap()),
            Filled::Fin => break,
            Filled::NotBySplice => panic!("it had nothing of the kind"),
        }
    }
    writer.join().unwrap();
}

#[tokio::test]
async fn a_reset_is_an_error_and_a_fin_is_none() {
    let (client, server) = sockets().await;
    drop(client);
    assert_eq!(fill(&mut Pipe::lend().unwrap(), &server).await.unwrap(), Filled::Fin);
    let (client, mut server) = sockets().await;
    crate::net::socket::reset(client);
    let error = fill(&mut Pipe::lend().unwrap(), &server).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(!is_unsupported(&error));
    assert_eq!(server.read(&mut [0]).await.unwrap_or(0), 0, "nothing comes after it");
}

#[test]
fn what_the_kernel_says_of_files_that_it_cannot_splice_is_understood() {
    // Both ends are pipes of their own here, and a splice from a pipe to itself is what no kernel does.
    let pipe = Pipe::lend().unwrap();
    let error = move_bytes(&pipe.ends().read, &pipe.ends().write, 1).unwrap_err();
    assert!(is_unsupported(&error), "{error}");
    assert!(!is_unsupported(&io::ErrorKind::ConnectionReset.into()));
}

#[test]
fn a_pipe_holds_what_the_kernel_granted() {
    let pipe = Pipe::lend().unwrap();
    let ends = pipe.ends();
    assert!((LEAST_PIPE_BYTES..=PIPE_BYTES).contains(&ends.capacity));
    let mut write = std::fs::File::from(ends.write.try_clone().unwrap());
    let mut read = std::fs::File::from(ends.read.try_clone().unwrap());
    write.write_all(&vec![7; ends.capacity]).unwrap();
    assert_eq!(write.write(&[7]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    read.read_exact(&mut vec![0; ends.capacity]).unwrap();
}
