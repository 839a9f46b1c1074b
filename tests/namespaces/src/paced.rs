//! HTTP requests at an even pace from one pod, by a client that behaves as clients do.
//!
//! The pace does not wait for answers: what is due is sent, as long as there is a thread to send it. Of a connection that
//! ended without an answer a GET is sent again on another one (RFC 9110, 9.2.2), a POST never; a kept connection that its
//! server has closed is not used. The surprising thing: each thread lives in the pod's namespace from its start to its end.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use harness::netns::Namespace;

use crate::peer::Doorway;

/// How long one step of an exchange may take.
const STEP: Duration = Duration::from_secs(5);

/// How often a GET is sent again at most.
pub const RESENDS: u32 = 2;

/// Longest head of an answer.
const HEAD_MAX: usize = 16 * 1024;

/// What is sent, and how fast.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The service.
    pub to: SocketAddr,
    /// Its name, for `Host`.
    pub host: &'static str,
    /// Requests per second, evenly apart.
    pub per_second: u32,
    /// Threads, each with one kept connection: as many requests may be under way.
    pub clients: u32,
    /// The number of the first.
    pub first: u64,
    /// Of so many requests one is a POST; 0 for none.
    pub post_each: u64,
    /// Of so many requests one is made on a connection of its own; 0 for none.
    pub fresh_each: u64,
}

/// What became of one request.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its number, which is its path.
    pub number: u64,
    /// Whether it was a POST.
    pub post: bool,
    /// Whether it had a connection of its own.
    pub fresh: bool,
    /// When it was first sent.
    pub began: Instant,
    /// When it was over.
    pub ended: Instant,
    /// How often it was sent again.
    pub resent: u32,
    /// The answer, or why there is none.
    pub answer: Result<Answer, String>,
}

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Its head, in lower case.
    pub head: String,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Done {
    /// Whether it was answered with 200.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.answer.as_ref().is_ok_and(|answer| answer.status == 200)
    }
}

/// Running load.
#[derive(Debug)]
pub struct Paced {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Vec<Done>>>>,
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    began: Instant,
    next: AtomicU64,
    stop: AtomicBool,
}

impl Paced {
    /// Starts in `from`.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn start(from: &Namespace, plan: Plan) -> Result<Self> {
        let clients = plan.clients;
        let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { plan, began: Instant::now(), next, stop });
        let client = |_| -> Result<JoinHandle<Result<Vec<Done>>>> {
            let (doorway, shared) = (Doorway::to(from)?, Arc::clone(&shared));
            Ok(std::thread::spawn(move || {
                doorway.enter()?;
                Ok(Client { shared, kept: None }.run())
            }))
        };
        let threads = (0..clients).map(client).collect::<Result<_>>()?;
        Ok(Self { shared, threads })
    }

    /// Lets every request end, and tells what became of each, by number.
    ///
    /// # Errors
    /// A client could not start, or panicked.
    pub fn stop(self) -> Result<Vec<Done>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        all.sort_by_key(|done| done.number);
        Ok(all)
    }
}

struct Client {
    shared: Arc<Shared>,
    kept: Option<TcpStream>,
}

impl Client {
    fn run(mut self) -> Vec<Done> {
        let mut all = Vec::new();
        loop {
            let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
            let due = self.shared.began
                + Duration::from_secs(1) * u32::try_from(number).unwrap_or(u32::MAX)
                    / self.shared.plan.per_second;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if self.shared.stop.load(Ordering::Relaxed) {
                return all;
            }
            all.push(self.one(self.shared.plan.first + number));
        }
    }

    fn one(&mut self, number: u64) -> Done {
        let Plan { post_each, fresh_each, .. } = self.shared.plan;
        let each = |every: u64, offset: u64| every > 0 && number % every == offset;
        let (post, fresh) = (each(post_each, 1), each(fresh_each, 0));
        let (began, mut resent) = (Instant::now(), 0);
        let answer = loop {
            match self.exchange(number, post, fresh) {
                Err(_) if !post && resent < RESENDS => resent += 1,
                ended => break ended.map_err(|error| format!("{error:#}")),
            }
        };
        Done { number, post, fresh, began, ended: Instant::now(), resent, answer }
    }

    fn exchange(&mut self, number: u64, post: bool, fresh: bool) -> Result<Answer> {
        let kept = if fresh { None } else { self.kept.take().filter(is_open) };
        let is_kept = kept.is_some();
        let plan = &self.shared.plan;
        let mut stream = match kept {
            Some(stream) => stream,
            None => connect(plan.to).with_context(|| format!("connect to {}", plan.to))?,
        };
        let what = || if is_kept { "on a kept connection" } else { "on a new connection" };
        let request = request(plan.host, number, post);
        stream.write_all(request.as_bytes()).context("send").with_context(what)?;
        let answer = receive(&mut stream).with_context(what)?;
        if !fresh && answer.header("connection") != Some("close") {
            self.kept = Some(stream);
        }
        Ok(answer)
    }
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, STEP)?;
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether the other side has neither closed nor said anything unasked.
fn is_open(stream: &TcpStream) -> bool {
    let look = || {
        stream.set_nonblocking(true)?;
        let seen = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        seen
    };
    look().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn request(host: &str, number: u64, post: bool) -> String {
    let body = if post { format!("posted {number}") } else { String::new() };
    let (method, length) =
        if post { ("POST", format!("content-length: {}\r\n", body.len())) } else { ("GET", String::new()) };
    format!("{method} /{number} HTTP/1.1\r\nhost: {host}\r\n{length}\r\n{body}")
}

fn receive(stream: &mut TcpStream) -> Result<Answer> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        ensure!(bytes.len() <= HEAD_MAX, "the head of the answer does not end");
        match stream.read(&mut buffer).context("wait for the answer")? {
            0 => bail!("closed after {} bytes of the answer", bytes.len()),
            length => bytes.extend_from_slice(&buffer[..length]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    let status = head.get(9..12).context("no status")?.parse().context("the status")?;
    let mut answer = Answer { status, head, body: String::new() };
    let length: usize = answer.header("content-length").context("an answer of no length")?.parse()?;
    let mut body = bytes.split_off(head_end + 4);
    while body.len() < length {
        match stream.read(&mut buffer).context("wait for the body")? {
            0 => bail!("closed after {} bytes of {length} of the body", body.len()),
            read => body.extend_from_slice(&buffer[..read]),
        }
    }
    answer.body = String::from_utf8_lossy(&body).into_owned();
    Ok(answer)
}
