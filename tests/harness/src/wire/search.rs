//! Looks for bytes in packets, and in TCP streams where they lie across consecutive segments.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use super::packet::{Packet, Transport};

/// Where a marker was seen in clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The packet's number in the view, from 0.
    pub packet: usize,
    /// Source and destination, when it is TCP or UDP.
    pub flow: Option<(SocketAddr, SocketAddr)>,
}

impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flow {
            Some((source, destination)) => write!(f, "packet {} from {source} to {destination}", self.packet),
            None => write!(f, "packet {}, neither TCP nor UDP", self.packet),
        }
    }
}

/// One pass over packets for one marker.
pub(super) struct Search<'m> {
    marker: &'m [u8],
    packets: usize,
    tails: BTreeMap<(SocketAddr, SocketAddr), Tail>,
}

/// The last bytes of a flow, fewer than the marker has, and the sequence number that goes on from them.
struct Tail {
    next: u32,
    bytes: Vec<u8>,
}

impl<'m> Search<'m> {
    /// `marker` is not empty.
    pub(super) fn new(marker: &'m [u8]) -> Self {
        Self { marker, packets: 0, tails: BTreeMap::new() }
    }

    /// Looks at the next packet.
    pub(super) fn look(&mut self, frame: &[u8]) -> Option<Sighting> {
        let packet = Packet::parse(frame);
        let flow = packet.map(|packet| (packet.source, packet.destination));
        let here = holds(frame, self.marker) || packet.is_some_and(|packet| self.across(&packet));
        let sighting = here.then_some(Sighting { packet: self.packets, flow });
        self.packets += 1;
        sighting
    }

    /// Whether the marker ends in this segment, having begun in those before.
    fn across(&mut self, packet: &Packet<'_>) -> bool {
        if packet.transport != Transport::Tcp || packet.payload.is_empty() {
            return false;
        }
        let keep = self.marker.len() - 1;
        let flow = (packet.source, packet.destination);
        let tail =
            self.tails.entry(flow).or_insert_with(|| Tail { next: packet.sequence, bytes: Vec::new() });
        if tail.next != packet.sequence {
            tail.bytes.clear();
        }
        let head = &packet.payload[..packet.payload.len().min(keep)];
        tail.bytes.extend_from_slice(head);
        let found = holds(&tail.bytes, self.marker);
        if head.len() < packet.payload.len() {
            tail.bytes.clear();
            tail.bytes.extend_from_slice(&packet.payload[packet.payload.len() - keep..]);
        } else {
            tail.bytes.drain(..tail.bytes.len().saturating_sub(keep));
        }
        tail.next = packet.sequence.wrapping_add(u32::try_from(packet.payload.len()).unwrap_or(0));
        found
    }
}

fn holds(bytes: &[u8], marker: &[u8]) -> bool {
    let Some((first, rest)) = marker.split_first() else { return true };
    let mut left = bytes;
    while let Some(at) = left.iter().position(|byte| byte == first) {
        left = &left[at + 1..];
        if left.starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{super::packet::tests::segment, *};

    fn first(marker: &str, frames: &[Vec<u8>]) -> Option<usize> {
        let mut search = Search::new(marker.as_bytes());
        frames.iter().find_map(|frame| search.look(frame)).map(|sighting| sighting.packet)
    }

    #[test]
    fn a_marker_is_found_within_a_packet_and_across_several() {
        assert_eq!(first("secret", &[segment(0, b"a"), segment(1, b"..secret..")]), Some(1));
        assert_eq!(first("secret", &[segment(0, b"....sec"), segment(7, b"ret")]), Some(1));
        let letters: Vec<_> =
            b"xsecret".iter().enumerate().map(|(at, byte)| segment(at as u32, &[*byte])).collect();
        assert_eq!(first("secret", &letters), Some(6));
    }

    #[test]
    fn pieces_that_are_not_consecutive_are_no_marker() {
        assert_eq!(first("secret", &[segment(0, b"sec"), segment(4, b"ret")]), None);
        assert_eq!(first("secret", &[segment(0, b"sec"), segment(3, b"-ret")]), None);
        assert_eq!(first("secret", &[segment(0, b"ssecre"), segment(6, b"s")]), None);
    }
}
