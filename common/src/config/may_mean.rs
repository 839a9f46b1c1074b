//! What a document that could not be read may be about.
//!
//! The surprising thing: of such a document it is kept which names stand in it. A service that may be meant by a promise
//! that nobody could read (never plaintext, never unasked) is not served at all.

use std::sync::Arc;

/// Most names that are kept of a document that could not be read; one with more may mean anything.
pub const MAX_MENTIONED: usize = 256;

/// Which services a document that was turned away may make a promise about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MayMean {
    /// It makes no such promise.
    #[default]
    Nothing,
    /// Those of these names.
    Named(Arc<[Arc<str>]>),
    /// Any of its namespace.
    Anything,
}

impl MayMean {
    /// Whether it may mean what has this name.
    pub fn may_mean(&self, name: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Named(names) => names.iter().any(|it| **it == *name),
            Self::Anything => true,
        }
    }

    /// Of two documents that are told of as one.
    pub(crate) fn join(&mut self, other: Self) {
        if *self != other {
            *self = Self::Anything;
        }
    }
}
