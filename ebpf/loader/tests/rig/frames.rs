//! Frames written by hand, with checksums that are right unless a test wants them wrong.

use std::net::IpAddr;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

pub const TCP: u8 = 6;
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION: u8 = 60;

/// What a frame carries, from the outside in.
#[derive(Clone, Debug)]
pub struct Frame {
    pub macs: [[u8; 6]; 2],
    /// Ethertype and tag control, outermost first.
    pub tags: Vec<(u16, u16)>,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv4's word of flags and offset.
    pub fragment: u16,
    /// IPv6 extension headers: kind, and the bytes after the kind of the next one.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub protocol: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(source: &str, destination: &str, payload: Vec<u8>) -> Self {
        Self {
            macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            tags: Vec::new(),
            source: source.parse().expect("address"),
            destination: destination.parse().expect("address"),
            options: Vec::new(),
            fragment: 0,
            extensions: Vec::new(),
            protocol: TCP,
            payload,
        }
    }

    /// A TCP segment, checksummed for these addresses.
    pub fn tcp(source: (&str, u16), destination: (&str, u16), flags: u8, data: &[u8]) -> Self {
        let mut frame = Self::new(source.0, destination.0, segment(source.1, destination.1, flags, data));
        frame.checksum();
        frame
    }

    /// Sets the TCP checksum over the whole payload.
    pub fn checksum(&mut self) {
        self.payload[16..18].fill(0);
        let mut pseudo = match (self.source, self.destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => [s.octets(), d.octets()].concat(),
            (IpAddr::V6(s), IpAddr::V6(d)) => [s.octets(), d.octets()].concat(),
            _ => panic!("mixed families"),
        };
        pseudo.extend([0, TCP]);
        pseudo.extend((self.payload.len() as u16).to_be_bytes());
        pseudo.extend(&self.payload);
        let sum = internet_checksum(&pseudo);
        self.payload[16..18].copy_from_slice(&sum.to_be_bytes());
    }

    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.macs[0], self.macs[1]].concat();
        for (ethertype, control) in &self.tags {
            bytes.extend(ethertype.to_be_bytes());
            bytes.extend(control.to_be_bytes());
        }
        bytes.extend(if self.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        bytes.extend(self.packet());
        bytes
    }

    /// Without the Ethernet header.
    pub fn packet(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = 20 + self.options.len();
                let mut header = vec![0x40 | (length / 4) as u8, 0];
                header.extend(((length + self.payload.len()) as u16).to_be_bytes());
                header.extend([0x12, 0x34]);
                header.extend(self.fragment.to_be_bytes());
                header.extend([64, self.protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let sum = internet_checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                header.extend(&self.payload);
                header
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let kinds: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).chain([self.protocol]).collect();
                let mut body = Vec::new();
                for ((_, rest), next) in self.extensions.iter().zip(&kinds[1..]) {
                    body.push(*next);
                    body.extend(rest);
                }
                body.extend(&self.payload);
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend((body.len() as u16).to_be_bytes());
                packet.extend([kinds[0], 64]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                packet.extend(body);
                packet
            }
            _ => panic!("mixed families"),
        }
    }
}

/// A TCP header of twenty bytes, and data; no checksum.
pub fn segment(source: u16, destination: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(destination.to_be_bytes());
    bytes.extend([0, 0, 0x30, 0x39, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(data);
    bytes
}

/// The body of an extension header of eight bytes that does nothing (PadN).
pub fn padding() -> Vec<u8> {
    vec![0, 1, 4, 0, 0, 0, 0]
}

/// The body of a fragment header. `offset` in bytes, a multiple of eight.
pub fn fragment(offset: u16, more: bool) -> Vec<u8> {
    let mut body = vec![0];
    body.extend((offset | u16::from(more)).to_be_bytes());
    body.extend([0, 0, 0, 7]);
    body
}

fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
