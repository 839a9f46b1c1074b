//! What a recorded body gives to each of its readers.

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue};

use super::*;

/// A body that comes piece by piece, as the test sends it.
struct Fed(mpsc::UnboundedReceiver<Result<Frame<Bytes>, BodyError>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.poll_recv(cx)
    }
}

struct Feed(mpsc::UnboundedSender<Result<Frame<Bytes>, BodyError>>);

impl Feed {
    fn data(&self, bytes: impl Into<Bytes>) {
        self.0.send(Ok(Frame::data(bytes.into()))).unwrap();
    }
}

fn recorded() -> (Feed, Recording) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Feed(sender), Recording::new(Fed(receiver)))
}

/// What a reader has at once: `None` while it has to wait.
fn next(payload: &mut Payload) -> Option<Option<Result<Frame<Bytes>, BodyError>>> {
    payload.frame().now_or_never()
}

fn data(payload: &mut Payload) -> Bytes {
    next(payload).expect("it waits").expect("it has ended").unwrap().into_data().unwrap()
}

/// Reads to the end: the data, and the trailers.
async fn whole(payload: Payload) -> (Vec<u8>, Option<HeaderMap>) {
    let collected = payload.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    (collected.to_bytes().to_vec(), trailers)
}

#[tokio::test]
async fn every_attempt_reads_the_same_from_the_beginning() {
    let (feed, recording) = recorded();
    let mut first = recording.attempt().unwrap();
    feed.data("hello ");
    assert_eq!(data(&mut first), "hello ");
    assert!(next(&mut first).is_none());
    feed.data("world");
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]);
    feed.0.send(Ok(Frame::trailers(trailers.clone()))).unwrap();
    drop(feed);
    for _ in 0..3 {
        let read = whole(recording.attempt().unwrap()).await;
        assert_eq!(read, (b"hello world".to_vec(), Some(trailers.clone())));
    }
}

#[tokio::test]
async fn an_attempt_that_is_superseded_reads_no_more_and_hears_of_it() {
    let (feed, recording) = recorded();
    let mut first = recording.attempt().unwrap();
    feed.data("a");
    assert_eq!(data(&mut first), "a");
    let waiting = tokio::spawn(async move { first.frame().await });
    tokio::task::yield_now().await;
    let mut second = recording.attempt().unwrap();
    let told = waiting.await.unwrap().unwrap().unwrap_err();
    assert!(matches!(told, BodyError::Superseded), "{told}");
    feed.data("b");
    assert_eq!(data(&mut second), "a");
    assert_eq!(data(&mut second), "b");
}

#[tokio::test]
async fn what_is_longer_than_is_kept_is_read_to_its_end_and_never_again() {
    let (feed, recording) = recorded();
    let mut first = recording.attempt().unwrap();
    let half = vec![1; RETRY_BUFFER_BYTES / 2];
    feed.data(half.clone());
    data(&mut first);
    assert!(recording.attempt().is_some(), "half of what may be kept is kept");
    let mut second = recording.attempt().unwrap();
    data(&mut second);
    feed.data(half.clone());
    feed.data("the end");
    drop(feed);
    let (rest, _) = whole(second).await;
    assert_eq!(rest.len(), half.len() + 7);
    assert!(recording.attempt().is_none());
}

#[tokio::test]
async fn many_small_pieces_are_no_way_round_the_bound() {
    let (feed, recording) = recorded();
    let mut first = recording.attempt().unwrap();
    let most = RETRY_BUFFER_BYTES / PIECE_OVERHEAD_BYTES;
    for _ in 0..most {
        feed.data("x");
        first.frame().await.unwrap().unwrap();
    }
    assert!(recording.attempt().is_none());
    assert_eq!(recording.lock().kept.capacity(), 0, "nothing stays behind");
}

#[tokio::test]
async fn an_error_of_the_client_ends_every_attempt() {
    let (feed, recording) = recorded();
    feed.data("a");
    feed.0.send(Err(BodyError::TimedOut)).unwrap();
    drop(feed);
    let mut first = recording.attempt().unwrap();
    assert_eq!(data(&mut first), "a");
    assert!(matches!(next(&mut first), Some(Some(Err(BodyError::TimedOut)))));
    assert!(recording.attempt().is_none(), "half a body is never sent as a whole one");
}

#[tokio::test]
async fn what_no_attempt_will_need_is_not_kept() {
    let (feed, recording) = recorded();
    let mut first = recording.attempt().unwrap();
    feed.data("a");
    assert_eq!(data(&mut first), "a");
    recording.stop();
    feed.data("b");
    assert_eq!(data(&mut first), "b");
    assert_eq!(recording.lock().kept.capacity(), 0);
    assert!(recording.attempt().is_none());
}

#[tokio::test]
async fn a_mirror_gets_all_of_it_and_one_that_does_not_keep_up_is_given_up() {
    let (feed, recording) = recorded();
    let (mirror, slow) = (recording.mirror(), recording.mirror());
    let copied = tokio::spawn(whole(mirror));
    let reading = tokio::spawn(whole(recording.attempt().unwrap()));
    for number in 0..4 * MIRROR_BACKLOG_CHUNKS {
        feed.data(vec![number as u8]);
        // Both get their turn.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
    drop(feed);
    let expected: Vec<u8> = (0..4 * MIRROR_BACKLOG_CHUNKS).map(|number| number as u8).collect();
    assert_eq!(reading.await.unwrap().0, expected);
    assert_eq!(copied.await.unwrap().0, expected);
    let cut = slow.collect().await.unwrap_err();
    assert!(matches!(cut, BodyError::Abandoned), "{cut}");
}

#[tokio::test]
async fn a_mirror_of_a_retried_request_gets_its_body_once() {
    let (feed, recording) = recorded();
    let mirror = recording.mirror();
    let mut first = recording.attempt().unwrap();
    feed.data("once");
    data(&mut first);
    drop(feed);
    assert_eq!(whole(recording.attempt().unwrap()).await.0, b"once");
    assert_eq!(whole(mirror).await.0, b"once");
}
