//! What the tests in network namespaces are made of: a mesh of two nodes, peers that follow a script, hostile clients.
//!
//! Everything here works from outside: the shipped binary, manifests, sockets in pods, and what an operator can ask. The
//! surprising thing: the applications of most tests are threads of the test itself, on sockets made in a pod's namespace,
//! so that a test decides on every byte and every FIN.

#![forbid(unsafe_code)]

pub mod app;
pub mod behind;
pub mod counting;
pub mod differential;
pub mod frames;
pub mod hostile;
pub mod load;
pub mod mesh;
pub mod multiplexed;
pub mod paced;
pub mod peer;
pub mod recorder;
pub mod traces;
