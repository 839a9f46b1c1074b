//! What stands still is ended, and what moves is not, with time that only passes when nothing else happens.

use std::future::pending;
use std::sync::Mutex;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::time::{sleep, timeout};

use super::*;
use crate::payload::{Answer, BodyError, Observer};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const IDLE: Option<Duration> = Some(STREAM_IDLE_DEADLINE);

/// How long it takes until what never ends by itself is given up; `None` when it is not, within two hours.
async fn given_up(pulse: &Pulse) -> Option<Duration> {
    let began = Instant::now();
    let ended = timeout(2 * HOUR, pulse.bound(pin!(pending::<()>()))).await.ok()?;
    assert!(ended.is_none());
    Some(began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_request_is_given_up_when_it_stood_still_and_not_before() {
    let pulse = Pulse::of_request(IDLE);
    let moving = async {
        for _ in 0..10 {
            sleep(STREAM_IDLE_DEADLINE - SECOND).await;
            pulse.moves();
        }
        pending::<()>().await;
    };
    let began = Instant::now();
    assert_eq!(pulse.bound(pin!(moving)).await, None);
    assert_eq!(began.elapsed(), 11 * STREAM_IDLE_DEADLINE - 10 * SECOND);
    assert_eq!(pulse.over(), Some(Over::Idle));
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_until_its_deadline_however_it_moves() {
    let pulse = Pulse::of_request(IDLE);
    let moving = async {
        sleep(10 * SECOND).await;
        pulse.answer_by(Some(Instant::now() + 20 * SECOND));
        loop {
            sleep(SECOND).await;
            pulse.moves();
        }
    };
    let began = Instant::now();
    assert_eq!(pulse.bound(pin!(moving)).await, None::<()>);
    assert_eq!((began.elapsed(), pulse.over()), (30 * SECOND, Some(Over::Late)));
}

#[tokio::test(start_paused = true)]
async fn between_the_requests_of_a_connection_there_is_an_hour() {
    let pulse = Pulse::of_connection(IDLE);
    assert_eq!(given_up(&pulse).await, Some(HOUR));
    pulse.begin(true);
    pulse.answer_by(Some(Instant::now() + SECOND));
    pulse.begin(true);
    sleep(2 * HOUR).await;
    pulse.answered();
    assert_eq!(given_up(&pulse).await, Some(HOUR), "from the end of the answer");
    pulse.begin(true);
    assert_eq!(given_up(&pulse).await, Some(STREAM_IDLE_DEADLINE));
}

#[tokio::test(start_paused = true)]
async fn who_can_still_be_answered_is() {
    let pulse = Pulse::of_request(IDLE);
    let began = Instant::now();
    let work = async {
        let mut walk = pin!(pending::<()>());
        let walked = poll_fn(|cx| pulse.poll_unless_over(cx, walk.as_mut())).await;
        assert!(walked.is_none() && began.elapsed() == STREAM_IDLE_DEADLINE);
        pulse.renew();
        sleep(SECOND).await;
    };
    assert_eq!(pulse.bound(pin!(work)).await, Some(()));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_minds_a_request_stands_still_for_ever_or_until_its_deadline() {
    let pulse = Pulse::of_request(None);
    assert_eq!(given_up(&pulse).await, None);
    pulse.answer_by(Some(Instant::now() + SECOND));
    assert_eq!((given_up(&pulse).await, pulse.over()), (Some(SECOND), Some(Over::Late)));
}

#[tokio::test(start_paused = true)]
async fn a_time_that_a_route_states_is_not_standing_still() {
    for (is_whole, ended) in [(true, HOUR / 2 + STREAM_IDLE_DEADLINE), (false, STREAM_IDLE_DEADLINE)] {
        let pulse = Pulse::of_connection(IDLE);
        pulse.begin(is_whole);
        pulse.waits_until(Instant::now() + HOUR / 2);
        assert_eq!(given_up(&pulse).await, Some(ended), "whole: {is_whole}");
        pulse.begin(is_whole);
        assert_eq!(given_up(&pulse).await, Some(STREAM_IDLE_DEADLINE), "of another request");
        pulse.begin(is_whole);
        pulse.rests_until(Instant::now() + HOUR / 2);
        assert_eq!(given_up(&pulse).await, Some(HOUR / 2 + STREAM_IDLE_DEADLINE));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_watched_until_its_request_has_arrived_or_is_given_up() {
    let pulse = Pulse::of_connection(IDLE);
    pulse.begin(false);
    pulse.answered();
    assert_eq!(given_up(&pulse).await, Some(STREAM_IDLE_DEADLINE));
    pulse.begin(false);
    pulse.arrived();
    pulse.answered();
    assert_eq!(given_up(&pulse).await, Some(HOUR));
    // However long a request may stand still.
    let pulse = Pulse::of_connection(None);
    pulse.begin(false);
    assert_eq!(given_up(&pulse).await, None);
    pulse.answered();
    assert_eq!(given_up(&pulse).await, Some(HOUR), "who owes the rest of an answered request");
}

/// An answer that does not end, in pieces of 16 KiB.
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[7; 16 * 1024])))))
    }
}

/// How an answer ended, in words.
#[derive(Debug, Clone, Default)]
struct Ending(Arc<Mutex<Option<String>>>);

impl Observer for Ending {
    fn sent(&mut self, _data: &[u8]) {}

    fn trailers(&mut self, _trailers: &HeaderMap) {}

    fn ended(&mut self, how: Result<(), &BodyError>) {
        *self.0.lock().unwrap() = Some(format!("{how:?}"));
    }
}

impl Ending {
    fn told(&self) -> Option<String> {
        self.0.lock().unwrap().clone()
    }
}

fn answer(pulse: Arc<Pulse>, time: Option<Duration>, ending: Ending) -> Response<Answer<Ending, Endless>> {
    pulse.begin(true);
    pulse.answer_by(time.map(|time| Instant::now() + time));
    Response::new(Answer::from_upstream(Endless, pulse, ending))
}

/// The times that answers have in the tests below, after which they are ended, and what is told of it.
const TIMES: [(Option<Duration>, Duration, &str); 2] = [
    (Some(Duration::from_secs(5)), Duration::from_secs(5), "Err(TimedOut)"),
    (None, STREAM_IDLE_DEADLINE, "Err(StoodStill)"),
];

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_does_not_read_is_out_of_time_like_any_other() {
    for (time, expected, how) in TIMES {
        let (near, far) = duplex(1024 * 1024);
        let ending = Ending::default();
        let observer = ending.clone();
        let service = service_fn(move |_: Request<Incoming>| {
            let observer = observer.clone();
            async move { Ok::<_, std::convert::Infallible>(answer(Pulse::of_stream(), time, observer)) }
        });
        tokio::spawn(
            http2::Builder::new(Streams { idle: IDLE }).serve_connection(TokioIo::new(far), service),
        );
        let (mut client, connection) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        let began = Instant::now();
        let request = Request::get("http://shop/").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        // It takes what its window has room for, and never makes more.
        let error = loop {
            match timeout(HOUR, body.data()).await.expect("it is never ended") {
                Some(Ok(_)) => {}
                other => break other.unwrap().unwrap_err(),
            }
        };
        assert!(error.is_reset() && error.is_remote(), "{error}");
        assert_eq!((began.elapsed(), ending.told().as_deref()), (expected, Some(how)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_http1_client_that_does_not_read_is_out_of_time_like_any_other() {
    for (time, expected, how) in TIMES {
        let (mut near, far) = duplex(16 * 1024);
        let (ending, pulse) = (Ending::default(), Arc::new(Pulse::of_connection(IDLE)));
        let (observer, of_requests) = (ending.clone(), pulse.clone());
        let service = service_fn(move |_: Request<Incoming>| {
            let (observer, pulse) = (observer.clone(), of_requests.clone());
            async move { Ok::<_, std::convert::Infallible>(answer(pulse, time, observer)) }
        });
        near.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await.unwrap();
        let began = Instant::now();
        let connection = http1::Builder::new().serve_connection(TokioIo::new(far), service);
        let serving = tokio::spawn(async move {
            let mut connection = Box::pin(connection);
            pulse.bound(connection.as_mut()).await.is_none()
        });
        let given_up = timeout(HOUR, serving).await.expect("it is never ended").unwrap();
        assert!(given_up, "it ended by itself");
        assert_eq!((began.elapsed(), ending.told().as_deref()), (expected, Some(how)));
        let mut head = [0; 15];
        near.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
    }
}
