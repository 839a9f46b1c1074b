//! Takes an Ethernet frame apart as far as ports and payload. Pure; anything odd is `None` or an empty payload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Transports whose ports are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A TCP or UDP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The transport.
    pub transport: Transport,
    /// Whence.
    pub source: SocketAddr,
    /// Whither.
    pub destination: SocketAddr,
    /// TCP sequence number of the first payload byte; 0 for UDP. (A SYN counts for one, which payload on a SYN ignores.)
    pub sequence: u32,
    /// What the transport carries.
    pub payload: &'a [u8],
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: [u16; 2] = [0x8100, 0x88a8];
const TCP: u8 = 6;
const UDP: u8 = 17;

impl<'a> Packet<'a> {
    /// Reads a frame. None for what is not TCP or UDP, is not the first fragment, or is cut short.
    #[must_use]
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let mut kind = word(frame, 12)?;
        let mut at = 14;
        while VLAN.contains(&kind) {
            kind = word(frame, at + 2)?;
            at += 4;
        }
        let (source, destination, protocol, rest) = match kind {
            IPV4 => ipv4(frame.get(at..)?)?,
            IPV6 => ipv6(frame.get(at..)?)?,
            _ => return None,
        };
        let (transport, header) = match protocol {
            TCP => (Transport::Tcp, usize::from(rest.get(12)? >> 4) * 4),
            UDP => (Transport::Udp, 8),
            _ => return None,
        };
        let sequence = if transport == Transport::Tcp { long(rest, 4)? } else { 0 };
        let source = SocketAddr::new(source, word(rest, 0)?);
        let destination = SocketAddr::new(destination, word(rest, 2)?);
        Some(Self { transport, source, destination, sequence, payload: rest.get(header..)? })
    }
}

type Network<'a> = (IpAddr, IpAddr, u8, &'a [u8]);

fn ipv4(packet: &[u8]) -> Option<Network<'_>> {
    let header = usize::from(packet.first()? & 15) * 4;
    let fragment_offset = word(packet, 6)? & 0x1fff;
    let address = |at: usize| Some(Ipv4Addr::from_octets(packet.get(at..at + 4)?.try_into().ok()?));
    if fragment_offset != 0 {
        return None;
    }
    // Frames are padded to 60 bytes; what is beyond the packet's own length is not payload.
    let end = match usize::from(word(packet, 2)?) {
        0 => packet.len(),
        length => length.min(packet.len()),
    };
    Some((address(12)?.into(), address(16)?.into(), *packet.get(9)?, packet.get(header..end)?))
}

fn ipv6(packet: &[u8]) -> Option<Network<'_>> {
    let address = |at: usize| Some(Ipv6Addr::from_octets(packet.get(at..at + 16)?.try_into().ok()?));
    let end = match usize::from(word(packet, 4)?) {
        0 => packet.len(),
        length => (length + 40).min(packet.len()),
    };
    let (mut next, mut rest) = (*packet.get(6)?, packet.get(40..end)?);
    loop {
        let length = match next {
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => (usize::from(*rest.get(1)?) + 1) * 8,
            44 if word(rest, 2)? & 0xfff8 == 0 => 8,
            44 => return None,
            _ => return Some((address(8)?.into(), address(24)?.into(), next, rest)),
        };
        next = *rest.first()?;
        rest = rest.get(length..)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A TCP segment over IPv4 from port 1000 to port 80.
    pub(in crate::wire) fn segment(sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(u16::try_from(40 + payload.len()).unwrap().to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 3, 232, 0, 80]);
        frame.extend(sequence.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn a_segment_is_read_and_its_padding_is_not() {
        let mut frame = segment(7, b"hi");
        frame.extend([0; 6]);
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!((packet.transport, packet.sequence, packet.payload), (Transport::Tcp, 7, &b"hi"[..]));
        assert_eq!(packet.source, "10.0.0.1:1000".parse().unwrap());
        assert_eq!(packet.destination, "10.0.0.2:80".parse().unwrap());
    }

    #[test]
    fn ipv6_extension_headers_are_passed_over() {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 18, 0, 64]);
        frame.extend([[0; 15].as_slice(), &[1], &[0; 15], &[2]].concat());
        frame.extend([UDP, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend([0, 53, 0, 9, 0, 10, 0, 0, b'o', b'k']);
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!((packet.transport, packet.payload), (Transport::Udp, &b"ok"[..]));
        assert_eq!(packet.destination, "[::2]:9".parse().unwrap());
    }

    #[test]
    fn a_frame_cut_anywhere_is_no_packet_or_a_shorter_one() {
        let frame = segment(1, b"payload");
        for end in 0..frame.len() {
            if let Some(packet) = Packet::parse(&frame[..end]) {
                assert!(packet.payload.len() < 7, "cut at {end}");
            }
        }
    }
}
