//! HTTP/2 requests at an even pace from one pod, all on one connection, by a client that behaves as clients do.
//!
//! A connection whose server says GOAWAY is given up for a new one, and what the server says it has not begun with is sent
//! again there, whatever it is (RFC 9113, 8.7). Beyond that a GET is sent again, a POST never.

use std::{
    error::Error as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use harness::netns::Namespace;
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    sync::Mutex,
    task::JoinSet,
    time::{interval, timeout},
};

use crate::{
    paced::{Answer, Done, RESENDS},
    peer::Doorway,
};

/// How long one try may take.
const TRY: Duration = Duration::from_secs(5);

/// How often a request that was not begun with is sent anew.
const ANEW: u32 = 3;

/// Running load.
#[derive(Debug)]
pub struct Multiplexed {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Done>>>,
}

impl Multiplexed {
    /// Sends a GET and a POST in turn from `from` to `to`, `per_second` of them evenly apart, numbered from `first`.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn start(from: &Namespace, to: SocketAddr, per_second: u32, first: u64) -> Result<Self> {
        let (doorway, stop) = (Doorway::to(from)?, Arc::<AtomicBool>::default());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            doorway.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(to, Duration::from_secs(1) / per_second, first, stopped))
        });
        Ok(Self { stop, thread })
    }

    /// Lets every request end, and tells what became of each.
    ///
    /// # Errors
    /// The client could not start, or panicked.
    pub fn stop(self) -> Result<Vec<Done>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("a client panicked"))?
    }
}

async fn run(to: SocketAddr, apart: Duration, first: u64, stop: Arc<AtomicBool>) -> Result<Vec<Done>> {
    let client = Arc::new(Client { to, sender: Mutex::default() });
    let (mut due, mut requests) = (interval(apart), JoinSet::new());
    let mut number = first;
    while !stop.load(Ordering::Relaxed) {
        due.tick().await;
        let client = Arc::clone(&client);
        requests.spawn(async move { client.one(number, number % 2 == 1).await });
        number += 1;
    }
    Ok(requests.join_all().await)
}

type Sender = http2::SendRequest<Full<Bytes>>;

struct Client {
    to: SocketAddr,
    sender: Mutex<Option<Sender>>,
}

/// Why a request has no answer.
struct Failed {
    /// It has certainly not been begun with.
    unbegun: bool,
    why: String,
}

impl Client {
    async fn one(&self, number: u64, post: bool) -> Done {
        let (began, mut resent, mut anew) = (Instant::now(), 0, 0);
        let answer = loop {
            let tried = timeout(TRY, self.exchange(number, post)).await;
            match tried.unwrap_or_else(|_| Err(failed("no answer in time"))) {
                Ok(answer) => break Ok(answer),
                Err(failed) if failed.unbegun && anew < ANEW => anew += 1,
                Err(_) if !post && resent < RESENDS => resent += 1,
                Err(failed) => break Err(failed.why),
            }
        };
        Done { number, post, fresh: false, began, ended: Instant::now(), resent, answer }
    }

    async fn exchange(&self, number: u64, post: bool) -> Result<Answer, Failed> {
        let mut sender = self.sender().await.map_err(|error| failed(&format!("{error:#}")))?;
        let body = if post { format!("posted {number}") } else { String::new() };
        let method = if post { "POST" } else { "GET" };
        let uri = format!("http://web.shop/{number}");
        let request = Request::builder().method(method).uri(uri).body(Full::new(body.into()));
        let request = request.map_err(|error| failed(&error.to_string()))?;
        let response = sender.try_send_request(request).await.map_err(|mut error| Failed {
            unbegun: error.take_message().is_some() || is_unbegun(error.error()),
            why: format!("{:?}", error.error()),
        })?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| failed(&format!("{error:?}")))?.to_bytes();
        let head_text: String = head
            .headers
            .iter()
            .map(|(name, value)| format!("\n{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status: head.status.as_u16(), head: head_text, body })
    }

    /// The connection, or a new one where that takes no more requests.
    async fn sender(&self) -> Result<Sender> {
        let mut kept = self.sender.lock().await;
        if let Some(sender) = kept.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = TcpStream::connect(self.to).await.context("connect")?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.context("begin HTTP/2")?;
        tokio::spawn(connection);
        *kept = Some(sender.clone());
        Ok(sender)
    }
}

fn failed(why: &str) -> Failed {
    Failed { unbegun: false, why: why.to_owned() }
}

/// Whether the server has said that it has not begun with the request: it refused the stream, or its last GOAWAY, without
/// an error, does not cover it.
fn is_unbegun(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| match cause.reason() {
        Some(h2::Reason::REFUSED_STREAM) => true,
        Some(h2::Reason::NO_ERROR) => cause.is_go_away() && cause.is_remote(),
        _ => false,
    })
}
