//! Manifests in, questions to the tables.
