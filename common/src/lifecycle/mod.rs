//! How the process starts, ends, and holds its breath: readiness, the signal to stop, draining, backing off accepts.
//!
//! Knows no protocol. The surprising thing: readiness and draining are handed out as guards, and losing a guard never
//! looks like success: a start-up task that dies leaves the process not ready.

pub mod backoff;
pub mod drain;
pub mod readiness;
pub mod seldom;
pub mod shutdown;
pub mod threads;
