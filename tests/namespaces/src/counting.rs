//! An HTTP server that knows how often each request has arrived, by the number in its path.
//!
//! All servers of one ledger count together. It fails the first arrival of some GETs, so that somebody has to try again.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use harness::cluster::Pod;

use crate::peer::Server;

/// Longest body of a request.
const BODY_MAX: usize = 64 * 1024;

/// How often each request has arrived.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(Arc<Mutex<HashMap<u64, u32>>>);

impl Arrivals {
    /// Serves on port 8080 of a pod. The first arrival of each GET whose number `fails_once` divides is answered with 503.
    ///
    /// # Errors
    /// The port is taken.
    pub fn serve(&self, pod: &Pod, fails_once: u64) -> Result<Server> {
        let arrivals = self.clone();
        Server::start(pod.namespace(), 8080, move |stream, _| {
            // How a client leaves is its own affair.
            let _ = arrivals.answer(stream, fails_once);
        })
    }

    /// How often a request has arrived.
    #[must_use]
    pub fn of(&self, number: u64) -> u32 {
        self.lock().get(&number).copied().unwrap_or(0)
    }

    fn answer(&self, stream: TcpStream, fails_once: u64) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut input = BufReader::new(stream);
        while let Some(request) = Request::read(&mut input)? {
            let arrivals = self.arrived(request.number);
            let fails = !request.post && request.number.is_multiple_of(fails_once) && arrivals == 1;
            let status = if fails { "503 Service Unavailable" } else { "200 OK" };
            let body = format!("{} arrived {arrivals} times", request.number);
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            input.get_mut().write_all(answer.as_bytes())?;
        }
        Ok(())
    }

    fn arrived(&self, number: u64) -> u32 {
        let mut all = self.lock();
        let count = all.entry(number).or_default();
        *count += 1;
        *count
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Request {
    number: u64,
    post: bool,
}

impl Request {
    /// The next request with its body; `None` when the client has closed.
    fn read(input: &mut BufReader<TcpStream>) -> Result<Option<Self>> {
        let line = line(input)?;
        if line.is_empty() {
            return Ok(None);
        }
        let mut words = line.split(' ');
        let post = words.next() == Some("POST");
        let number = words.next().and_then(|path| path.strip_prefix('/')?.parse().ok());
        let number = number.with_context(|| format!("no number in {line}"))?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let field = self::line(input)?.to_ascii_lowercase();
            match field.split_once(": ") {
                Some(("content-length", value)) => length = value.parse()?,
                Some(("transfer-encoding", value)) => chunked = value == "chunked",
                Some(_) => {}
                None => break,
            }
        }
        if chunked {
            while let size @ 1.. = usize::from_str_radix(&self::line(input)?, 16)? {
                take(input, size + 2)?;
            }
            self::line(input)?;
        } else {
            take(input, length)?;
        }
        Ok(Some(Self { number, post }))
    }
}

/// A line without its end; empty where there is none any more.
fn line(input: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn take(input: &mut BufReader<TcpStream>, length: usize) -> Result<()> {
    anyhow::ensure!(length <= BODY_MAX, "a body of {length} bytes");
    input.read_exact(&mut vec![0; length])?;
    Ok(())
}
