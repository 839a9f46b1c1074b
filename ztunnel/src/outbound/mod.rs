//! From a pod into the mesh: accept, route, forward.

pub mod accept;
pub mod forward;
pub mod route;
pub mod same_node;
pub mod silent;
