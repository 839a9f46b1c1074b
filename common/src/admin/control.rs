//! The admin server: what an operator sees and changes, on a loopback address only.
//!
//! Knows nothing of what is dumped. Two ways lead here from outside the node: a forwarded port, which is meant, and a web
//! page in the browser of whoever forwarded it, which is not. So requests must name a local host (a page's own name
//! rebound to 127.0.0.1 does not), and requests that change something must not carry the `Origin` of a page.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use super::config_dump::{Dump, DumpSection};
use super::probes::{is_read, not_found, read_only};
use super::response::{self, Body};
use super::server::{Handler, HttpServer};
use crate::lifecycle::shutdown::StopRequest;
use crate::telemetry::logging::LogControl;

const INDEX: &str = "<!doctype html>\n<html><head><title>ztunnel</title></head><body><h1>ztunnel</h1>\n<ul>\n\
    <li><a href=\"/config_dump\">/config_dump</a>: the configuration in force</li>\n\
    <li>/logging: log levels (POST, ?level= or ?reset)</li>\n\
    <li>/quitquitquit: stop gracefully (POST)</li>\n</ul></body></html>\n";

const LOGGING_USAGE: &str = "usage: POST /logging\t\t\t\t\t\t(To list current level)\n\
    usage: POST /logging?level=<level>\t\t\t\t(To change global levels)\n\
    usage: POST /logging?level={mod1}:{level1},{mod2}:{level2}\t(To change specific mods' logging level)\n\
    usage: POST /logging?reset\t\t\t\t\t(To go back to the levels of the start)\n\
    \nhint: loglevel:\terror|warn|info|debug|trace|off\nhint: mod_name:\tthe log target, i.e. access\n";

/// Answers operators.
pub struct AdminHandler {
    sections: Arc<[DumpSection]>,
    logging: LogControl,
    stop: StopRequest,
}

impl AdminHandler {
    /// Shows `sections`, changes levels through `logging` and stops the process through `stop`.
    pub fn new(sections: Vec<DumpSection>, logging: LogControl, stop: StopRequest) -> Self {
        Self { sections: sections.into(), logging, stop }
    }

    /// Binds `address`.
    ///
    /// # Errors
    /// When it is not a loopback address, or cannot be bound.
    pub fn bind(self, address: SocketAddr) -> std::io::Result<HttpServer<Self>> {
        if !address.ip().to_canonical().is_loopback() {
            let text = format!("the admin server listens on loopback addresses only, not on {address}");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
        }
        HttpServer::bind("admin", address, self)
    }

    fn logging(&self, request: &Parts) -> Response<Body> {
        if request.method != Method::POST {
            return response::method_not_allowed("POST", format!("Invalid HTTP method\n{LOGGING_USAGE}"));
        }
        let (level, reset) = level_query(request.uri.query().unwrap_or_default());
        if (level.is_some() || reset)
            && let Err(error) = self.logging.set(&level.unwrap_or_default(), reset)
        {
            let text = format!("Invalid level provided: {error}\n{LOGGING_USAGE}");
            return response::text(StatusCode::BAD_REQUEST, text);
        }
        response::text(StatusCode::OK, format!("current log level is {}\n", self.logging.current()))
    }
}

impl Handler for AdminHandler {
    fn handle(&self, request: &Parts) -> Response<Body> {
        if !names_local_host(request) {
            return response::text(
                StatusCode::FORBIDDEN,
                "the Host header must name localhost or a loopback address\n",
            );
        }
        if !is_read(&request.method) && request.headers.contains_key(ORIGIN) {
            return response::text(StatusCode::FORBIDDEN, "requests of web pages may not change anything\n");
        }
        match request.uri.path() {
            "/" | "/config_dump" if !is_read(&request.method) => read_only(),
            "/" => response::html(INDEX),
            "/config_dump" => response::chunks("application/json", Dump::new(self.sections.clone())),
            "/logging" => self.logging(request),
            "/quitquitquit" if request.method != Method::POST => {
                response::method_not_allowed("POST", "only POST\n")
            }
            "/quitquitquit" => {
                self.stop.stop();
                response::text(StatusCode::OK, "shutdown now\n")
            }
            _ => not_found(),
        }
    }
}

/// Whether the request was meant for a local server. HTTP/1.0 requests without a host are (no browser sends them).
fn names_local_host(request: &Parts) -> bool {
    let Some(host) = request.headers.get(HOST) else { return request.version == http::Version::HTTP_10 };
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<http::uri::Authority>().ok())
    else {
        return false;
    };
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// The values of `level` and `reset` of a query. The last `level` counts.
fn level_query(query: &str) -> (Option<String>, bool) {
    let (mut level, mut reset) = (None, false);
    for part in query.split('&') {
        match part.split_once('=').unwrap_or((part, "")) {
            ("level", value) => level = Some(percent_decoded(value)),
            ("reset", _) => reset = true,
            _ => {}
        }
    }
    (level, reset)
}

/// Decodes `%2C` and the like; bytes that are not UTF-8 become question marks, which no level contains.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) if byte == b'%' => {
                decoded.push(value);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| "?".into())
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
