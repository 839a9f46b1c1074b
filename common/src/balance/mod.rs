//! Decides which endpoint a connection or a request goes to. Pure: endpoints, load, time and chance are handed in.
//!
//! A ztunnel asks [`choose`] and nothing else. A waypoint asks more, by the fields of Istio's DestinationRule:
//! [`outlier`] which endpoints are ejected, [`locality`] which of the others come into question and in what parts,
//! [`warmup`] how much of its weight a new one has already, then one of [`least_request`], [`round_robin`],
//! [`random`], [`ring_hash`] and [`maglev`] for the endpoint (the last two by the request's [`hash_key`]), and
//! [`budget`] whether the attempt may be made at all. None of them knows another's state; where they differ from
//! Envoy, on which users' expectations are built, their heads say so.

pub mod budget;
pub mod hash_key;
pub mod least_request;
pub mod locality;
pub mod maglev;
mod nearest;
pub mod outlier;
mod priority;
pub mod random;
pub mod ring_hash;
pub mod round_robin;
mod schedule;
#[cfg(test)]
mod tests;
pub mod warmup;

use std::net::SocketAddr;

pub use self::nearest::{Caller, Choice, NoEndpoint, Wanted, candidates, choose, choose_among};

/// An endpoint's part of the traffic: what the tables of consistent hashing are built from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Which endpoint: its position among the candidates, returned when it is chosen.
    pub candidate: usize,
    /// Its address, which is hashed in the form `10.0.0.1:80` or `[fd00::1]:80`.
    pub address: SocketAddr,
    /// Its part. Those of one table add up to 1; an endpoint without a part is never chosen.
    pub portion: f64,
}
