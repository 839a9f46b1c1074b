//! What Ebb's proxies share: configuration, decisions, TLS, HBONE, certificates, telemetry.
//!
//! Layers, each using only the ones before it (`cargo xtask tidy` checks it):
//! L0 vocabulary (`spiffe`, `refusal`), configuration (`config`, `snapshot`); L1 decisions (`authz`, `balance`, `connection`);
//! L2 blocks (`settings`, `net`, `tls`, `lifecycle`, `telemetry`, `spans`); L3 protocols (`hbone`, `certs`, `source`, `admin`).
//! L0 and L1 know no runtime, sockets, files or clock.

#![forbid(unsafe_code)]

pub mod admin;
pub mod authz;
pub mod balance;
pub mod certs;
pub mod config;
pub mod connection;
pub mod explain;
pub mod hbone;
pub mod lifecycle;
pub mod manifests;
pub mod net;
pub mod refusal;
pub mod settings;
pub mod snapshot;
pub mod source;
pub mod spans;
pub mod spiffe;
pub mod telemetry;
pub mod tls;
