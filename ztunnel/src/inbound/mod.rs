//! From the mesh to a pod: accept, admit, deliver; and plaintext, which passes through the same judgement.

pub mod accept;
pub mod admit;
pub mod deliver;
pub mod passthrough;
