//! Response flags, which the access log and the metrics share with whoever sets them.

pub use common::telemetry::flags::{Flag, Flags};
