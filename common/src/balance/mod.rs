//! Decides which endpoint a connection goes to. Pure: endpoints, caller, load and chance are handed in.

mod nearest;
#[cfg(test)]
mod tests;

pub use self::nearest::{Caller, Choice, NoEndpoint, Wanted, choose};
