//! The pods behind both proxies: they note what they are asked and answer by the script that the request carries.
//!
//! They are outside the mesh, so that Envoy and the waypoint reach them in the same way. A request is known again by its
//! header [`KEY`], which says through whom it came; how often it is tried is how often it is noted.

use std::{
    collections::HashMap,
    io::{BufReader, Write},
    net::TcpStream,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use harness::cluster::Pod;
use socket2::SockRef;

use super::wire::Message;
use crate::peer::Server;

/// The header by which a request is known again.
pub const KEY: &str = "x-differential-key";

/// The header that says how each try is answered: words between commas, the last for all further tries.
pub const SCRIPT: &str = "x-script";

/// How long the word `late` waits: longer than any timeout that a table states.
const LATE: Duration = Duration::from_millis(900);

/// One try of a request, as a pod saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The pod.
    pub pod: String,
    /// Its port.
    pub port: u16,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers in their order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What all pods saw, by key.
#[derive(Clone, Debug, Default)]
pub struct Book(Arc<Mutex<HashMap<String, Vec<Seen>>>>);

impl Book {
    /// What was seen of a request, which is then forgotten.
    #[must_use]
    pub fn take(&self, key: &str) -> Vec<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key).unwrap_or_default()
    }

    /// Notes a try, and says which of its request it is, from 0.
    fn note(&self, key: &str, seen: Seen) -> usize {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_key = all.entry(key.to_owned()).or_default();
        of_key.push(seen);
        of_key.len() - 1
    }
}

/// Serves on a port of a pod, and notes what is asked.
///
/// # Errors
/// The port is taken.
pub fn serve(pod: &Pod, name: &str, port: u16, book: &Book) -> Result<Server> {
    let (name, book) = (name.to_owned(), book.clone());
    Server::start(pod.namespace(), port, move |stream, ends| {
        // However a proxy leaves, what matters is noted before it is answered.
        let _ = converse(stream, &name, ends.local.port(), &book);
    })
}

fn converse(stream: TcpStream, pod: &str, port: u16, book: &Book) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = Message::read(&mut reader, false)? {
        // Whatever a proxy made of the target, spaces too.
        let (method, rest) = request.start.split_once(' ').context("no method")?;
        let (target, _) = rest.rsplit_once(' ').context("no target")?;
        let key = request.header(KEY).unwrap_or_default().to_owned();
        let script = request.header(SCRIPT).unwrap_or("200").to_owned();
        let is_head = method == "HEAD";
        let seen = Seen {
            pod: pod.to_owned(),
            port,
            method: method.to_owned(),
            target: target.to_owned(),
            headers: request.headers.clone(),
            body: request.body.clone(),
        };
        let number = book.note(&key, seen);
        let step = script.split(',').nth(number).or(script.split(',').next_back()).unwrap_or("200");
        if !answer(&mut writer, step, pod, is_head)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Answers as a word of a script says; `false` where the connection ends instead.
fn answer(to: &mut TcpStream, word: &str, pod: &str, is_head: bool) -> Result<bool> {
    let (status, further) = match word {
        "reset" => {
            SockRef::from(&*to).set_linger(Some(Duration::ZERO))?;
            return Ok(false);
        }
        "close" => return Ok(false),
        "late" => {
            thread::sleep(LATE);
            (200, String::new())
        }
        "limited" => (429, "x-envoy-ratelimited: true\r\n".to_owned()),
        word => match word.strip_prefix("grpc-") {
            Some(outcome) => (200, format!("content-type: application/grpc\r\ngrpc-status: {outcome}\r\n")),
            None => (word.parse().context("a script of words")?, String::new()),
        },
    };
    let body = format!("{status} of {pod}");
    let length = if matches!(status, 204 | 304) {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let head = format!(
        "HTTP/1.1 {status} As Scripted\r\n{length}{further}x-of-app: {pod}\r\nx-a: app\r\nx-b: app\r\nx-b: again\r\n\
         access-control-allow-origin: https://app.example\r\nvary: accept\r\n\r\n"
    );
    let body = if is_head || length.is_empty() { "" } else { &body };
    to.write_all(format!("{head}{body}").as_bytes())?;
    Ok(true)
}
