//! To the endpoint: which, whether it may be asked now, and the connections to it.

pub mod connection;
pub mod dispatch;
pub mod pool;
