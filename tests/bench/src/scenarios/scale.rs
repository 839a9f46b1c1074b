//! What a node pays for many pods, and a node proxy for a large mesh.
//!
//! Everything is really started: with sidecars, as many proxies as pods. None of them carries traffic, so that what is told
//! is the price of being in the mesh at all.

use std::{thread, time::Duration};

use anyhow::Result;

use super::memory;
use crate::{
    results::Sample,
    systems::{Candidate, Proxy, Tools},
};

/// How long proxies may come to rest before they are looked at.
const REST: Duration = Duration::from_secs(2);

/// How long their CPU is watched while nothing happens.
const WATCHED: Duration = Duration::from_secs(2);

/// What all proxies of a node hold, and spend on doing nothing.
pub(super) fn pods(candidate: &dyn Candidate, tools: &Tools, count: u32) -> Result<Vec<Sample>> {
    let Some(crowd) = candidate.start_on_a_node(tools, count)? else { return Ok(Vec::new()) };
    thread::sleep(REST);
    let before = cpu(&crowd.proxies)?;
    thread::sleep(WATCHED);
    let spent = cpu(&crowd.proxies)?.saturating_sub(before);
    let mut sample = memory::held(&crowd.proxies)?.sample();
    sample.insert("processes".into(), crowd.proxies.len() as f64);
    sample.insert("cpu".into(), spent.as_secs_f64() / WATCHED.as_secs_f64() * 1e3);
    Ok(vec![sample])
}

/// What a proxy of a node needs to get ready in a large mesh, and holds then.
pub(super) fn workloads(candidate: &dyn Candidate, count: u32) -> Result<Vec<Sample>> {
    Ok(candidate.start_in_large_mesh(count)?.into_iter().collect())
}

/// CPU time of all of them since they began; each has an account of its own.
pub(super) fn cpu(proxies: &[Box<dyn Proxy>]) -> Result<Duration> {
    proxies.iter().map(|proxy| proxy.process().role().cpu()).sum()
}
