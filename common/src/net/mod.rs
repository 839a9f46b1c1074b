//! Sockets and the bytes between them: buffers shared by a worker, the relay of two TCP connections, the kill switch.
//!
//! Knows no tunnel, policy or identity; `hbone` builds its own relay from the same parts. The surprising thing: no
//! connection owns a read buffer. A worker thread has one, used by whichever connection has something to read.

pub mod buffer;
pub mod kill;
pub mod relay;
pub mod socket;
