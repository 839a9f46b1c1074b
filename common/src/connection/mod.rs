//! What becomes of a connection: where it goes from the pod that makes it, and whether the pod it arrives for lets it in.
//!
//! Pure: the mesh and the facts in, a named value out. Knows nothing of how the two nodes carry it. Proxies decide by it,
//! and so do the commands that explain what they would decide.

pub mod admit;
pub mod route;

pub use crate::config::waypoint::HBONE_PORT;

/// Port of captured outbound connections, in each pod's namespace.
pub const OUTBOUND_PORT: u16 = 15001;
/// Port of captured inbound plaintext connections, in each pod's namespace.
pub const PLAINTEXT_PORT: u16 = 15006;

/// Whether `port` is one of the proxy's own, so that carrying a connection to it would loop.
pub fn is_own_port(port: u16) -> bool {
    matches!(port, OUTBOUND_PORT | PLAINTEXT_PORT | HBONE_PORT)
}
