//! Requests through everything.

mod rig;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::Instant;

use self::rig::{Rig, text, web};
use crate::serve::pulse::STREAM_IDLE_DEADLINE;

fn said(text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::new(Full::new(text.into()))
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
