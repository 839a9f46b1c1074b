//! Frames written by hand.
