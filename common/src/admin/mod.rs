//! The HTTP servers for operators and probes: readiness, metrics, and the loopback admin server.
//!
//! Runs on the control runtime, away from traffic. Knows no configuration sources: what it shows is handed in as
//! sections, collectors and handles. The surprising thing: it treats its callers as hostile. The metrics and probe ports
//! are reachable by every pod, and a browser on an operator's machine reaches a forwarded admin port.

pub mod config_dump;
pub mod control;
pub mod dump;
pub mod probes;
pub mod response;
pub mod server;

pub use control::AdminHandler;
pub use probes::{ReadinessHandler, StatsHandler};
pub use server::{Handler, HttpServer};
