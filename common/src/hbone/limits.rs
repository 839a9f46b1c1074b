//! Every bound of HBONE, with its reason.

use std::time::Duration;

use crate::net::buffer::CHUNK_BYTES;

/// Bytes a peer may send on one stream beyond what the application has read. Also what one slow reader can pin. With half
/// of it a stream in bulk has to wait for its window, and each such sleep may bring both ends onto one CPU.
pub const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Bytes a peer may send on one connection beyond what was handed to its streams. What streams hold for slow readers
/// is added on top of it, so that slow readers never take the window from their neighbours.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// The most a connection's window grows to with what its streams hold: every stream allowed at once, stalled.
pub const CONNECTION_WINDOW_MAX_BYTES: u32 = 512 * 1024 * 1024;
/// Bytes all streams of one worker may hold for slow readers; beyond it the stream that asks for more is reset.
pub const HELD_BYTES_PER_WORKER: usize = 128 * 1024 * 1024;

/// The largest DATA frame taken: one relay chunk.
pub const MAX_FRAME_BYTES: u32 = CHUNK_BYTES as u32;
/// Bytes a stream may have queued for its connection. One chunk, so that what many streams queue is encrypted while it is
/// still in the cache.
pub const STREAM_SEND_BUFFER_BYTES: usize = CHUNK_BYTES;
/// Bytes one wake of a connection reads before the streams it fed get their turn.
pub const TURN_READ_BYTES: usize = 128 * 1024;
/// Bookkeeping `h2` may spend on small DATA frames that no stream has drained yet (255 for a frame of one byte). One
/// turn of the smallest frames needs 128 KiB / 10 B * 255 B = 3.2 MiB, and is drained before the next turn.
pub const SMALL_FRAME_BUDGET_BYTES: usize = 6 * 1024 * 1024;
/// DATA, with the bookkeeping for small frames, that `h2` may hold for streams with slow readers at the end of a turn;
/// then it is drained. With what one more turn brings it stays below the budget of small frames, and below the window.
pub const UNDRAINED_BYTES: usize = 1024 * 1024;
/// The same on a connection with CONNECTs that are not answered yet, before what came on those is drained and counted as
/// held: nobody reads it meanwhile.
pub const UNCOUNTED_AHEAD_BYTES: usize = 64 * 1024;

/// Streams a client opens on one connection (Istio `POOL_MAX_STREAMS_PER_CONNECTION`).
pub const STREAMS_PER_CONNECTION: usize = 100;
/// Streams a server takes on one connection: twice as many, since Istio's client may overshoot its own limit.
pub const MAX_CONCURRENT_STREAMS: u32 = 200;
/// Header list of a request (Istio's server takes the same).
pub const REQUEST_HEADERS_BYTES: u32 = 64 * 1024;
/// Header list of a response (Istio's client takes the same).
pub const RESPONSE_HEADERS_BYTES: u32 = 16 * 1024;
/// Streams that were reset by the peer before they could be looked at (rapid reset, CVE-2023-44487).
pub const PENDING_RESETS: usize = 20;
/// Streams the peer may make us reset by protocol errors (CVE-2025-8671, "MadeYouReset").
pub const ERROR_RESETS: usize = 128;
/// Streams remembered after our reset, so that late frames of theirs are not taken for errors.
pub const REMEMBERED_RESETS: usize = 50;
/// CONNECTs per keepalive interval that the peer may withdraw before they are answered.
pub const WITHDRAWN_PER_INTERVAL: u32 = 200;

/// Frames per keepalive interval that cost work and carry nothing: PING, SETTINGS, PRIORITY, unknown ones, and
/// RST_STREAM, empty DATA and WINDOW_UPDATE beyond what streams and data account for. An honest peer sends a handful.
pub const IDLE_FRAMES_PER_INTERVAL: u32 = 1000;

/// Time for a client's preface and SETTINGS after the TLS handshake, and for our own to be taken.
pub const PREFACE_DEADLINE: Duration = Duration::from_secs(2);
/// Time for the answer to a CONNECT; the peer has 10 s of it to reach its application.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// Time between PINGs.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Silence after a PING that ends the connection.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Time a pooled connection without streams is kept (Istio `POOL_UNUSED_RELEASE_TIMEOUT`).
pub const IDLE_RELEASE: Duration = Duration::from_secs(300);
/// Connections of one worker to one destination on behalf of one workload.
pub const CONNECTIONS_PER_KEY: usize = 64;
/// Connections of one worker in all.
pub const CONNECTIONS_PER_WORKER: usize = 16_384;
