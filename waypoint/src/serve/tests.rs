//! How long clients may take, with time that only passes when nothing else happens.

mod frames;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::*;

async fn answer(request: Request<Incoming>) -> Response<Empty<Bytes>> {
    let mut answer = Response::new(Empty::new());
    if request.uri() == "/changes" {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        tokio::spawn(echo(hyper::upgrade::on(request)));
    } else if request.into_body().collect().await.is_err() {
        *answer.status_mut() = StatusCode::BAD_REQUEST;
    }
    answer
}

/// Another protocol: what comes is sent back.
async fn echo(changed: hyper::upgrade::OnUpgrade) {
    let (mut from, mut to) = tokio::io::split(TokioIo::new(changed.await.unwrap()));
    tokio::io::copy(&mut from, &mut to).await.unwrap();
    to.shutdown().await.unwrap();
}

/// A client of HTTP/1.1, and the end of its connection.
fn http1_client() -> (DuplexStream, JoinHandle<()>) {
    let (client, serving, _) = http1_client_with_verdicts();
    (client, serving)
}

fn http1_client_with_verdicts() -> (DuplexStream, JoinHandle<()>, Arc<Verdicts>) {
    let (client, server) = duplex(64 * 1024);
    let verdicts = Arc::<Verdicts>::default();
    let told = verdicts.clone();
    let serving = tokio::spawn(async move {
        let _ = http1_connection(server, told, answer).await;
    });
    (client, serving, verdicts)
}

/// The same of HTTP/2, with preface and SETTINGS.
async fn http2_client() -> (DuplexStream, JoinHandle<()>) {
    let (mut client, server) = duplex(64 * 1024);
    let serving = tokio::spawn(async move {
        let service = service_fn(async |request| Ok::<_, Infallible>(answer(request).await));
        let _ = http2_server(None).serve_connection(TokioIo::new(server), service).await;
    });
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    client.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    (client, serving)
}

async fn read_all(mut client: DuplexStream) -> String {
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test(start_paused = true)]
async fn a_head_that_has_begun_has_ten_seconds_however_it_drips() {
    let begun = b"GET / HTTP/1.1\r\nHost: a\r\n";
    for pause in [Duration::from_secs(1), Duration::from_secs(3600)] {
        let (mut client, serving, verdicts) = http1_client_with_verdicts();
        sleep(Duration::from_secs(100)).await;
        let began = Instant::now();
        client.write_all(begun).await.unwrap();
        let dripping = async {
            loop {
                sleep(pause).await;
                if client.write_all(b"a").await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = dripping => {}
            _ = serving => {}
        }
        assert_eq!(began.elapsed().as_secs(), REQUEST_HEAD_DEADLINE.as_secs(), "with pauses of {pause:?}");
        let answer = read_all(client).await;
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nrequest header timeout") && verdicts.is_head_late(), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_head_has_its_own_time() {
    let (mut client, _serving) = http1_client();
    let mut buffer = [0; 1024];
    for pause in [1, 8, 3500, 15, 3500] {
        sleep(Duration::from_secs(pause)).await;
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        sleep(Duration::from_secs(8)).await;
        client.write_all(b"Host: a\r\n\r\n").await.unwrap();
        let read = client.read(&mut buffer).await.unwrap();
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200"), "after a pause of {pause} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_may_take_its_time_and_the_head_behind_it_may_not() {
    let (mut client, serving) = http1_client();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n").await.unwrap();
    for _ in 0..3 {
        sleep(Duration::from_secs(60)).await;
        client.write_all(b"x").await.unwrap();
    }
    client.write_all(b"G").await.unwrap();
    let began = Instant::now();
    serving.await.unwrap();
    assert_eq!(began.elapsed().as_secs(), REQUEST_HEAD_DEADLINE.as_secs());
    let answers = read_all(client).await;
    assert!(answers.starts_with("HTTP/1.1 200") && answers.contains("HTTP/1.1 408"), "{answers}");
}

#[tokio::test]
async fn who_asks_for_another_protocol_and_goes_on_without_is_answered_each_time() {
    let (mut client, serving) = http1_client();
    let asking = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    client.write_all(asking.repeat(3).as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let answers = read_all(client).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3, "{answers}");
    serving.await.unwrap();
}

#[tokio::test]
async fn another_protocol_behind_other_requests_is_carried_as_it_came() {
    let (mut client, serving) = http1_client();
    let asking = "GET /changes HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let before = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3);
    let early = "GET /early HTTP/1.1\nno header\r\n\0\n";
    client.write_all(format!("{before}{asking}{early}").as_bytes()).await.unwrap();
    client.write_all(b"late\n").await.unwrap();
    client.shutdown().await.unwrap();
    let answers = read_all(client).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3, "{answers}");
    let (_, changed) = answers.split_once("HTTP/1.1 101").unwrap_or_else(|| panic!("{answers}"));
    assert!(changed.ends_with(&format!("\r\n\r\n{early}late\n")), "{changed:?}");
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_head_of_http2_that_is_not_finished_ends_the_connection() {
    let (mut client, mut serving) = http2_client().await;
    // HEADERS of stream 1 with END_STREAM and without END_HEADERS, `:method: GET`.
    client.write_all(&[0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82]).await.unwrap();
    let began = Instant::now();
    timeout(Duration::from_secs(3600), &mut serving).await.expect("it lingers").unwrap();
    let most = PING_INTERVAL + PING_DEADLINE + Duration::from_secs(1);
    assert!(began.elapsed() <= most, "after {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_of_http2_that_answers_pings_is_kept() {
    let (mut client, serving) = http2_client().await;
    let answering = async {
        let mut pings = 0;
        while pings < 100 {
            let mut header = [0; 9];
            client.read_exact(&mut header).await.unwrap();
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let mut payload = vec![0; length];
            client.read_exact(&mut payload).await.unwrap();
            if (header[3], header[4]) == (6, 0) {
                pings += 1;
                header[4] = 1;
                client.write_all(&[&header[..], &payload].concat()).await.unwrap();
            }
        }
    };
    let began = Instant::now();
    answering.await;
    assert!(began.elapsed() >= 90 * PING_INTERVAL, "{:?}", began.elapsed());
    assert!(!serving.is_finished());
}
