//! What is stated of the connections to a destination, as long as it is in force and after that.
//!
//! Each connection keeps the statement it was made under. Knows no connections.

use std::sync::atomic::{AtomicBool, Ordering};

use common::config::destination::pool::ConnectionPool;

/// A `connectionPool` that is or was in force.
#[derive(Debug, Default)]
pub struct Stated {
    pool: ConnectionPool,
    is_over: AtomicBool,
}

impl Stated {
    /// Says that the destination goes by this no more, or is gone. Requests that began before still go by it.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Whether it is in force no more.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

impl From<ConnectionPool> for Stated {
    /// In force.
    fn from(pool: ConnectionPool) -> Self {
        Self { pool, is_over: AtomicBool::new(false) }
    }
}

impl PartialEq for Stated {
    /// Whether both say the same, in force or not.
    fn eq(&self, other: &Self) -> bool {
        self.pool == other.pool
    }
}

impl Eq for Stated {}
