//! Requests through everything.

mod explained;
mod restated;
pub(crate) mod rig;
mod told;
mod unasked;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep, timeout};

use self::rig::{Rig, text, web};
use crate::routes::tests::virtual_service;
use crate::serve::IDLE_DEADLINE;
use crate::serve::pulse::STREAM_IDLE_DEADLINE;

fn said(text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::new(Full::new(text.into()))
}

/// The only rule of `web`, `stated` below `spec.http[0]` but for where it leads.
fn route(stated: &str) -> String {
    virtual_service(
        "shop/web",
        0,
        &format!("hosts: [web]\nhttp:\n- route: [{{destination: {{host: web}}}}]\n  {stated}"),
    )
}

/// Sends `request`, and reads to the end.
async fn exchange(mut client: DuplexStream, request: &str) -> String {
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_body_that_nobody_read_goes_to_the_next_endpoint() {
    let rig = Rig::new(&web(2, &[1]));
    let mut tried_twice = 0;
    // As often as makes sure that the pod out of reach is the first once.
    for _ in 0..20 {
        rig.listens(2, async |request| {
            let attempt = request.headers()["x-envoy-attempt-count"].clone();
            said(format!("try {attempt:?}: {}", text(request).await))
        })
        .await;
        let request = "POST / HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
        let answer = exchange(rig.client(), request).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(": hello"), "{answer}");
        tried_twice += usize::from(answer.contains("try \"2\""));
    }
    assert!(tried_twice > 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_stands_still_is_answered_by_whose_fault_it_is() {
    for (body, status) in [("hello", "504 Gateway Timeout"), ("hel", "408 Request Timeout")] {
        let rig = Rig::new(&web(1, &[]));
        rig.listens(1, async |_| std::future::pending().await).await;
        let began = Instant::now();
        let head = "POST / HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: 5\r\n\r\n";
        let answer = exchange(rig.client(), &format!("{head}{body}")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        assert!(answer.ends_with("stream timeout"), "{answer}");
        assert_eq!(began.elapsed().as_secs(), STREAM_IDLE_DEADLINE.as_secs());
        let log = rig.log();
        assert!(log.contains(" SI stream_idle_timeout "), "{log}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_waits_an_hour_for_the_next_request() {
    let rig = Rig::new(&web(1, &[]));
    rig.listens(1, async |_| said("one")).await;
    let mut client = rig.client();
    let pause = IDLE_DEADLINE - Duration::from_secs(10);
    for _ in 0..3 {
        sleep(pause).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        let mut answer = [0; 1024];
        let read = client.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{:?}", answer[..read].escape_ascii());
    }
    let idle = Instant::now();
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
    assert_eq!(idle.elapsed().as_secs(), IDLE_DEADLINE.as_secs());
}

#[tokio::test]
async fn a_head_of_an_answer_that_is_made_here_is_all_of_it() {
    let stated = "hosts: [web]\nhttp:\n- directResponse: {status: 418, body: {string: tea}}";
    let rig = Rig::new(&(web(1, &[]) + &virtual_service("shop/web", 0, stated)));
    let answer = exchange(rig.client(), "HEAD / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 418") && answer.contains("content-length: 3\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    let log = rig.log();
    assert!(log.contains(" 418 ") && !log.contains("DC"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_request_is_waited_for_behind_its_answer() {
    let rig = Rig::new(&web(1, &[]));
    let (tells, mut told) = mpsc::unbounded_channel();
    rig.listens(1, move |request| {
        let tells = tells.clone();
        async move {
            // It goes on reading while it answers.
            tokio::spawn(async move {
                let read = request.into_body().collect().await;
                let _ = tells.send(read.is_err());
            });
            said("enough")
        }
    })
    .await;
    let began = Instant::now();
    let half = "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 8\r\n\r\nfour";
    let mut client = rig.client();
    client.write_all(half.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(STREAM_IDLE_DEADLINE / 2, client.read_to_string(&mut answer));
    read.await.expect("the client's connection ends").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("enough"), "{answer}");
    let broken =
        timeout(STREAM_IDLE_DEADLINE / 2, told.recv()).await.expect("the endpoint's connection ends");
    assert_eq!((broken, began.elapsed().as_secs()), (Some(true), 0));
}

#[tokio::test(start_paused = true)]
async fn a_route_may_give_more_time_than_may_be_stood_still() {
    let rig = Rig::new(&(web(1, &[]) + &route("timeout: 900s")));
    rig.listens(1, async |_| std::future::pending().await).await;
    let began = Instant::now();
    let request = "POST / HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
    let answer = exchange(rig.client(), request).await;
    assert!(answer.starts_with("HTTP/1.1 504") && !answer.ends_with("stream timeout"), "{answer}");
    assert_eq!(began.elapsed().as_secs(), 900);
    assert!(rig.log().contains(" UT "), "{}", rig.log());

    let rig =
        Rig::new(&(web(1, &[]) + &route("fault: {delay: {fixedDelay: 400s, percentage: {value: 100}}}")));
    rig.listens(1, async |request| said(text(request).await)).await;
    let began = Instant::now();
    let answer = exchange(rig.client(), request).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    assert_eq!(began.elapsed().as_secs(), 400);
}

#[tokio::test]
async fn a_protocol_that_nobody_asked_for_reaches_no_client() {
    let rig = Rig::new(&web(1, &[]));
    rig.listens(1, async |_| {
        let mut answer = said("");
        *answer.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        answer
    })
    .await;
    let answer = exchange(rig.client(), "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
    assert!(rig.log().contains(" UPE "), "{}", rig.log());
}

#[tokio::test]
async fn a_head_has_as_many_fields_as_are_taken_and_no_more() {
    use crate::serve::REQUEST_FIELDS;

    for (fields, status) in [(REQUEST_FIELDS, "200 OK"), (REQUEST_FIELDS + 1, "431")] {
        let rig = Rig::new(&web(1, &[1]));
        rig.listens(1, async |_| said("all")).await;
        let further: String = (2..fields).map(|n| format!("x-{n}: y\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{further}\r\n");
        let answer = exchange(rig.client(), &head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{fields} fields: {answer}");
    }
}

#[tokio::test]
async fn an_answer_has_as_many_fields_as_are_taken_and_no_more_in_http1() {
    use crate::upstream::connection::ANSWER_FIELDS;

    let with = |fields: usize| {
        let mut answer = said("all");
        // Its length and the date are two more.
        for n in 2..fields {
            let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
            answer.headers_mut().insert(name, "y".try_into().unwrap());
        }
        answer
    };
    for (fields, status) in [(ANSWER_FIELDS, "200 OK"), (ANSWER_FIELDS + 1, "502 Bad Gateway")] {
        let rig = Rig::new(&web(1, &[1]));
        let mut client = rig.client();
        rig.listens(1, move |_| std::future::ready(with(fields))).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 64 * 1024];
        let read = client.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{fields} fields: {answer}");
        assert_eq!(answer.contains(&format!("\r\nx-{}: y\r\n", fields - 1)), status == "200 OK");
        assert_eq!(rig.log().contains(" UPE "), status != "200 OK", "{}", rig.log());
        // The client's connection serves on, with another one to the endpoint where that one is at its end.
        rig.listens(1, async |_| said("again")).await;
        let answer = exchange(client, "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\r\n\r\n"), "{answer}");
    }
}
