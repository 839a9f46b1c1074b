//! In real namespaces, as root.
