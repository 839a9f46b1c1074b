//! What the clients of gRPC and WebSocket print.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What became of one gRPC call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrpcReport {
    /// The status, as a number (gRPC `grpc-status`).
    pub code: i32,
    /// What came with it (`grpc-message`).
    pub message: String,
    /// Notes that were answered.
    pub notes: u64,
    /// The sum of their numbers.
    pub sum: u64,
    /// The text of the last of them.
    pub text: String,
    /// Metadata behind a stream of answers, or with a status that is none of success.
    pub trailers: BTreeMap<String, String>,
    /// From the start of the call to its end, in microseconds. The connection was made before.
    pub elapsed_us: u64,
}

/// What became of one WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebSocketReport {
    /// The status of the answer to the upgrade: 101, or why there was none.
    pub status: u16,
    /// The body of an answer that refused.
    pub refusal: String,
    /// Text messages that came back as they were.
    pub texts: u64,
    /// Binary messages that came back as they were.
    pub binaries: u64,
    /// Pings of ours that were answered.
    pub pongs: u64,
    /// Pings of the server.
    pub pings: u64,
    /// The code the other side closed with (RFC 6455, section 7.4).
    pub close_code: Option<u16>,
    /// The reason it gave.
    pub close_reason: String,
    /// Whether the connection ended behind the closing handshake and with nothing else.
    pub is_clean: bool,
    /// From the upgrade to the end, in microseconds.
    pub elapsed_us: u64,
}

/// One span that the collector of `ebb-app` was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedSpan {
    /// How it came: `grpc`, `http` or `zipkin`.
    pub via: String,
    /// Who told.
    pub service: String,
    /// Its trace, in hexadecimal.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// The span it is within; empty for none.
    pub parent: String,
    /// What was done.
    pub name: String,
    /// `SERVER` or `CLIENT`.
    pub kind: String,
    /// How long it lasted, in microseconds.
    pub took_us: u64,
    /// What is told of it.
    pub tags: std::collections::BTreeMap<String, String>,
}
