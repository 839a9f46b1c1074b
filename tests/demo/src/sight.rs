//! What a capture shows to somebody who can read the wire: lines in the clear, and packets by port.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use anyhow::Result;
use harness::wire::{Capture, TlsRecords};

/// The port that carries tunnels.
pub(crate) const TUNNEL_PORT: u16 = 15008;

/// The port of the servers.
pub(crate) const SERVER_PORT: u16 = 8080;

/// A line that could be read in a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadLine {
    /// Whence.
    pub(crate) source: SocketAddr,
    /// Whither.
    pub(crate) destination: SocketAddr,
    /// The line.
    pub(crate) text: String,
}

impl fmt::Display for ReadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}   {}", self.source, self.destination, self.text)
    }
}

/// What the wire showed of a marker and of everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    /// The first line with the marker.
    pub(crate) line: Option<ReadLine>,
    /// Whether the marker could be read anywhere, also across packets.
    pub(crate) readable: bool,
    /// Packets by the port of the service they belong to, in both directions.
    pub(crate) ports: BTreeMap<u16, u64>,
    /// Packets on the tunnel port that begin with a TLS record.
    pub(crate) tls: Tls,
}

/// As [`TlsRecords`], for facts that tests make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Handshake records.
    pub(crate) handshake: u64,
    /// Records of encrypted data.
    pub(crate) data: u64,
}

impl Sight {
    /// Looks through everything captured since the capture last forgot.
    ///
    /// # Errors
    /// The capture lost packets or broke off, so that it answers nothing.
    pub(crate) fn of(capture: &Capture, marker: &str) -> Result<Self> {
        let mut sight = Self { readable: capture.contains(marker)?, ..Self::default() };
        capture.each(|packet| {
            // The service's port is the lower one: clients' are from the ephemeral range.
            let port = packet.source.port().min(packet.destination.port());
            *sight.ports.entry(port).or_default() += 1;
            if sight.line.is_none() {
                let text = line_with(packet.payload, marker);
                let (source, destination) = (packet.source, packet.destination);
                sight.line = text.map(|text| ReadLine { source, destination, text });
            }
        })?;
        sight.ports.retain(|port, _| *port != BARRIER_PORT);
        let TlsRecords { handshake, application_data: data } = capture.tls_records(TUNNEL_PORT)?;
        sight.tls = Tls { handshake, data };
        Ok(sight)
    }

    /// Packets on a port.
    #[must_use]
    pub(crate) fn packets(&self, port: u16) -> u64 {
        self.ports.get(&port).copied().unwrap_or(0)
    }

    /// The ports and their packets, for reading.
    #[must_use]
    pub(crate) fn by_port(&self) -> String {
        let ports: Vec<_> = self.ports.iter().map(|(port, count)| format!("port {port}: {count}")).collect();
        if ports.is_empty() { "none".to_owned() } else { ports.join("   ") }
    }
}

/// The port by which a capture marks its own position (discard, RFC 863).
const BARRIER_PORT: u16 = 9;

fn line_with(payload: &[u8], marker: &str) -> Option<String> {
    let text = String::from_utf8_lossy(payload);
    text.lines().find(|line| line.contains(marker)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_with_the_marker_is_read_and_no_other() {
        let payload = b"GET /orders?card=42 HTTP/1.1\r\nHost: web\r\n\r\n";
        assert_eq!(line_with(payload, "card=42").as_deref(), Some("GET /orders?card=42 HTTP/1.1"));
        assert_eq!(line_with(b"\x17\x03\x03\x00\xff\xfe", "card=42"), None);
    }

    #[test]
    fn ports_read_in_order() {
        let sight = Sight { ports: [(15008, 7), (8080, 3)].into(), ..Sight::default() };
        assert_eq!(sight.by_port(), "port 8080: 3   port 15008: 7");
        assert_eq!(Sight::default().by_port(), "none");
    }
}
