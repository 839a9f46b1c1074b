//! A tunnel stream as a byte stream, from both ends.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};
use tokio::time::timeout;

use super::floods::Neighbour;
use super::*;
use crate::hbone::io::{TURN_BYTES, TunnelIo};

const SOON: Duration = Duration::from_secs(20);

/// Both ends of a stream, for protocols inside the tunnel.
async fn pair(wire: &mut Wire) -> (TunnelIo, TunnelIo) {
    let (near, far) = wire.stream().await;
    (TunnelIo::new(near), TunnelIo::new(far))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// Sends frames of one byte, each by itself.
async fn send_bytes(stream: &mut Stream, count: usize) {
    for _ in 0..count {
        stream.send.reserve_capacity(1);
        while stream.send.capacity() == 0 {
            let more = std::future::poll_fn(|cx| stream.send.poll_capacity(cx)).await;
            more.expect("the stream is closed").expect("the connection is cut");
        }
        stream.send.send_data(Bytes::from_static(b"."), false).unwrap();
    }
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_end_is_an_end_of_its_own() {
    let mut wire = Wire::new(&budget()).await;
    let (near, far) = pair(&mut wire).await;
    let (sent, theirs) = (pattern(5_000_000), pattern(5_000_000));
    let one_way = |io: TunnelIo, bytes: Vec<u8>| async move {
        let (mut reader, mut writer) = split(io);
        let writing = async {
            writer.write_all(&bytes).await?;
            writer.shutdown().await
        };
        let mut read = Vec::new();
        tokio::try_join!(writing, reader.read_to_end(&mut read)).unwrap();
        read
    };
    let both = async { tokio::join!(one_way(near, sent.clone()), one_way(far, theirs.clone())) };
    let (near_read, far_read) = timeout(SOON, both).await.unwrap();
    assert!(near_read == theirs && far_read == sent);
}

#[tokio::test]
async fn shutting_down_ends_one_direction_and_leaves_the_other() {
    let mut wire = Wire::new(&budget()).await;
    let (mut near, mut far) = pair(&mut wire).await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    near.shutdown().await.unwrap();
    let mut asked = Vec::new();
    far.read_to_end(&mut asked).await.unwrap();
    assert_eq!(asked, b"question");
    assert_eq!(near.write(b"more").await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
}

#[tokio::test]
async fn one_that_is_dropped_is_reset_and_what_was_read_before_stays_read() {
    let mut wire = Wire::new(&budget()).await;
    let (mut near, mut far) = pair(&mut wire).await;
    near.write_all(b"half a wo").await.unwrap();
    let mut there = [0; 9];
    far.read_exact(&mut there).await.unwrap();
    drop(near);
    let error = timeout(SOON, far.read(&mut there)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let reason = error.into_inner().unwrap().downcast::<h2::Error>().unwrap().reason();
    assert_eq!(reason, Some(Reason::CANCEL));
    assert_eq!(far.write(b"x").await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn looking_ahead_takes_nothing() {
    let mut wire = Wire::new(&budget()).await;
    let (mut near, mut far) = pair(&mut wire).await;
    for (part, whole) in [("GE", "GE"), ("T /", "GET /"), (" HTTP", "GET / HTTP")] {
        near.write_all(part.as_bytes()).await.unwrap();
        assert!(far.look_ahead().await.unwrap());
        assert_eq!(far.ahead(), whole.as_bytes());
    }
    near.shutdown().await.unwrap();
    assert!(!far.look_ahead().await.unwrap());
    assert!(!far.look_ahead().await.unwrap());
    assert_eq!(far.ahead(), b"GET / HTTP");
    let mut read = String::new();
    far.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "GET / HTTP");
}

#[tokio::test]
async fn window_is_given_back_for_what_was_read_and_for_nothing_else() {
    let mut wire = Wire::new(&budget()).await;
    let (mut near, mut far) = pair(&mut wire).await;
    let window = limits::STREAM_WINDOW_BYTES as usize;
    let piece = vec![1; 64 * 1024];
    let mut written = 0;
    while let Ok(taken) = timeout(Duration::from_millis(300), near.write(&piece)).await {
        written += taken.unwrap();
    }
    assert_eq!(written, window, "nobody has read a byte");
    let mut read = vec![0; window];
    far.read_exact(&mut read).await.unwrap();
    timeout(SOON, near.write_all(&read[..window / 2])).await.expect("the window is not given back").unwrap();
}

#[tokio::test]
async fn frames_of_one_byte_for_a_reader_that_stands_still_cut_nobody() {
    let budget = budget();
    let mut wire = Wire::new(&budget).await;
    let (mut near, far) = wire.stream().await;
    let mut far = TunnelIo::new(far);
    // Begins to read, and then has something else to do.
    near.send.send_data(Bytes::from_static(b"!"), false).unwrap();
    far.read_exact(&mut [0]).await.unwrap();
    let count = limits::STREAM_WINDOW_BYTES as usize / 4;
    timeout(SOON, send_bytes(&mut near, count)).await.unwrap();
    let mut neighbour = wire.carried().await;
    neighbour.client.write_all(b"hello").await.unwrap();
    let mut there = [0; 5];
    timeout(SOON, neighbour.server.read_exact(&mut there)).await.unwrap().unwrap();
    assert!(budget.held() >= count / 2, "{} of {count} bytes are accounted for", budget.held());
    // A look ahead finds what was drained, and so do reads.
    assert!(far.look_ahead().await.unwrap());
    near.send.send_data(Bytes::new(), true).unwrap();
    let mut read = Vec::new();
    timeout(SOON, far.read_to_end(&mut read)).await.unwrap().unwrap();
    assert_eq!(read.len(), count);
    assert!(read.iter().all(|byte| *byte == b'.'));
    assert_eq!(budget.held(), 0);
}

#[tokio::test]
async fn a_million_bytes_each_in_a_frame_of_its_own_go_both_ways() {
    const COUNT: usize = 1_000_000;
    let mut wire = Wire::new(&budget()).await;
    let (near, far) = pair(&mut wire).await;
    let echo = tokio::spawn(async move {
        let (mut reader, mut writer) = split(far);
        copy(&mut reader, &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let (mut reader, mut writer) = split(near);
    let sending = async {
        for _ in 0..COUNT {
            writer.write_all(b".").await?;
        }
        writer.shutdown().await
    };
    let mut read = Vec::new();
    let both = async { tokio::try_join!(sending, reader.read_to_end(&mut read)) };
    timeout(SOON * 3, both).await.unwrap().unwrap();
    assert_eq!(read.len(), COUNT);
    echo.await.unwrap();
}

#[tokio::test]
async fn readers_that_stand_still_take_no_window_from_their_neighbours() {
    let budget = budget();
    let mut wire = Wire::new(&budget).await;
    let mut stalled = Vec::new();
    // Together they take more than the window of their connection.
    for _ in 0..2 * limits::CONNECTION_WINDOW_BYTES / limits::STREAM_WINDOW_BYTES {
        let (mut near, far) = pair(&mut wire).await;
        let whole = vec![1; limits::STREAM_WINDOW_BYTES as usize];
        timeout(SOON, near.write_all(&whole)).await.expect("the connection has no window").unwrap();
        stalled.push((near, far));
    }
    let (mut near, mut far) = pair(&mut wire).await;
    near.write_all(b"hello").await.unwrap();
    let mut there = [0; 5];
    timeout(SOON, far.read_exact(&mut there)).await.unwrap().unwrap();
    drop((stalled, near, far));
    assert_eq!(budget.held(), 0);
}

#[tokio::test]
async fn a_reader_that_holds_more_than_the_worker_may_is_cut_and_nobody_else() {
    let budget = Budget::new(limits::STREAM_WINDOW_BYTES as usize / 2);
    let mut neighbour = Neighbour::new(&budget).await;
    let mut wire = Wire::new(&budget).await;
    let (mut near, mut far) = pair(&mut wire).await;
    let (mut other, mut calm) = pair(&mut wire).await;
    let whole = vec![1; limits::STREAM_WINDOW_BYTES as usize];
    // It may be cut before all is written.
    let _ = near.write_all(&whole).await;
    // What arrives later on the connection has it drained.
    timeout(SOON, async {
        while near.write(b"x").await.is_ok() {
            other.write_all(&[2; 1024]).await.unwrap();
            calm.read_exact(&mut [0; 1024]).await.unwrap();
        }
    })
    .await
    .expect("the slow reader is not cut");
    let mut read = Vec::new();
    let error = far.read_to_end(&mut read).await.unwrap_err();
    assert!(error.to_string().contains("slow readers hold too much"), "{error}");
    assert_eq!(budget.held(), 0);
    other.write_all(b"hello").await.unwrap();
    calm.read_exact(&mut [0; 5]).await.unwrap();
    neighbour.still_works().await;
}

#[tokio::test]
async fn a_reader_gets_no_more_in_one_turn_than_others_can_wait_for() {
    let mut wire = Wire::new(&budget()).await;
    let (mut near, mut far) = pair(&mut wire).await;
    near.write_all(&vec![1; 4 * TURN_BYTES]).await.unwrap();
    let mut buffer = vec![0; 4 * TURN_BYTES];
    let (mut turn, mut whole) = (0, 0);
    while whole < buffer.len() {
        match far.read(&mut buffer).now_or_never() {
            Some(read) => turn += read.unwrap(),
            None => {
                assert!(turn <= TURN_BYTES, "{turn} bytes at a time");
                whole += turn;
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_given_up_is_told_to_who_does_not_read_and_one_that_ends_well_is_not() {
    let mut wire = Wire::new(&budget()).await;
    let (mut near, far) = pair(&mut wire).await;
    let withdrawn = far.withdrawn();
    tokio::pin!(withdrawn);
    near.write_all(b"a request").await.unwrap();
    near.shutdown().await.unwrap();
    let soon = tokio::time::timeout(Duration::from_millis(50), withdrawn.as_mut()).await;
    assert!(soon.is_err(), "its end is no withdrawal");
    drop(near);
    tokio::time::timeout(Duration::from_secs(5), withdrawn).await.expect("its reset is told");
    drop(far);
}
