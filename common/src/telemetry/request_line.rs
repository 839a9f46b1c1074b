//! The access log of a waypoint: one line for each request or connection, in the default format of Istio's Envoys.
//!
//! Text is byte for byte what Istio's `EnvoyTextLogFormat` gives, JSON has the keys of its `EnvoyJSONLogFormatIstio`, so
//! that what people have built on either goes on working. The surprising thing: Envoy writes header values as they are,
//! and this does not. Whatever is not printable ASCII is escaped, and quotes are, so that no client can write a line of
//! its own into the log or send control sequences to the terminal of whoever reads it.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tracing::Level;

use super::access::{AccessLog, Address, TARGET};
use super::attributes::More;
use super::flags::Flags;
use super::line::LogFormat;
use super::logging::with_line;
use super::timestamp;

/// The longest value written of one field, in bytes of the value; longer ones are cut and end in `...`.
pub const MAX_REQUEST_VALUE_BYTES: usize = 1024;

/// What is told of one request, or of one connection that carried something else. What is missing is written as `-`
/// (in JSON as `null`).
#[derive(Clone, Copy, Default)]
pub struct RequestLine<'a> {
    /// Method and path; none for a connection.
    pub http: Option<HttpLine<'a>>,
    /// The status the client got, 0 when it got none (`%RESPONSE_CODE%`).
    pub status: u16,
    /// `%RESPONSE_FLAGS%`.
    pub flags: Flags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Option<&'a dyn fmt::Display>,
    /// `%CONNECTION_TERMINATION_DETAILS%`.
    pub termination_details: Option<&'a str>,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport_failure: Option<&'a str>,
    /// `%BYTES_RECEIVED%`: of the body, from the client.
    pub bytes_received: u64,
    /// `%BYTES_SENT%`: of the body, to the client.
    pub bytes_sent: u64,
    /// `%DURATION%`: from the first byte to the last.
    pub duration: Duration,
    /// `%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%`: from the request's end to the head of the answer.
    pub service_time: Option<Duration>,
    /// `%UPSTREAM_HOST%`: the endpoint.
    pub upstream_host: Option<SocketAddr>,
    /// `%UPSTREAM_CLUSTER_RAW%`: `outbound|8080|v1|web.shop.svc.cluster.local`.
    pub upstream_cluster: Option<&'a str>,
    /// `%UPSTREAM_LOCAL_ADDRESS%`.
    pub upstream_local: Option<SocketAddr>,
    /// `%DOWNSTREAM_LOCAL_ADDRESS%`: what the client called.
    pub downstream_local: Option<SocketAddr>,
    /// `%DOWNSTREAM_REMOTE_ADDRESS%`: the client.
    pub downstream_remote: Option<SocketAddr>,
    /// `%REQUESTED_SERVER_NAME%`.
    pub server_name: Option<&'a str>,
    /// `%ROUTE_NAME%`.
    pub route: Option<&'a str>,
    /// What the default format does not tell.
    pub more: Option<&'a dyn More>,
}

/// What only a request has. Values are as they came, of whatever bytes.
#[derive(Clone, Copy)]
pub struct HttpLine<'a> {
    /// `%REQ(:METHOD)%`.
    pub method: &'a str,
    /// `%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%`.
    pub path: &'a [u8],
    /// `%REQ(:PATH)%`.
    pub asked_path: &'a [u8],
    /// `%PROTOCOL%`: `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'a str,
    /// `%REQ(X-FORWARDED-FOR)%`.
    pub forwarded_for: Option<&'a [u8]>,
    /// `%REQ(USER-AGENT)%`.
    pub user_agent: Option<&'a [u8]>,
    /// `%REQ(X-REQUEST-ID)%`.
    pub request_id: Option<&'a [u8]>,
    /// `%REQ(:AUTHORITY)%`.
    pub authority: Option<&'a [u8]>,
}

impl AccessLog {
    /// Tells how a request, or a connection through a waypoint, went. `failed` decides between the levels error and
    /// info of the target `access`, so that `access=error` leaves the lines that somebody has to look at.
    pub fn request(&self, line: &RequestLine<'_>, failed: bool) {
        let wanted = match failed {
            false => tracing::enabled!(target: TARGET, Level::INFO),
            true => tracing::enabled!(target: TARGET, Level::ERROR),
        };
        if wanted {
            let began = SystemTime::now().checked_sub(line.duration).unwrap_or(SystemTime::UNIX_EPOCH);
            with_line(&self.sink, |out| write(out, self.format, began, line));
        }
    }
}

fn write(out: &mut Vec<u8>, format: LogFormat, began: SystemTime, line: &RequestLine<'_>) {
    match format {
        LogFormat::Plain => write_text(out, began, line),
        LogFormat::Json => write_json(out, began, line),
    }
}

fn write_text(out: &mut Vec<u8>, began: SystemTime, line: &RequestLine<'_>) {
    let http = line.http.as_ref();
    out.push(b'[');
    timestamp::write_millis(out, began);
    out.extend_from_slice(b"] \"");
    word(out, http.map(|http| http.method.as_bytes()));
    out.push(b' ');
    word(out, http.map(|http| http.path));
    out.push(b' ');
    word(out, http.map(|http| http.protocol.as_bytes()));
    out.push(b'"');
    show(Plain(out), &format_args!(" {} {} ", line.status, line.flags));
    match line.details {
        Some(details) => show(Words::new(out), details),
        None => out.push(b'-'),
    }
    out.push(b' ');
    match line.termination_details {
        Some(details) => show(Words::new(out), &details),
        None => out.push(b'-'),
    }
    quoted(out, line.transport_failure.map(str::as_bytes));
    let duration = line.duration.as_millis();
    show(Plain(out), &format_args!(" {} {} {duration} ", line.bytes_received, line.bytes_sent));
    or_dash(out, line.service_time.map(|time| time.as_millis()).as_ref());
    quoted(out, http.and_then(|http| http.forwarded_for));
    quoted(out, http.and_then(|http| http.user_agent));
    quoted(out, http.and_then(|http| http.request_id));
    quoted(out, http.and_then(|http| http.authority));
    out.extend_from_slice(b" \"");
    or_dash(out, line.upstream_host.map(Address).as_ref());
    out.extend_from_slice(b"\" ");
    word(out, line.upstream_cluster.map(str::as_bytes));
    for address in [line.upstream_local, line.downstream_local, line.downstream_remote] {
        out.push(b' ');
        or_dash(out, address.map(Address).as_ref());
    }
    for name in [line.server_name, line.route] {
        out.push(b' ');
        word(out, name.map(str::as_bytes));
    }
    out.push(b'\n');
}

fn write_json(out: &mut Vec<u8>, began: SystemTime, line: &RequestLine<'_>) {
    let http = line.http.as_ref();
    out.extend_from_slice(b"{\"start_time\":\"");
    timestamp::write_millis(out, began);
    out.push(b'"');
    let mut object = Object(out);
    object.text("route_name", line.route.map(str::as_bytes));
    object.text("method", http.map(|http| http.method.as_bytes()));
    object.text("path", http.map(|http| http.path));
    object.text("protocol", http.map(|http| http.protocol.as_bytes()));
    object.number("response_code", u128::from(line.status));
    object.shown("response_flags", Some(&line.flags));
    let details = line.details.map(ToString::to_string);
    object.text("response_code_details", details.as_deref().map(str::as_bytes));
    object.text("connection_termination_details", line.termination_details.map(str::as_bytes));
    object.number("bytes_received", u128::from(line.bytes_received));
    object.number("bytes_sent", u128::from(line.bytes_sent));
    object.number("duration", line.duration.as_millis());
    // A header's value: text, as Envoy has it.
    let service_time = line.service_time.map(|time| time.as_millis());
    object.shown("upstream_service_time", service_time.as_ref().map(|time| time as &dyn fmt::Display));
    object.text("x_forwarded_for", http.and_then(|http| http.forwarded_for));
    object.text("user_agent", http.and_then(|http| http.user_agent));
    object.text("request_id", http.and_then(|http| http.request_id));
    object.text("authority", http.and_then(|http| http.authority));
    object.address("upstream_host", line.upstream_host);
    object.text("upstream_cluster", line.upstream_cluster.map(str::as_bytes));
    object.address("upstream_local_address", line.upstream_local);
    object.address("downstream_local_address", line.downstream_local);
    object.address("downstream_remote_address", line.downstream_remote);
    object.text("requested_server_name", line.server_name.map(str::as_bytes));
    object.text("upstream_transport_failure_reason", line.transport_failure.map(str::as_bytes));
    out.extend_from_slice(b"}\n");
}

/// The fields of a JSON object behind the first one.
struct Object<'a>(&'a mut Vec<u8>);

impl Object<'_> {
    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn text(&mut self, key: &str, value: Option<&[u8]>) {
        self.key(key);
        match value {
            Some(value) => {
                self.0.push(b'"');
                escape(self.0, value, Blanks::Kept);
                self.0.push(b'"');
            }
            None => self.0.extend_from_slice(b"null"),
        }
    }

    fn number(&mut self, key: &str, value: u128) {
        self.key(key);
        show(Plain(self.0), &value);
    }

    /// Something of our own, which needs no escape.
    fn shown(&mut self, key: &str, value: Option<&dyn fmt::Display>) {
        self.key(key);
        match value {
            Some(value) => {
                self.0.push(b'"');
                show(Plain(self.0), value);
                self.0.push(b'"');
            }
            None => self.0.extend_from_slice(b"null"),
        }
    }

    fn address(&mut self, key: &str, value: Option<SocketAddr>) {
        let value = value.map(Address);
        self.shown(key, value.as_ref().map(|value| value as &dyn fmt::Display));
    }
}

/// A field in quotes, behind a blank.
fn quoted(out: &mut Vec<u8>, value: Option<&[u8]>) {
    out.extend_from_slice(b" \"");
    match value {
        Some(value) => escape(out, value, Blanks::Kept),
        None => out.push(b'-'),
    }
    out.push(b'"');
}

/// A field that ends at the next blank: one within would begin another.
fn word(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) if !value.is_empty() => escape(out, value, Blanks::Encoded),
        _ => out.push(b'-'),
    }
}

fn or_dash(out: &mut Vec<u8>, value: Option<&impl fmt::Display>) {
    match value {
        Some(value) => show(Plain(out), value),
        None => out.push(b'-'),
    }
}

/// Displays `value` through `to`.
fn show(mut to: impl fmt::Write, value: &dyn fmt::Display) {
    // The only error is the one that says the value was cut, which is written into the line.
    let _ = write!(to, "{value}");
}

/// Takes what the program itself says, as it is.
struct Plain<'a>(&'a mut Vec<u8>);

impl fmt::Write for Plain<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Makes one word of what is written, cut as any value: blanks and quotes become `_`, as blanks do in Envoy's details.
struct Words<'a> {
    out: &'a mut Vec<u8>,
    left: usize,
}

impl<'a> Words<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, left: MAX_REQUEST_VALUE_BYTES }
    }
}

impl fmt::Write for Words<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let kept = text.len().min(self.left);
        self.left -= kept;
        let one_word = |byte: u8| if byte.is_ascii_graphic() && byte != b'"' { byte } else { b'_' };
        self.out.extend(text.as_bytes()[..kept].iter().copied().map(one_word));
        if kept < text.len() {
            self.out.extend_from_slice(b"...");
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// What becomes of blanks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blanks {
    /// They stay.
    Kept,
    /// They become `%20`.
    Encoded,
}

/// Writes the inside of a JSON string in printable ASCII, cut at [`MAX_REQUEST_VALUE_BYTES`]. Bytes that are not UTF-8
/// become the replacement character.
pub(super) fn escape(out: &mut Vec<u8>, value: &[u8], blanks: Blanks) {
    let fits = value.len() <= MAX_REQUEST_VALUE_BYTES;
    let value = if fits { value } else { &value[..MAX_REQUEST_VALUE_BYTES] };
    let plain = |byte: &u8| match byte {
        b'"' | b'\\' => false,
        b' ' => blanks == Blanks::Kept,
        byte => byte.is_ascii_graphic(),
    };
    if value.iter().all(plain) {
        out.extend_from_slice(value);
    } else {
        escape_each(out, value, blanks);
    }
    if !fits {
        out.extend_from_slice(b"...");
    }
}

fn escape_each(out: &mut Vec<u8>, value: &[u8], blanks: Blanks) {
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                ' ' if blanks == Blanks::Encoded => out.extend_from_slice(b"%20"),
                ' '..='~' => out.push(character as u8),
                other => {
                    let mut units = [0; 2];
                    for unit in other.encode_utf16(&mut units) {
                        show(Plain(out), &format_args!("\\u{unit:04x}"));
                    }
                }
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
#[path = "request_line_tests.rs"]
mod tests;
