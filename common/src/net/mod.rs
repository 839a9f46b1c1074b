//! Sockets and the bytes between them: buffers shared by a worker, the relay of two TCP connections, the kill switch.
//!
//! Knows no tunnel, policy or identity; `hbone` builds its own relay from the same parts. The surprising thing: no
//! connection owns a read buffer, nor a pipe. A worker thread has them, used by whichever connection has something to read.

pub mod buffer;
pub mod kill;
mod pace;
pub mod relay;
pub mod socket;
pub mod splice;
