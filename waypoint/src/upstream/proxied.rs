//! A stream through a forward proxy, asked for with HTTP/1.1 CONNECT (DestinationRule `tunnel`).
//!
//! Whoever asks drives the connection until the proxy has answered; from then on it is a stream like any other, and no
//! task is left behind.

use std::pin::pin;

use common::config::destination::Tunnel;
use common::refusal::Refusal;
use http::{Method, Request, Response, Uri};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::ANSWER_HEAD_BYTES;

/// Asks the proxy at the other end of `io` for a connection to the target.
///
/// # Errors
/// [`Refusal::ConnectFailed`] with what it answered instead.
pub(super) async fn ask<T>(io: T, tunnel: &Tunnel) -> Result<TokioIo<Upgraded>, Refusal>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let target = match tunnel.host.contains(':') {
        true => format!("[{}]:{}", tunnel.host, tunnel.port),
        false => format!("{}:{}", tunnel.host, tunnel.port),
    };
    let failed = |why: String| Refusal::ConnectFailed(format!("CONNECT {target} by proxy: {why}").into());
    let request = request(&target).map_err(|error| failed(error.to_string()))?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(ANSWER_HEAD_BYTES);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(io)).await.map_err(|error| failed(error.to_string()))?;
    let mut connection = pin!(connection.with_upgrades());
    let mut answer = pin!(led_on(async { sender.send_request(request).await }));
    let led_on = tokio::select! {
        biased;
        led_on = &mut answer => led_on,
        // It ends when the stream has changed, or has failed: then the answer tells, and needs nobody to drive it.
        _ = &mut connection => answer.await,
    };
    led_on.map(TokioIo::new).map_err(|error| failed(error.to_string()))
}

fn request(target: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
    let host = http::HeaderValue::from_str(target)?;
    let request = Request::builder().method(Method::CONNECT).uri(target.parse::<Uri>()?);
    request.header(http::header::HOST, host).body(Empty::new())
}

/// The stream behind an answer that agrees.
async fn led_on(
    answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
) -> Result<Upgraded, Box<dyn std::error::Error + Send + Sync>> {
    let answer = answer.await?;
    if !answer.status().is_success() {
        return Err(format!("it answers {}", answer.status()).into());
    }
    Ok(hyper::upgrade::on(answer).await?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    /// A proxy that hears the question and gives `answer`.
    async fn proxy(mut io: DuplexStream, answer: &str) -> DuplexStream {
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(io.read_u8().await.unwrap());
        }
        assert!(asked.starts_with(b"CONNECT db.example:5432 HTTP/1.1\r\n"), "{}", asked.escape_ascii());
        io.write_all(answer.as_bytes()).await.unwrap();
        io
    }

    fn tunnel() -> Tunnel {
        Tunnel { host: "db.example".into(), port: 5432 }
    }

    #[tokio::test]
    async fn a_proxy_leads_on_or_says_why_not() {
        let (near, far) = duplex(1024);
        let answering = proxy(far, "HTTP/1.1 200 OK\r\n\r\nearly");
        let tunnel = tunnel();
        let (led_on, mut far) = tokio::join!(ask(near, &tunnel), answering);
        let mut stream = led_on.unwrap();
        far.write_all(b" and late").await.unwrap();
        let mut read = [0; 14];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"early and late");
        stream.write_all(b"back").await.unwrap();
        drop(stream);
        let mut back = String::new();
        far.read_to_string(&mut back).await.unwrap();
        assert_eq!(back, "back");

        let (near, far) = duplex(1024);
        let answering = proxy(far, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
        let (refused, _) = tokio::join!(ask(near, &tunnel), answering);
        assert!(refused.unwrap_err().to_string().contains("403"));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_of_a_question_that_is_given_up() {
        let (near, mut far) = duplex(1024);
        timeout(Duration::from_secs(1), ask(near, &tunnel())).await.unwrap_err();
        // The proxy sees the end at once, and not when it answers.
        let mut asked = String::new();
        far.read_to_string(&mut asked).await.unwrap();
        assert!(asked.starts_with("CONNECT "), "{asked}");
    }
}
