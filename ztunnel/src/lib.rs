//! Ebb's node proxy, as a library so that its parts can be tested from outside.
//!
//! The walk of a connection: `outbound` (accept, route, forward, carry) on the client's node, `inbound` (accept, admit,
//! deliver, carry) on the server's. `pods` follows the configuration and keeps the kernel's side of each pod.

#![deny(unsafe_code)]

pub mod app;
pub mod carry;
pub mod dial;
pub mod door;
pub mod explain;
pub mod flow;
pub mod inbound;
pub mod live;
#[expect(unsafe_code, reason = "the island for what the kernel offers no safe call for")]
pub mod netns;
pub mod outbound;
pub mod pods;
pub mod record;
pub mod spans;
#[cfg(test)]
mod testing;
pub mod view;
pub mod worker;
