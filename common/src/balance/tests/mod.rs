//! What the decisions promise, one file per decision or family of them.

mod nearest;
