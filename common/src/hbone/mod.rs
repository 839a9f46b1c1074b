//! HBONE: TCP connections carried as HTTP/2 CONNECT streams over mutual TLS.
//!
//! Takes TLS connections whose peer is verified already, and knows no certificate, policy or route. The surprising
//! thing: what a slow application has not read yet is drained from `h2` into the stream's own compact queue at once;
//! `h2` would keep 256 bytes of bookkeeping for every frame of one byte and end the connection over it.

mod ahead;
pub mod client;
mod drive;
mod frames;
mod inbox;
pub mod io;
pub mod limits;
pub mod pool;
mod queue;
pub mod relay;
pub mod request;
pub mod server;
mod stream;
#[cfg(test)]
mod tests;
pub mod tunnels;

pub use drive::Budget;
pub use stream::Stream;
