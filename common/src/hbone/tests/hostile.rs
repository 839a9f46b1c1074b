//! Peers that misbehave, frame by frame.
