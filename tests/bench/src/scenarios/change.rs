//! How long one changed route takes to be in force: from the file that is replaced to the first request served by it.
//!
//! One client asks without a pause on one connection and looks which version answered, so that the grain is the time of one
//! request. What is measured is everything an operator waits for: notice, reading, compiling, publishing.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{memory::SETTLE, scale::cpu};
use crate::{
    plan::Plan,
    results::{Sample, sample},
    systems::{Candidate, Changing, Tools, VERSION_HEADER},
};

/// How long a change may take, and an answer.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(10);

/// Between two changes, so that each is the first after a while.
const PAUSE: Duration = Duration::from_millis(300);

/// Changes whose CPU time is counted.
const COUNTED: u32 = 3;

/// How long a change that is counted may keep the proxies busy.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(2);

/// Longest head of an answer that is read, in bytes.
const HEAD_MAX: usize = 16 * 1024;

pub(super) fn take(candidate: &dyn Candidate, tools: &Tools, plan: &Plan) -> Result<Vec<Sample>> {
    let Some(changing) = candidate.start_among_services(tools, plan.services)? else { return Ok(Vec::new()) };
    changing.running.prove()?;
    thread::sleep(SETTLE);
    let mut client = Client::connect(&changing)?;
    let mut samples = Vec::new();
    for version in 1..=plan.changes {
        thread::sleep(PAUSE);
        let took = client.change(&changing, version)?;
        samples.push(sample([("in_force", took.as_secs_f64() * 1e3)]));
    }
    // Apart from the others, since whoever asks without a pause costs CPU too.
    for (one, version) in samples.iter_mut().zip(plan.changes + 1..=plan.changes + COUNTED) {
        one.insert("cpu".into(), cost(&changing, version)?.as_secs_f64() * 1e3);
    }
    Ok(samples)
}

/// CPU time of the proxies for one change, with nobody asking.
fn cost(changing: &Changing, version: u32) -> Result<Duration> {
    let content = (changing.content)(version);
    let before = cpu(&changing.running.proxies)?;
    replace(&changing.file, &content)?;
    thread::sleep(FOLLOWED_WITHIN);
    Ok(cpu(&changing.running.proxies)?.saturating_sub(before))
}

/// One connection on which one request follows the other.
struct Client {
    stream: TcpStream,
    request: String,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(changing: &Changing) -> Result<Self> {
        let stage = &changing.running.stage;
        let stream = stage.client.namespace().connect(stage.called().into(), IN_FORCE_WITHIN)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(IN_FORCE_WITHIN))?;
        let request = format!("GET /bytes/0 HTTP/1.1\r\nHost: {}\r\n\r\n", stage.called());
        Ok(Self { stream, request, buffer: Vec::new() })
    }

    /// Puts `version` in force and says how long that took.
    fn change(&mut self, changing: &Changing, version: u32) -> Result<Duration> {
        let content = (changing.content)(version);
        replace(&changing.file, &content)?;
        let changed = Instant::now();
        loop {
            if self.ask()? == Some(version) {
                return Ok(changed.elapsed());
            }
            ensure!(changed.elapsed() < IN_FORCE_WITHIN, "version {version} is not in force");
        }
    }

    /// The version that served one request.
    fn ask(&mut self) -> Result<Option<u32>> {
        self.stream.write_all(self.request.as_bytes())?;
        self.buffer.clear();
        let mut piece = [0; 1024];
        while !self.buffer.ends_with(b"\r\n\r\n") {
            let length = self.stream.read(&mut piece)?;
            ensure!(length > 0, "the connection was closed");
            self.buffer.extend_from_slice(&piece[..length]);
            ensure!(self.buffer.len() <= HEAD_MAX, "an answer without an end");
        }
        version(&String::from_utf8_lossy(&self.buffer))
    }
}

/// The version in the head of an answer of no body, `None` where it falls under no route with one.
fn version(head: &str) -> Result<Option<u32>> {
    ensure!(head.starts_with("HTTP/1.1 200 "), "answered {}", head.lines().next().unwrap_or_default());
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let stated = fields.find(|(name, _)| name.eq_ignore_ascii_case(VERSION_HEADER));
    stated.map(|(_, value)| value.trim().parse().context("read the version of a route")).transpose()
}

/// Puts a whole file in place of another at once, as editors and kubelets do.
pub(super) fn replace(file: &Path, content: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, content).with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, file).with_context(|| format!("replace {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_head_and_failures_are_told() {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nX-{}: 7\r\n\r\n", &VERSION_HEADER[2..]);
        assert_eq!(version(&head).unwrap(), Some(7));
        assert_eq!(version("HTTP/1.1 200 OK\r\n\r\n").unwrap(), None);
        assert!(version("HTTP/1.1 503 Service Unavailable\r\n\r\n").is_err());
    }
}
